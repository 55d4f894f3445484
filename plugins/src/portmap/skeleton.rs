//! What every mapping rests on: maps, and the rules that look into them.
//!
//! ```text
//! table inet weft_hostports {
//!     chain prerouting { type nat hook prerouting priority dstnat
//!         fib daddr type local jump hostports }
//!     chain output { type nat hook output priority -100
//!         fib daddr type local jump hostports }
//!     chain hostports4 {
//!         meta l4proto . ip daddr . th dport vmap @conditional_ip4
//!         jump marks_ip4
//!         dnat ip to meta l4proto . ip daddr . th dport map @ip4
//!         meta l4proto . th dport vmap @conditional_any4
//!         jump marks_any4
//!         dnat ip to meta l4proto . th dport map @any4 }
//!     chain marks_any4 {                                     one rule for each group of sources
//!         meta l4proto . th dport @any4_13_10.1.0.0_16 jump mark4_13_10.1.0.0_16 }
//!     chain mark4_13_10.1.0.0_16 {
//!         ip saddr 10.1.0.0/16 meta mark set meta mark | 0x2000
//!         ip saddr 127.0.0.0/8 meta mark set meta mark | 0x2000 }
//!     chain postrouting_13 { type nat hook postrouting priority srcnat
//!         ct status dnat meta mark & 0x2000 == 0x2000 masquerade }
//! }
//! ```
//!
//! Nothing that grows with the number of mappings is a rule, nor an element with a verdict: the
//! kernel walks all elements of a verdict map at each addition.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network};
use weft_net::nft::{
    Base, Chain, ChainKind, DataType, Expr, Family, Hook, Op, Policy, Selector, Set, SetSpec,
    StoredChain, StoredRule, Table, Transaction, expr, octets, priority,
};

use super::{index, key::Kind};

pub(crate) const TABLE: Table<'static> = Table::new(Family::Inet, "weft_hostports");
pub(super) const OWNERS: Set<'static> = TABLE.set("owners");

/// Stands if and only if all of the skeleton does, in this form.
pub(super) const VERSION: Chain<'static> = TABLE.chain("version_1");

/// Makes the transaction fail with `ENOENT` unless the skeleton stands. The chain has no rules.
pub(super) fn require(transaction: &mut Transaction) {
    transaction.flush_chain(VERSION);
}

/// The map from keys of a kind to pods.
pub(super) fn map(kind: Kind) -> Set<'static> {
    TABLE.set(kind.name())
}

/// The map from keys of a kind to chains that first look at the owner's conditions.
pub(super) fn conditional(kind: Kind) -> Set<'static> {
    TABLE.set(match kind {
        Kind::Any4 => "conditional_any4",
        Kind::Any6 => "conditional_any6",
        Kind::Ip4 => "conditional_ip4",
        Kind::Ip6 => "conditional_ip6",
    })
}

fn marks(kind: Kind) -> Chain<'static> {
    TABLE.chain(match kind {
        Kind::Any4 => "marks_any4",
        Kind::Any6 => "marks_any6",
        Kind::Ip4 => "marks_ip4",
        Kind::Ip6 => "marks_ip6",
    })
}

/// Sources whose connections are marked, to be masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) bit: u8,
    pub(super) is_ipv6: bool,
    /// Those of a subnet, and the host's loopback; all when absent.
    pub(super) subnet: Option<IpNetwork>,
}

impl Group {
    /// What the index calls it. A name in nft has no colons.
    pub(super) fn name(&self) -> String {
        let bit = self.bit;
        match self.subnet {
            None => format!("{bit}_all{}", if self.is_ipv6 { 6 } else { 4 }),
            Some(net) => {
                let network = net.network().to_string().replace(':', "_");
                format!("{bit}_{network}_{}", net.prefix())
            }
        }
    }

    /// The chain that marks.
    pub(super) fn chain(&self) -> String {
        format!("mark_{}", self.name())
    }

    /// The chain that masquerades what is marked so.
    pub(super) fn postrouting(&self) -> String {
        format!("postrouting_{}", self.bit)
    }

    fn kinds(&self) -> [Kind; 2] {
        if self.is_ipv6 {
            [Kind::Any6, Kind::Ip6]
        } else {
            [Kind::Any4, Kind::Ip4]
        }
    }

    /// The chain's existence stands for all of it: it is made in one transaction.
    pub(super) fn lay(&self, transaction: &mut Transaction) {
        let name = self.name();
        let chain = self.chain();
        transaction.create_chain(TABLE.chain(&chain), None, "");
        for rule in self.rules() {
            transaction.add_rule(TABLE.chain(&chain), &rule, "");
        }
        for kind in self.kinds() {
            let set = group_set(kind, &name);
            transaction.create_set(TABLE.set(&set), &SetSpec::set(kind.key_type()).mortal());
            let rule = [
                family(self.is_ipv6),
                expr::in_set(selectors(kind), &set),
                expr::jump(&chain),
            ];
            transaction.add_rule(marks(kind), &rule, "");
        }
    }

