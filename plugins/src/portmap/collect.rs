//! GC: what of a network belongs to no attachment that lives.

use std::collections::BTreeSet;

use weft_net::{
    Result,
    nft::{NftSocket, Object, Transaction},
};

use super::{
    entry::{Place, chains_of, mark_of},
    holdings::{delete, delete_chains},
    key::Kind,
    publish::again,
    skeleton::{OWNERS, TABLE, conditional, group_set, is_group_of, map},
};

/// Of all elements.
pub(crate) fn comments(nft: &mut NftSocket) -> Result<BTreeSet<String>> {
    let chains = nft.chains(TABLE)?.into_iter().map(|chain| chain.name);
    let chains: Vec<String> = chains.collect();
    let mut comments = BTreeSet::new();
    if chains.is_empty() {
        return Ok(comments);
    }
    for set in sets(&chains) {
        let elements = nft.elements(TABLE.set(&set))?;
        comments.extend(elements.iter().map(|element| element.comment().to_owned()));
    }
    Ok(comments)
}

/// Removes what stands under marks of the network that are not among the living.
pub(crate) fn collect(
    nft: &mut NftSocket,
    network_mark: &str,
    living: &BTreeSet<String>,
) -> Result<()> {
    let is_dead = |mark: &str| mark.starts_with(network_mark) && !living.contains(mark);
    again(|| {
        let snapshot = nft.find(&[Object::Table(TABLE)])?;
        if snapshot.found[0].is_none() {
            return Ok(());
        }
        let mut transaction = Transaction::at(snapshot.generation);
        let chains: Vec<String> = nft
            .chains(TABLE)?
            .into_iter()
            .map(|chain| chain.name)
            .collect();
        let mut dead_chains: BTreeSet<[String; 2]> = BTreeSet::new();
        let mut dead: BTreeSet<Place> = BTreeSet::new();
        for set in sets(&chains) {
            for element in nft.elements(TABLE.set(&set))? {
                if is_dead(mark_of(&element)) {
                    dead.insert(Place {
                        set: set.clone(),
                        key: element.key().to_vec(),
                    });
                }
            }
        }
        for mark in chains.iter().filter_map(|chain| mark_in_name(chain)) {
            if is_dead(&mark) {
                dead_chains.insert(chains_of(&mark));
            }
        }
        delete(&mut transaction, &dead);
        for names in &dead_chains {
            delete_chains(&mut transaction, names);
        }
        nft.commit(transaction)
    })
}

/// All sets, those of the groups among them, which are known by their chains.
fn sets(chains: &[String]) -> Vec<String> {
    let groups: Vec<&str> = chains
        .iter()
        .filter_map(|name| name.strip_prefix("mark_"))
        .collect();
    let mut sets = vec![OWNERS.name.to_owned()];
    for kind in Kind::ALL {
        sets.extend([map(kind), conditional(kind)].map(|set| set.name.to_owned()));
        let of_kind = groups.iter().filter(|group| is_group_of(kind, group));
        sets.extend(of_kind.map(|group| group_set(kind, group)));
    }
    sets
}

fn mark_in_name(chain: &str) -> Option<String> {
    Some(chain.strip_prefix("cond_")?.replace('_', "-"))
}
