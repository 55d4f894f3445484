//! What shall stand, as values: the tables of ours that a [`Spec`] asks for.
//!
//! ```text
//! table ip flannel-ipv4 {
//!     chain postrtg { type nat hook postrouting priority srcnat
//!         meta mark & 0x4000 == 0x4000 return
//!         ip saddr 10.244.3.0/24 ip daddr 10.244.0.0/16 return
//!         ip daddr 10.244.3.0/24 return
//!         ip saddr 10.244.0.0/16 ip daddr 192.168.0.0/16 return      what is spared
//!         ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
//!         ip daddr 10.244.0.0/16 masquerade fully-random }
//!     chain forward { type filter hook forward priority filter
//!         ip saddr 10.244.0.0/16 accept
//!         ip daddr 10.244.0.0/16 accept }
//! }
//! table ip6 flannel-ipv6 { the same }
//! table inet weft_guard {
//!     set guarded { type inet_service; flags timeout; elements = { 8472 timeout 1h15m } }
//!     set peers4 { type ipv4_addr }
//!     set peers6 { type ipv6_addr }
//!     chain input { type filter hook input priority raw
//!         meta nfproto ipv4 meta l4proto udp th dport @guarded iif != lo ip saddr != @peers4 counter drop
//!         meta nfproto ipv6 meta l4proto udp th dport @guarded iif != lo ip6 saddr != @peers6 counter drop }
//! }
//! ```
//!
//! The rules say what flannel's iptables rules say, in their order. Two of them are folded into
//! one: whatever goes to our own subnet returns, be it from the network or not. And what is left
//! at the last rule comes from outside or goes to a group, so that its source needs no second look.
//!
//! Networks stand in the rules themselves and not in sets: a packet that is on its way through a
//! chain sees all of its rules as they were or all as they are, whereas each look into a set sees
//! the set as it is at that moment. So no packet meets a mixture of two configurations.
//!
//! The guard lasts for a time only, which is renewed for as long as somebody keeps it: left behind,
//! it would one day drop what nodes send that it has never heard of.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use weft_net::nft::{
    Base, ChainKind, Expr, Family, Hook, Op, Policy, Selector, Table, expr, priority,
};

use super::{Guard, Masquerade, Spec};

/// One of our tables, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedTable {
    pub(super) table: Table<'static>,
    pub(super) sets: Vec<WantedSet>,
    pub(super) chains: Vec<WantedChain>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedChain {
    pub(super) name: &'static str,
    pub(super) base: Base,
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedSet {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) elements: BTreeSet<Key>,
    /// It may hold others, too.
    pub(super) open: bool,
    /// How much longer its elements must last, of those that go by themselves.
    pub(super) lasting: Option<Duration>,
}

/// What a set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Addresses {
        v6: bool,
    },
    /// For a time.
    Ports,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Address(IpAddr),
    Port(u16),
}

/// One rule: it does what it says to packets that all of its tests hold for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) when: Vec<When>,
    pub(super) then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Kubernetes' mark for what it masquerades itself.
    Marked,
    From(IpNetwork),
    To(IpNetwork),
    NotTo(IpNetwork),
    /// An encapsulated packet that came over the wire from an address that is not in the set.
    Stranger {
        v6: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Return,
    Accept,
    Masquerade { random_fully: bool },
    CountAndDrop,
}

/// What shall stand of our tables, for a spec in canonical form.
pub(super) fn wanted(spec: &Spec) -> Vec<WantedTable> {
    let mut tables: Vec<WantedTable> = FAMILIES
        .into_iter()
        .filter_map(|v6| pod_table(spec, v6))
        .collect();
    tables.extend(spec.guard.as_ref().map(guard_table));
    tables
}

fn pod_table(spec: &Spec, v6: bool) -> Option<WantedTable> {
    let networks = of_family(&spec.networks, v6);
    if networks.is_empty() {
        return None;
    }
    let mut chains = Vec::new();
    if let Some(masquerade) = &spec.masquerade {
        chains.push(WantedChain {
            name: POSTROUTING,
            base: Base {
                kind: ChainKind::Nat,
                hook: Hook::Postrouting,
                priority: priority::SRCNAT,
                policy: Policy::Accept,
            },
            rules: masquerade_rules(&networks, &of_family(&spec.own, v6), masquerade, v6),
        });
    }
    if spec.forward {
        chains.push(WantedChain {
            name: FORWARD,
            base: Base {
                kind: ChainKind::Filter,
                hook: Hook::Forward,
                priority: priority::FILTER,
                policy: Policy::Accept,
            },
            rules: networks
                .iter()
                .flat_map(|network| [When::From(*network), When::To(*network)])
                .map(|when| rule([when], Then::Accept))
                .collect(),
        });
    }
    (!chains.is_empty()).then(|| WantedTable {
        table: if v6 { TABLE6 } else { TABLE4 },
        sets: Vec::new(),
        chains,
    })
}

