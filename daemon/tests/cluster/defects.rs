//! Flanneld's defects, R1 to R9, each on whole daemons.

use weft_netns::{in_world, wait_until};

use crate::etcd::etcd_is_here;
use crate::harness::{Cluster, DUAL_VXLAN, LIMIT, Node, VXLAN, lease_with, vxlan_lease};

fn mac_of(node: &Node<'_>) -> String {
    let said = node.netns.exec(
        "cat /sys/class/net/flannel.1/address 2>/dev/null || \
                                ip -o link show flannel.1 | grep -o 'ether [0-9a-f:]*' | cut -c7-",
    );
    said.trim().to_owned()
}

/// flanneld keeps the entries of a peer that left while it was down.
#[test]
fn r1_a_peer_that_left_while_the_daemon_was_down_is_forgotten() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(3);
        let strip = pods[0].strip_to(&pods[1]);
        let (gone, key) = (nodes[2].subnet_address(), cluster.key_of(&nodes[2]));
        nodes[0].terminate();
        nodes[2].kill9();
        cluster.store.delete(&key);
        assert!(nodes[0].state().contains(&gone));
        nodes[0].start();
        nodes[0].until_ready();
        let state = nodes[0].state();
        assert!(!state.contains(&gone), "{gone} is left in\n{state}");
        assert!(!state.contains(&nodes[2].underlay()), "{state}");
        assert!(state.contains(&nodes[1].subnet_address()), "{state}");
        strip.ends_whole();
    });
}

/// flanneld never looks again at what it programmed.
#[test]
fn r2_what_is_deleted_by_hand_is_back_and_the_culprit_named() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        pods[0].until_reaches(&pods[1]);
        let whole = nodes[0].state();
        let peer = nodes[1].subnet_address();
        let underlay = nodes[1].underlay();
        let mac = mac_of(&nodes[1]);
        for command in [
            format!("ip route del {peer}/24"),
            format!("ip neigh del {peer} dev flannel.1"),
            format!("bridge fdb del {mac} dev flannel.1 dst {underlay}"),
            format!("ip addr del {}/32 dev flannel.1", nodes[0].subnet_address()),
            "ip link set flannel.1 down".to_owned(),
        ] {
            nodes[0].netns.exec(&command);
            nodes[0].until_state(&whole);
            pods[0].until_reaches(&pods[1]);
        }
        let what = format!("{peer}/24");
        nodes[0].until_told(&[&what, "deleted or changed by"]);
        assert_eq!(nodes[0].state(), whole);
    });
}

/// flanneld makes the device anew with another MAC and without any entry.
#[test]
fn r3_a_deleted_device_is_back_with_its_mac_and_all_its_entries() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(3);
        pods[0].until_reaches(&pods[1]);
        let (whole, mac) = (nodes[0].state(), mac_of(&nodes[0]));
        let key = cluster.key_of(&nodes[0]);
        let lease = cluster.store.get(&key);
        nodes[0].netns.exec("ip link del flannel.1");
        nodes[0].until_state(&whole);
        assert_eq!(mac_of(&nodes[0]), mac);
        assert_eq!(cluster.store.get(&key), lease);
        pods[0].until_reaches(&pods[1]);
        pods[2].until_reaches(&pods[0]);
    });
}

/// flanneld ends, with exit code 0.
#[test]
fn r4_the_own_lease_deleted_is_taken_back_and_the_daemon_lives() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let (key, pid) = (cluster.key_of(&nodes[0]), nodes[0].pid());
        let lease = cluster.store.get(&key).unwrap();
        cluster.store.delete(&key);
        wait_until("the lease is taken back", LIMIT, || {
            cluster.store.get(&key).is_some()
        });
        assert_eq!(cluster.store.get(&key).unwrap(), lease);
        assert_eq!(cluster.store.leases().len(), 2);
        nodes[0].until_ready();
        assert!(nodes[0].lives() && nodes[0].pid() == pid);
        // What the peer did to the pods in between is a matter of moments.
        strip.sees_more();
        assert!(strip.end().sent > 0);
        pods[0].until_reaches(&pods[1]);
    });
}

/// What another node took is not fought over: pods keep their traffic, and it is said.
#[test]
fn r4_the_own_subnet_taken_by_another_node_is_told_and_nobody_exits() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let key = cluster.key_of(&nodes[0]);
        let subnet = nodes[0].subnet();
        let before = nodes[0].subnet_env();
        cluster.store.put(&key, &vxlan_lease(77));
        wait_until("the node is not ready", LIMIT, || !nodes[0].is_ready());
        nodes[0].until_told(&[&subnet, "192.168.9.77"]);
        assert!(nodes[0].lives());
        assert_eq!(nodes[0].subnet_env(), before);
        let way = nodes[0].netns.exec("ip route");
        assert!(way.contains(&nodes[1].subnet_address()), "{way}");
        // Given back, all is well again without a restart.
        cluster.store.delete(&key);
        nodes[0].until_ready();
        pods[0].until_reaches(&pods[1]);
        assert_eq!(nodes[0].subnet_env(), before);
    });
}

