//! What changes around a node: peers while it was down, its own address, the underlay.

use std::time::Duration;

use weft_netns::{in_world, wait_until};

use crate::harness::{Cluster, HOST_GW, LIMIT, VXLAN, lease_with, vxlan_lease};

#[test]
fn whatever_changed_of_peers_while_the_daemon_was_down_is_seen_to() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        for n in 200..206 {
            cluster.put_peer(n, &vxlan_lease(n));
        }
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        nodes[0].kill9();
        let mac = |n: u8| format!("02:00:00:00:00:{n:02x}");
        cluster.put_peer(200, &lease_with("192.168.9.200", "02:00:00:00:99:01"));
        cluster.put_peer(201, &lease_with("192.168.9.211", &mac(201)));
        cluster.put_peer(
            202,
            r#"{"PublicIP":"192.168.9.202","BackendType":"host-gw"}"#,
        );
        cluster.store.delete("subnets/10.244.203.0-24");
        // Two that change places.
        cluster.put_peer(204, &lease_with("192.168.9.205", &mac(205)));
        cluster.put_peer(205, &lease_with("192.168.9.204", &mac(204)));
        nodes[0].start();
        nodes[0].until_ready();
        let fdb = nodes[0].netns.exec("bridge fdb show dev flannel.1");
        let neighbours = nodes[0].netns.exec("ip neigh show dev flannel.1");
        let routes = nodes[0].netns.exec("ip route");
        for (text, wanted) in [
            (&fdb, "02:00:00:00:99:01 dst 192.168.9.200"),
            (&fdb, &format!("{} dst 192.168.9.211", mac(201))),
            (&fdb, &format!("{} dst 192.168.9.205", mac(205))),
            (&neighbours, "10.244.200.0 lladdr 02:00:00:00:99:01"),
            (&neighbours, &format!("10.244.204.0 lladdr {}", mac(205))),
            (&neighbours, &format!("10.244.205.0 lladdr {}", mac(204))),
            (&routes, "10.244.201.0/24"),
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        for (text, unwanted) in [
            (&fdb, mac(200)),
            (&fdb, "dst 192.168.9.201".to_owned()),
            (&fdb, mac(202)),
            (&fdb, mac(203)),
            (&routes, "10.244.202.0".to_owned()),
            (&routes, "10.244.203.0".to_owned()),
        ] {
            assert!(!text.contains(&*unwanted), "{unwanted} is still in\n{text}");
        }
        nodes[0].until_told(&["10.244.202.0/24", "host-gw"]);
        strip.ends_whole();
    });
}

fn own_address_changes(conf: &str) {
    in_world(|world| {
        let cluster = Cluster::new(world, conf);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let (subnet, key) = (nodes[1].subnet(), cluster.key_of(&nodes[1]));
        nodes[1].netns.exec(
            "ip addr add 192.168.9.102/24 dev eth0; ip addr del 192.168.9.2/24 dev eth0; \
             ip addr replace 192.168.9.102/24 dev eth0",
        );
        wait_until("the lease says so", LIMIT, || {
            let lease = cluster.store.get(&key);
            lease.is_some_and(|lease| lease.contains(r#""PublicIP":"192.168.9.102""#))
        });
        nodes[0].until_says("ip route; bridge fdb", "192.168.9.102", true);
        nodes[0].until_says("ip route; bridge fdb", "192.168.9.2 ", false);
        strip.sees_more();
        nodes[1].until_ready();
        assert_eq!(
            (nodes[1].subnet(), cluster.key_of(&nodes[1])),
            (subnet, key)
        );
        let outcome = strip.end();
        let (sent, lost) = (outcome.sent, outcome.lost.len());
        println!("the address changed: {lost} of {sent} pings lost");
        let (first, last) = (outcome.lost.first(), outcome.lost.last());
        if let (Some(first), Some(last)) = (first, last) {
            assert!(*last - *first < Duration::from_secs(20), "{outcome:?}");
        }
    });
}

#[test]
fn a_node_s_address_changes_under_traffic_and_its_peers_follow() {
    own_address_changes(VXLAN);
}

#[test]
fn a_host_gw_node_s_address_changes_and_its_peers_follow() {
    own_address_changes(HOST_GW);
}

#[test]
fn the_underlay_s_mtu_is_followed_by_device_and_subnet_file() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        for (mtu, inner) in [(1400, "1350"), (1500, "1450")] {
            nodes[0].netns.exec(&format!("ip link set eth0 mtu {mtu}"));
            nodes[0].until_says("ip link show flannel.1", &format!("mtu {inner}"), true);
            wait_until("subnet.env follows", LIMIT, || {
                nodes[0].subnet_env().get("FLANNEL_MTU").map(String::as_str) == Some(inner)
            });
        }
        strip.ends_whole();
    });
}

fn underlay_goes_down_and_up(conf: &str) {
    in_world(|world| {
        let cluster = Cluster::new(world, conf);
        let (nodes, pods) = cluster.of(3);
        pods[0].until_reaches(&pods[1]);
        let whole = nodes[0].state();
        nodes[0].netns.exec(
            "ip link set eth0 down; ip link set eth0 up; \
             ip addr replace fd90::1/64 dev eth0 nodad; \
             ip route replace default via 192.168.9.254; ip -6 route replace default via fd90::fe",
        );
        nodes[0].until_state(&whole);
        pods[0].until_reaches(&pods[1]);
        pods[2].until_reaches(&pods[0]);
        assert!(nodes[0].lives());
    });
}

#[test]
fn a_link_that_goes_down_and_up_has_all_its_routes_again() {
    underlay_goes_down_and_up(VXLAN);
}

#[test]
fn a_host_gw_link_that_goes_down_and_up_has_all_its_routes_again() {
    underlay_goes_down_and_up(HOST_GW);
}

/// As when a driver is loaded anew: another index, everything on it gone.
#[test]
fn an_interface_that_is_replaced_is_followed() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        pods[0].until_reaches(&pods[1]);
        let whole = nodes[0].state();
        nodes[0].netns.exec("ip link del eth0");
        nodes[0].plug_in();
        nodes[0].until_state(&whole);
        pods[0].until_reaches(&pods[1]);
        nodes[0].until_ready();
    });
}

#[test]
fn an_interface_that_is_absent_at_the_start_is_waited_for() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (_others, pods) = cluster.of(1);
        let node = cluster.unplugged(0, 7);
        node.start();
        node.until_told(&["eth0"]);
        assert!(!node.is_ready() && node.lives());
        node.plug_in();
        node.until_ready();
        let pod = node.pod();
        pod.until_reaches(&pods[0]);
    });
}

#[test]
fn a_peer_that_comes_and_one_that_goes_are_followed_under_traffic() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let whole = nodes[0].state();
        let third = cluster.node(3);
        third.start();
        third.until_ready();
        third.pod().until_reaches(&pods[0]);
        let key = cluster.key_of(&third);
        third.terminate();
        cluster.store.delete(&key);
        nodes[0].until_state(&whole);
        strip.ends_whole();
    });
}
