//! What stands in a ruleset, by name, and what rules and maps decide.

use std::fmt;

use super::attr;
use super::wire::{Attrs, Writer};

/// `enum nf_inet_protos`: the protocol family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    Inet = 1,
    Ip = 2,
    Netdev = 5,
    Bridge = 7,
    Ip6 = 10,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
            Self::Ip6 => "ip6",
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Netdev, Self::Bridge, Self::Ip6]
            .into_iter()
            .find(|family| *family as u8 == number)
    }
}

/// A table, by what makes it unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table<'a> {
    pub family: Family,
    pub name: &'a str,
}

impl<'a> Table<'a> {
    pub const fn new(family: Family, name: &'a str) -> Self {
        Self { family, name }
    }

    pub const fn chain(self, name: &'a str) -> Chain<'a> {
        Chain { table: self, name }
    }

    pub const fn set(self, name: &'a str) -> Set<'a> {
        Set { table: self, name }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain<'a> {
    pub table: Table<'a>,
    pub name: &'a str,
}

/// A set or a map: the kernel draws no line between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set<'a> {
    pub table: Table<'a>,
    pub name: &'a str,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {} {}", self.family.name(), self.name)
    }
}

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} of {}", self.name, self.table)
    }
}

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {} of {}", self.name, self.table)
    }
}

/// What makes a chain see packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
    pub policy: Policy,
}

impl Base {
    /// `None` for what we do not know, such as a hook of a device.
    pub(super) fn read(chain: Attrs<'_>) -> Option<Self> {
        let hook = chain.inside(attr::CHAIN_HOOK);
        Some(Self {
            kind: ChainKind::from_name(chain.text(attr::CHAIN_TYPE)?)?,
            hook: Hook::from_number(hook.be32(attr::HOOK_NUMBER)?)?,
            priority: hook.be32(attr::HOOK_PRIORITY)?.cast_signed(),
            policy: match chain.be32(attr::CHAIN_POLICY) {
                Some(0) => Policy::Drop,
                Some(_) | None => Policy::Accept,
            },
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
    Route,
}

impl ChainKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Filter, Self::Nat, Self::Route]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// `enum nf_inet_hooks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

impl Hook {
    fn from_number(number: u32) -> Option<Self> {
        [
            Self::Prerouting,
            Self::Input,
            Self::Forward,
            Self::Output,
            Self::Postrouting,
        ]
        .into_iter()
        .find(|hook| *hook as u32 == number)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Policy {
    Drop = 0,
    Accept = 1,
}

/// `NF_IP_PRI_*`: what nft prints as names.
pub mod priority {
    pub const RAW: i32 = -300;
    pub const MANGLE: i32 = -150;
    pub const DSTNAT: i32 = -100;
    pub const FILTER: i32 = 0;
    pub const SECURITY: i32 = 50;
    pub const SRCNAT: i32 = 100;
    /// In a bridge table the same names stand for other numbers.
    pub const BRIDGE_DSTNAT: i32 = -300;
    pub const BRIDGE_FILTER: i32 = -200;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    None,
    Bytes(&'a [u8]),
    Verdict(Verdict<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    Drop,
    Accept,
    Continue,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

impl<'a> Verdict<'a> {
    /// The chain it leads to.
    pub fn chain(self) -> Option<&'a str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            Self::Drop | Self::Accept | Self::Continue | Self::Return => None,
        }
    }

    fn code(self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Continue => -1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }

    fn from_code(code: i32, chain: Option<&'a str>) -> Option<Self> {
        match code {
            0 => Some(Self::Drop),
            1 => Some(Self::Accept),
            -1 => Some(Self::Continue),
            -3 => Some(Self::Jump(chain?)),
            -4 => Some(Self::Goto(chain?)),
            -5 => Some(Self::Return),
            _ => None,
        }
    }
}

impl<'a> Value<'a> {
    /// Writes the `attr::DATA_*` attributes inside an attribute of `kind`.
    pub(super) fn write(self, writer: &mut Writer, kind: u16) {
        if self == Self::None {
            return;
        }
        let data = writer.nest(kind);
        match self {
            Self::None => {}
            Self::Bytes(bytes) => writer.attr(attr::DATA_VALUE, bytes),
            Self::Verdict(verdict) => {
                let open = writer.nest(attr::DATA_VERDICT);
                writer.attr(attr::VERDICT_CODE, &verdict.code().to_be_bytes());
                if let Some(chain) = verdict.chain() {
                    writer.name(attr::VERDICT_CHAIN, chain);
                }
                writer.end(open);
            }
        }
        writer.end(data);
    }

    pub(super) fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len(),
            Self::Verdict(verdict) => verdict.chain().map_or(0, str::len),
        }
    }

    pub(super) fn read(data: Attrs<'a>) -> Self {
        if let Some(bytes) = data.find(attr::DATA_VALUE) {
            return Self::Bytes(bytes);
        }
        let verdict = data.inside(attr::DATA_VERDICT);
        verdict
            .be32(attr::VERDICT_CODE)
            .and_then(|code| {
                Verdict::from_code(code.cast_signed(), verdict.text(attr::VERDICT_CHAIN))
            })
            .map_or(Self::None, Self::Verdict)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_as_a_value_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..64)
        ) {
            let _ = Value::read(Attrs(&bytes));
        }

        #[test]
        fn verdicts_read_back_as_written(chain in "[a-z]{1,20}", which in 0usize..6) {
            let verdict = [
                Verdict::Drop, Verdict::Accept, Verdict::Continue, Verdict::Return,
                Verdict::Jump(&chain), Verdict::Goto(&chain),
            ][which];
            let mut writer = Writer::default();
            Value::Verdict(verdict).write(&mut writer, 2);
            prop_assert_eq!(Value::read(Attrs(writer.bytes()).inside(2)), Value::Verdict(verdict));
        }
    }
}