/// flanneld keeps the old forwarding entry beside the new one.
#[test]
fn r5_a_peer_that_comes_back_with_another_mac_leaves_no_old_entry() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        pods[0].until_reaches(&pods[1]);
        let (key, old) = (cluster.key_of(&nodes[1]), mac_of(&nodes[1]));
        nodes[1].kill9();
        let new = "02:11:22:33:44:55";
        cluster
            .store
            .put(&key, &lease_with(&nodes[1].underlay(), new));
        nodes[0].until_says("bridge fdb show dev flannel.1", new, true);
        nodes[0].until_says("bridge fdb show dev flannel.1", &old, false);
        nodes[0].until_says("ip neigh show dev flannel.1", &old, false);
        // Its own lease says which MAC address it has.
        nodes[1].start();
        nodes[1].until_ready();
        assert_eq!(mac_of(&nodes[1]), new);
        pods[0].until_reaches(&pods[1]);
    });
}

/// flanneld promises pods 1450 where the IPv6 tunnel carries 1430.
#[test]
fn r6_the_subnet_file_of_dual_stack_has_the_smaller_mtu() {
    in_world(|world| {
        let cluster = Cluster::new(world, DUAL_VXLAN);
        let node = cluster.node(1);
        node.start();
        node.until_ready();
        assert_eq!(node.subnet_env()["FLANNEL_MTU"], "1430");
        for (device, mtu) in [("flannel.1", "mtu 1450"), ("flannel-v6.1", "mtu 1430")] {
            let said = node.netns.exec(&format!("ip link show {device}"));
            assert!(said.contains(mtu), "{said}");
        }
    });
}

fn a_reservation_stays_one(cluster: &Cluster<'_>) {
    let reserved = r#"{"PublicIP":"192.168.9.1"}"#;
    let key = cluster.put_peer(99, reserved);
    assert!(cluster.store.lasts(&key));
    let node = cluster.node(1);
    for _ in 0..2 {
        node.start();
        node.until_ready();
        assert_eq!(node.subnet(), "10.244.99.0/24");
        assert!(cluster.store.lasts(&key), "it was given an end");
        assert!(cluster.store.get(&key).unwrap().contains("VtepMAC"));
        node.terminate();
    }
    assert_eq!(cluster.store.leases(), [key]);
}

/// flanneld turns a reservation into a lease of a day.
#[test]
fn r7_a_reservation_stays_a_reservation() {
    in_world(|world| a_reservation_stays_one(&Cluster::new(world, VXLAN)));
}

#[test]
fn r7_a_reservation_in_etcd_stays_a_reservation() {
    if etcd_is_here() {
        in_world(|world| a_reservation_stays_one(&Cluster::on_etcd(world, VXLAN, 1)));
    }
}

/// flanneld dies of a lost race.
#[test]
fn r8_thirty_daemons_at_once_get_thirty_subnets() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let nodes: Vec<_> = (1..=30).map(|number| cluster.node(number)).collect();
        nodes.iter().for_each(Node::start);
        nodes.iter().for_each(Node::until_ready);
        let mut subnets: Vec<_> = nodes.iter().map(Node::subnet).collect();
        subnets.sort();
        subnets.dedup();
        assert_eq!(subnets.len(), 30);
        assert_eq!(cluster.store.leases().len(), 30);
    });
}

#[test]
fn r8_daemons_that_race_for_subnets_in_etcd_all_get_one() {
    if !etcd_is_here() {
        return;
    }
    in_world(|world| {
        // Twelve nodes, twelve subnets.
        let conf = r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.1.0","SubnetMax":"10.244.12.0","Backend":{"Type":"vxlan"}}"#;
        let cluster = Cluster::on_etcd(world, conf, 1);
        let nodes: Vec<_> = (1..=12).map(|number| cluster.node(number)).collect();
        nodes.iter().for_each(Node::start);
        nodes.iter().for_each(Node::until_ready);
        let mut subnets: Vec<_> = nodes.iter().map(Node::subnet).collect();
        subnets.sort();
        subnets.dedup();
        assert_eq!(subnets.len(), 12);
    });
}

/// flanneld does not look at its nftables rules again.
#[test]
fn r9_a_flushed_ruleset_is_back() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let whole = nodes[0].state();
        assert!(whole.contains("masquerade"), "{whole}");
        for command in [
            "nft flush ruleset",
            "nft delete table ip flannel-ipv4",
            "nft flush chain ip flannel-ipv4 postrtg",
        ] {
            nodes[0].netns.exec(command);
            nodes[0].until_state(&whole);
        }
        nodes[0].until_told(&["nft"]);
        strip.ends_whole();
    });
}
