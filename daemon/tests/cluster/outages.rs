//! etcd goes, and comes back with other contents, with fewer members, or with nothing at all;
//! pods' traffic does not notice.

use std::fs;
use std::path::Path;

use weft_netns::{in_world, wait_for, wait_until};

use crate::etcd::{absolute, etcd_is_here};
use crate::harness::{Cluster, LIMIT, VXLAN, vxlan_lease};

/// Leases last a day, and an outage that outlasts them leaves etcd without them.
#[test]
fn etcd_killed_for_longer_than_the_leases_last_and_then_back() {
    if !etcd_is_here() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, VXLAN, 1);
        let (nodes, pods) = cluster.of(2);
        let whole: Vec<_> = nodes.iter().map(|node| node.state()).collect();
        let keys: Vec<_> = nodes.iter().map(|node| cluster.key_of(node)).collect();
        let strip = pods[0].strip_to(&pods[1]);
        cluster.etcd().kill_all();
        nodes[0].until_told(&["the store is in trouble"]);
        cluster.etcd().behind_their_backs(|ctl| {
            let said = ctl(&["del", "--prefix", &absolute("subnets/")]);
            assert_eq!(said.trim(), "2");
        });
        strip.sees_more();
        cluster.etcd().start();
        wait_until("the leases are taken back", LIMIT, || {
            let leases = cluster.store.leases();
            keys.iter().all(|key| leases.contains(key))
        });
        for (node, whole) in nodes.iter().zip(&whole) {
            node.until_ready();
            node.until_state(whole);
            assert!(!cluster.store.lasts(&cluster.key_of(node)));
        }
        assert_eq!(cluster.store.leases().len(), 2);
        strip.sees_more();
        let outcome = strip.end();
        println!("{} of {} pings lost", outcome.lost.len(), outcome.sent);
        assert!(outcome.lost.is_empty(), "{outcome:?}");
    });
}

#[test]
fn etcd_that_comes_back_empty_takes_no_traffic_away() {
    if !etcd_is_here() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, VXLAN, 1);
        let (nodes, pods) = cluster.of(2);
        let whole: Vec<_> = nodes.iter().map(|node| node.state()).collect();
        let keys: Vec<_> = nodes.iter().map(|node| cluster.key_of(node)).collect();
        cluster.etcd().kill_all();
        cluster.etcd().forget_everything();
        cluster.etcd().start();
        cluster.store.put("config", VXLAN);
        wait_until("the leases are taken back", LIMIT, || {
            cluster.store.leases().len() == 2
        });
        for ((node, whole), key) in nodes.iter().zip(&whole).zip(&keys) {
            node.until_ready();
            node.until_state(whole);
            assert!(cluster.store.get(key).is_some(), "{key} is gone");
        }
        pods[0].until_reaches(&pods[1]);
    });
}

/// One by one: the leader, the majority, and back.
#[test]
fn three_members_lose_their_leader_then_their_quorum_and_recover() {
    if !etcd_is_here() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, VXLAN, 3);
        let (nodes, pods) = cluster.of(2);
        let whole = nodes[0].state();
        let strip = pods[0].strip_to(&pods[1]);

        let leader = cluster.etcd().leader();
        cluster.etcd().kill(leader);
        let late = cluster.node(3);
        late.start();
        late.until_ready();
        nodes[0].until_says("ip route", &late.subnet_address(), true);

        let second = (leader + 1) % 3;
        cluster.etcd().kill(second);
        let latest = cluster.node(4);
        latest.start();
        latest.until_told(&["the store is in trouble"]);
        strip.sees_more();
        assert!(nodes.iter().all(|node| node.lives()) && late.lives());
        assert!(!latest.is_ready());

        cluster.etcd().revive(leader);
        cluster.etcd().revive(second);
        cluster.etcd().until_healthy();
        latest.until_ready();
        nodes[0].until_says("ip route", &latest.subnet_address(), true);
        for node in [&late, &latest] {
            let key = cluster.key_of(node);
            node.terminate();
            cluster.store.delete(&key);
        }
        nodes[0].until_state(&whole);
        strip.ends_whole();
    });
}

