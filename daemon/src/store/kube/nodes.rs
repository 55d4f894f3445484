//! All nodes of the cluster, as far as they matter: who is there, with which subnets, and how a
//! peer is reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::annotations;
use super::node::{Annotations, Node};
use crate::lease::{Lease, Subnets};
use crate::store::leasing::peers::{Claimed, apart};
use crate::store::{Peers, Rubbish};

#[derive(Default)]
pub(super) struct Nodes {
    known: BTreeMap<String, Known>,
    /// Of a listing under way: who was in it.
    listing: Option<BTreeSet<String>>,
    /// All of them have been told of, once at least.
    pub(super) are_listed: bool,
}

struct Known {
    uid: String,
    subnets: Option<Result<Subnets, String>>,
    /// None where neither flanneld nor weftd runs.
    lease: Option<Result<Arc<Lease>, String>>,
    /// It was not in the latest listing, which lacked too many to be believed.
    missing_since: Option<Duration>,
}

impl Nodes {
    pub(super) fn begin_listing(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// Whether anything that matters is different.
    pub(super) fn take(&mut self, node: &Node) -> bool {
        if let Some(listing) = &mut self.listing {
            listing.insert(node.name.clone());
        }
        let before = self.known.get(&node.name);
        let same = before.filter(|known| known.uid == node.uid);
        let subnets = match &node.rest {
            Some(rest) => rest.subnets.clone(),
            None => same.and_then(|known| known.subnets.clone()),
        };
        let mut lease = node
            .is_managed()
            .then(|| lease(&node.annotations, subnets.as_ref()));
        // The very same, where it is the same: then nothing is planned anew.
        if let Some(known) = before
            && known.lease == lease
        {
            lease.clone_from(&known.lease);
        }
        let differs = before.is_none_or(|known| {
            known.lease != lease || known.subnets != subnets || known.missing_since.is_some()
        });
        self.known.insert(
            node.name.clone(),
            Known {
                uid: node.uid.clone(),
                subnets,
                lease,
                missing_since: None,
            },
        );
        differs
    }

    /// Whether it was known.
    pub(super) fn forget(&mut self, name: &str) -> bool {
        self.known.remove(name).is_some()
    }

    /// Who was not in it is gone; but if most are, it is the listing that is wrong: a server that
    /// was set up anew gets its nodes back one by one. Returns who was missing.
    pub(super) fn end_listing(&mut self, now: Duration) -> Vec<String> {
        let Some(seen) = self.listing.take() else {
            return Vec::new();
        };
        self.are_listed = true;
        let names = self.known.keys().filter(|name| !seen.contains(*name));
        let gone: Vec<String> = names.cloned().collect();
        let is_loss = gone.len() > LOSS && gone.len() * 2 > self.known.len();
        for name in &gone {
            match self.known.get_mut(name) {
                Some(known) if is_loss => {
                    known.missing_since.get_or_insert(now);
                }
                _ => drop(self.forget(name)),
            }
        }
        gone
    }

    /// When somebody has been missing for long enough.
    pub(super) fn next(&self) -> Option<Duration> {
        let missing = self.known.values().filter_map(|known| known.missing_since);
        missing.min().map(|since| since + MISSED_FOR)
    }

    pub(super) fn pass(&mut self, now: Duration) {
        self.known.retain(|_, known| {
            known
                .missing_since
                .is_none_or(|since| now.saturating_sub(since) < MISSED_FOR)
        });
    }

    pub(super) fn subnets_of(&self, name: &str) -> Option<&Result<Subnets, String>> {
        self.known.get(name)?.subnets.as_ref()
    }

    /// Everybody's podCIDRs.
    pub(super) fn subnets(&self) -> Vec<IpNetwork> {
        let known = self.known.values();
        let subnets = known.filter_map(|known| known.subnets.as_ref()?.as_ref().ok());
        subnets
            .flat_map(|subnets| {
                let v4 = subnets.v4.map(IpNetwork::V4);
                v4.into_iter().chain(subnets.v6.map(IpNetwork::V6))
            })
            .collect()
    }

    /// Where the nodes are reached that are served.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let known = self.known.values();
        let leases = known.filter_map(|known| known.lease.as_ref()?.as_ref().ok());
        leases
            .flat_map(|lease| {
                let v4 = lease.attrs.public_ip.map(IpAddr::V4);
                v4.into_iter()
                    .chain(lease.attrs.public_ipv6.map(IpAddr::V6))
            })
            .collect()
    }

    /// All but the one of this name, whose subnets are `own`.
    pub(super) fn peers(&self, name: Option<&str>, own: Option<Subnets>) -> Option<Peers> {
        if !self.are_listed {
            return None;
        }
        let mut rubbish = Vec::new();
        let mut claims = Vec::with_capacity(self.known.len());
        for (node, known) in &self.known {
            if name == Some(node.as_str()) {
                continue;
            }
            let why = match &known.lease {
                None => continue,
                Some(Err(why)) => why.clone(),
                Some(Ok(lease)) => match own.filter(|own| own.overlaps(&lease.subnets)) {
                    None => {
                        let stands = known.missing_since.is_none();
                        claims.push(Claimed::new(node, Arc::clone(lease), stands));
                        continue;
                    }
                    Some(own) => format!(
                        "its podCIDR {} overlaps this node's own {own}",
                        lease.subnets
                    ),
                },
            };
            rubbish.push(Rubbish {
                name: node.clone(),
                why,
            });
        }
        let leases = apart(claims, [None, None], &mut rubbish);
        Some(Peers { leases, rubbish })
    }
}

fn lease(
    annotations: &Annotations,
    subnets: Option<&Result<Subnets, String>>,
) -> Result<Arc<Lease>, String> {
    let attrs = annotations::attrs(annotations)?;
    let subnets = match subnets {
        None => return Err("it has no podCIDR".to_owned()),
        Some(Err(why)) => return Err(why.clone()),
        Some(Ok(subnets)) => *subnets,
    };
    if attrs.public_ip.is_none() && attrs.public_ipv6.is_none() {
        return Err("it has no public address".to_owned());
    }
    Ok(Arc::new(Lease { subnets, attrs }))
}

/// More than so many at once, and more than half, are no nodes that went one by one.
const LOSS: usize = 2;
const MISSED_FOR: Duration = Duration::from_secs(600);