    /// And so does this one's.
    pub(super) fn lay_postrouting(&self, transaction: &mut Transaction) {
        let name = self.postrouting();
        let bit = 1 << self.bit;
        let rule = [
            expr::ct_status_dnat(),
            expr::mark(bit, bit),
            expr::masquerade(false),
        ];
        transaction.create_chain(
            TABLE.chain(&name),
            Some(nat(Hook::Postrouting, priority::SRCNAT)),
            "",
        );
        transaction.add_rule(TABLE.chain(&name), &rule, "");
    }

    fn rules(&self) -> Vec<Vec<Expr>> {
        let set = expr::set_mark(1 << self.bit, 1 << self.bit);
        let from = |net| {
            let source = Selector::saddr(self.is_ipv6).network(Op::Eq, net);
            vec![family(self.is_ipv6), source, set.clone()]
        };
        match self.subnet {
            None => vec![vec![set]],
            Some(net) if self.is_ipv6 => vec![from(net)],
            Some(net) => vec![from(net), from(loopback())],
        }
    }
}

/// The keys, of a kind, whose connections a group's sources are looked at for.
pub(super) fn group_set(kind: Kind, group: &str) -> String {
    format!("{}_{group}", kind.name())
}

/// Whether a group, by its name in the index, is of keys of a kind. Names of IPv6 groups end
/// like `_all6`, or have the underscores of an address.
pub(super) fn is_group_of(kind: Kind, group: &str) -> bool {
    let is_ipv4 = group.ends_with("_all4") || group.contains('.');
    is_ipv4 != kind.is_ipv6()
}

/// Makes it all. Of an older one that stands, the rules are replaced; the elements stay.
pub(super) fn lay(transaction: &mut Transaction, standing: Option<&[StoredChain]>) {
    if standing.is_none() {
        transaction.create_table(TABLE, "Weft: host ports");
    }
    for kind in Kind::ALL {
        let address = DataType::ip(kind.is_ipv6());
        let data = [address, DataType::SERVICE];
        transaction.add_set(map(kind), &SetSpec::map(kind.key_type(), &data).mortal());
        transaction.add_set(conditional(kind), &SetSpec::verdict_map(kind.key_type()));
        transaction.add_chain(marks(kind), None);
    }
    transaction.add_set(OWNERS, &SetSpec::set(&index::KEY_TYPE).mortal());
    for (chain, base, _) in chains() {
        transaction.add_chain(chain, base);
        transaction.flush_chain(chain);
    }
    for (chain, _, rules) in chains() {
        for rule in rules {
            transaction.add_rule(chain, &rule, "");
        }
    }
    for old in standing.unwrap_or_default() {
        if old.name.starts_with("version_") && old.name != VERSION.name {
            transaction.flush_chain(old.chain());
            transaction.delete_chain(old.chain());
        }
    }
    transaction.create_chain(VERSION, None, "");
}

/// Whether the rules that [`lay`] made are all there, and no others among them.
pub(super) fn stands(rules: &[StoredRule]) -> bool {
    let count = |chain: &str| rules.iter().filter(|rule| rule.chain == chain).count();
    chains()
        .iter()
        .all(|(chain, _, wanted)| count(chain.name) == wanted.len())
}

/// Whether the rules of a group are.
pub(super) fn group_stands(group: &Group, rules: &[StoredRule]) -> bool {
    let count = |chain: &str| rules.iter().filter(|rule| rule.chain == chain).count();
    let chain = group.chain();
    let is_reached = |kind: &Kind| {
        let mut reaching = rules.iter().filter(|rule| rule.chain == marks(*kind).name);
        reaching.any(|rule| rule.leads_to() == Some(&chain))
    };
    count(&chain) == group.rules().len()
        && count(&group.postrouting()) == 1
        && group.kinds().iter().all(is_reached)
}

