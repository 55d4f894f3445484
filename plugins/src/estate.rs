//! What the suite holds in nftables for all pods of the node, whichever network they are on: for
//! the day the suite leaves. The reference plugins' DEL, which comes after it, knows nothing of
//! these tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use weft_net::{
    Result, Rtnl,
    nft::{NftSocket, Table, Transaction},
};

use crate::{bridge, owner::Owner, pods, portmap};

/// One attachment that has something there, as its comments tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub mark: String,
    /// None where no comment names it. A long name may be cut short.
    pub owner: Option<Owner>,
}

/// Where runtimes and `host-local` write down who is attached.
#[derive(Clone, Debug)]
pub struct Registers {
    /// Files named after network, container and interface.
    pub results: PathBuf,
    /// A directory for each network, with files that hold the containers' ids.
    pub reservations: PathBuf,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub living: Vec<Holder>,
    pub dead: Vec<Holder>,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            results: "/var/lib/cni/results".into(),
            reservations: "/var/lib/cni/networks".into(),
        }
    }
}

/// Who has something, and who of them lives: whoever has a link of ours, a result or a reservation.
/// Who cannot be told from the living counts among them.
pub fn survey(registers: &Registers) -> Result<Survey> {
    let mut nft = NftSocket::open()?;
    let mut comments = pods::comments(&mut nft)?;
    comments.extend(portmap::comments(&mut nft)?);
    comments.extend(bridge::comments(&mut nft)?);
    let register = register(registers);
    let links = Rtnl::open()?.links_of_kind("veth")?;
    let lives = |holder: &Holder| match (&holder.owner, &register) {
        (Some(owner), Some(register)) => {
            let port = owner.host_veth();
            links.iter().any(|link| link.name == port)
                || register
                    .iter()
                    .any(|entry| entry.contains(&owner.container_id))
        }
        (None, _) | (_, None) => true,
    };
    let (living, dead) = holders(&comments).into_iter().partition(lives);
    Ok(Survey { living, dead })
}

/// Removes what stands under marks that are not the living's; the tables too, if nobody lives.
pub fn collect(living: &[Holder]) -> Result<()> {
    let marks: Vec<String> = living.iter().map(|holder| holder.mark.clone()).collect();
    let mut nft = NftSocket::open()?;
    if marks.is_empty() {
        return TABLES
            .into_iter()
            .try_for_each(|table| delete(&mut nft, table));
    }
    pods::collect(&mut nft, EVERY_NETWORK, &marks)?;
    portmap::collect(&mut nft, EVERY_NETWORK, &marks.iter().cloned().collect())?;
    bridge::collect_spoof(EVERY_NETWORK, &marks)
}

fn delete(nft: &mut NftSocket, table: Table<'_>) -> Result<()> {
    let mut transaction = Transaction::new();
    transaction.delete_table(table);
    match nft.commit(transaction) {
        Err(error) if error.is_not_found() => Ok(()),
        done => done,
    }
}

/// All that the registers tell, or None where they cannot be seen.
fn register(registers: &Registers) -> Option<Vec<String>> {
    let results = names_in(&registers.results);
    let networks = names_in(&registers.reservations);
    if results.is_none() && networks.is_none() {
        return None;
    }
    let mut register = results.unwrap_or_default();
    for network in networks.unwrap_or_default() {
        let dir = registers.reservations.join(network);
        let files = names_in(&dir).unwrap_or_default();
        let texts = files.iter().map(|file| fs::read(dir.join(file)));
        register.extend(
            texts
                .flatten()
                .map(|text| String::from_utf8_lossy(&text).into_owned()),
        );
    }
    Some(register)
}

fn names_in(dir: &Path) -> Option<Vec<String>> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    Some(
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect(),
    )
}

/// One for each mark, with the fullest of what its comments tell.
fn holders(comments: &BTreeSet<String>) -> Vec<Holder> {
    let mut holders: BTreeMap<&str, Option<Owner>> = BTreeMap::new();
    for comment in comments {
        let end = comment.find([',', ' ']).unwrap_or(comment.len());
        let (mark, names) = comment.split_at(end);
        let owner = holders.entry(mark).or_default();
        *owner = owner.take().or_else(|| Owner::named_in(names));
    }
    let holders = holders.into_iter();
    holders
        .map(|(mark, owner)| Holder {
            mark: mark.to_owned(),
            owner,
        })
        .collect()
}

/// What every mark begins with.
const EVERY_NETWORK: &str = "";
const TABLES: [Table<'static>; 3] = [pods::TABLE, portmap::TABLE, bridge::SPOOF_TABLE];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_named_by_the_comment_that_names_them() {
        let owner = Owner {
            network: "cbr0".into(),
            container_id: "c".repeat(64),
            ifname: "eth0".into(),
        };
        let other = Owner {
            network: "a-network, with a comma".into(),
            ..owner.clone()
        };
        let comments = BTreeSet::from([
            format!("{} 1 group tcp:80", owner.mark()),
            owner.comment(),
            format!("{} + tcp:81", other.mark()),
        ]);
        let mut found = holders(&comments);
        found.sort_by_key(|holder| holder.owner.is_none());
        assert_eq!(found[0].owner, Some(owner));
        assert_eq!((found.len(), &found[1].owner), (2, &None));
    }

    #[test]
    fn registers_that_cannot_be_seen_are_not_empty_ones() {
        let nowhere = Registers {
            results: "/nowhere/results".into(),
            reservations: "/nowhere/networks".into(),
        };
        assert_eq!(register(&nowhere), None);
        let somewhere = Registers {
            results: std::env::temp_dir(),
            ..nowhere
        };
        assert!(register(&somewhere).is_some());
    }
}
