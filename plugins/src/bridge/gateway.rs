//! The bridge as the pods' gateway: its addresses, and forwarding.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_cni::{Error, Outcome, Result, Route};
use weft_net::{
    route::{Address, Link, Requests, Rtnl},
    sysctl::Key,
};

use super::{addressing, advertisements, conf::Plan};
use crate::told::Told;

pub(super) fn establish(
    host: &mut Rtnl,
    link: &Link,
    plan: &Plan,
    outcome: &Outcome,
) -> Result<()> {
    let wanted = addressing::bridge_addresses(outcome);
    let present = host.addresses_of(link.index).told()?;
    let mut requests = Requests::new();
    for address in &wanted {
        if present.iter().any(|found| found.address == *address) {
            continue;
        }
        for rival in present
            .iter()
            .filter(|found| conflict(found.address, *address))
        {
            if plan.force_address {
                let _ = requests.delete_address(rival);
            } else if !is_earlier_lease(rival, *address, outcome) {
                return Err(occupied(link, rival, address));
            } else if host.links_of_master(link.index).told()?.len() <= 1 {
                // This pod is the only one: nobody needs the old gateway any more.
                let _ = requests.delete_address(rival);
            }
        }
        let _ = requests.add_address(&Address::new(link.index, *address).nodad().with_broadcast());
    }
    if !requests.is_empty() {
        apply(host, requests)?;
        let addresses = wanted.iter().map(IpNetwork::ip);
        for address in addresses.filter(IpAddr::is_ipv6) {
            // A bridge in a routing table of its own has its routes elsewhere: no failure.
            let _ = host.wait_until_local(address, ROUTE_PATIENCE);
        }
    }
    forward(host, &wanted)
}

/// A rival may have done the same meanwhile, which is as good.
fn apply(host: &mut Rtnl, requests: Requests) -> Result<()> {
    match host.run(requests).and_then(weft_net::route::Answers::all) {
        Err(error) if error.exists() || error.is_not_found() => Ok(()),
        done => done.told(),
    }
}

/// A bridge is the gateway of one IPv4 subnet, and of IPv6 subnets that do not overlap.
fn conflict(found: IpNetwork, wanted: IpNetwork) -> bool {
    match (found, wanted) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(found), IpNetwork::V6(wanted)) => {
            !found.ip().is_unicast_link_local() && found.overlaps(wanted)
        }
        _ => false,
    }
}

/// Whether the address is one that this node had in the same overlay network before: the pods reach
/// all of that network through their gateway, so no other part of it can be at home here.
fn is_earlier_lease(rival: &Address, wanted: IpNetwork, outcome: &Outcome) -> bool {
    let covers = |route: &Route| {
        let larger = route.dst.prefix() < wanted.prefix();
        larger && route.dst.contains(wanted.ip()) && route.dst.contains(rival.address.ip())
    };
    outcome
        .routes
        .iter()
        .any(|route| !route.is_default() && covers(route))
}

fn occupied(link: &Link, rival: &Address, wanted: &IpNetwork) -> Error {
    let name = &link.name;
    Error::config(format!("{name:?} already has an IP address different from {wanted}: it has {}", rival.address))
        .with_details(format!(
            "if no pod uses {} any more, remove it with `ip address del {} dev {name}`, or set \"forceAddress\"; \
             otherwise give this network a \"bridge\" of its own",
            rival.address, rival.address
        ))
}

fn forward(host: &mut Rtnl, addresses: &[IpNetwork]) -> Result<()> {
    if addresses.iter().any(IpNetwork::is_ipv4) {
        set(Key::new(["net", "ipv4", "ip_forward"]))?;
    }
    if addresses.iter().any(IpNetwork::is_ipv6) {
        forward_ipv6(host)?;
    }
    Ok(())
}

fn forward_ipv6(host: &mut Rtnl) -> Result<()> {
    let key = Key::ipv6_conf("all", "forwarding");
    let forwards = key.as_ref().map(Key::read).transpose().told()?.flatten();
    if forwards.as_deref() == Some("0") {
        advertisements::keep_what_was_learned(host)?;
    }
    set(key)
}

fn set(key: Option<Key>) -> Result<()> {
    let Some(key) = key else { return Ok(()) };
    key.set("1").map(drop).told().map_err(|error| {
        error
            .within("failed to enable forwarding")
            .with_details(format!(
                "pods reach nothing beyond their node without it: set {key} to 1 on the host"
            ))
    })
}

/// The first pod pings its gateway at once; the kernel needs a millisecond.
const ROUTE_PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);
