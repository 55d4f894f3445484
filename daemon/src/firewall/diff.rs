//! From what stands to what shall stand: the changes, pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_net::nft::{Base, Table};

use super::wanted::{Key, Kind, Rule, WantedChain, WantedSet, WantedTable};

/// What stands under the names that are ours.
pub(super) type Standing = BTreeMap<Table<'static>, StandingTable>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StandingTable {
    /// A dormant table sees no packets.
    pub(super) is_awake: bool,
    pub(super) chains: BTreeMap<String, StandingChain>,
    pub(super) sets: BTreeMap<String, StandingSet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StandingChain {
    /// `None` if no packets come to it by itself, or in a way we do not know.
    pub(super) base: Option<Base>,
    /// `None` for a rule that is none of those wanted in this chain.
    pub(super) rules: Vec<Option<Rule>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StandingSet {
    /// `None` if it is of none that we make.
    pub(super) kind: Option<Kind>,
    pub(super) elements: BTreeSet<Key>,
    /// When the first of its elements goes by itself, if any does.
    pub(super) left: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    DeleteTable(Table<'static>),
    CreateTable(Table<'static>),
    CreateSet(Table<'static>, &'static str, Kind),
    CreateChain(Table<'static>, &'static str, Base),
    /// In the place of all rules that the chain has.
    Fill(Table<'static>, &'static str, Vec<Rule>),
    /// For a time, or for good.
    AddElements(Table<'static>, &'static str, Vec<Key>, Option<Duration>),
    DeleteElements(Table<'static>, &'static str, Vec<Key>),
    /// These are all that the set has: their time begins anew.
    Renew(Table<'static>, &'static str, Vec<Key>, Duration),
}

/// The changes that make what is wanted of what stands, in an order the kernel accepts.
///
/// A chain whose rules are not exactly the wanted ones is filled anew: within a transaction that
/// is one step for every packet. A table with something in it that neither we nor flannel put
/// there, or with a chain that is hooked in otherwise, is made anew as a whole.
pub(super) fn diff(wanted: &[WantedTable], standing: &Standing) -> Vec<Change> {
    let unwanted = standing
        .keys()
        .filter(|table| !wanted.iter().any(|wanted| wanted.table == **table))
        .map(|table| Change::DeleteTable(*table));
    let mut changes: Vec<Change> = unwanted.collect();
    for wanted in wanted {
        match standing.get(&wanted.table) {
            Some(stands) if is_a_start(wanted, stands) => fit(wanted, stands, &mut changes),
            Some(_) => {
                changes.push(Change::DeleteTable(wanted.table));
                create(wanted, &mut changes);
            }
            None => create(wanted, &mut changes),
        }
    }
    changes
}

/// Whether nothing stands in the way of what is wanted.
fn is_a_start(wanted: &WantedTable, stands: &StandingTable) -> bool {
    let chain_fits = |(name, chain): (&String, &StandingChain)| {
        let namesake = wanted.chains.iter().find(|wanted| wanted.name == name);
        namesake.is_some_and(|wanted| chain.base == Some(wanted.base))
    };
    let set_fits = |(name, set): (&String, &StandingSet)| {
        let namesake = wanted.sets.iter().find(|wanted| wanted.name == name);
        namesake.is_some_and(|wanted| set.kind == Some(wanted.kind))
    };
    stands.is_awake && stands.chains.iter().all(chain_fits) && stands.sets.iter().all(set_fits)
}

fn create(wanted: &WantedTable, changes: &mut Vec<Change>) {
    changes.push(Change::CreateTable(wanted.table));
    let nothing = StandingTable {
        is_awake: true,
        ..StandingTable::default()
    };
    fit(wanted, &nothing, changes);
}

fn fit(wanted: &WantedTable, stands: &StandingTable, changes: &mut Vec<Change>) {
    for set in &wanted.sets {
        fit_set(wanted.table, set, stands.sets.get(set.name), changes);
    }
    for chain in &wanted.chains {
        fit_chain(wanted.table, chain, stands.chains.get(chain.name), changes);
    }
}

fn fit_set(
    table: Table<'static>,
    wanted: &WantedSet,
    stands: Option<&StandingSet>,
    changes: &mut Vec<Change>,
) {
    let nothing = BTreeSet::new();
    let there = stands.map_or(&nothing, |set| &set.elements);
    if stands.is_none() {
        changes.push(Change::CreateSet(table, wanted.name, wanted.kind));
    }
    let gone: Vec<Key> = there.difference(&wanted.elements).copied().collect();
    if !gone.is_empty() && !wanted.open {
        changes.push(Change::DeleteElements(table, wanted.name, gone));
    }
    let missing: Vec<Key> = wanted.elements.difference(there).copied().collect();
    let time = wanted.lasting.map(time);
    if !missing.is_empty() {
        changes.push(Change::AddElements(table, wanted.name, missing, time));
    } else if let Some(time) = time
        && stands.and_then(|set| set.left) < wanted.lasting
    {
        let all = wanted.elements.iter().copied().collect();
        changes.push(Change::Renew(table, wanted.name, all, time));
    }
}

fn fit_chain(
    table: Table<'static>,
    wanted: &WantedChain,
    stands: Option<&StandingChain>,
    changes: &mut Vec<Change>,
) {
    if stands.is_none() {
        changes.push(Change::CreateChain(table, wanted.name, wanted.base));
    }
    let there = stands.map_or(&[][..], |chain| &chain.rules);
    let same = there.len() == wanted.rules.len()
        && there
            .iter()
            .zip(&wanted.rules)
            .all(|(stands, wanted)| stands.as_ref() == Some(wanted));
    if !same {
        changes.push(Change::Fill(table, wanted.name, wanted.rules.clone()));
    }
}

/// What is given to elements that must last so long at any moment: renewing them need not be often.
fn time(lasting: Duration) -> Duration {
    lasting + lasting / 4
}

impl Change {
    pub(super) fn table(&self) -> Table<'static> {
        match self {
            Self::DeleteTable(table)
            | Self::CreateTable(table)
            | Self::CreateSet(table, ..)
            | Self::CreateChain(table, ..)
            | Self::Fill(table, ..)
            | Self::AddElements(table, ..)
            | Self::DeleteElements(table, ..)
            | Self::Renew(table, ..) => *table,
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DeleteTable(table) => write!(f, "{table} deleted"),
            Self::CreateTable(table) => write!(f, "{table} created"),
            Self::CreateSet(table, name, _) => write!(f, "{} created", table.set(name)),
            Self::CreateChain(table, name, _) => write!(f, "{} created", table.chain(name)),
            Self::Fill(table, name, rules) => {
                write!(f, "{} filled with {} rules", table.chain(name), rules.len())
            }
            Self::AddElements(table, name, elements, _) => {
                write!(
                    f,
                    "{} elements added to {}",
                    elements.len(),
                    table.set(name)
                )
            }
            Self::DeleteElements(table, name, elements) => {
                write!(
                    f,
                    "{} elements deleted from {}",
                    elements.len(),
                    table.set(name)
                )
            }
            Self::Renew(table, name, ..) => write!(f, "{} lasts longer", table.set(name)),
        }
    }
}

#[cfg(test)]
mod tests;
