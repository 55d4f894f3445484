use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_daemon::firewall::{Firewall, Guard, Masquerade, Report, Spec};
use weft_netns::World;

pub(crate) fn networks(list: &[&str]) -> Vec<IpNetwork> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// A node of a dual-stack cluster.
pub(crate) fn dual_stack() -> Spec {
    Spec {
        networks: networks(&["10.244.0.0/16", "fd10:244::/48"]),
        own: networks(&["10.244.3.0/24", "fd10:244:0:3::/64"]),
        masquerade: Some(Masquerade {
            random_fully: true,
            spared: Vec::new(),
        }),
        forward: true,
        guard: None,
    }
}

pub(crate) fn ipv4_only() -> Spec {
    Spec {
        networks: networks(&["10.244.0.0/16"]),
        own: networks(&["10.244.3.0/24"]),
        ..dual_stack()
    }
}

pub(crate) fn guard(from: &[&str]) -> Option<Guard> {
    let from = from.iter().map(|ip| ip.parse::<IpAddr>().unwrap());
    Some(Guard {
        port: 8472,
        from: from.collect(),
        lenient: false,
        lasting: Guard::LASTING,
    })
}

pub(crate) fn reconciled(firewall: &mut Firewall, spec: &Spec) -> Report {
    firewall
        .reconcile(spec)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The ruleset, without counters' values and what nft says about itself.
pub(crate) fn ruleset(world: &World) -> String {
    world.exec("nft -s list ruleset 2>/dev/null")
}

/// The ruleset's generation, which every change moves on, even one that changes nothing.
pub(crate) fn generation() -> u32 {
    weft_net::nft::NftSocket::open()
        .unwrap()
        .generation()
        .unwrap()
}

/// Compares line by line, without indentation.
#[track_caller]
pub(crate) fn assert_listed(listed: &str, expected: &str) {
    let lines = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect()
    };
    assert_eq!(lines(listed), lines(expected), "\n{listed}");
}
