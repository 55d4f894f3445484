//! What a rule says, in the order it says it. A [`Selector`] is a value of the packet, an [`Expr`]
//! is one statement of a rule; both speak nft's words, so that a rule reads as `nft list` shows it.
//!
//! A network header is only what it claims to be after a family check: in an inet or bridge table
//! begin with [`ipv4`] or [`ipv6`], as nft does silently.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::attr;
use super::object::{Family, Value, Verdict};
use super::set::octets;
use super::wire::{Open, Writer};

/// One statement of a rule, already in the kernel's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expr(pub(super) Vec<u8>);

/// A value that every packet carries or implies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selector {
    source: Source,
    len: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Meta(u32),
    Payload { base: u32, offset: u32 },
    Fib { result: u32, flags: u32 },
    Ct { key: u32, direction: Option<u8> },
}

/// `NFT_REG_VERDICT`, and the first of the registers values go through.
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
/// `NFT_REG32_00`: the same sixteen words as `REG_1`..`REG_4`, counted one by one.
const REG32_00: u32 = 8;

const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

impl Selector {
    /// `meta protocol`: the EtherType, big endian.
    pub const PROTOCOL: Self = Self::meta(1, 2);
    /// Marks are in the machine's byte order.
    pub const MARK: Self = Self::meta(3, 4);
    pub const IIF: Self = Self::meta(4, 4);
    pub const OIF: Self = Self::meta(5, 4);
    pub const IIFNAME: Self = Self::meta(6, 16);
    pub const OIFNAME: Self = Self::meta(7, 16);
    pub const NFPROTO: Self = Self::meta(15, 1);
    pub const L4PROTO: Self = Self::meta(16, 1);

    pub const ETHER_DADDR: Self = Self::payload(LINK, 0, 6);
    pub const ETHER_SADDR: Self = Self::payload(LINK, 6, 6);
    pub const IP_SADDR: Self = Self::payload(NETWORK, 12, 4);
    pub const IP_DADDR: Self = Self::payload(NETWORK, 16, 4);
    pub const IP6_SADDR: Self = Self::payload(NETWORK, 8, 16);
    pub const IP6_DADDR: Self = Self::payload(NETWORK, 24, 16);
    /// Ports of TCP, UDP, SCTP: `th sport`, `th dport`.
    pub const SPORT: Self = Self::payload(TRANSPORT, 0, 2);
    pub const DPORT: Self = Self::payload(TRANSPORT, 2, 2);

    /// `fib daddr type`: `RTN_*`, in the machine's byte order.
    pub const FIB_DADDR_TYPE: Self = Self {
        source: Source::Fib {
            result: 3,
            flags: 2,
        },
        len: 4,
    };
    pub const FIB_SADDR_TYPE: Self = Self {
        source: Source::Fib {
            result: 3,
            flags: 1,
        },
        len: 4,
    };

    pub const CT_STATE: Self = Self::ct(0, None, 4);
    pub const CT_STATUS: Self = Self::ct(2, None, 4);
    pub const CT_MARK: Self = Self::ct(3, None, 4);
    /// What the first packet of the connection said, before any translation.
    pub const CT_ORIGINAL_PROTOCOL: Self = Self::ct(10, Some(0), 1);
    pub const CT_ORIGINAL_SPORT: Self = Self::ct(11, Some(0), 2);
    pub const CT_ORIGINAL_DPORT: Self = Self::ct(12, Some(0), 2);
    pub const CT_ORIGINAL_IP_SADDR: Self = Self::ct(19, Some(0), 4);
    pub const CT_ORIGINAL_IP_DADDR: Self = Self::ct(20, Some(0), 4);
    pub const CT_ORIGINAL_IP6_SADDR: Self = Self::ct(21, Some(0), 16);
    pub const CT_ORIGINAL_IP6_DADDR: Self = Self::ct(22, Some(0), 16);

    const fn meta(key: u32, len: u32) -> Self {
        Self {
            source: Source::Meta(key),
            len,
        }
    }

    const fn payload(base: u32, offset: u32, len: u32) -> Self {
        Self {
            source: Source::Payload { base, offset },
            len,
        }
    }

