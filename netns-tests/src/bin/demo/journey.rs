//! The packet's way, hop by hop: what every interface on it counts while pings go by.
use std::net::Ipv4Addr;
use std::time::Duration;

use weft_netns::Netns;

use crate::cluster::{Backend, Cluster, Member, NETWORK};
use crate::counters::{self, Count, Way};
use crate::echo::Echo;
use crate::paint;

const PINGS: u16 = 500;

/// A place that packets pass.
struct Hop<'a> {
    place: Place<'a>,
    link: &'static str,
    way: Way,
    does: String,
}

#[derive(Clone, Copy)]
enum Place<'a> {
    Pod(&'a str, &'a Netns),
    Node(&'a Member),
}

pub(crate) fn show(cluster: &Cluster, backend: Backend) {
    let (here, there) = (&cluster.members[0], &cluster.members[1]);
    let (from, to) = (&here.pods[0], &there.pods[0]);
    let hops = hops(here, there, backend);
    println!(
        "    {PINGS} pings from {} ({}) to {} ({}); what each interface counted of them:\n",
        from.name,
        from.address(),
        to.name,
        to.address()
    );
    let before: Vec<Count> = hops.iter().map(Hop::count).collect();
    from.netns.enter(|| burst(to.address()));
    println!("    {:<20}{:>17}  {:>11}", "", "packets", "bytes each");
    for (hop, before) in hops.iter().zip(before) {
        hop.show(before);
        if hop.link == "cni0" && matches!(hop.way, Way::In) {
            show_route(here, to.address());
        }
    }
    match backend {
        Backend::Vxlan => {
            println!("\n    On the wire each packet is 50 bytes longer, hence FLANNEL_MTU=1450:");
            println!("    Ethernet 14, IPv4 20, UDP 8, VXLAN 8.");
        }
        Backend::HostGw => {
            println!("\n    No packet is wrapped: the nodes are each other's routers.");
        }
        Backend::Udp => {
            println!("\n    On the wire each packet is 28 bytes longer, hence FLANNEL_MTU=1472:");
            println!("    IPv4 20, UDP 8. The device has none of Ethernet's 14: it is a TUN.");
        }
    }
}

fn hops<'a>(here: &'a Member, there: &'a Member, backend: Backend) -> Vec<Hop<'a>> {
    let pod = |member: &'a Member| {
        let pod = &member.pods[0];
        Place::Pod(&pod.name, &pod.netns)
    };
    let hop = |place, link, way, does: &str| Hop {
        place,
        link,
        way,
        does: does.to_owned(),
    };
    let mut hops = vec![
        hop(pod(here), "eth0", Way::Out, "leaves the pod"),
        hop(
            Place::Node(here),
            "cni0",
            Way::In,
            "the node's bridge takes it to the routes",
        ),
    ];
    let (wraps, unwraps) = match backend {
        Backend::Udp => (
            "weftd takes it, and wraps it: UDP 8285",
            "weftd has unwrapped it",
        ),
        _ => ("wraps it: VXLAN 1, UDP 8472", "unwraps it"),
    };
    if let Some(device) = backend.device() {
        hops.push(hop(Place::Node(here), device, Way::Out, wraps));
    }
    let wire = format!("the wire: {} → {}", here.node.address, there.node.address);
    hops.push(hop(Place::Node(here), "eth0", Way::Out, &wire));
    hops.push(hop(Place::Node(there), "eth0", Way::In, "arrives"));
    if let Some(device) = backend.device() {
        hops.push(hop(Place::Node(there), device, Way::In, unwraps));
    }
    hops.push(hop(
        Place::Node(there),
        "cni0",
        Way::Out,
        "routed to the bridge",
    ));
    hops.push(hop(
        pod(there),
        "eth0",
        Way::In,
        "is there, and goes back the same way",
    ));
    hops
}

impl Hop<'_> {
    fn count(&self) -> Count {
        let read = || counters::read(self.link, self.way);
        match self.place {
            Place::Pod(_, netns) => netns.enter(read),
            Place::Node(member) => member.node.enter(read),
        }
    }

    fn show(&self, before: Count) {
        let after = self.count();
        let (packets, bytes) = (after.packets - before.packets, after.bytes - before.bytes);
        let name = match self.place {
            Place::Pod(name, _) => name,
            Place::Node(member) => &member.node.name,
        };
        assert!(
            packets >= PINGS.into(),
            "only {packets} of {PINGS} packets passed {name} {}",
            self.link
        );
        println!(
            "    {name:<8}{:<11}{:>6} → {:<6} {:>4}  {}",
            self.link,
            before.packets,
            after.packets,
            bytes / packets.max(1),
            paint::dim(&self.does)
        );
    }
}

fn show_route(member: &Member, to: Ipv4Addr) {
    let routes = member.node.exec("ip -4 route show table main");
    let [a, b, c, _] = to.octets();
    let subnet = format!("{a}.{b}.{c}.0/24");
    let leads_there = |route: &&str| route.starts_with(&subnet) || route.starts_with(NETWORK);
    let route = routes.lines().find(leads_there);
    let route = route.unwrap_or_else(|| panic!("{} has no route to {to}", member.node.name));
    println!(
        "    {:<8}{}",
        member.node.name,
        paint::bold(&format!("route {}", route.trim()))
    );
}

/// Asks, waits for the answer, asks again.
fn burst(to: Ipv4Addr) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let echo = Echo::open(to).expect("open a socket for pings");
    for number in 0..PINGS {
        echo.send(number)
            .unwrap_or_else(|e| panic!("cannot ping {to}: {e}"));
        while echo.answered() != Some(number) {
            let began = std::time::Instant::now();
            echo.wait(PATIENCE);
            assert!(
                began.elapsed() < PATIENCE,
                "{to} does not answer ping {number}"
            );
        }
    }
}