fn masquerade_rules(
    networks: &[IpNetwork],
    own: &[IpNetwork],
    masquerade: &Masquerade,
    v6: bool,
) -> Vec<Rule> {
    let spared = of_family(&masquerade.spared, v6);
    let keep = |from: &[IpNetwork], to: &[IpNetwork]| -> Vec<Rule> {
        from.iter()
            .flat_map(|from| to.iter().map(|to| [When::From(*from), When::To(*to)]))
            .map(|when| rule(when, Then::Return))
            .collect()
    };
    let translate = Then::Masquerade {
        random_fully: masquerade.random_fully,
    };

    let mut rules = vec![rule([When::Marked], Then::Return)];
    rules.extend(keep(own, networks));
    rules.extend(own.iter().map(|own| rule([When::To(*own)], Then::Return)));
    rules.extend(keep(networks, &spared));
    rules.extend(
        networks
            .iter()
            .map(|network| rule([When::From(*network), When::NotTo(groups(v6))], translate)),
    );
    rules.extend(
        networks
            .iter()
            .map(|network| rule([When::To(*network)], translate)),
    );
    rules
}

fn guard_table(guard: &Guard) -> WantedTable {
    let guarded = WantedSet {
        name: GUARDED,
        kind: Kind::Ports,
        elements: BTreeSet::from([Key::Port(guard.port)]),
        open: false,
        lasting: Some(guard.lasting),
    };
    let peers = FAMILIES.map(|v6| {
        let addresses = guard.from.iter().copied();
        WantedSet {
            name: peers(v6),
            kind: Kind::Addresses { v6 },
            elements: addresses
                .filter(|ip| ip.is_ipv6() == v6)
                .map(Key::Address)
                .collect(),
            open: guard.lenient,
            lasting: None,
        }
    });
    WantedTable {
        table: GUARD,
        sets: std::iter::once(guarded).chain(peers).collect(),
        chains: vec![WantedChain {
            name: GUARD_CHAIN,
            // Before connection tracking spends memory on them, and before the tunnel's socket.
            base: Base {
                kind: ChainKind::Filter,
                hook: Hook::Input,
                priority: priority::RAW,
                policy: Policy::Accept,
            },
            rules: FAMILIES
                .into_iter()
                .map(|v6| rule([When::Stranger { v6 }], Then::CountAndDrop))
                .collect(),
        }],
    }
}

impl Rule {
    pub(super) fn expressions(&self) -> Vec<Expr> {
        let tests = self.when.iter().flat_map(|when| when.expressions());
        tests.chain(self.then.expressions()).collect()
    }
}

impl When {
    fn expressions(self) -> Vec<Expr> {
        let source =
            |op, network: IpNetwork| Selector::saddr(network.is_ipv6()).network(op, network);
        let destination =
            |op, network: IpNetwork| Selector::daddr(network.is_ipv6()).network(op, network);
        match self {
            Self::Marked => vec![expr::mark(MASQUERADED_BY_OTHERS, MASQUERADED_BY_OTHERS)],
            Self::From(network) => vec![source(Op::Eq, network)],
            Self::To(network) => vec![destination(Op::Eq, network)],
            Self::NotTo(network) => vec![destination(Op::Ne, network)],
            Self::Stranger { v6 } => vec![
                if v6 { expr::ipv6() } else { expr::ipv4() },
                Selector::L4PROTO.is(&[UDP]),
                expr::in_set(&[Selector::DPORT], GUARDED),
                Selector::IIF.isnt(&LOOPBACK.to_ne_bytes()),
                expr::not_in_set(&[Selector::saddr(v6)], peers(v6)),
            ],
        }
    }
}

impl Then {
    fn expressions(self) -> Vec<Expr> {
        match self {
            Self::Return => vec![expr::return_()],
            Self::Accept => vec![expr::accept()],
            Self::Masquerade { random_fully } => vec![expr::masquerade(random_fully)],
            Self::CountAndDrop => vec![expr::counter(), expr::drop()],
        }
    }
}

fn rule(when: impl Into<Vec<When>>, then: Then) -> Rule {
    Rule {
        when: when.into(),
        then,
    }
}

pub(super) fn of_family(networks: &[IpNetwork], v6: bool) -> Vec<IpNetwork> {
    let mut fitting: Vec<IpNetwork> = networks.to_vec();
    fitting.retain(|network| network.is_ipv6() == v6);
    fitting
}

/// Multicast.
pub(super) fn groups(v6: bool) -> IpNetwork {
    let (first, prefix): (IpAddr, u8) = match v6 {
        true => (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        false => (Ipv4Addr::new(224, 0, 0, 0).into(), 4),
    };
    IpNetwork::new(first, prefix).unwrap_or_else(|_| first.into())
}

const fn peers(v6: bool) -> &'static str {
    if v6 { "peers6" } else { "peers4" }
}

/// IPv4 and IPv6: whether it is the latter.
pub(super) const FAMILIES: [bool; 2] = [false, true];
/// The names of flanneld's nft mode: it replaces or removes them itself when a node goes back.
pub(super) const TABLE4: Table<'static> = Table::new(Family::Ip, "flannel-ipv4");
pub(super) const TABLE6: Table<'static> = Table::new(Family::Ip6, "flannel-ipv6");
pub(super) const GUARD: Table<'static> = Table::new(Family::Inet, "weft_guard");
/// All tables that are ours by their names, whoever made them.
pub(super) const TABLES: [Table<'static>; 3] = [TABLE4, TABLE6, GUARD];
pub(super) const GUARD_CHAIN: &str = "input";
pub(super) const GUARDED: &str = "guarded";
const POSTROUTING: &str = "postrtg";
const FORWARD: &str = "forward";
const MASQUERADED_BY_OTHERS: u32 = 0x4000;
const UDP: u8 = 17;
/// Always the first link of a network namespace.
const LOOPBACK: u32 = 1;

#[cfg(test)]
mod tests;