    const fn ct(key: u32, direction: Option<u8>, len: u32) -> Self {
        Self {
            source: Source::Ct { key, direction },
            len,
        }
    }

    pub const fn saddr(is_ipv6: bool) -> Self {
        if is_ipv6 {
            Self::IP6_SADDR
        } else {
            Self::IP_SADDR
        }
    }

    pub const fn daddr(is_ipv6: bool) -> Self {
        if is_ipv6 {
            Self::IP6_DADDR
        } else {
            Self::IP_DADDR
        }
    }

    pub fn is(self, value: &[u8]) -> Expr {
        self.compare(Op::Eq, value)
    }

    pub fn isnt(self, value: &[u8]) -> Expr {
        self.compare(Op::Ne, value)
    }

    pub fn compare(self, op: Op, value: &[u8]) -> Expr {
        build(|w| {
            self.load(w, REG_1);
            cmp(w, op, value);
        })
    }

    /// Compares what is left of the value after `mask`.
    pub fn masked(self, mask: &[u8], op: Op, value: &[u8]) -> Expr {
        build(|w| {
            self.load(w, REG_1);
            bitwise(w, mask, &vec![0; mask.len()]);
            cmp(w, op, value);
        })
    }

    /// An address inside (`Op::Eq`) or outside (`Op::Ne`) a network.
    pub fn network(self, op: Op, network: IpNetwork) -> Expr {
        self.masked(&octets(network.mask()), op, &octets(network.network()))
    }

    fn load(self, w: &mut Writer, register: u32) {
        match self.source {
            Source::Meta(key) => expression(w, "meta", |w| {
                w.be32(1, register);
                w.be32(2, key);
            }),
            Source::Payload { base, offset } => expression(w, "payload", |w| {
                w.be32(1, register);
                w.be32(2, base);
                w.be32(3, offset);
                w.be32(4, self.len);
            }),
            Source::Fib { result, flags } => expression(w, "fib", |w| {
                w.be32(1, register);
                w.be32(2, result);
                w.be32(3, flags);
            }),
            Source::Ct { key, direction } => expression(w, "ct", |w| {
                w.be32(1, register);
                w.be32(2, key);
                if let Some(direction) = direction {
                    w.u8(3, direction);
                }
            }),
        }
    }
}

/// `enum nft_cmp_ops`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Op {
    Eq = 0,
    Ne = 1,
    Lt = 2,
    Le = 3,
    Gt = 4,
    Ge = 5,
}

pub fn ipv4() -> Expr {
    Selector::NFPROTO.is(&[Family::Ip as u8])
}

pub fn ipv6() -> Expr {
    Selector::NFPROTO.is(&[Family::Ip6 as u8])
}

/// `meta nfproto ipv4` or `ipv6`, after the address at hand.
pub fn family_of(address: IpAddr) -> Expr {
    if address.is_ipv6() { ipv6() } else { ipv4() }
}

/// `fib daddr type local`: the packet is for an address of this machine.
pub fn daddr_is_local() -> Expr {
    const RTN_LOCAL: u32 = 2;
    Selector::FIB_DADDR_TYPE.is(&RTN_LOCAL.to_ne_bytes())
}

/// Bits of `ct state`, for [`ct_state`].
pub mod state {
    pub const INVALID: u32 = 1;
    pub const ESTABLISHED: u32 = 2;
    pub const RELATED: u32 = 4;
    pub const NEW: u32 = 8;
    pub const UNTRACKED: u32 = 64;
}

/// The connection is in one of these states.
pub fn ct_state(bits: u32) -> Expr {
    any_bit(Selector::CT_STATE, bits)
}

/// `ct status dnat`: the connection's destination was translated.
pub fn ct_status_dnat() -> Expr {
    const IPS_DST_NAT: u32 = 1 << 5;
    any_bit(Selector::CT_STATUS, IPS_DST_NAT)
}

