//! Which pods leave under the node's address, in either back-end.

use ipnetwork::IpNetwork;
use weft_cni::{Attachments, Error, Outcome, Result};
use weft_net::nft::NftSocket;

use super::conf::{MasqueradeBackend, Plan};
use crate::{
    iptables::{Family, Host, Masquerade},
    owner::Owner,
    pods::{self, Admission},
    reference,
    told::Told,
};

/// Everything the kernel must know of the pod before its first packet.
pub(super) fn admit(plan: &Plan, owner: &Owner, outcome: &Outcome) -> Result<()> {
    let addresses = addresses_of(outcome);
    let masqueraded = match plan.masquerade {
        Some(MasqueradeBackend::Nftables) => addresses.as_slice(),
        Some(MasqueradeBackend::Iptables) => {
            with_iptables(owner, &addresses).add(&Host::here())?;
            &[]
        }
        None => &[],
    };
    pods::admit(&Admission {
        owner,
        masqueraded,
        unjudged: &[],
    })
    .told()
}

pub(super) fn check(plan: &Plan, owner: &Owner, outcome: &Outcome) -> Result<()> {
    let addresses = addresses_of(outcome);
    let stands = match plan.masquerade {
        // Nothing to masquerade needs no rule.
        _ if addresses.is_empty() => true,
        None => true,
        Some(MasqueradeBackend::Nftables) => pods::is_masqueraded(owner, &addresses).told()?,
        Some(MasqueradeBackend::Iptables) => {
            return with_iptables(owner, &addresses).check(&Host::here());
        }
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

/// Removes what there is in either back-end, ours or the reference plugin's: which of them was
/// configured when the pod was added is not known any more.
///
/// Where nobody can tell the addresses it goes by name. Where there are none any more, as when
/// another plugin has released them before, it does so in nftables only: a chain of iptables is
/// shared by all interfaces of the container on this network.
pub(super) fn dismiss(
    nft: &mut NftSocket,
    owner: &Owner,
    addresses: Option<&[IpNetwork]>,
) -> Result<()> {
    let known = addresses.unwrap_or_default();
    let released = addresses.is_some() && known.is_empty();
    let ips: Vec<_> = known.iter().map(IpNetwork::ip).collect();
    let dismissed = [
        match released {
            true => Ok(()),
            false => with_iptables(owner, known).del(&Host::here()),
        },
        reference::remove_masquerade(nft, &owner.mark()).told(),
        match known {
            [] => pods::dismiss_by_name(nft, owner).told(),
            _ => pods::dismiss(nft, owner, &ips).told(),
        },
    ];
    Error::all(dismissed.into_iter().filter_map(Result::err).collect())
}

pub(super) fn collect(network: &str, marks: &[String], living: &Attachments) -> Result<()> {
    let mark = crate::owner::network_mark(network);
    let mut nft = NftSocket::open().told()?;
    let collected = [
        pods::collect(&mut nft, &mark, marks).told(),
        reference::collect_masquerade(&mut nft, &mark, marks).told(),
        Masquerade::gc(network, living, &Host::here()),
    ];
    nft.wait_for_retired();
    Error::all(collected.into_iter().filter_map(Result::err).collect())
}

/// Whether the back-end that is configured can be had on this node.
pub(super) fn status(plan: &Plan) -> Result<()> {
    match plan.masquerade {
        None => Ok(()),
        Some(MasqueradeBackend::Nftables) => NftSocket::open()
            .and_then(|mut nft| nft.generation())
            .map(drop)
            .told(),
        Some(MasqueradeBackend::Iptables) => Host::here().can_add(Family::V4),
    }
}

fn with_iptables<'a>(owner: &'a Owner, addresses: &'a [IpNetwork]) -> Masquerade<'a> {
    Masquerade { owner, addresses }
}

fn addresses_of(outcome: &Outcome) -> Vec<IpNetwork> {
    outcome.ips.iter().map(|ip| ip.address).collect()
}
