//! Every pod reaches every other, in every way that packets can go.

use weft_netns::in_world;

use crate::harness::{Cluster, DUAL_HOST_GW, DUAL_UDP, DUAL_VXLAN, HOST_GW, Node, Pod, UDP, VXLAN};

fn everybody_reaches_everybody(pods: &[Pod]) {
    for one in pods {
        for other in pods {
            one.until_reaches(other);
        }
    }
}

fn three_nodes(conf: &str, families: usize) {
    in_world(|world| {
        let cluster = Cluster::new(world, conf);
        let (nodes, mut pods) = cluster.of(3);
        pods.push(nodes[0].pod());
        assert!(pods.iter().all(|pod| pod.addresses.len() == families));
        everybody_reaches_everybody(&pods);
    });
}

#[test]
fn vxlan() {
    three_nodes(VXLAN, 1);
}

#[test]
fn host_gw() {
    three_nodes(HOST_GW, 1);
}

#[test]
fn udp() {
    three_nodes(UDP, 1);
}

#[test]
fn dual_stack_udp() {
    three_nodes(DUAL_UDP, 2);
}

#[test]
fn dual_stack_vxlan() {
    three_nodes(DUAL_VXLAN, 2);
}

#[test]
fn dual_stack_host_gw() {
    three_nodes(DUAL_HOST_GW, 2);
}

/// Nodes 1 and 2 share a wire, node 7 is behind a router.
#[test]
fn direct_routing_over_a_routed_underlay_tunnels_only_through_the_router() {
    in_world(|world| {
        let conf = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"vxlan","DirectRouting":true}}"#;
        let cluster = Cluster::new(world, conf);
        let nodes = [cluster.node(1), cluster.node(2), cluster.node_on(1, 7)];
        nodes.iter().for_each(Node::start);
        nodes.iter().for_each(Node::until_ready);
        let pods = nodes.each_ref().map(|node| node.pod());
        everybody_reaches_everybody(&pods);
        let near = format!("{} via 192.168.9.2 dev eth0", nodes[1].subnet());
        nodes[0].until_says("ip route", &near, true);
        let far = nodes[2].subnet_address();
        let far = format!("{far}/24 via {far} dev flannel.1");
        nodes[0].until_says("ip route", &far, true);
        nodes[0].until_says("ip -6 route", "via fd90::2 dev eth0", true);
        nodes[0].until_says("ip -6 route", "dev flannel-v6.1", true);
        let fdb = nodes[0].netns.exec("bridge fdb show dev flannel.1");
        assert!(!fdb.contains("192.168.9.2 "), "{fdb}");
    });
}

/// A pod's packet as large as subnet.env promises goes through, one larger does not fit.
#[test]
fn the_promised_mtu_is_what_the_tunnel_carries() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (_nodes, pods) = cluster.of(2);
        pods[0].until_reaches(&pods[1]);
        let to = pods[1].ip();
        let ping = |size: u32| {
            let line = format!(
                "ping -c 3 -i 0.1 -W 2 -M do -s {size} {to} >/dev/null && echo yes || true"
            );
            pods[0].netns.exec(&line).contains("yes")
        };
        assert!(ping(1450 - 28));
        assert!(!ping(1450 - 27));
    });
}