/// `meta mark & mask == value`.
pub fn mark(value: u32, mask: u32) -> Expr {
    match mask {
        u32::MAX => Selector::MARK.is(&value.to_ne_bytes()),
        _ => Selector::MARK.masked(&mask.to_ne_bytes(), Op::Eq, &value.to_ne_bytes()),
    }
}

/// Sets the bits of `mask` to those of `value`, and leaves the others.
pub fn set_mark(value: u32, mask: u32) -> Expr {
    const NFT_META_MARK: u32 = 3;
    build(|w| {
        if mask == u32::MAX {
            immediate(w, REG_1, Value::Bytes(&value.to_ne_bytes()));
        } else {
            Selector::MARK.load(w, REG_1);
            bitwise(w, &(!mask).to_ne_bytes(), &(value & mask).to_ne_bytes());
        }
        expression(w, "meta", |w| {
            w.be32(2, NFT_META_MARK);
            w.be32(3, REG_1);
        });
    })
}

/// The packet's values, side by side, are (or are not) in a set.
pub fn in_set(keys: &[Selector], set: &str) -> Expr {
    lookup(keys, set, None, false)
}

pub fn not_in_set(keys: &[Selector], set: &str) -> Expr {
    lookup(keys, set, None, true)
}

/// The verdict that a map holds for the packet's values; without one the rule says nothing.
pub fn vmap(keys: &[Selector], map: &str) -> Expr {
    lookup(keys, map, Some(REG_VERDICT), false)
}

/// Fetches what a map holds for the packet's values, for [`dnat_to_mapped`] and its like;
/// without a match the rule ends.
pub fn map(keys: &[Selector], map: &str) -> Expr {
    lookup(keys, map, Some(REG_1), false)
}

/// `dnat to` the address, or the address and port, that [`map`] fetched.
pub fn dnat_to_mapped(is_ipv6: bool, with_port: bool) -> Expr {
    let port = with_port.then_some(REG32_00 + if is_ipv6 { 4 } else { 1 });
    build(|w| nat(w, NatKind::Destination, is_ipv6, Some(REG_1), port))
}

pub fn dnat_to(address: IpAddr, port: Option<u16>) -> Expr {
    nat_to(NatKind::Destination, address, port)
}

pub fn snat_to(address: IpAddr, port: Option<u16>) -> Expr {
    nat_to(NatKind::Source, address, port)
}

/// `random_fully` spares connections that start at once from fighting for a source port.
pub fn masquerade(random_fully: bool) -> Expr {
    const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;
    build(|w| {
        expression(w, "masq", |w| {
            if random_fully {
                w.be32(1, NF_NAT_RANGE_PROTO_RANDOM_FULLY);
            }
        });
    })
}

/// To a port of this machine.
pub fn redirect(port: u16) -> Expr {
    build(|w| {
        immediate(w, REG_1, Value::Bytes(&port.to_be_bytes()));
        expression(w, "redir", |w| w.be32(1, REG_1));
    })
}

pub fn accept() -> Expr {
    verdict(Verdict::Accept)
}

pub fn drop() -> Expr {
    verdict(Verdict::Drop)
}

pub fn return_() -> Expr {
    verdict(Verdict::Return)
}

pub fn jump(chain: &str) -> Expr {
    verdict(Verdict::Jump(chain))
}

pub fn goto(chain: &str) -> Expr {
    verdict(Verdict::Goto(chain))
}

pub fn verdict(verdict: Verdict<'_>) -> Expr {
    build(|w| immediate(w, REG_VERDICT, Value::Verdict(verdict)))
}

pub fn counter() -> Expr {
    build(|w| {
        expression(w, "counter", |w| {
            w.be64(1, 0);
            w.be64(2, 0);
        });
    })
}

/// At most `packets` in `seconds`, after a first `burst`.
pub fn limit(packets: u64, seconds: u64, burst: u32) -> Expr {
    build(|w| {
        expression(w, "limit", |w| {
            w.be64(1, packets);
            w.be64(2, seconds);
            w.be32(3, burst);
            w.be32(4, 0);
            w.be32(5, 0);
        });
    })
}

/// How a refused packet's sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    TcpReset,
    /// ICMP or ICMPv6 by the packet's family; for inet tables.
    PortUnreachable,
    AdminProhibited,
}

