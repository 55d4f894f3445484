//! A restart that finds everything in place changes nothing.

use std::fs;

use weft_netns::{Need, in_world, skip_unless, wait_until};

use crate::harness::{Cluster, LIMIT, Node, VXLAN, vxlan_lease};

fn many_peers(cluster: &Cluster<'_>, count: u32) {
    for n in 0..count {
        let (b, c) = (n / 200, n % 200);
        let subnet = format!("subnets/10.244.{}.{}-26", 100 + n / 4, n % 4 * 64);
        let mut lease =
            vxlan_lease(1).replace("02:00:00:00:00:01", &format!("02:00:00:01:{b:02x}:{c:02x}"));
        lease = lease.replace("192.168.9.1\"", &format!("192.168.{}.{c}\"", 20 + b));
        cluster.store.put(&subnet, &lease);
    }
}

const NARROW: &str = r#"{"Network":"10.244.0.0/16","SubnetLen":26,"SubnetMax":"10.244.99.0","Backend":{"Type":"vxlan"}}"#;

#[test]
fn a_restart_with_500_peers_writes_nothing_and_loses_nothing() {
    if !skip_unless(&[Need::Tool("strace")]) {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::new(world, NARROW);
        many_peers(&cluster, 500);
        let (nodes, pods) = cluster.of(2);
        let routes = nodes[0].netns.exec("ip route show dev flannel.1");
        assert_eq!(routes.lines().count(), 501, "{}", nodes[0].log());
        let whole = nodes[0].state();
        let strip = pods[0].strip_to(&pods[1]);
        nodes[0].terminate();

        let monitor = nodes[0].netns.spawn("ip monitor link address route neigh");
        let rules = nodes[0].netns.spawn("nft monitor");
        both_listen(&nodes[0], [&monitor, &rules]);
        let (heard, heard_rules) = (monitor.said_so_far().len(), rules.said_so_far().len());
        let file = nodes[0].dir.join("trace");
        let strace = nodes[0].netns.command("strace").args([
            "-f",
            "-qq",
            "-s",
            "64",
            "-e",
            "trace=sendto,sendmsg,write",
            "-o",
        ]);
        let traced = strace
            .arg(&file)
            .arg(env!("CARGO_BIN_EXE_weftd"))
            .args(&nodes[0].flags)
            .spawn();
        wait_until("the second daemon is ready", LIMIT, || nodes[0].is_ready());
        strip.sees_more();
        assert_eq!(nodes[0].state(), whole);
        let said = monitor.said_so_far()[heard..].to_owned();
        let ours: Vec<_> = said
            .lines()
            .filter(|line| line.contains("flannel") || line.contains("10.244."))
            .filter(|line| !is_passing(line))
            .collect();
        assert!(ours.is_empty(), "the kernel was changed: {ours:?}");
        assert_eq!(&rules.said_so_far()[heard_rules..], "");
        drop(traced);
        let trace = fs::read_to_string(file).unwrap();
        let changes: Vec<_> = trace.lines().filter(|line| is_change(line)).collect();
        assert!(changes.is_empty(), "{changes:#?}");
        strip.ends_whole();
    });
}

/// What the kernel itself notes of a neighbour that it learns or asks: not a change of ours.
fn is_passing(line: &str) -> bool {
    let states = [
        "REACHABLE",
        "STALE",
        "DELAY",
        "PROBE",
        "FAILED",
        "INCOMPLETE",
    ];
    states.iter().any(|state| line.contains(state))
}

/// A netlink message that makes or removes: strace names its type.
fn is_change(line: &str) -> bool {
    [
        "RTM_NEW",
        "RTM_DEL",
        "RTM_SET",
        "NFT_MSG_NEW",
        "NFT_MSG_DEL",
    ]
    .iter()
    .any(|kind| line.contains(kind))
}

/// And have heard all that was before.
fn both_listen(node: &Node<'_>, monitors: [&weft_netns::Running; 2]) {
    let probe = |name: &str| {
        node.netns.exec(&format!(
            "ip link add {name} type bridge; ip link del {name}; \
             nft add table ip {name}; nft delete table ip {name}"
        ));
        // The last that each of them tells of it.
        [
            format!("Deleted.*{name}"),
            format!("delete table ip {name}"),
        ]
    };
    wait_until("the monitors listen", LIMIT, || {
        probe("probe");
        let mut said = monitors.iter().map(|monitor| monitor.said_so_far());
        said.all(|said| !said.is_empty())
    });
    let last = probe("lastprobe");
    for (monitor, last) in monitors.iter().zip(last) {
        let words: Vec<_> = last.split(".*").collect();
        wait_until("the monitors have heard the last probe", LIMIT, || {
            let said = monitor.said_so_far();
            said.lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        });
    }
}

#[test]
fn a_restart_keeps_device_subnet_and_lease() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let device = "ip -o link show flannel.1";
        let before = nodes[0].netns.exec(device);
        let (env, key) = (nodes[0].subnet_env(), cluster.key_of(&nodes[0]));
        for _ in 0..3 {
            nodes[0].restart();
            assert_eq!(nodes[0].netns.exec(device), before);
            assert_eq!(nodes[0].subnet_env(), env);
            assert_eq!(cluster.key_of(&nodes[0]), key);
        }
        assert_eq!(cluster.store.leases().len(), 2);
        strip.ends_whole();
    });
}
