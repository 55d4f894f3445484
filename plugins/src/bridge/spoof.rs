//! Frames that a pod sends under a MAC that is not its own, dropped at its port.
//!
//! ```text
//! table bridge weft_macspoof {
//!     set guarded { type ifname }
//!     set allowed { type ifname . ether_addr }
//!     chain prerouting { type filter hook prerouting priority dstnat
//!         iifname @guarded iifname . ether saddr != @allowed drop }
//! }
//! ```

use std::collections::BTreeSet;

use rustix::io::Errno;
use weft_net::{
    Error, Mac, Result,
    nft::{
        Base, Chain, ChainKind, DataType, Element, Family, Hook, NftSocket, Object, Policy,
        Selector, Set, SetSpec, Table, Transaction, concat, expr, ifname, priority,
    },
};

use crate::owner::Owner;

pub(super) fn guard(owner: &Owner, mac: Mac) -> Result<()> {
    let port = ifname(&owner.host_veth());
    let allowed = concat(&[&port, &mac.0]);
    let comment = owner.comment();
    let add = |transaction: &mut Transaction| {
        transaction.add_elements(GUARDED, &[Element::new(&port).comment(&comment)]);
        transaction.add_elements(ALLOWED, &[Element::new(&allowed).comment(&comment)]);
    };
    let mut nft = NftSocket::open()?;
    let mut transaction = Transaction::new();
    add(&mut transaction);
    match nft.commit(transaction) {
        Err(error) if error.is_not_found() => nft.retry(|nft| {
            let snapshot = nft.find(&[Object::Table(TABLE)])?;
            let mut transaction = Transaction::at(snapshot.generation);
            if snapshot.found.iter().all(Option::is_none) {
                lay_out(&mut transaction);
            }
            add(&mut transaction);
            match nft.commit(transaction) {
                Err(error) if error.exists() => Err(Error::new("guard a port", Errno::RESTART)),
                done => done,
            }
        }),
        done => done,
    }
}

/// By name, since nobody can tell any more which MAC address the pod was given.
pub(super) fn release(nft: &mut NftSocket, owner: &Owner) -> Result<()> {
    let mark = owner.mark();
    remove_where(nft, |comment| comment.starts_with(&mark))
}

/// Of all elements.
pub(crate) fn comments(nft: &mut NftSocket) -> Result<BTreeSet<String>> {
    match nft.elements(GUARDED) {
        Ok(elements) => Ok(elements
            .iter()
            .map(|guarded| guarded.comment().to_owned())
            .collect()),
        Err(error) if error.is_not_found() => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

pub(crate) fn collect(network_mark: &str, living: &[String]) -> Result<()> {
    remove_where(&mut NftSocket::open()?, |comment| {
        comment.starts_with(network_mark) && !living.iter().any(|mark| comment.starts_with(mark))
    })
}

pub(super) fn is_guarded(owner: &Owner, mac: Mac) -> Result<bool> {
    let port = ifname(&owner.host_veth());
    let allowed = concat(&[&port, &mac.0]);
    let objects = [
        Object::Element(GUARDED, &port),
        Object::Element(ALLOWED, &allowed),
    ];
    let mut nft = NftSocket::open()?;
    let found = nft.find(&objects)?.found;
    Ok(found.iter().all(Option::is_some) && !nft.rules(PREROUTING)?.is_empty())
}

fn remove_where(nft: &mut NftSocket, unwanted: impl Fn(&str) -> bool) -> Result<()> {
    for set in [GUARDED, ALLOWED] {
        let elements = match nft.elements(set) {
            Err(error) if error.is_not_found() => continue,
            elements => elements?,
        };
        let unwanted = elements
            .iter()
            .filter(|element| unwanted(element.comment()));
        let keys: Vec<(Set<'_>, &[u8])> = unwanted.map(|element| (set, element.key())).collect();
        nft.retire_owned(&keys, &mut |_, _| true)?;
    }
    Ok(())
}

fn lay_out(transaction: &mut Transaction) {
    transaction.create_table(TABLE, "Weft: MAC addresses of pods");
    transaction.create_set(GUARDED, &SetSpec::set(&[DataType::IFNAME]).mortal());
    transaction.create_set(
        ALLOWED,
        &SetSpec::set(&[DataType::IFNAME, DataType::ETHER]).mortal(),
    );
    let base = Base {
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority: priority::BRIDGE_DSTNAT,
        policy: Policy::Accept,
    };
    transaction.create_chain(PREROUTING, Some(base), "");
    let rule = [
        expr::in_set(&[Selector::IIFNAME], GUARDED.name),
        expr::not_in_set(&[Selector::IIFNAME, Selector::ETHER_SADDR], ALLOWED.name),
        expr::drop(),
    ];
    transaction.add_rule(PREROUTING, &rule, "");
}

pub(crate) const TABLE: Table<'static> = Table::new(Family::Bridge, "weft_macspoof");
const GUARDED: Set<'static> = TABLE.set("guarded");
const ALLOWED: Set<'static> = TABLE.set("allowed");
const PREROUTING: Chain<'static> = TABLE.chain("prerouting");
