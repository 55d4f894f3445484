//! One node, Go plugins and ours: each removes what the other made.

use serde_json::{Value, json};
use weft_netns::Netns;
use weft_plugins::iptables::{Masquerade, PortMappings, Protocol};

use crate::node::{Node, on_both_variants};
use crate::pods::{Pod, mapping};

on_both_variants! {
    both_write_the_same
    ours_removes_what_go_made
    ours_removes_what_go_made_and_the_runtime_forgot
    ours_collects_what_go_made
    go_removes_what_ours_made
    rules_of_old_go_plugins_are_removed_too
}

/// A pod that the Go plugins wire.
struct GoPod<'a> {
    node: &'a Node<'a>,
    netns: Netns,
}

impl<'a> GoPod<'a> {
    fn new(node: &'a Node<'a>) -> Self {
        let netns = node.world.netns("pod");
        Self { node, netns }
    }

    fn add(&self) {
        let result = self.call("bridge", "ADD", &bridge());
        self.call("portmap", "ADD", &portmap(&result));
    }

    fn call(&self, plugin: &str, verb: &str, config: &Value) -> Value {
        let done = self
            .node
            .command(&format!("/usr/lib/cni/{plugin}"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "cidA")
            .env("CNI_NETNS", self.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(config.to_string())
            .run()
            .ok();
        serde_json::from_str(&done.stdout).unwrap_or_default()
    }
}

fn bridge() -> Value {
    json!({"cniVersion": "1.0.0", "name": "n1", "type": "bridge", "bridge": "b0",
        "isGateway": true, "ipMasq": true, "ipam": {"type": "host-local", "ranges": [
            [{"subnet": "10.99.0.0/24", "rangeStart": "10.99.0.5"}],
            [{"subnet": "fd99::/64", "rangeStart": "fd99::5"}]]}})
}

fn portmap(result: &Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": "n1", "type": "portmap", "prevResult": result,
        "conditionsV4": ["-s", "192.0.2.0/24", "!", "-d", "10.1.2.3"],
        "runtimeConfig": {"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
            {"hostPort": 8082, "containerPort": 82, "protocol": "tcp", "hostIP": "127.0.0.2"},
            {"hostPort": 9000, "containerPort": 90, "protocol": "sctp", "hostIP": "0.0.0.0"}]}})
}

/// The same pod, as our plugins would know it.
fn same_pod() -> Pod {
    let mut pod = Pod::new("n1", "cidA", &["10.99.0.5/24", "fd99::5/64"]);
    pod.mappings = vec![
        mapping(Protocol::Tcp, None, 8080, 80),
        mapping(Protocol::Udp, None, 5353, 53),
        mapping(Protocol::Tcp, Some("127.0.0.2"), 8082, 82),
        mapping(Protocol::Sctp, Some("0.0.0.0"), 9000, 90),
    ];
    pod.conditions_v4 = ["-s", "192.0.2.0/24", "!", "-d", "10.1.2.3"]
        .map(String::from)
        .into();
    pod
}

fn both_write_the_same(node: &Node<'_>) {
    let go = GoPod::new(node);
    go.add();
    let (v4, v6) = (node.saved("iptables"), node.saved("ip6tables"));
    same_pod().check(&node.host).unwrap();
    for family in ["iptables", "ip6tables"] {
        node.exec(&format!("{family} -t nat -F; {family} -t nat -X"));
    }

    same_pod().add(&node.host);
    assert_eq!(node.saved("iptables"), v4);
    // Ports on an IPv4 address of the host are none of IPv6's business; for Go they are, to no end.
    let without_dispatch = |rules: &str| {
        let lines = rules.lines();
        let others = lines.filter(|line| !line.starts_with("-A CNI-HOSTPORT-DNAT"));
        others.map(str::to_owned).collect::<Vec<_>>()
    };
    let ours = node.saved("ip6tables");
    assert_eq!(without_dispatch(&ours), without_dispatch(&v6));
    assert!(
        v6.contains("--dports 8080,8082 ") && ours.contains("--dports 8080 "),
        "{ours}"
    );
    assert!(
        v6.contains("-p sctp") && !ours.contains("-p sctp"),
        "{ours}"
    );
}

fn ours_removes_what_go_made(node: &Node<'_>) {
    GoPod::new(node).add();
    same_pod().check(&node.host).unwrap();
    same_pod().del(&node.host);
    assert_eq!(leftovers(node), [""; 0]);
}

fn ours_removes_what_go_made_and_the_runtime_forgot(node: &Node<'_>) {
    GoPod::new(node).add();
    let mut pod = same_pod();
    pod.mappings.clear();
    pod.addresses.clear();
    pod.del(&node.host);
    assert_eq!(leftovers(node), [""; 0]);
}

fn ours_collects_what_go_made(node: &Node<'_>) {
    GoPod::new(node).add();
    let nobody = weft_cni::Attachments::default();
    PortMappings::gc("n1", &nobody, &node.host).unwrap();
    Masquerade::gc("n1", &nobody, &node.host).unwrap();
    assert_eq!(leftovers(node), [""; 0]);
}

fn go_removes_what_ours_made(node: &Node<'_>) {
    let go = GoPod::new(node);
    let result = go.call("bridge", "ADD", &bridge());
    same_pod().add(&node.host);
    go.call("portmap", "DEL", &portmap(&result));
    go.call("bridge", "DEL", &bridge());
    assert_eq!(leftovers(node), [""; 0]);
}

fn rules_of_old_go_plugins_are_removed_too(node: &Node<'_>) {
    let pod = Pod::new("n1", "cidA", &["10.99.0.5/24"]);
    pod.add(&node.host);
    node.exec(
        "T='iptables -t nat'; M=CNI-895718981c112e2ba32fa38f; S=CNI-SN-895718981c112e2ba32fa
         $T -A POSTROUTING -s 10.99.0.5/24 -j $M -m comment --comment 'name: \"n1\" id: \"cidA\"'
         $T -N CNI-HOSTPORT-SNAT; $T -N $S; $T -A $S -j MASQUERADE
         $T -A CNI-HOSTPORT-SNAT -j $S -m comment --comment 'snat name: \"n1\" id: \"cidA\"'
         $T -A CNI-HOSTPORT-DNAT -p udp -j CNI-DN-895718981c112e2ba32fa",
    );
    pod.del(&node.host);
    assert_eq!(leftovers(node), [""; 0]);
}

fn leftovers(node: &Node<'_>) -> Vec<String> {
    let mut ours = node.our_rules();
    ours.retain(|line| line.contains("cidA") || line.contains("895718981c112e2b"));
    ours
}
