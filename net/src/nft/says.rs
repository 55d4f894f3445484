//! What a rule that stands in the kernel says: compared with what we would write, and understood
//! as far as others' rules must be.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::object::{Family, Value, Verdict};
use super::read::StoredRule;
use super::wire::Attrs;
use super::{Expr, attr};

/// A step of a rule, as far as it bears on a packet's fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement<'a> {
    /// The rule goes on only if this holds.
    Test(Test),
    Verdict(Verdict<'a>),
    Reject,
    /// A target of iptables by its name, such as `REJECT` or `LOG`.
    Target(&'a str),
    Counter {
        packets: u64,
        bytes: u64,
    },
    Masquerade,
    /// It looks at no packet and decides nothing: a log line, a mark, a comment of iptables.
    Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    Source {
        inside: bool,
        network: IpNetwork,
    },
    Destination {
        inside: bool,
        network: IpNetwork,
    },
    Family(Family),
    /// Anything else.
    Other,
}

impl StoredRule {
    /// Whether it says what `rule` says: the same expressions with the same attributes. The kernel
    /// adds attributes that we leave out, with zeros in them; what a counter has counted is its own.
    pub fn says(&self, rule: &[Expr]) -> bool {
        let mut stored = self.expressions();
        let written = rule.iter().flat_map(Expr::expressions);
        for (name, data) in written {
            let Some((stored_name, stored_data)) = stored.next() else {
                return false;
            };
            let same = name == stored_name && (name == "counter" || holds(stored_data, data));
            if !same {
                return false;
            }
        }
        stored.next().is_none()
    }

    /// Its statements, in order.
    pub fn statements(&self) -> Vec<Statement<'_>> {
        let mut register = Register::default();
        self.expressions()
            .filter_map(|(name, data)| register.take(name, data))
            .collect()
    }

    /// What its counter has counted: packets.
    pub fn packets(&self) -> Option<u64> {
        self.expressions()
            .find_map(|(name, data)| (name == "counter").then(|| data.be64(COUNTER_PACKETS))?)
    }
}

impl Expr {
    fn expressions(&self) -> impl Iterator<Item = (&str, Attrs<'_>)> {
        Attrs(&self.0).iter().filter_map(|(_, element)| {
            let element = Attrs(element);
            Some((
                element.text(attr::EXPR_NAME)?,
                element.inside(attr::EXPR_DATA),
            ))
        })
    }
}

/// All of `written` is in `stored`, and what else is in there are zeros.
fn holds(stored: Attrs<'_>, written: Attrs<'_>) -> bool {
    let all_there = written
        .iter()
        .all(|(kind, value)| stored.find(kind).is_some_and(|found| is_same(found, value)));
    let rest_is_zero = stored
        .iter()
        .all(|(kind, value)| written.find(kind).is_some() || value.iter().all(|byte| *byte == 0));
    all_there && rest_is_zero
}

/// The kernel leaves out the flag that says an attribute is nested, so verdicts are read.
fn is_same(stored: &[u8], written: &[u8]) -> bool {
    let verdict = |bytes| match Value::read(Attrs(bytes)) {
        Value::Verdict(verdict) => Some(verdict),
        Value::Bytes(_) | Value::None => None,
    };
    stored == written || verdict(stored).is_some_and(|found| Some(found) == verdict(written))
}

/// What the expressions before have fetched for the next comparison.
#[derive(Default)]
struct Register {
    loaded: Loaded,
    mask: Option<Vec<u8>>,
}

#[derive(Default, Clone, Copy)]
enum Loaded {
    Header {
        offset: u32,
    },
    Family,
    Protocol,
    #[default]
    Other,
}

