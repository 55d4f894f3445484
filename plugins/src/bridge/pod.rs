//! The pod's side: settings, addresses, link up, routes.

use std::net::IpAddr;

use weft_cni::{Outcome, Result};
use weft_net::{
    Mac, Namespace,
    route::{Address, Answers, Ipv4Conf, Link, LinkChange, Requests, Route, Rtnl, Scope},
    sysctl::Key,
};

use super::{addressing, conf::Plan};
use crate::told::Told;

/// Everything the pod's interface needs, the messages in one send.
pub(super) fn configure(
    pod: &mut Rtnl,
    namespace: &Namespace,
    link: &Link,
    plan: &Plan,
    outcome: &Outcome,
) -> Result<()> {
    namespace
        .enter(|| write_settings(&link.name, plan, outcome))
        .told()??;
    let mut requests = Requests::new();
    // An address that is announced when it appears corrects the neighbours' memory of who had it.
    let announcing = LinkChange {
        ipv4_conf: &[(Ipv4Conf::ArpNotify, 1)],
        ..LinkChange::default()
    };
    let _ = requests.set_link(link.index, &announcing);
    for ip in &outcome.ips {
        let address = Address::new(link.index, ip.address).with_broadcast();
        let checked = plan.detect_duplicate_addresses;
        let _ = requests.add_address(&if checked { address } else { address.nodad() });
    }
    if !plan.leave_pod_link_down {
        let _ = requests.set_up(link.index);
    }
    if !plan.detect_duplicate_addresses {
        add_routes(&mut requests, link, outcome);
        return pod.run(requests).and_then(Answers::all).told();
    }
    pod.run(requests).and_then(Answers::all).told()?;
    pod.wait_for_addresses(link.index, DETECTION_PATIENCE)
        .told()?;
    let mut requests = Requests::new();
    add_routes(&mut requests, link, outcome);
    pod.run(requests).and_then(Answers::all).told()
}

/// Has every neighbour hear of the pod's addresses, now that the port lets frames through.
pub(super) fn announce(pod: &mut Rtnl, link: &Link, mac: Mac, outcome: &Outcome) -> Result<()> {
    if outcome.ips.is_empty() {
        return Ok(());
    }
    // The kernel announces the addresses of a link whose MAC is set, even to what it was.
    let same = LinkChange {
        mac: Some(mac),
        ..LinkChange::default()
    };
    pod.one(|r| r.set_link(link.index, &same)).told()
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

fn add_routes(requests: &mut Requests, link: &Link, outcome: &Outcome) {
    for route in addressing::pod_routes(outcome) {
        let _ = requests.add_route(&Route {
            gateway: route.gw,
            link: Some(link.index),
            priority: route.priority,
            table: route.table.unwrap_or(Route::MAIN_TABLE),
            scope: route.scope.map(Scope),
            mtu: route.mtu,
            advmss: route.advmss,
            ..Route::to(route.dst)
        });
    }
}

/// Detection takes a second and a bit; the kernel's slowest setting several.
const DETECTION_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
