//! The peer guard: what comes encapsulated from whoever is no peer ends at the node.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use weft_netns::{in_world, wait_until};

use crate::harness::{Cluster, LIMIT, Node, Pod, VXLAN, lease_with};

const MAC: &str = "02:66:66:66:66:66";

/// A machine on the wire that makes itself a tunnel to `node`.
fn tunnel_to(stranger: &Node<'_>, node: &Node<'_>, local: &str) {
    let (end, underlay) = (node.subnet_address(), node.underlay());
    let mac = node
        .netns
        .exec("ip -o link show flannel.1 | grep -o 'ether [0-9a-f:]*'");
    let mac = mac.trim().trim_start_matches("ether ");
    stranger.netns.exec(&format!(
        "ip link del tun 2>/dev/null || true; \
         ip link add tun address {MAC} type vxlan id 1 local {local} dev eth0 dstport 8472 nolearning; \
         ip addr add 10.244.166.0/32 dev tun; ip link set tun up; \
         bridge fdb append {mac} dev tun dst {underlay}; \
         ip neigh add {end} lladdr {mac} dev tun nud permanent; \
         ip route add {end}/24 via {end} dev tun onlink src 10.244.166.0"
    ));
}

struct Talk {
    from: UdpSocket,
    to: UdpSocket,
    address: SocketAddr,
}

impl Talk {
    fn new(from: &Node<'_>, pod: &Pod) -> Self {
        let address = SocketAddr::new(pod.ip(), 7777);
        let to = pod.netns.enter(|| UdpSocket::bind(address).unwrap());
        to.set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let from = from.netns.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        Self { from, to, address }
    }

    fn say(&self) {
        // What the stranger's own kernel says to it is not what is asked here.
        let _ = self.from.send_to(b"hello", self.address);
    }

    fn is_heard(&self) -> bool {
        self.say();
        self.to.recv(&mut [0; 16]).is_ok()
    }
}

fn dropped(node: &Node<'_>) -> u64 {
    let rules = node.netns.exec("nft list ruleset");
    let counters = rules.split("counter packets ").skip(1);
    let numbers = counters.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    numbers.sum()
}

#[track_caller]
fn is_dropped(talk: &Talk, node: &Node<'_>) {
    let before = dropped(node);
    wait_until("five packets are dropped", LIMIT, || {
        talk.say();
        dropped(node) >= before + 5
    });
    assert!(talk.to.recv(&mut [0; 16]).is_err(), "the pod heard it");
}

#[test]
fn a_stranger_s_packets_end_at_the_guard_until_it_is_a_peer() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let nodes = [cluster.node(1), cluster.node(2)];
        nodes.iter().for_each(Node::start);
        nodes.iter().for_each(Node::until_ready);
        let pods = nodes.each_ref().map(Node::pod);
        pods[0].until_reaches(&pods[1]);
        let stranger = cluster.node(66);
        tunnel_to(&stranger, &nodes[0], "192.168.9.66");
        let talk = Talk::new(&stranger, &pods[0]);
        is_dropped(&talk, &nodes[0]);
        // Counted by the kernel, and told of as it is when somebody asks.
        let told = nodes[0].status()["guard"]["dropped_packets"].as_u64();
        assert!(told >= Some(5), "{told:?}");

        let lease = lease_with("192.168.9.66", MAC);
        let key = cluster.put_peer(166, &lease);
        wait_until("a peer's packets come through", LIMIT, || talk.is_heard());

        cluster.store.delete(&key);
        nodes[0].until_says("ip route", "10.244.166.0", false);
        while talk.to.recv(&mut [0; 16]).is_ok() {}
        is_dropped(&talk, &nodes[0]);
        pods[0].until_reaches(&pods[1]);
    });
}

/// Killed, and not started again: what nodes send that come later is not dropped for ever.
#[test]
fn a_guard_that_is_kept_is_renewed_and_one_that_is_left_behind_goes_by_itself() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (node, stranger) = (cluster.node(1), cluster.node(66));
        node.start_with(&["--resync=3600"]);
        node.until_ready();
        let pod = node.pod();
        let guarded = "nft list set inet weft_guard guarded";
        node.until_says(guarded, "8472 timeout 1h15m", true);
        // Four seconds before less than an hour is left.
        node.netns.exec(
            "nft 'flush set inet weft_guard guarded; \
                  add element inet weft_guard guarded { 8472 timeout 3604s }'",
        );
        node.until_says(guarded, "8472 timeout 1h15m", true);

        tunnel_to(&stranger, &node, "192.168.9.66");
        let talk = Talk::new(&stranger, &pod);
        is_dropped(&talk, &node);
        node.kill9();
        is_dropped(&talk, &node);
        // What an hour does.
        node.netns.exec("nft flush set inet weft_guard guarded");
        wait_until("a stranger is let in", LIMIT, || talk.is_heard());
        node.start();
        node.until_ready();
        while talk.to.recv(&mut [0; 16]).is_ok() {}
        is_dropped(&talk, &node);
    });
}

/// The gap: from the moment that a peer sends from another address until its lease says so.
#[test]
fn a_peer_that_moved_is_a_stranger_until_its_lease_arrives() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(1);
        let peer = cluster.node(66);
        cluster.put_peer(166, &lease_with("192.168.9.66", MAC));
        tunnel_to(&peer, &nodes[0], "192.168.9.66");
        let talk = Talk::new(&peer, &pods[0]);
        wait_until("a peer's packets come through", LIMIT, || talk.is_heard());
        while talk.to.recv(&mut [0; 16]).is_ok() {}

        peer.netns.exec("ip addr add 192.168.9.67/24 dev eth0");
        tunnel_to(&peer, &nodes[0], "192.168.9.67");
        is_dropped(&talk, &nodes[0]);
        cluster.put_peer(166, &lease_with("192.168.9.67", MAC));
        wait_until("the gap ends", LIMIT, || talk.is_heard());
    });
}

/// A node behind a translation that it cannot see publishes an address that is not what its
/// packets come from: then nobody can tell strangers, and it is said.
#[test]
fn an_overwritten_public_address_turns_the_guard_off() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, _pods) = cluster.of(1);
        assert_eq!(nodes[0].status()["guard"]["on"], true);
        let mut behind = cluster.node(2);
        behind.flags.push("--public-ip=203.0.113.7".to_owned());
        behind.start();
        behind.until_ready();
        wait_until("the guard is off", LIMIT, || {
            nodes[0].status()["guard"]["on"] == false
        });
        let fdb = "bridge fdb show dev flannel.1";
        nodes[0].until_says(fdb, "dst 203.0.113.7", true);
    });
}
