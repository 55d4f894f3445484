//! The lease that we hold, compared with what the store says of it.

use std::sync::Arc;
use std::time::Duration;

use super::owner::{holder, ours};
use super::table::{Row, Table};
use super::{Asked, Purpose, Terms, put};
use crate::lease::{Attrs, Lease, Subnets};
use crate::store::Claim;
use crate::store::registry::Expected;

/// The subnets that our pods have. Nothing but the configuration of a later start takes them away.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) key: String,
    /// As we want it: what the key should say.
    pub(super) lease: Arc<Lease>,
    /// What the key says and its version, as far as we know; None if it is not there or not ours.
    pub(super) stored: Option<Stored>,
    pub(super) renew_at: Option<Duration>,
    /// Somebody else has it: who. Until we have it back, not just until it is free.
    pub(super) lost: Option<String>,
    /// Somebody else has it at this very moment.
    pub(super) occupied: bool,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) version: i64,
    pub(super) lasts: bool,
    pub(super) attrs: Attrs,
}

impl Hold {
    /// Follows what the node claims. The MAC addresses stay as they were published.
    pub(super) fn aspire(&mut self, claim: &Claim) {
        let Lease { subnets, attrs } = &*self.lease;
        let wanted = claim.attrs(*subnets, Some(attrs));
        if wanted != *attrs {
            self.lease = Arc::new(Lease {
                subnets: *subnets,
                attrs: wanted,
            });
        }
    }

    pub(super) fn is_as_wanted(&self) -> bool {
        let stored = self.stored.as_ref();
        stored.is_some_and(|stored| stored.attrs == self.lease.attrs)
    }

    /// The key is not there.
    pub(super) fn miss(&mut self, table: &Table, claim: &Claim) -> Option<String> {
        let rival = table.rows().find(|(_, row)| {
            let overlaps = |subnets: &Subnets| subnets.overlaps(&self.lease.subnets);
            row.subnets.as_ref().is_some_and(overlaps) && ours(claim, row).is_none()
        });
        self.occupied = rival.is_some();
        if let Some((_, row)) = rival {
            self.lost = Some(self.lost_to(row));
        }
        let gone = self.stored.take().is_some() && !self.occupied;
        gone.then(|| format!("{} was revoked or had expired; it is taken back", self.key))
    }

    /// The key is there: ours as we know it, ours and changed, or somebody else's.
    pub(super) fn compare(&mut self, row: &Row, claim: &Claim) -> Option<String> {
        let known = self.stored.as_ref();
        if known.is_some_and(|known| known.version == row.version) {
            return None;
        }
        // Nor is a key ours that cannot be read: others may have had it since we looked.
        let Some(lease) = ours(claim, row).and_then(|_| row.lease.as_ref().ok()) else {
            (self.stored, self.occupied) = (None, true);
            self.lost = Some(self.lost_to(row));
            return None;
        };
        let found = Stored::of(row, lease);
        let as_wanted = found.attrs == self.lease.attrs;
        let foreign = known.is_some_and(|known| !as_wanted && known.attrs != found.attrs);
        if self.renew_at.is_none() && !found.lasts {
            // Somebody made a lease of our reservation, and we don't know when it ends.
            self.renew_at = Some(Duration::ZERO);
        }
        self.stored = Some(found);
        (self.lost, self.occupied) = (None, false);
        foreign.then(|| {
            format!(
                "{} is overwritten by somebody else: does another weftd or flanneld run with this \
                 node's name and machine-id, or with its public address?",
                self.key
            )
        })
    }

    pub(super) fn lost_to(&self, row: &Row) -> String {
        let subnets = self.lease.subnets;
        let kept = "the pods here keep it, and it is taken back as soon as it is free";
        match &row.lease {
            Ok(lease) => format!(
                "{subnets} is leased to {}; {kept}; to give it up, drain the node and restart weftd",
                holder(lease)
            ),
            Err(why) => format!(
                "whose {subnets} is cannot be told, since {why}; {kept}; if no other node uses it, \
                 delete the key {}",
                self.key
            ),
        }
    }

    /// What it takes to keep it: nothing, mostly.
    pub(super) fn keep(&self, terms: Terms, now: Duration) -> Option<Asked> {
        let attrs = &self.lease.attrs;
        let (expected, lasts) = match &self.stored {
            None if self.occupied => return None,
            None => (Expected::Absent, false),
            Some(stored) => {
                let due = self.renew_at.is_some_and(|at| at <= now);
                if !due && stored.attrs == *attrs {
                    return None;
                }
                (Expected::Version(stored.version), stored.lasts)
            }
        };
        let expires = (!lasts).then_some(terms.lasts);
        let change = put(self.key.clone(), expected, attrs, expires);
        Some(Asked {
            change,
            purpose: Purpose::Keep(attrs.clone()),
        })
    }
}

impl Stored {
    pub(super) fn of(row: &Row, lease: &Lease) -> Self {
        Self {
            version: row.version,
            lasts: row.lasts,
            attrs: lease.attrs.clone(),
        }
    }
}