/// What a watch would have told is compacted away: the state has to come from a listing.
#[test]
fn compaction_during_an_outage_hides_no_change() {
    if !etcd_is_here() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, VXLAN, 1);
        for n in [200, 201, 202] {
            cluster.put_peer(n, &vxlan_lease(n));
        }
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let lease = |n: u8| absolute(&format!("subnets/10.244.{n}.0-24"));
        cluster.etcd().kill_all();
        cluster.etcd().behind_their_backs(|ctl| {
            ctl(&["del", &lease(200)]);
            ctl(&["put", &lease(201), "--", &vxlan_lease(211)]);
            ctl(&["put", &lease(203), "--", &vxlan_lease(203)]);
            let said = ctl(&["endpoint", "status", "-w", "json"]);
            let revision: String = said
                .split("\"revision\":")
                .nth(1)
                .unwrap()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            ctl(&["compact", &revision]);
        });
        cluster.etcd().start();
        for node in &nodes {
            let fdb = "bridge fdb show dev flannel.1";
            node.until_says("ip route", "10.244.203.0/24", true);
            node.until_says("ip route", "10.244.200.0/24", false);
            node.until_says(fdb, "192.168.9.211", true);
            node.until_says(fdb, "dst 192.168.9.201", false);
            node.until_says(fdb, "dst 192.168.9.202", true);
        }
        // And the watch goes on.
        cluster.store.delete("subnets/10.244.202.0-24");
        nodes[0].until_says("ip route", "10.244.202.0/24", false);
        strip.ends_whole();
    });
}

/// A reboot while the store is away: the kernel has forgotten everything, the disk has not.
#[test]
fn a_node_that_starts_while_etcd_is_away_serves_what_it_knew() {
    if !etcd_is_here() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, VXLAN, 1);
        for n in [200, 201] {
            cluster.put_peer(n, &vxlan_lease(n));
        }
        let (nodes, pods) = cluster.of(2);
        let node = &nodes[0];
        let memory = node.dir.join("state/remembered");
        page_once_it_has(&memory, &nodes[1].subnet());
        let whole = node.state();
        cluster.etcd().kill_all();
        node.kill9();
        node.netns
            .exec("ip link del flannel.1; nft flush ruleset; ip route flush proto 208");
        fs::remove_file(node.subnet_file()).unwrap();

        node.start();
        node.until_state(&whole);
        node.until_told(&[
            "the store has not answered yet",
            "served by what was known at",
        ]);
        assert!(!node.is_ready());
        assert!(node.subnet_file().exists());
        pods[0].until_reaches(&pods[1]);

        // A peer that came meanwhile is learned of, and one that left is forgotten.
        cluster.etcd().behind_their_backs(|ctl| {
            ctl(&["del", &absolute("subnets/10.244.200.0-24")]);
            ctl(&[
                "put",
                &absolute("subnets/10.244.202.0-24"),
                "--",
                &vxlan_lease(202),
            ]);
        });
        cluster.etcd().start();
        node.until_ready();
        node.until_says("ip route", "10.244.202.0/24", true);
        node.until_says("ip route", "10.244.200.0/24", false);
        node.until_says("ip route", "10.244.201.0/24", true);
        pods[0].until_reaches(&pods[1]);
    });
}

/// What is remembered may be older than what the kernel holds.
#[test]
fn nothing_is_removed_for_the_sake_of_a_memory() {
    if !etcd_is_here() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, VXLAN, 1);
        cluster.put_peer(200, &vxlan_lease(200));
        let (nodes, _) = cluster.of(1);
        let node = &nodes[0];
        let memory = node.dir.join("state/remembered");
        let old = page_once_it_has(&memory, "10.244.200.0/24");
        cluster.put_peer(201, &vxlan_lease(201));
        node.until_says("ip route", "10.244.201.0/24", true);
        let whole = node.state();
        node.terminate();
        fs::write(&memory, old).unwrap();
        cluster.etcd().kill_all();
        node.start();
        node.until_told(&["served by what was known at"]);
        assert_eq!(node.state(), whole);
        cluster.etcd().start();
        node.until_ready();
        node.until_state(&whole);
    });
}

fn page_once_it_has(path: &Path, part: &str) -> String {
    wait_for("the page", LIMIT, || {
        let page = fs::read_to_string(path).ok()?;
        page.contains(part).then_some(page)
    })
}
