//! CHECK: everything that ADD made stands. What later plugins of the chain changed on top is none
//! of our business.

use weft_cni::{Call, Delegate, Error, Interface, Outcome, Result};
use weft_net::route::{Link, Route, RouteFilter, Rtnl};

use super::{addressing, conf::Plan, masquerade, spoof, vlan};
use crate::{namespace, owner::Owner, told::Told};

pub(super) fn check(call: &Call, plan: &Plan) -> Result<()> {
    let namespace = namespace::required(call)?;
    let result = call.conf.prev_result()?;
    if let Some(ipam) = &plan.ipam {
        Delegate::find(call, ipam)?.check(call)?;
    }
    let result = result.ok_or_else(|| {
        Error::config("Required prevResult missing")
            .with_details("CHECK compares with what ADD answered")
    })?;
    let mut host = Rtnl::open().told()?;
    let mut pod = Rtnl::open_in(&namespace).told()?;
    let bridge = check_bridge(&mut host, plan, &result)?;
    let link = check_pod_link(&mut pod, call, &result)?;
    let port = check_host_link(&mut host, &link, &bridge, &result)?;
    if let Some(vlans) = &plan.vlans {
        vlan::check(&mut host, &port, vlans)?;
    }
    check_addresses(&mut pod, &link, &result, call.ifname())?;
    check_routes(&mut pod, &result)?;
    let owner = Owner::of(call);
    if !is_ours(&result, &owner) {
        // The rules of a pod that the reference plugin wired are in another place, and that plugin
        // does not look at them either.
        return Ok(());
    }
    masquerade::check(plan, &owner, &only_of(&result, call.ifname()))?;
    match link.mac.filter(|_| plan.check_source_mac) {
        Some(mac) if !spoof::is_guarded(&owner, mac).told()? => Err(Error::internal(
            "the rules that keep the pod to its own MAC address are missing",
        )),
        _ => Ok(()),
    }
}

/// Whether the pod was wired by us, and not by a plugin that we took the place of.
fn is_ours(result: &Outcome, owner: &Owner) -> bool {
    result
        .interfaces
        .iter()
        .any(|interface| interface.name == owner.host_veth())
}

fn check_bridge(host: &mut Rtnl, plan: &Plan, result: &Outcome) -> Result<Link> {
    let named = result
        .interfaces
        .iter()
        .find(|i| i.name == plan.bridge && i.sandbox.is_empty());
    let named = named.ok_or_else(|| mismatch(&plan.bridge, "prevResult does not name it"))?;
    let bridge = existing(host, &plan.bridge)?;
    if !bridge.is_bridge() {
        return Err(mismatch(&plan.bridge, "it is not a bridge"));
    }
    check_mac(&bridge, named)?;
    if plan.promiscuous && !bridge.promisc {
        return Err(mismatch(&plan.bridge, "it is not promiscuous"));
    }
    Ok(bridge)
}

fn check_pod_link(pod: &mut Rtnl, call: &Call, result: &Outcome) -> Result<Link> {
    let ifname = call.ifname();
    let named = result
        .interfaces
        .iter()
        .find(|i| i.name == ifname && i.sandbox == call.env.netns);
    let named = named.ok_or_else(|| {
        mismatch(
            ifname,
            format_args!("prevResult does not name it in sandbox {}", call.env.netns),
        )
    })?;
    let link = existing(pod, ifname)?;
    if !link.is_veth() {
        return Err(mismatch(ifname, "it is not one end of a veth pair"));
    }
    check_mac(&link, named)?;
    Ok(link)
}

/// Its MAC is not compared: udev may give a link that other plugins made another one.
fn check_host_link(
    host: &mut Rtnl,
    pod_link: &Link,
    bridge: &Link,
    result: &Outcome,
) -> Result<Link> {
    let ifname = &pod_link.name;
    let port = pod_link
        .link
        .ok_or_else(|| mismatch(ifname, "it has no other end"))?;
    let port = host.link(port).told()?;
    if !result
        .interfaces
        .iter()
        .any(|i| i.name == port.name && i.sandbox.is_empty())
    {
        return Err(mismatch(
            &port.name,
            "it is the pod's other end, and prevResult does not name it",
        ));
    }
    if port.link != Some(pod_link.index) {
        return Err(mismatch(
            &port.name,
            format_args!("its other end is not {ifname}"),
        ));
    }
    if port.master != Some(bridge.index) {
        return Err(mismatch(
            &port.name,
            format_args!("it is not a port of {}", bridge.name),
        ));
    }
    Ok(port)
}

fn check_addresses(pod: &mut Rtnl, link: &Link, result: &Outcome, ifname: &str) -> Result<()> {
    let present = pod.addresses_of(link.index).told()?;
    for ip in result.addresses_in_pod(ifname) {
        if !present.iter().any(|found| found.address == ip.address) {
            return Err(Error::internal(format!(
                "Failed to match addr {} on interface {ifname}",
                ip.address
            )));
        }
    }
    Ok(())
}

/// The chain's later plugins may have added routes, and moved defaults; those of the result must
/// still lead somewhere.
fn check_routes(pod: &mut Rtnl, result: &Outcome) -> Result<()> {
    if result.routes.is_empty() {
        return Ok(());
    }
    let mut present: Vec<Route> = Vec::new();
    for ipv6 in [false, true] {
        if result
            .routes
            .iter()
            .any(|route| route.dst.is_ipv6() == ipv6)
        {
            present.extend(
                pod.routes(RouteFilter {
                    ipv6,
                    ..RouteFilter::default()
                })
                .told()?,
            );
        }
    }
    for wanted in addressing::pod_routes(result) {
        let stands = present.iter().any(|found| {
            let same = found.destination.prefix() == wanted.dst.prefix()
                && found.destination.network() == wanted.dst.network();
            same && (wanted.is_default() || wanted.gw.is_none() || found.gateway == wanted.gw)
        });
        if !stands {
            return Err(Error::internal(format!(
                "expected route {} is missing in the pod",
                wanted.dst
            )));
        }
    }
    Ok(())
}

fn existing(rtnl: &mut Rtnl, name: &str) -> Result<Link> {
    rtnl.link(name)
        .told()
        .map_err(|error| error.within(format_args!("interface {name:?} is missing")))
}

fn check_mac(link: &Link, named: &Interface) -> Result<()> {
    let found = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    if named.mac.is_empty() || named.mac.eq_ignore_ascii_case(&found) {
        return Ok(());
    }
    Err(mismatch(
        &link.name,
        format_args!("its MAC is {found}, and ADD answered {}", named.mac),
    ))
}

fn mismatch(name: &str, why: impl std::fmt::Display) -> Error {
    Error::internal(format!("interface {name:?} is not as ADD left it: {why}"))
}

fn only_of(result: &Outcome, ifname: &str) -> Outcome {
    Outcome {
        ips: result.addresses_in_pod(ifname).cloned().collect(),
        ..Outcome::default()
    }
}
