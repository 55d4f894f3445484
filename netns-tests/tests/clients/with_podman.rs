//! podman's own networks: Debian's firewall and tuning beside our plugins.
use std::path::Path;

use weft_netns::{Cni, in_world};

use crate::image::PROGRAM;
use crate::node::{DEBIANS, Mapped, Node, OURS, SERVED, TCP, UDP, can_run};
use crate::podman::{Podman, TOOLS};

const PORTS: Mapped = Mapped {
    tcp: TCP,
    udp: UDP,
    ipv6: false,
};

#[test]
fn podman_runs_a_container_that_answers_and_leaves_nothing() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world, &["firewall", "tuning"]);
        node.bridge_netfilter(true);
        let podman = Podman::new(&node);
        podman.run(&["network", "create", "--subnet", "10.89.7.0/24", "pods"]);
        node.assert_leaves_nothing(|| {
            let container = start(&podman, &[]);
            node.assert_mapped(PORTS, |args| inside(&podman, &container, args));
            remove(&podman, &container);
            node.assert_unmapped(PORTS);
            vec![container]
        });
    });
}

#[test]
fn podman_gives_a_container_the_addresses_it_was_asked_for() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world, &["firewall", "tuning"]);
        node.bridge_netfilter(true);
        let podman = Podman::new(&node);
        let subnets = [
            "--subnet",
            "10.89.7.0/24",
            "--subnet",
            "fd89:7::/64",
            "--ipv6",
        ];
        podman.run(&[["network", "create", "pods"].as_slice(), &subnets].concat());
        let asked = [
            "--ip",
            "10.89.7.77",
            "--ip6",
            "fd89:7::77",
            "--mac-address",
            "0a:58:0a:59:07:4d",
        ];
        let ports = Mapped {
            ipv6: true,
            ..PORTS
        };
        node.assert_leaves_nothing(|| {
            let container = start(&podman, &asked);
            let told = podman.run(&["inspect", &container]);
            for [_, wanted] in asked.as_chunks().0 {
                assert!(told.contains(wanted), "no {wanted} in {told}");
            }
            node.assert_mapped(ports, |args| inside(&podman, &container, args));
            remove(&podman, &container);
            vec![container]
        });
    });
}

#[test]
fn podman_stops_and_starts_a_container_again() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world, &["firewall", "tuning"]);
        node.bridge_netfilter(true);
        let podman = Podman::new(&node);
        podman.run(&["network", "create", "--subnet", "10.89.7.0/24", "pods"]);
        let before = node.look();
        let container = start(&podman, &[]);
        for _ in 0..2 {
            podman.run(&["stop", "--time", "0", &container]);
            node.assert_unmapped(PORTS);
            podman.run(&["start", &container]);
            node.assert_mapped(PORTS, |args| inside(&podman, &container, args));
        }
        remove(&podman, &container);
        node.assert_no_trace(&before, &[container]);
    });
}

#[test]
fn podman_removes_with_ours_what_it_started_with_debians() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let replaced: Vec<_> = OURS
            .into_iter()
            .filter(|plugin| *plugin != "flannel")
            .collect();
        let node = Node::new(world, &["firewall", "tuning"]);
        node.bridge_netfilter(true);
        let podman = Podman::new(&node);
        podman.run(&["network", "create", "--subnet", "10.89.7.0/24", "pods"]);
        let before = node.look();

        node.install(Path::new(DEBIANS), &replaced);
        let container = start(&podman, &[]);
        node.assert_mapped(PORTS, |args| inside(&podman, &container, args));
        node.install(&Cni::weft_dir(), &replaced);
        node.assert_mapped(PORTS, |args| inside(&podman, &container, args));
        remove(&podman, &container);
        node.assert_unmapped(PORTS);
        node.assert_no_trace(&before, &[container]);

        let container = start(&podman, &[]);
        node.assert_mapped(PORTS, |args| inside(&podman, &container, args));
        remove(&podman, &container);
        node.assert_no_trace(&before, &[container]);
    });
}

/// Runs a server in a container with both ports mapped; its identifier.
#[track_caller]
fn start(podman: &Podman, options: &[&str]) -> String {
    let (tcp, udp) = (format!("{TCP}:{SERVED}"), format!("{UDP}:{SERVED}/udp"));
    let mapped = ["--network", "pods", "-p", &tcp, "-p", &udp];
    podman.start(
        &[options, &mapped].concat(),
        &["serve", &SERVED.to_string()],
    )
}

#[track_caller]
fn inside(podman: &Podman, container: &str, args: &[&str]) -> String {
    podman.run(&[&["exec", container, PROGRAM], args].concat())
}

#[track_caller]
fn remove(podman: &Podman, container: &str) {
    podman.run(&["rm", "--force", "--time", "0", container]);
}