pub fn reject(how: Reject) -> Expr {
    let (kind, code) = match how {
        Reject::TcpReset => (1, 0),
        Reject::PortUnreachable => (2, 1),
        Reject::AdminProhibited => (2, 3),
    };
    build(|w| {
        expression(w, "reject", |w| {
            w.be32(1, kind);
            w.u8(2, code);
        });
    })
}

/// A line in the kernel's log, beginning with `prefix`.
pub fn log(prefix: &str) -> Expr {
    build(|w| expression(w, "log", |w| w.name(2, prefix)))
}

/// `notrack`: the connection tracker does not look at this packet.
pub fn notrack() -> Expr {
    build(|w| expression(w, "notrack", |_| {}))
}

fn any_bit(selector: Selector, bits: u32) -> Expr {
    selector.masked(&bits.to_ne_bytes(), Op::Ne, &[0; 4])
}

fn lookup(keys: &[Selector], set: &str, into: Option<u32>, invert: bool) -> Expr {
    build(|w| {
        let mut register = if keys.len() == 1 { REG_1 } else { REG32_00 };
        for key in keys {
            key.load(w, register);
            register += key.len.div_ceil(4);
        }
        expression(w, "lookup", |w| {
            w.name(1, set);
            w.be32(2, REG_1);
            if let Some(register) = into {
                w.be32(3, register);
            }
            if invert {
                w.be32(5, 1);
            }
        });
    })
}

/// `enum nft_nat_types`.
#[derive(Clone, Copy)]
enum NatKind {
    Source = 0,
    Destination = 1,
}

fn nat_to(kind: NatKind, address: IpAddr, port: Option<u16>) -> Expr {
    const REG_2: u32 = 2;
    build(|w| {
        immediate(w, REG_1, Value::Bytes(&octets(address)));
        if let Some(port) = port {
            immediate(w, REG_2, Value::Bytes(&port.to_be_bytes()));
        }
        nat(w, kind, address.is_ipv6(), Some(REG_1), port.map(|_| REG_2));
    })
}

fn nat(w: &mut Writer, kind: NatKind, is_ipv6: bool, address: Option<u32>, port: Option<u32>) {
    expression(w, "nat", |w| {
        w.be32(1, kind as u32);
        w.be32(
            2,
            u32::from(if is_ipv6 {
                Family::Ip6 as u8
            } else {
                Family::Ip as u8
            }),
        );
        if let Some(register) = address {
            w.be32(3, register);
        }
        if let Some(register) = port {
            w.be32(5, register);
        }
    });
}

fn immediate(w: &mut Writer, register: u32, value: Value<'_>) {
    expression(w, "immediate", |w| {
        w.be32(1, register);
        value.write(w, 2);
    });
}

fn cmp(w: &mut Writer, op: Op, value: &[u8]) {
    expression(w, "cmp", |w| {
        w.be32(1, REG_1);
        w.be32(2, op as u32);
        Value::Bytes(value).write(w, 3);
    });
}

/// `REG_1 = (REG_1 & mask) ^ xor`; the lengths of both agree.
fn bitwise(w: &mut Writer, mask: &[u8], xor: &[u8]) {
    expression(w, "bitwise", |w| {
        w.be32(1, REG_1);
        w.be32(2, REG_1);
        w.be32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
        Value::Bytes(mask).write(w, 4);
        Value::Bytes(xor).write(w, 5);
    });
}

fn expression(w: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    let (element, open) = begin_expression(w, name);
    data(w);
    w.end(open);
    w.end(element);
}

/// Apart from [`expression`], so that it stands once in the executable.
fn begin_expression(w: &mut Writer, name: &str) -> (Open, Open) {
    let element = w.nest(attr::LIST_ELEM);
    w.name(attr::EXPR_NAME, name);
    let data = w.nest(attr::EXPR_DATA);
    (element, data)
}

fn build(write: impl FnOnce(&mut Writer)) -> Expr {
    let mut writer = Writer::default();
    write(&mut writer);
    Expr(writer.into_bytes())
}
