//! Our tables in the kernel: read as values, changed by values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_net::Result;
use weft_net::nft::{
    DataType, Element, NftSocket, Set, SetSpec, StoredChain, StoredElement, StoredRule, StoredSet,
    StoredTable, Table, Transaction, octets,
};

use super::diff::{Change, Standing, StandingChain, StandingSet, StandingTable};
use super::wanted::{GUARD, GUARD_CHAIN, Rule, TABLES, WantedTable};

/// What stands of our tables, and what the guard's rules have counted.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) standing: Standing,
    pub(super) dropped: u64,
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
            Change::CreateSet(table, name, v6) => {
                transaction.create_set(table.set(name), &SetSpec::set(&[DataType::ip(*v6)]));
            }
            Change::CreateChain(table, name, base) => {
                transaction.create_chain(table.chain(name), Some(*base), "");
            }
            Change::Fill(table, name, rules) => fill(*table, name, rules, transaction),
            Change::AddElements(table, name, elements) => {
                with_elements(elements, |elements| {
                    transaction.add_elements(table.set(name), elements);
                });
            }
            Change::DeleteElements(table, name, elements) => {
                with_elements(elements, |elements| {
                    transaction.delete_elements(table.set(name), elements);
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

fn with_elements(addresses: &[IpAddr], use_them: impl FnOnce(&[Element<'_>])) {
    let keys: Vec<Vec<u8>> = addresses.iter().map(|ip| octets(*ip)).collect();
    let elements: Vec<Element<'_>> = keys.iter().map(|key| Element::new(key)).collect();
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
    let v6 = [false, true]
        .into_iter()
        .find(|v6| stored.is_like(&SetSpec::set(&[DataType::ip(*v6)])));
    let elements = match v6 {
        Some(_) => nft.elements(set)?.iter().filter_map(address).collect(),
        None => BTreeSet::new(),
    };
    Ok(StandingSet { v6, elements })
}

fn address(element: &StoredElement) -> Option<IpAddr> {
    let key = element.key();
    <[u8; 4]>::try_from(key)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(key).map(IpAddr::from))
        .ok()
}

fn count(rules: &[StoredRule]) -> u64 {
    rules.iter().filter_map(StoredRule::packets).sum()
}

const COMMENT: &str = "Weft: kept by weftd";
