//! Which pods leave under the node's address, in either back-end.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_cni::{Error, Outcome, Result};

use super::conf::{MasqueradeBackend, Plan};
use crate::{
    owner::Owner,
    pods::{self, Admission},
    told::Told,
};

pub(super) fn admit(plan: &Plan, owner: &Owner, outcome: &Outcome) -> Result<()> {
    let addresses: Vec<IpNetwork> = outcome.ips.iter().map(|ip| ip.address).collect();
    let with_nft = plan.masquerade == Some(MasqueradeBackend::Nftables);
    let masqueraded = if with_nft { addresses.as_slice() } else { &[] };
    pods::admit(&Admission {
        owner,
        masqueraded,
        unjudged: &[],
    })
    .told()
}

pub(super) fn check(plan: &Plan, owner: &Owner, outcome: &Outcome) -> Result<()> {
    let addresses: Vec<IpNetwork> = outcome.ips.iter().map(|ip| ip.address).collect();
    let stands = match plan.masquerade {
        // Nothing to masquerade needs no rule.
        _ if addresses.is_empty() => true,
        None => true,
        Some(MasqueradeBackend::Nftables) => pods::is_masqueraded(owner, &addresses).told()?,
        Some(MasqueradeBackend::Iptables) => true,
    };
    if stands {
        return Ok(());
    }
    Err(Error::internal(format!(
        "the masquerade rules of container {} are missing",
        owner.container_id
    ))
    .with_details("table inet weft_pods has been changed or flushed; restart the pod"))
}

pub(super) fn dismiss(owner: &Owner, addresses: Option<&[IpAddr]>) -> Result<()> {
    match addresses {
        Some(addresses) => pods::dismiss(owner, addresses).told(),
        None => pods::dismiss_by_name(owner).told(),
    }
}
