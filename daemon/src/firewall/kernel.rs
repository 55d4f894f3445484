//! Our tables in the kernel: read as values, changed by values.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_net::Result;
use weft_net::nft::{
    DataType, Element, NftSocket, Set, SetSpec, StoredChain, StoredElement, StoredRule, StoredSet,
    StoredTable, Table, Transaction, octets,
};

use super::diff::{Change, Standing, StandingChain, StandingSet, StandingTable};
use super::wanted::{GUARD, GUARD_CHAIN, GUARDED, Key, Kind, Rule, TABLES, WantedTable};

/// What stands of our tables, and what the guard's rules have counted.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) standing: Standing,
    pub(super) dropped: u64,
}

impl Seen {
    /// How long the guard stands if nobody renews it.
    pub(super) fn guarded_for(&self) -> Option<Duration> {
        self.standing.get(&GUARD)?.sets.get(GUARDED)?.left
    }
}

/// Reads what stands under our names, among all tables and chains of the ruleset.
pub(super) fn read(
    nft: &mut NftSocket,
    wanted: &[WantedTable],
    tables: &[StoredTable],
    chains: &[StoredChain],
) -> Result<Seen> {
    let mut seen = Seen::default();
    for stored in tables {
        let Some(table) = TABLES.into_iter().find(|table| *table == stored.table()) else {
            continue;
        };
        let chains = chains
            .iter()
            .filter(|chain| chain.chain().table == table)
            .map(|chain| (chain.name.clone(), standing_chain(chain)))
            .collect();
        let mut stands = StandingTable {
            is_awake: stored.is_awake,
            chains,
            sets: read_sets(nft, table)?,
        };
        let rules = nft.table_rules(table)?;
        let wanted = wanted.iter().find(|wanted| wanted.table == table);
        recognise(&rules, wanted, &mut stands.chains);
        if table == GUARD {
            seen.dropped = count(&rules);
        }
        seen.standing.insert(table, stands);
    }
    Ok(seen)
}

/// What the guard's rules have counted since they stand.
pub(super) fn dropped(nft: &mut NftSocket) -> Result<u64> {
    Ok(count(&nft.rules(GUARD.chain(GUARD_CHAIN))?))
}

pub(super) fn write(changes: &[Change], transaction: &mut Transaction) {
    for change in changes {
        match change {
            Change::DeleteTable(table) => transaction.delete_table(*table),
            Change::CreateTable(table) => transaction.create_table(*table, COMMENT),
            Change::CreateSet(table, name, kind) => {
                transaction.create_set(table.set(name), &kind.spec());
            }
            Change::CreateChain(table, name, base) => {
                transaction.create_chain(table.chain(name), Some(*base), "");
            }
            Change::Fill(table, name, rules) => fill(*table, name, rules, transaction),
            Change::AddElements(table, name, elements, time) => {
                with_elements(elements, *time, |elements| {
                    transaction.add_elements(table.set(name), elements);
                });
            }
            Change::DeleteElements(table, name, elements) => {
                with_elements(elements, None, |elements| {
                    transaction.delete_elements(table.set(name), elements);
                });
            }
            Change::Renew(table, name, elements, time) => {
                // Kernels before 6.12 forget a new time for an element that is there. Emptying, since
                // one that went by itself meanwhile cannot be deleted.
                transaction.flush_set(table.set(name));
                with_elements(elements, Some(*time), |elements| {
                    transaction.add_elements(table.set(name), elements);
                });
            }
        }
    }
}

fn fill(table: Table<'static>, name: &str, rules: &[Rule], transaction: &mut Transaction) {
    let chain = table.chain(name);
    transaction.flush_chain(chain);
    for rule in rules {
        transaction.add_rule(chain, &rule.expressions(), "");
    }
}

fn with_elements(keys: &[Key], time: Option<Duration>, use_them: impl FnOnce(&[Element<'_>])) {
    let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.bytes()).collect();
    let element = |key| match time {
        Some(time) => Element::new(key).lasting(time),
        None => Element::new(key),
    };
    let elements: Vec<Element<'_>> = keys.iter().map(|key| element(key)).collect();
    use_them(&elements);
}

fn standing_chain(chain: &StoredChain) -> StandingChain {
    StandingChain {
        base: chain.base,
        rules: Vec::new(),
    }
}

/// Each rule is one of those wanted in its chain, or nothing we know.
fn recognise(
    rules: &[StoredRule],
    wanted: Option<&WantedTable>,
    chains: &mut BTreeMap<String, StandingChain>,
) {
    for stored in rules {
        let Some(chain) = chains.get_mut(&stored.chain) else {
            continue;
        };
        let namesake = wanted.and_then(|table| {
            let mut chains = table.chains.iter();
            chains.find(|chain| chain.name == stored.chain)
        });
        let known = namesake.and_then(|chain| {
            let mut rules = chain.rules.iter();
            rules.find(|rule| stored.says(&rule.expressions()))
        });
        chain.rules.push(known.cloned());
    }
}

fn read_sets(nft: &mut NftSocket, table: Table<'static>) -> Result<BTreeMap<String, StandingSet>> {
    let sets = nft.sets(table)?;
    sets.iter()
        .map(|stored| Ok((stored.name.clone(), read_set(nft, stored.set(), stored)?)))
        .collect()
}

fn read_set(nft: &mut NftSocket, set: Set<'_>, stored: &StoredSet) -> Result<StandingSet> {
    let kind = KINDS.into_iter().find(|kind| stored.is_like(&kind.spec()));
    let elements = match kind {
        Some(_) => nft.elements(set)?,
        None => Vec::new(),
    };
    Ok(StandingSet {
        kind,
        elements: elements.iter().filter_map(Key::of).collect(),
        left: elements.iter().filter_map(StoredElement::time_left).min(),
    })
}

impl Kind {
    fn spec(self) -> SetSpec<'static> {
        match self {
            Self::Addresses { v6: false } => SetSpec::set(&[DataType::IPV4]),
            Self::Addresses { v6: true } => SetSpec::set(&[DataType::IPV6]),
            Self::Ports => SetSpec::set(&[DataType::SERVICE]).mortal(),
        }
    }
}

impl Key {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Address(ip) => octets(ip),
            Self::Port(port) => port.to_be_bytes().to_vec(),
        }
    }

    fn of(element: &StoredElement) -> Option<Self> {
        let key = element.key();
        match key.len() {
            2 => Some(Self::Port(u16::from_be_bytes(key.try_into().ok()?))),
            4 => Some(Self::Address(<[u8; 4]>::try_from(key).ok()?.into())),
            16 => Some(Self::Address(<[u8; 16]>::try_from(key).ok()?.into())),
            _ => None,
        }
    }
}

fn count(rules: &[StoredRule]) -> u64 {
    rules.iter().filter_map(StoredRule::packets).sum()
}

const KINDS: [Kind; 3] = [
    Kind::Addresses { v6: false },
    Kind::Addresses { v6: true },
    Kind::Ports,
];
const COMMENT: &str = "Weft: kept by weftd";