type ChainPlan = (Chain<'static>, Option<Base>, Vec<Vec<Expr>>);

fn chains() -> Vec<ChainPlan> {
    // The local check is what keeps packets to other machines' ports out of our hands.
    let to_local = vec![vec![expr::daddr_is_local(), expr::jump(HOSTPORTS.name)]];
    let by_family = vec![
        vec![expr::ipv4(), expr::goto(HOSTPORTS_4.name)],
        vec![expr::ipv6(), expr::goto(HOSTPORTS_6.name)],
    ];
    // Nobody can answer ::1 from a pod: left alone, a client gets its refusal at once, and most
    // then try 127.0.0.1.
    let mut look_ups_6 = vec![vec![
        expr::ipv6(),
        Selector::IP6_DADDR.is(&octets(Ipv6Addr::LOCALHOST.into())),
        expr::return_(),
    ]];
    look_ups_6.extend(look_ups(Kind::Ip6, Kind::Any6));
    vec![
        (TABLE.chain("guard"), Some(GUARD), guard()),
        (HOSTPORTS_4, None, look_ups(Kind::Ip4, Kind::Any4)),
        (HOSTPORTS_6, None, look_ups_6),
        (HOSTPORTS, None, by_family),
        (
            TABLE.chain("prerouting"),
            Some(nat(Hook::Prerouting, priority::DSTNAT)),
            to_local.clone(),
        ),
        (
            TABLE.chain("output"),
            Some(nat(Hook::Output, priority::DSTNAT)),
            to_local,
        ),
    ]
}

/// One address of the host before all of them, and what has conditions before what has none.
fn look_ups(one: Kind, any: Kind) -> Vec<Vec<Expr>> {
    let of_kind = |kind: Kind| {
        let selectors = selectors(kind);
        [
            vec![
                family(kind.is_ipv6()),
                expr::vmap(selectors, conditional(kind).name),
            ],
            vec![expr::jump(marks(kind).name)],
            vec![
                family(kind.is_ipv6()),
                expr::map(selectors, map(kind).name),
                expr::dnat_to_mapped(kind.is_ipv6(), true),
            ],
        ]
    };
    [of_kind(one), of_kind(any)].concat()
}

/// `route_localnet`, which a mapped port on 127.0.0.1 needs, lets neighbours on the pod's link
/// reach what listens on the host's loopback (CVE-2020-8558), were it not for this.
fn guard() -> Vec<Vec<Expr>> {
    let elsewhere = Selector::IIF.isnt(&LOOPBACK_LINK.to_ne_bytes());
    let rule = |address: Selector| {
        vec![
            expr::ipv4(),
            address.network(Op::Eq, loopback()),
            elsewhere.clone(),
            expr::drop(),
        ]
    };
    vec![rule(Selector::IP_DADDR), rule(Selector::IP_SADDR)]
}

fn selectors(kind: Kind) -> &'static [Selector] {
    match kind {
        Kind::Any4 | Kind::Any6 => &[Selector::L4PROTO, Selector::DPORT],
        Kind::Ip4 => &[Selector::L4PROTO, Selector::IP_DADDR, Selector::DPORT],
        Kind::Ip6 => &[Selector::L4PROTO, Selector::IP6_DADDR, Selector::DPORT],
    }
}

fn loopback() -> IpNetwork {
    let first = Ipv4Addr::new(127, 0, 0, 0);
    Ipv4Network::new(first, 8).map_or_else(|_| IpAddr::V4(first).into(), IpNetwork::V4)
}

const fn nat(hook: Hook, priority: i32) -> Base {
    Base {
        kind: ChainKind::Nat,
        hook,
        priority,
        policy: Policy::Accept,
    }
}

/// Not needed where it stands, but nft names the fields of addresses only behind it.
fn family(is_ipv6: bool) -> Expr {
    if is_ipv6 { expr::ipv6() } else { expr::ipv4() }
}

const HOSTPORTS: Chain<'static> = TABLE.chain("hostports");
const HOSTPORTS_4: Chain<'static> = TABLE.chain("hostports4");
const HOSTPORTS_6: Chain<'static> = TABLE.chain("hostports6");
/// Before connection tracking, so that it sees addresses as they are on the wire.
const GUARD: Base = Base {
    kind: ChainKind::Filter,
    hook: Hook::Prerouting,
    priority: priority::RAW,
    policy: Policy::Accept,
};
/// Always the first link of a namespace.
const LOOPBACK_LINK: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn group(subnet: Option<&str>, is_ipv6: bool) -> Group {
        Group {
            bit: 13,
            is_ipv6,
            subnet: subnet.map(|subnet| subnet.parse().unwrap()),
        }
    }

    #[test]
    fn a_groups_name_is_one_that_nft_takes_and_tells_its_family() {
        for (group, name) in [
            (group(Some("10.1.2.3/16"), false), "13_10.1.0.0_16"),
            (group(Some("fd01::2/64"), true), "13_fd01___64"),
            (group(None, false), "13_all4"),
            (group(None, true), "13_all6"),
        ] {
            assert_eq!(group.name(), name);
            for kind in Kind::ALL {
                assert_eq!(
                    is_group_of(kind, name),
                    kind.is_ipv6() == group.is_ipv6,
                    "{name}"
                );
            }
        }
    }
}
