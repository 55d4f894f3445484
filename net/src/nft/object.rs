//! What stands in a ruleset: tables, chains, sets, elements, and the words they are described with.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

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

/// A value's type: its number is nft's, for listing; its length is what the kernel counts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataType {
    pub(super) number: u32,
    pub(super) len: u32,
}

impl DataType {
    pub const IPV4: Self = Self { number: 7, len: 4 };
    pub const IPV6: Self = Self { number: 8, len: 16 };
    pub const ETHER: Self = Self { number: 9, len: 6 };
    /// A layer-4 protocol number.
    pub const PROTO: Self = Self { number: 12, len: 1 };
    /// A port.
    pub const SERVICE: Self = Self { number: 13, len: 2 };
    pub const MARK: Self = Self { number: 19, len: 4 };
    pub const IFNAME: Self = Self {
        number: 41,
        len: 16,
    };

    pub const fn ip(is_ipv6: bool) -> Self {
        if is_ipv6 { Self::IPV6 } else { Self::IPV4 }
    }

    /// `TYPE_BITS` is 6: the numbers of a concatenation stand one after another.
    pub(super) fn concatenated(types: &[Self]) -> Self {
        if let [single] = types {
            return *single;
        }
        types
            .iter()
            .fold(Self { number: 0, len: 0 }, |sum, next| Self {
                number: sum.number << 6 | next.number,
                len: sum.len + next.len.next_multiple_of(4),
            })
    }
}

/// The bytes of a concatenated key or value. A single field stands as it is, several are padded.
pub fn concat(fields: &[&[u8]]) -> Vec<u8> {
    if let [single] = fields {
        return single.to_vec();
    }
    let mut bytes = Vec::with_capacity(fields.iter().map(|f| f.len().next_multiple_of(4)).sum());
    for field in fields {
        bytes.extend_from_slice(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// An address in network byte order, for keys and values.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An interface name as registers and keys hold it: sixteen bytes, zero-filled.
pub fn ifname(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let len = name.len().min(15);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

/// What a set is made of.
#[derive(Debug, Clone, Copy)]
pub struct SetSpec<'a> {
    pub key: &'a [DataType],
    pub data: SetData<'a>,
    /// Whether the elements are ranges: see [`Element::network`] and [`Element::until`].
    pub interval: bool,
    pub comment: &'a str,
}

impl<'a> SetSpec<'a> {
    pub const fn set(key: &'a [DataType]) -> Self {
        Self {
            key,
            data: SetData::None,
            interval: false,
            comment: "",
        }
    }

    pub const fn map(key: &'a [DataType], data: &'a [DataType]) -> Self {
        Self {
            key,
            data: SetData::Values(data),
            interval: false,
            comment: "",
        }
    }

    pub const fn verdict_map(key: &'a [DataType]) -> Self {
        Self {
            key,
            data: SetData::Verdicts,
            interval: false,
            comment: "",
        }
    }

    pub const fn interval(self) -> Self {
        Self {
            interval: true,
            ..self
        }
    }

    pub const fn comment(self, comment: &'a str) -> Self {
        Self { comment, ..self }
    }

    /// `enum nft_set_flags`.
    pub(super) fn flags(&self) -> u32 {
        const INTERVAL: u32 = 0x4;
        const MAP: u32 = 0x8;
        const CONCAT: u32 = 0x80;
        let is_map = !matches!(self.data, SetData::None);
        [
            (self.interval, INTERVAL),
            (is_map, MAP),
            (self.is_range_of_fields(), CONCAT),
        ]
        .into_iter()
        .filter_map(|(set, flag)| set.then_some(flag))
        .sum()
    }

    pub(super) fn is_range_of_fields(&self) -> bool {
        self.interval && self.key.len() > 1
    }
}

#[derive(Debug, Clone, Copy)]
pub enum SetData<'a> {
    None,
    Values(&'a [DataType]),
    Verdicts,
}

/// An element as it is written.
#[derive(Debug, Clone, Copy)]
pub struct Element<'a> {
    pub(super) key: &'a [u8],
    pub(super) end: Option<&'a [u8]>,
    pub(super) value: Value<'a>,
    pub(super) comment: &'a str,
    pub(super) flags: u32,
}

/// `NFT_SET_ELEM_INTERVAL_END`: this key is the first one past a range.
pub(super) const INTERVAL_END: u32 = 1;

impl<'a> Element<'a> {
    pub const fn new(key: &'a [u8]) -> Self {
        Self {
            key,
            end: None,
            value: Value::None,
            comment: "",
            flags: 0,
        }
    }

    pub const fn value(self, value: &'a [u8]) -> Self {
        Self {
            value: Value::Bytes(value),
            ..self
        }
    }

    pub const fn verdict(self, verdict: Verdict<'a>) -> Self {
        Self {
            value: Value::Verdict(verdict),
            ..self
        }
    }

    /// nft shows it as `comment`, and whoever owns the element can be read from it.
    pub const fn comment(self, comment: &'a str) -> Self {
        Self { comment, ..self }
    }

    /// The last key of the range, in an interval set whose key is a concatenation.
    pub const fn until(self, last: &'a [u8]) -> Self {
        Self {
            end: Some(last),
            ..self
        }
    }

    /// The first key past the range, in an interval set with a plain key.
    pub const fn past(key: &'a [u8]) -> Self {
        Self {
            key,
            end: None,
            value: Value::None,
            comment: "",
            flags: INTERVAL_END,
        }
    }
}

/// The keys of a network in a plain interval set: the first address of it, and the first past it.
/// There is nothing past a network that reaches the end of the address space.
pub fn network_bounds(network: IpNetwork) -> (Vec<u8>, Option<Vec<u8>>) {
    let first = octets(network.network());
    let mut past = octets(network.broadcast());
    for byte in past.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return (first, Some(past));
        }
    }
    (first, None)
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

    #[test]
    fn concatenated_fields_are_padded_and_a_single_one_is_not() {
        assert_eq!(
            concat(&[&[6], &[10, 0, 0, 1], &[0, 80]]),
            [6, 0, 0, 0, 10, 0, 0, 1, 0, 80, 0, 0]
        );
        assert_eq!(concat(&[&[0, 80]]), [0, 80]);
        let key = DataType::concatenated(&[DataType::PROTO, DataType::IPV4, DataType::SERVICE]);
        assert_eq!((key.number, key.len), ((12 << 12) | (7 << 6) | 13, 12));
    }

    #[test]
    fn a_network_at_the_end_of_the_address_space_has_nothing_past_it() {
        let bounds = |text: &str| network_bounds(text.parse().unwrap());
        assert_eq!(
            bounds("10.1.255.0/24"),
            (vec![10, 1, 255, 0], Some(vec![10, 2, 0, 0]))
        );
        assert_eq!(bounds("240.0.0.0/4"), (vec![240, 0, 0, 0], None));
    }

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
