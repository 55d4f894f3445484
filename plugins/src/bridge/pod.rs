//! The pod's side: settings, addresses, link up, routes.

use std::net::IpAddr;

use weft_cni::{Outcome, Result};
use weft_net::{
    Mac, Namespace,
    route::{Address, Ipv4Conf, LinkChange, Requests, Route, Rtnl, Scope, Ticket},
    sysctl::Key,
};

use super::{addressing, conf::Plan};
use crate::told::Told;

/// Everything the pod's interface needs, the messages in one send.
pub(super) fn configure(
    pod: &mut Rtnl,
    namespace: &Namespace,
    (link, name): (u32, &str),
    plan: &Plan,
    outcome: &Outcome,
) -> Result<()> {
    namespace
        .enter(|| write_settings(name, plan, outcome))
        .told()??;
    let mut requests = Requests::new();
    let mut needed = Vec::new();
    // An address that is announced when it appears corrects the neighbours' memory of who had it.
    let announcing = LinkChange {
        ipv4_conf: &[(Ipv4Conf::ArpNotify, 1)],
        ..LinkChange::default()
    };
    needed.push(requests.set_link(link, &announcing));
    for ip in &outcome.ips {
        let address = Address::new(link, ip.address).with_broadcast();
        let checked = plan.detect_duplicate_addresses;
        needed.push(requests.add_address(&if checked { address } else { address.nodad() }));
    }
    if !plan.leave_pod_link_down {
        needed.push(requests.set_up(link));
    }
    if plan.detect_duplicate_addresses {
        // Routes are made from addresses that may be used.
        carry_out(
            pod,
            std::mem::take(&mut requests),
            std::mem::take(&mut needed),
        )?;
        pod.wait_for_addresses(link, DETECTION_PATIENCE).told()?;
    }
    let routes = add_routes(&mut requests, link, outcome);
    let mut answers = pod.run(requests).told()?;
    for ticket in needed {
        answers.take(ticket).told()?;
    }
    for ticket in routes {
        match answers.take(ticket) {
            // The very same route is there: the kernel made it with an address.
            Err(error) if error.exists() => {}
            added => added.told()?,
        }
    }
    if !plan.leave_pod_link_down {
        let ips = outcome.ips.iter().map(|ip| ip.address.ip());
        for ip in ips.filter(IpAddr::is_ipv6) {
            pod.wait_until_local(ip, ROUTE_PATIENCE).told()?;
        }
    }
    Ok(())
}

fn carry_out(pod: &mut Rtnl, requests: Requests, needed: Vec<Ticket<()>>) -> Result<()> {
    let mut answers = pod.run(requests).told()?;
    needed
        .into_iter()
        .try_for_each(|ticket| answers.take(ticket).told())
}

/// Has every neighbour hear of the pod's addresses, now that the port lets frames through.
pub(super) fn announce(pod: &mut Rtnl, link: u32, mac: Mac, outcome: &Outcome) -> Result<()> {
    if outcome.ips.is_empty() {
        return Ok(());
    }
    pod.one(|r| r.announce(link, mac)).told()
}

/// The MAC of whoever has this address: for IPv4 the address can be read in it.
pub(super) fn mac_of(ip: IpAddr) -> Mac {
    let [a, b, c, d] = match ip {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            // FNV-1a: as good as any to spread the subnet's few bits.
            let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            v6.octets().into_iter().fold(0x811c_9dc5, mix).to_be_bytes()
        }
    };
    let second = if ip.is_ipv4() { 0x58 } else { 0x5a };
    Mac([0x0a, second, a, b, c, d])
}

/// In the pod's namespace. Settings that the kernel has not are no loss: it has not what they
/// are about either.
fn write_settings(link: &str, plan: &Plan, outcome: &Outcome) -> Result<()> {
    let set = |link: &str, key: &str, value: &str| match Key::ipv6_conf(link, key) {
        Some(key) => key.set(value).map(drop),
        None => Ok(()),
    };
    if plan.detect_duplicate_addresses {
        set(link, "enhanced_dad", "1").told()?;
        set(link, "accept_dad", "1").told()?;
    } else {
        set(link, "accept_dad", "0").told()?;
    }
    if outcome.ips.iter().any(|ip| ip.address.is_ipv6()) {
        for link in ["lo", link] {
            set(link, "disable_ipv6", "0").told()?;
        }
        set(link, "keep_addr_on_down", "1").told()?;
        // The addresses are managed: what a router advertises would come on top of them.
        set(link, "accept_ra", "0").told()?;
        set(link, "ndisc_notify", "1").told()?;
    }
    Ok(())
}

fn add_routes(requests: &mut Requests, link: u32, outcome: &Outcome) -> Vec<Ticket<()>> {
    let mut added = Vec::new();
    for route in addressing::pod_routes(outcome) {
        added.push(requests.add_route(&Route {
            gateway: route.gw,
            link: Some(link),
            priority: route.priority,
            table: route.table.unwrap_or(Route::MAIN_TABLE),
            scope: route.scope.map(Scope),
            mtu: route.mtu,
            advmss: route.advmss,
            ..Route::to(route.dst)
        }));
    }
    added
}

/// The kernel does it within a millisecond, or when its work queue gets a turn.
const ROUTE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// Detection takes a second and a bit; the kernel's slowest setting several.
const DETECTION_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
