//! DEL, and the undo of an ADD that failed: everything that is this attachment's, whatever of it
//! there is. One thing that cannot be removed keeps nothing else from being removed, and the
//! reservation goes last, since by it the rest is found.

use ipnetwork::IpNetwork;
use weft_cni::{Call, Delegate, Error, Result};
use weft_net::{
    Namespace,
    nft::NftSocket,
    route::{Link, Requests, Rtnl},
};

use super::{conf, masquerade, spoof};
use crate::{namespace, owner::Owner, reference, told::Told};

pub(super) fn remove(call: &Call) -> Result<()> {
    let owner = Owner::of(call);
    let mut failures = Vec::new();
    let ipam = find_ipam(call).unwrap_or_else(|error| {
        failures.push(error);
        None
    });
    let addresses = known_addresses(call, ipam.as_ref());
    let mut nft = NftSocket::open().told();
    match &mut nft {
        Ok(nft) => failures.extend(masquerade::dismiss(nft, &owner, addresses.as_deref()).err()),
        Err(error) => failures.push(error.clone()),
    }
    failures.extend(remove_links(call, &owner, addresses.as_deref().unwrap_or_default()).err());
    if let Ok(nft) = &mut nft {
        // What keeps the pod to its own MAC address stands as long as its link does.
        failures.extend(release_mac(call, nft, &owner).err());
    }
    if let Some(ipam) = ipam {
        failures.extend(ipam.del(call).err());
    }
    // Both what was retired and, on older kernels, what was deleted takes its time to be gone. For
    // the masquerading it has passed while the links went.
    if let Ok(mut nft) = nft {
        nft.wait_for_retired();
    }
    Error::all(failures)
}

fn release_mac(call: &Call, nft: &mut NftSocket, owner: &Owner) -> Result<()> {
    if !matches!(call.conf.object().truth("macspoofchk"), Ok(Some(true))) {
        return Ok(());
    }
    let released = [
        spoof::release(nft, owner).told(),
        reference::remove_mac_check(nft, owner).told(),
    ];
    Error::all(released.into_iter().filter_map(Result::err).collect())
}

fn find_ipam(call: &Call) -> Result<Option<Delegate>> {
    let Some(name) = call.conf.ipam_type()? else {
        return Ok(None);
    };
    Delegate::find(call, name).map(Some)
}

/// The attachment's addresses, with their subnets where those are known; nothing where nobody can
/// tell.
fn known_addresses(call: &Call, ipam: Option<&Delegate>) -> Option<Vec<IpNetwork>> {
    let told = call.conf.prev_result().ok().flatten();
    let told = told
        .iter()
        .flat_map(|result| result.addresses_in_pod(call.ifname()));
    let mut addresses: Vec<IpNetwork> = told.map(|ip| ip.address).collect();
    let reserved = match ipam {
        None => Vec::new(),
        // None reserved is an answer too: a DEL before this one, or another plugin's, released it.
        Some(ipam) if ipam.is_ours() => match weft_ipam::reserved(call) {
            Err(_) if addresses.is_empty() => return None,
            reserved => reserved.unwrap_or_default(),
        },
        Some(_) if addresses.is_empty() => return None,
        Some(_) => Vec::new(),
    };
    for ip in reserved {
        if !addresses.iter().any(|known| known.ip() == ip) {
            addresses.push(ip.into());
        }
    }
    Some(addresses)
}

/// The veth pair, and what the host remembers of the addresses behind it.
fn remove_links(call: &Call, owner: &Owner, addresses: &[IpNetwork]) -> Result<()> {
    let bridge = conf::bridge_name(&call.conf).unwrap_or_default();
    let mut host = Rtnl::open().told()?;
    let mut requests = Requests::new();
    let vlan_gateway = conf::vlan_gateway_name(&call.conf, &bridge);
    let vlan_gateway = vlan_gateway.map(|name| requests.get_link(name.as_str()));
    let bridge = requests.get_link(bridge.as_str());
    let host_veth = owner.host_veth();
    let deleted = requests.delete_link(host_veth.as_str());
    let mut answers = host.run(requests).told()?;
    let bridge = answers.take(bridge).ok();
    match answers.take(deleted) {
        Err(error) if error.is_not_found() => remove_in_pod(call, &mut host, bridge.as_ref())?,
        deleted => deleted.told()?,
    }
    let vlan_gateway = vlan_gateway.and_then(|ticket| answers.take(ticket).ok());
    let mut requests = Requests::new();
    for link in bridge.iter().chain(&vlan_gateway) {
        for address in addresses {
            let _ = requests.delete_neighbour(link.index, address.ip());
        }
    }
    if requests.is_empty() {
        return Ok(());
    }
    // None of them need be there.
    host.run(requests).map(drop).told()
}

/// A pod that another plugin wired has a host end of another name: it is found from the pod's own.
/// Only a pair that ends at this network's bridge is taken, since a path that was recycled may lead
/// to somebody else's namespace.
fn remove_in_pod(call: &Call, host: &mut Rtnl, bridge: Option<&Link>) -> Result<()> {
    let Some(namespace) = namespace::if_there(call)? else {
        return Ok(());
    };
    if Namespace::current().told()?.same_as(&namespace) {
        return Ok(());
    }
    let mut pod = Rtnl::open_in(&namespace).told()?;
    let link = match pod.link(call.ifname()) {
        Err(error) if error.is_not_found() => return Ok(()),
        link => link.told()?,
    };
    if !link.is_veth() || !ends_at(host, &link, bridge)? {
        return Ok(());
    }
    match pod.one(|r| r.delete_link(link.index)) {
        Err(error) if error.is_not_found() => Ok(()),
        deleted => deleted.told(),
    }
}

fn ends_at(host: &mut Rtnl, pod_link: &Link, bridge: Option<&Link>) -> Result<bool> {
    let Some(port) = pod_link.link else {
        return Ok(false);
    };
    let port = match host.link(port) {
        Err(error) if error.is_not_found() => return Ok(false),
        port => port.told()?,
    };
    let pair = port.is_veth() && port.link == Some(pod_link.index);
    Ok(pair && port.master == bridge.map(|bridge| bridge.index))
}
