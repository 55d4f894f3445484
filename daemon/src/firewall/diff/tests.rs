use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proptest::prelude::*;
use weft_net::nft::{Policy, priority};

use super::*;
use crate::firewall::wanted::{TABLES, wanted};
use crate::firewall::{Guard, Masquerade, Spec};

fn network() -> impl Strategy<Value = IpNetwork> {
    prop_oneof![
        (0u8..4, 0u8..4, 16u8..=28)
            .prop_map(|(a, b, prefix)| (IpAddr::from([10, a, b, 0]), prefix)),
        (0u16..4, 48u8..=80)
            .prop_map(|(a, prefix)| (IpAddr::from([0xfd10, a, 0, 0, 0, 0, 0, 0]), prefix)),
    ]
    .prop_map(|(ip, prefix)| IpNetwork::new(ip, prefix).unwrap())
}

fn networks() -> impl Strategy<Value = Vec<IpNetwork>> {
    prop::collection::vec(network(), 0..4)
}

fn addresses() -> impl Strategy<Value = BTreeSet<IpAddr>> {
    let v4 = (0u8..20).prop_map(|last| IpAddr::from([192, 0, 2, last]));
    let v6 = (0u16..20).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]));
    prop::collection::btree_set(prop_oneof![v4, v6], 0..12)
}

prop_compose! {
    fn spec()(
        networks in networks(), own in networks(), forward: bool,
        masquerade in prop::option::of((any::<bool>(), networks())),
        guard in prop::option::of((1u16..3, addresses())),
    ) -> Spec {
        Spec {
            networks, own, forward,
            masquerade: masquerade
                .map(|(random_fully, spared)| Masquerade { random_fully, spared }),
            guard: guard.map(|(port, from)| Guard { port, from, lenient: false, lasting: LASTING }),
        }.canonical()
    }
}

/// What others may have done to our tables.
#[derive(Debug, Clone)]
enum Harm {
    Sleep,
    ForgetChain(prop::sample::Index),
    AddChain,
    Unhook(prop::sample::Index),
    MovePriority(prop::sample::Index),
    AddRule(prop::sample::Index, usize),
    LoseRule(prop::sample::Index, usize),
    SwapRules(prop::sample::Index),
    AddSet,
    SpoilSet(prop::sample::Index),
    LoseElements(prop::sample::Index),
    /// Time goes by.
    Age(prop::sample::Index, Duration),
}

fn harm() -> impl Strategy<Value = Harm> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        Just(Harm::Sleep),
        which().prop_map(Harm::ForgetChain),
        Just(Harm::AddChain),
        which().prop_map(Harm::Unhook),
        which().prop_map(Harm::MovePriority),
        (which(), 0usize..4).prop_map(|(which, at)| Harm::AddRule(which, at)),
        (which(), 0usize..4).prop_map(|(which, at)| Harm::LoseRule(which, at)),
        which().prop_map(Harm::SwapRules),
        Just(Harm::AddSet),
        which().prop_map(Harm::SpoilSet),
        which().prop_map(Harm::LoseElements),
        (which(), 0u32..100).prop_map(|(which, part)| Harm::Age(which, LASTING * part / 100)),
    ]
}

fn suffer(table: &mut StandingTable, harm: &Harm) {
    fn pick<'a, T>(
        map: &'a mut BTreeMap<String, T>,
        which: &prop::sample::Index,
    ) -> Option<&'a mut T> {
        let len = map.len();
        (len > 0).then(|| map.values_mut().nth(which.index(len)))?
    }
    match harm {
        Harm::Sleep => table.is_awake = false,
        Harm::AddChain => {
            let foreign = StandingChain {
                base: None,
                rules: vec![None],
            };
            table.chains.insert("foreign".into(), foreign);
        }
        Harm::AddSet => {
            let foreign = StandingSet {
                kind: None,
                elements: BTreeSet::new(),
                left: None,
            };
            table.sets.insert("foreign".into(), foreign);
        }
        Harm::ForgetChain(which) => {
            let name = table
                .chains
                .keys()
                .nth(which.index(table.chains.len().max(1)));
            if let Some(name) = name.cloned() {
                table.chains.remove(&name);
            }
        }
        Harm::Unhook(which) => {
            pick(&mut table.chains, which)
                .into_iter()
                .for_each(|chain| chain.base = None);
        }
        Harm::MovePriority(which) => {
            if let Some(base) = pick(&mut table.chains, which).and_then(|c| c.base.as_mut()) {
                base.priority = priority::MANGLE;
                base.policy = Policy::Drop;
            }
        }
        Harm::AddRule(which, at) => {
            if let Some(chain) = pick(&mut table.chains, which) {
                chain.rules.insert((*at).min(chain.rules.len()), None);
            }
        }
        Harm::LoseRule(which, at) => {
            if let Some(chain) = pick(&mut table.chains, which)
                && *at < chain.rules.len()
            {
                chain.rules.remove(*at);
            }
        }
        Harm::SwapRules(which) => {
            pick(&mut table.chains, which)
                .into_iter()
                .for_each(|chain| chain.rules.reverse());
        }
        Harm::SpoilSet(which) => {
            pick(&mut table.sets, which)
                .into_iter()
                .for_each(|set| set.kind = None);
        }
        Harm::LoseElements(which) => {
            pick(&mut table.sets, which).into_iter().for_each(|set| {
                set.elements.clear();
                set.left = None;
            });
        }
        Harm::Age(which, left) => {
            let set = pick(&mut table.sets, which).filter(|set| set.left.is_some());
            set.into_iter().for_each(|set| set.left = Some(*left));
        }
    }
}

