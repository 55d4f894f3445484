//! A flannel node as it was found: what it held, weftd brings about.

use std::fs;

use weft_netns::in_world;

use crate::harness::{Cluster, Node, lease_with};

const SUBNET_ENV: &str = "FLANNEL_NETWORK=172.20.0.0/16
FLANNEL_SUBNET=172.20.1.1/24
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
";

const ROUTES: &str = "default via 192.168.9.2 dev eth0 proto static
172.20.0.0/24 via 172.20.0.0 dev flannel.1 onlink
172.20.1.0/24 dev cni0 proto kernel scope link src 172.20.1.1
172.20.2.0/24 via 172.20.2.0 dev flannel.1 onlink
172.20.3.0/24 via 172.20.3.0 dev flannel.1 onlink
192.168.9.0/24 dev eth0 proto kernel scope link src 192.168.9.181
";

/// As written: a comma is missing after "vxlan".
const NET_CONF: &str = r#"{
  "Network": "172.20.0.0/16",
  "Backend": {
    "Type": "vxlan"
    "Directrouting": true
  }
}
"#;

fn field_node<'w>(cluster: &Cluster<'w>) -> Node<'w> {
    for n in [0, 2, 3] {
        let lease = lease_with(&format!("192.168.9.18{n}"), &format!("02:00:00:00:00:0{n}"));
        cluster
            .store
            .put(&format!("subnets/172.20.{n}.0-24"), &lease);
    }
    let own = lease_with("192.168.9.181", "02:00:00:00:00:01");
    cluster.store.put("subnets/172.20.1.0-24", &own);
    let node = cluster.node(181);
    node.netns
        .exec("ip route replace default via 192.168.9.2 dev eth0 proto static");
    node
}

fn without_protocol(routes: &str) -> Vec<String> {
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "proto");
        let words = words.iter().enumerate();
        let kept = words.filter(|(i, _)| at.is_none_or(|at| *i != at && *i != at + 1));
        kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<_> = routes.lines().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn the_node_has_its_subnet_file_and_its_routes() {
    in_world(|world| {
        let conf = r#"{"Network":"172.20.0.0/16","Backend":{"Type":"vxlan"}}"#;
        let cluster = Cluster::new(world, conf);
        let node = field_node(&cluster);
        node.start();
        node.until_ready();
        let _pod = node.pod();
        let file = fs::read_to_string(node.subnet_file()).unwrap();
        assert_eq!(file, SUBNET_ENV);
        let routes = node.netns.exec("ip route");
        assert_eq!(without_protocol(&routes), without_protocol(ROUTES));
        for line in routes.lines().filter(|line| line.contains("flannel.1")) {
            assert!(line.contains("proto"), "an own protocol: {line}");
        }
    });
}

#[test]
fn the_configuration_without_its_comma_is_explained_and_corrected_is_taken() {
    in_world(|world| {
        let cluster = Cluster::new(world, NET_CONF);
        let node = field_node(&cluster);
        node.start();
        node.until_told(&[
            "line 4, column 20",
            "a comma is missing",
            "put a comma there",
        ]);
        assert!(!node.is_ready() && !node.subnet_file().exists());
        let corrected = NET_CONF.replace("\"vxlan\"", "\"vxlan\",");
        cluster.store.put("config", &corrected);
        node.until_ready();
        assert_eq!(fs::read_to_string(node.subnet_file()).unwrap(), SUBNET_ENV);
        // DirectRouting: its peers share the wire.
        node.until_says("ip route", "172.20.2.0/24 via 192.168.9.182 dev eth0", true);
    });
}