impl Register {
    /// `None` for what only prepares a test.
    fn take<'a>(&mut self, name: &str, data: Attrs<'a>) -> Option<Statement<'a>> {
        match name {
            "meta" if data.find(META_DREG).is_none() => Some(Statement::Idle),
            "payload" if data.find(PAYLOAD_DREG).is_none() => Some(Statement::Idle),
            "ct" if data.find(CT_DREG).is_none() => Some(Statement::Idle),
            "meta" => self.load(match data.be32(META_KEY) {
                Some(META_NFPROTO) => Loaded::Family,
                Some(META_PROTOCOL) => Loaded::Protocol,
                _ => Loaded::Other,
            }),
            "payload" => self.load(match (data.be32(PAYLOAD_BASE), data.be32(PAYLOAD_OFFSET)) {
                (Some(NETWORK_HEADER), Some(offset)) => Loaded::Header { offset },
                _ => Loaded::Other,
            }),
            "ct" | "fib" | "socket" | "rt" | "exthdr" | "osf" | "tunnel" | "xfrm" | "hash"
            | "numgen" | "byteorder" => self.load(Loaded::Other),
            "bitwise" => {
                let mask = data.inside(BITWISE_MASK).find(attr::DATA_VALUE);
                self.mask = mask.map(<[u8]>::to_vec);
                if mask.is_none() {
                    self.loaded = Loaded::Other;
                }
                None
            }
            "cmp" => Some(Statement::Test(self.compare(data))),
            "immediate" => match Value::read(data.inside(IMMEDIATE_DATA)) {
                Value::Verdict(verdict) => Some(Statement::Verdict(verdict)),
                Value::Bytes(_) | Value::None => Some(Statement::Idle),
            },
            "reject" => Some(Statement::Reject),
            "target" => Some(Statement::Target(data.text(XT_NAME).unwrap_or_default())),
            "match" if data.text(XT_NAME) == Some("comment") => Some(Statement::Idle),
            "counter" => Some(Statement::Counter {
                packets: data.be64(COUNTER_PACKETS).unwrap_or(0),
                bytes: data.be64(COUNTER_BYTES).unwrap_or(0),
            }),
            "masq" => Some(Statement::Masquerade),
            "log" | "notrack" | "last" | "objref" => Some(Statement::Idle),
            _ => Some(Statement::Test(Test::Other)),
        }
    }

    fn load<'a>(&mut self, loaded: Loaded) -> Option<Statement<'a>> {
        *self = Self { loaded, mask: None };
        None
    }

    fn compare(&mut self, data: Attrs<'_>) -> Test {
        self.understand(data).unwrap_or(Test::Other)
    }

    fn understand(&mut self, data: Attrs<'_>) -> Option<Test> {
        let value = data.inside(CMP_DATA).find(attr::DATA_VALUE)?;
        let inside = match data.be32(CMP_OP)? {
            0 => true,
            1 => false,
            _ => return None,
        };
        let mask = self.mask.take();
        match self.loaded {
            Loaded::Header { offset } => {
                let network = |address| network(address, value, mask.as_deref());
                Some(match offset {
                    12 => Test::Source {
                        inside,
                        network: network(IpAddr::from([0; 4]))?,
                    },
                    16 => Test::Destination {
                        inside,
                        network: network(IpAddr::from([0; 4]))?,
                    },
                    8 => Test::Source {
                        inside,
                        network: network(IpAddr::from([0; 16]))?,
                    },
                    24 => Test::Destination {
                        inside,
                        network: network(IpAddr::from([0; 16]))?,
                    },
                    _ => return None,
                })
            }
            Loaded::Family if inside => Some(Test::Family(Family::from_number(*value.first()?)?)),
            Loaded::Protocol if inside => match value {
                [0x08, 0x00] => Some(Test::Family(Family::Ip)),
                [0x86, 0xdd] => Some(Test::Family(Family::Ip6)),
                _ => None,
            },
            Loaded::Family | Loaded::Protocol | Loaded::Other => None,
        }
    }
}

/// The network whose first bytes `value` are, of the family of `unspecified`. Whole bytes of a
/// prefix are compared without a mask, and only as many as there are.
fn network(unspecified: IpAddr, value: &[u8], mask: Option<&[u8]>) -> Option<IpNetwork> {
    let mut bytes = super::octets(unspecified);
    if value.is_empty() || value.len() > bytes.len() {
        return None;
    }
    bytes[..value.len()].copy_from_slice(value);
    let prefix = match mask {
        None => value.len() * 8,
        Some(mask) if mask.len() == value.len() => leading_ones(mask)?,
        Some(_) => return None,
    };
    let address: IpAddr = match unspecified {
        IpAddr::V4(_) => <[u8; 4]>::try_from(bytes).ok()?.into(),
        IpAddr::V6(_) => <[u8; 16]>::try_from(bytes).ok()?.into(),
    };
    IpNetwork::new(address, u8::try_from(prefix).ok()?).ok()
}

/// `None` if the ones are not all in front.
fn leading_ones(mask: &[u8]) -> Option<usize> {
    let ones: usize = mask.iter().map(|byte| byte.count_ones() as usize).sum();
    let in_front = mask.iter().enumerate().all(|(index, byte)| {
        let wanted = ones.saturating_sub(index * 8).min(8);
        byte.leading_ones() as usize == wanted && byte.count_ones() as usize == wanted
    });
    in_front.then_some(ones)
}

