//! Whose lease a key is. Two nodes taken for one would share a subnet, which is worse than a node
//! taken for two, which holds a second subnet for a day: in doubt a lease is somebody else's.
//!
//! - It says who holds it (weftd wrote it): its node and machine decide, wherever it moved.
//! - It does not (flanneld wrote it, or an operator): its public address decides, as with flanneld.
//! - It says who, another one, and has our address. A machine installed anew under its old name
//!   looks so, a renamed one too, and so do two nodes behind one NAT. It is ours only if more
//!   speaks for it: our own subnet file names the very subnet, *and* the name is ours or our disk
//!   says that we were the one it names (a machine-id alone proves nothing: it may be a clone's);
//!   or the name is ours and the key is a reservation, which nobody gives a node by chance. What
//!   is not ours by this and belongs to nobody expires by itself within a day.

use std::net::IpAddr;
use std::sync::Arc;

use crate::lease::{Attrs, Identity, Lease, Subnets};
use crate::store::Claim;

use super::table::{Row, Table};

/// How surely it is ours, surest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ours {
    ByAddress,
    ByCircumstance,
    ByIdentity,
}

pub fn ours(claim: &Claim, row: &Row) -> Option<Ours> {
    judged(claim, row.lease.as_ref().ok()?, row.lasts)
}

/// The same of a lease of which no more is known, such as whether it lasts.
pub fn ours_of(claim: &Claim, lease: &Lease) -> Option<Ours> {
    judged(claim, lease, false)
}

fn judged(claim: &Claim, lease: &Lease, lasts: bool) -> Option<Ours> {
    let same_address = same_address(claim, &lease.attrs);
    let published = lease
        .attrs
        .extra
        .as_ref()
        .and_then(|extra| extra.identity.as_ref());
    let Some(identity) = published else {
        return same_address.then_some(Ours::ByAddress);
    };
    if *identity == claim.identity {
        return Some(Ours::ByIdentity);
    }
    // An operator who reserves a subnet by name need not know the machine.
    if identity.machine.is_empty() && lasts && identity.node == claim.identity.node {
        return Some(Ours::ByIdentity);
    }
    let by_circumstance = same_address && speaks_for(claim, identity, &lease.subnets, lasts);
    by_circumstance.then_some(Ours::ByCircumstance)
}

fn same_address(claim: &Claim, attrs: &Attrs) -> bool {
    match (claim.public_ip, attrs.public_ip) {
        (Some(ours), Some(theirs)) => ours == theirs,
        (None, None) => claim.public_ipv6.is_some() && claim.public_ipv6 == attrs.public_ipv6,
        _ => false,
    }
}

fn speaks_for(claim: &Claim, identity: &Identity, subnets: &Subnets, lasts: bool) -> bool {
    let same_node = identity.node == claim.identity.node;
    let is_our_former_self = claim.formerly.as_ref() == Some(identity);
    let remembered = claim
        .previous
        .is_some_and(|previous| previous.v4.is_some() && previous.v4 == subnets.v4);
    (remembered && (same_node || is_our_former_self)) || (lasts && same_node)
}

/// Who holds a lease, for a message.
pub fn holder(lease: &Lease) -> String {
    let attrs = &lease.attrs;
    let v4 = attrs.public_ip.map(IpAddr::from);
    let address = v4.or_else(|| attrs.public_ipv6.map(IpAddr::from));
    let identity = attrs
        .extra
        .as_ref()
        .and_then(|extra| extra.identity.as_ref());
    match (identity, address) {
        (Some(identity), Some(address)) => format!("node {} at {address}", identity.node),
        (Some(identity), None) => format!("node {}", identity.node),
        (None, Some(address)) => format!("the node at {address}"),
        (None, None) => "nobody: it is reserved".to_owned(),
    }
}

/// A lease in the table that is ours.
pub(super) struct OwnLease<'a> {
    pub(super) key: &'a str,
    pub(super) row: &'a Row,
    pub(super) lease: &'a Arc<Lease>,
    pub(super) ours: Ours,
}

impl OwnLease<'_> {
    /// Pods may still have the previous subnet; a reservation was meant for us.
    pub(super) fn rank(&self, claim: &Claim) -> (bool, bool, Ours) {
        let previous = claim
            .previous
            .is_some_and(|previous| previous.v4 == self.lease.subnets.v4);
        (previous, self.row.lasts, self.ours)
    }
}

pub(super) fn own_leases<'a>(
    table: &'a Table,
    claim: &'a Claim,
) -> impl Iterator<Item = OwnLease<'a>> {
    table.rows().filter_map(|(key, row)| {
        let ours = ours(claim, row)?;
        let lease = row.lease.as_ref().ok()?;
        Some(OwnLease {
            key,
            row,
            lease,
            ours,
        })
    })
}