/// A kernel's work, with its refusals.
fn apply(standing: &mut Standing, changes: &[Change]) {
    for change in changes {
        if let Change::CreateTable(table) = change {
            let fresh = StandingTable {
                is_awake: true,
                ..StandingTable::default()
            };
            assert_eq!(standing.insert(*table, fresh), None, "{change}: EEXIST");
            continue;
        }
        if let Change::DeleteTable(table) = change {
            standing
                .remove(table)
                .unwrap_or_else(|| panic!("{change}: ENOENT"));
            continue;
        }
        let table = standing
            .get_mut(&change.table())
            .unwrap_or_else(|| panic!("{change}: ENOENT"));
        apply_within(table, change);
    }
}

fn apply_within(table: &mut StandingTable, change: &Change) {
    let set = |table: &mut StandingTable, name: &str| table.sets.remove(name).unwrap();
    match change {
        Change::CreateTable(_) | Change::DeleteTable(_) => unreachable!(),
        Change::CreateSet(_, name, kind) => {
            let fresh = StandingSet {
                kind: Some(*kind),
                elements: BTreeSet::new(),
                left: None,
            };
            assert_eq!(table.sets.insert((*name).into(), fresh), None);
        }
        Change::CreateChain(_, name, base) => {
            let fresh = StandingChain {
                base: Some(*base),
                rules: Vec::new(),
            };
            assert_eq!(table.chains.insert((*name).into(), fresh), None);
        }
        Change::Fill(_, name, rules) => {
            table.chains.get_mut(*name).unwrap().rules = rules.iter().cloned().map(Some).collect();
        }
        Change::AddElements(_, name, elements, time) => {
            let mut set = set(table, name);
            for element in elements {
                let kind = match element {
                    Key::Address(ip) => Kind::Addresses { v6: ip.is_ipv6() },
                    Key::Port(_) => Kind::Ports,
                };
                assert_eq!(Some(kind), set.kind);
                assert!(set.elements.insert(*element));
            }
            assert_eq!(time.is_some(), set.kind == Some(Kind::Ports));
            set.left = *time;
            table.sets.insert((*name).into(), set);
        }
        Change::DeleteElements(_, name, elements) => {
            let mut set = set(table, name);
            assert!(elements.iter().all(|element| set.elements.remove(element)));
            table.sets.insert((*name).into(), set);
        }
        Change::Renew(_, name, elements, time) => {
            let mut set = set(table, name);
            assert_eq!(set.kind, Some(Kind::Ports));
            set.elements = elements.iter().copied().collect();
            set.left = Some(*time);
            table.sets.insert((*name).into(), set);
        }
    }
}

const LASTING: Duration = Guard::LASTING;

fn made(spec: &Spec) -> Standing {
    let mut standing = Standing::new();
    apply(&mut standing, &diff(&wanted(spec), &Standing::new()));
    standing
}

proptest! {
    #[test]
    fn applied_to_one_ruleset_the_difference_makes_the_other(a in spec(), b in spec()) {
        let mut standing = made(&a);
        // A kernel's rule that is not wanted where it stands is nothing we know.
        let wanted_b = wanted(&b);
        for (name, table) in &mut standing {
            for (chain, stands) in &mut table.chains {
                let known = wanted_b.iter().filter(|w| w.table == *name).flat_map(|w| &w.chains)
                    .find(|w| w.name == chain).map_or(&[][..], |w| &w.rules);
                stands.rules.iter_mut().for_each(|rule| {
                    *rule = rule.take().filter(|rule| known.contains(rule));
                });
            }
        }
        let changes = diff(&wanted_b, &standing);
apply(&mut standing, &changes);
        prop_assert_eq!(&standing, &made(&b));
        prop_assert_eq!(diff(&wanted_b, &standing), []);
    }

    #[test]
    fn whatever_was_done_to_a_ruleset_is_undone(
        spec in spec(), harms in prop::collection::vec((0usize..3, harm()), 1..6)
    ) {
        let whole = made(&spec);
        let mut standing = whole.clone();
        for (table, harm) in &harms {
            suffer(standing.entry(TABLES[*table]).or_default(), harm);
        }
        let changes = diff(&wanted(&spec), &standing);
apply(&mut standing, &changes);
        prop_assert_eq!(standing, whole);
    }

    #[test]
    fn of_a_guard_that_is_as_it_should_be_only_the_time_is_renewed_and_not_too_soon(
        spec in spec(), percent in 0u32..=125
    ) {
        let mut standing = made(&spec);
        let left = LASTING * percent / 100;
        let mut guards = standing.values_mut().flat_map(|table| table.sets.values_mut());
        let guard = guards.find(|set| set.left.is_some()).map(|set| set.left = Some(left));
        let changes = diff(&wanted(&spec), &standing);
        prop_assert_eq!(changes.len(), usize::from(guard.is_some() && left < LASTING));
        prop_assert!(changes.iter().all(|change| matches!(change, Change::Renew(..))));
        apply(&mut standing, &changes);
        prop_assert_eq!(diff(&wanted(&spec), &standing), []);
    }

    #[test]
    fn peers_that_come_and_go_are_all_that_is_written(spec in spec(), from in addresses()) {
        let mut after = spec.clone();
        if let Some(guard) = &mut after.guard {
            guard.from = from;
        }
        let changes = diff(&wanted(&after), &made(&spec));
        for change in &changes {
            prop_assert!(
                matches!(change, Change::AddElements(..) | Change::DeleteElements(..)),
                "{}", change
            );
        }
        if let Some(guard) = &mut after.guard {
            guard.lenient = true;
        }
        let kept = changes.into_iter().filter(|c| matches!(c, Change::AddElements(..)));
        prop_assert_eq!(diff(&wanted(&after), &made(&spec)), kept.collect::<Vec<_>>());
    }
}