const META_DREG: u16 = 1;
const META_KEY: u16 = 2;
const META_PROTOCOL: u32 = 1;
const META_NFPROTO: u32 = 15;
const PAYLOAD_DREG: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const NETWORK_HEADER: u32 = 1;
const CT_DREG: u16 = 1;
const BITWISE_MASK: u16 = 4;
const CMP_OP: u16 = 2;
const CMP_DATA: u16 = 3;
const IMMEDIATE_DATA: u16 = 2;
const XT_NAME: u16 = 1;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::Writer;
    use super::super::{Op, Selector, expr};
    use super::*;

    /// The rule as a kernel would hand it back that keeps all and adds nothing.
    fn stored(rule: &[Expr]) -> StoredRule {
        let mut w = Writer::payload(2, 0);
        w.name(attr::RULE_CHAIN, "c");
        w.be64(attr::RULE_HANDLE, 1);
        let open = w.nest(attr::RULE_EXPRESSIONS);
        for expression in rule {
            w.append(&expression.0);
        }
        w.end(open);
        StoredRule::parse(w.bytes()).unwrap()
    }

    fn any_network() -> impl Strategy<Value = IpNetwork> {
        prop_oneof![
            (any::<u32>(), 1..=32u8).prop_map(|(ip, prefix)| {
                let address = IpNetwork::new(IpAddr::from(ip.to_be_bytes()), prefix).unwrap();
                IpNetwork::new(address.network(), prefix).unwrap()
            }),
            (any::<u128>(), 1..=128u8).prop_map(|(ip, prefix)| {
                let address = IpNetwork::new(IpAddr::from(ip.to_be_bytes()), prefix).unwrap();
                IpNetwork::new(address.network(), prefix).unwrap()
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_network_is_understood_as_it_was_written(network in any_network(), inside: bool) {
            let op = if inside { Op::Eq } else { Op::Ne };
            let v6 = network.is_ipv6();
            let rule = [
                Selector::saddr(v6).network(op, network),
                Selector::daddr(v6).network(op, network),
                expr::accept(),
            ];
            let stored = stored(&rule);
            prop_assert_eq!(stored.statements(), vec![
                Statement::Test(Test::Source { inside, network }),
                Statement::Test(Test::Destination { inside, network }),
                Statement::Verdict(Verdict::Accept),
            ]);
        }

        #[test]
        fn a_rule_says_itself_and_nothing_else(a in any_network(), b in any_network()) {
            let rule = |network: IpNetwork| [
                Selector::saddr(network.is_ipv6()).network(Op::Eq, network),
                expr::accept(),
            ];
            prop_assert!(stored(&rule(a)).says(&rule(a)));
            prop_assert_eq!(stored(&rule(a)).says(&rule(b)), a == b);
            prop_assert!(!stored(&rule(a)).says(&rule(a)[..1]));
            prop_assert!(!stored(&rule(a)[..1]).says(&rule(a)));
        }
    }

    #[test]
    fn whole_bytes_compared_without_a_mask_are_a_network() {
        let zero = IpAddr::from([0; 4]);
        assert_eq!(
            network(zero, &[10, 1], None),
            Some("10.1.0.0/16".parse().unwrap())
        );
        assert_eq!(
            network(zero, &[10, 1], Some(&[255, 0])).map(|n| n.prefix()),
            Some(8)
        );
        assert_eq!(network(zero, &[10, 1], Some(&[255, 1])), None);
        assert_eq!(network(zero, &[], None), None);
    }

    #[test]
    fn a_flag_that_was_not_asked_for_makes_another_rule() {
        let plain = [expr::masquerade(false)];
        let random = [expr::masquerade(true)];
        assert!(!stored(&random).says(&plain));
        assert!(!stored(&plain).says(&random));
        let inverted = [expr::not_in_set(&[Selector::IP_SADDR], "s")];
        assert!(!stored(&inverted).says(&[expr::in_set(&[Selector::IP_SADDR], "s")]));
    }

    #[test]
    fn what_is_set_is_not_tested() {
        let rule = [expr::set_mark(1, 1), expr::log("x"), expr::drop()];
        assert!(
            !stored(&rule)
                .statements()
                .contains(&Statement::Test(Test::Other))
        );
    }
}
