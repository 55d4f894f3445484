//! What packets of the udp backend travel in: ports, families and buffers of the underlay.

use std::net::Ipv4Addr;

use weft_netns::{Cmd, in_rootless_world, in_world, wait_until};

use crate::handover::nothing_is_lost_while;
use crate::harness::{Cluster, LIMIT, Node, UDP};
use crate::kube;
use crate::wire::{Flannel, echo_reply_ttl, echo_request};

const OTHER_PORT: u16 = 9285;
const ON_OTHER_PORT: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"udp","Port":9285}}"#;
const IPV6: &str =
    r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"udp"}}"#;

fn doctor(node: &Node<'_>) -> String {
    let done = Cmd::new(env!("CARGO_BIN_EXE_weft"))
        .arg("doctor")
        .arg(format!("--run-dir={}", node.dir.join("run").display()))
        .arg(format!("--subnet-file={}", node.subnet_file().display()))
        .inside(&node.netns)
        .run();
    done.stdout + &done.stderr
}

/// Of ours and of flannel's, whose leases say nothing of ports.
#[test]
fn another_port_serves_nodes_of_ours_and_of_flannel_s() {
    in_world(|world| {
        let cluster = Cluster::new(world, ON_OTHER_PORT);
        let (nodes, pods) = cluster.of(2);
        let listening = nodes[0].netns.exec("ss -Hlun");
        assert!(
            listening.contains(":9285") && !listening.contains(":8285"),
            "{listening}"
        );
        nothing_is_lost_while([&pods[0], &pods[1]], || nodes[1].is_taken_over());
        let machine = cluster.node(66);
        let flannel = Flannel::at_port(OTHER_PORT, &machine, &nodes[0]);
        let plain = r#"{"PublicIP":"192.168.9.66","PublicIPv6":null}"#;
        cluster.put_peer(166, plain);
        let pod: Ipv4Addr = pods[0].ip().to_string().parse().unwrap();
        let theirs = Ipv4Addr::new(10, 244, 166, 9);
        wait_until("the pod's answer", LIMIT, || {
            flannel.send(&echo_request(theirs, pod, 64));
            let answer = flannel.receive();
            answer.is_some_and(|(packet, _)| echo_reply_ttl(&packet).is_some())
        });
    });
}

/// As while one after the other is restarted on a new configuration.
#[test]
fn nodes_of_two_ports_are_told_of_and_reach_each_other_once_they_agree() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        cluster.store.put("config", ON_OTHER_PORT);
        nodes[1].restart();
        let ports = ["UDP port 9285", "we on 8285", "today's configuration"];
        nodes[0].until_told(&ports);
        nodes[1].until_told(&["UDP port 8285", "we on 9285"]);
        wait_until("status and doctor tell", LIMIT, || {
            let (status, doctor) = (
                nodes[0].status()["peers_skipped"].to_string(),
                doctor(&nodes[0]),
            );
            ports
                .iter()
                .all(|part| status.contains(part) && doctor.contains(part))
        });
        assert!(nodes.iter().all(Node::is_ready));
        nodes[0].restart();
        pods[0].until_reaches(&pods[1]);
        pods[1].until_reaches(&pods[0]);
        wait_until("nobody is left out any more", LIMIT, || {
            nodes
                .iter()
                .all(|node| node.status()["peers_skipped"] == serde_json::json!([]))
        });
    });
}

/// What a lease in a Kubernetes node can be alone.
#[test]
fn a_network_of_ipv6_alone_goes_over_ipv6() {
    in_world(|world| {
        let cluster = kube::cluster(world, IPV6);
        let nodes = [cluster.node(1), cluster.node(2)];
        for node in &nodes {
            let subnet = format!("fd05:0:0:{}::/64", node.number);
            kube::register(&cluster, node, &[&subnet]);
            node.start();
        }
        nodes.iter().for_each(Node::until_ready);
        let pods = nodes.each_ref().map(|node| node.pod());
        pods[0].until_reaches(&pods[1]);
        let listening = nodes[0].netns.exec("ss -Hlun");
        assert!(
            listening.contains("[fd90::1]:8285") && !listening.contains("192.168.9.1:8285"),
            "{listening}"
        );
        nothing_is_lost_while([&pods[1], &pods[0]], || {
            for node in &nodes {
                node.is_taken_over();
            }
        });
    });
}

/// In a user namespace nobody may have larger buffers than everybody: that is said once, shown,
/// and packets flow.
#[test]
fn without_the_right_to_large_buffers_packets_flow_and_it_is_told_once() {
    in_rootless_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let allowed = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
        let allowed: u64 = allowed.trim().parse().unwrap();
        // The kernel doubles what is asked for, and tells the double.
        let lacks = u32::from(allowed * 2 < 8 << 20);
        let node = &nodes[0];
        let missing = node.status()["packet_path"]["missing"].to_string();
        assert_eq!(missing.contains("buffers_small"), lacks == 1, "{missing}");
        let metrics = node.ask("/metrics").unwrap().1;
        let metric = format!(r#"weft_udp_degraded{{what="buffers_small"}} {lacks}"#);
        assert!(metrics.contains(&metric), "{metrics}");
        assert_eq!(
            node.log().matches("buffers are small").count(),
            lacks as usize
        );
        assert_eq!(doctor(node).contains("buffers are small"), lacks == 1);
        nothing_is_lost_while([&pods[0], &pods[1]], || node.is_taken_over());
    });
}
