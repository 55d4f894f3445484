//! Whose packets leave under which address.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use weft_daemon::firewall::{Firewall, Spec};
use weft_netns::{World, in_world};

use crate::common::{dual_stack, ipv4_only, networks, reconciled};
use crate::node::{LAN, NODE_TO_LAN, NODE_TO_OUTSIDE, NODE_TO_REMOTE, Node, OUTSIDE, POD, REMOTE};

/// What every packet's fate must be, whoever made the rules.
fn assert_masqueraded_as_under_flannel(node: &Node<'_>, v: usize) {
    let (pod, remote, outside) = (Some(&node.pod), Some(&node.remote), Some(&node.outside));
    // A pod beyond the cluster, and to another node's pod.
    node.assert_seen(pod, OUTSIDE[v], NODE_TO_OUTSIDE[v]);
    node.assert_seen(pod, REMOTE[v], POD[v]);
    // Others to this node's pods: another node's pod, somebody outside, the node itself.
    node.assert_seen(outside, POD[v], OUTSIDE[v]);
    node.assert_seen(None, POD[v], ["10.244.3.1", "fd10:244:0:3::1"][v]);
    // By way of this node to another node's pod.
    node.assert_seen(outside, REMOTE[v], NODE_TO_REMOTE[v]);
    node.assert_seen(None, REMOTE[v], NODE_TO_REMOTE[v]);
    // Another node's pod to this one's, and by way of this node to the world.
    node.assert_seen(remote, POD[v], REMOTE[v]);
    node.assert_seen(remote, OUTSIDE[v], NODE_TO_OUTSIDE[v]);
}

#[test]
fn pods_keep_their_address_in_the_cluster_and_lose_it_beyond() {
    in_world(|world| {
        let node = Node::new(world);
        // Without any rules everybody is who they are.
        node.assert_seen(Some(&node.pod), OUTSIDE[0], POD[0]);
        reconciled(&mut Firewall::open().unwrap(), &dual_stack());
        for v in 0..2 {
            assert_masqueraded_as_under_flannel(&node, v);
        }
    });
}

#[test]
fn a_node_of_ipv4_alone_leaves_ipv6_as_it_is() {
    in_world(|world| {
        let node = Node::new(world);
        reconciled(&mut Firewall::open().unwrap(), &ipv4_only());
        assert_masqueraded_as_under_flannel(&node, 0);
        node.assert_seen(Some(&node.pod), OUTSIDE[1], POD[1]);
        node.assert_seen(Some(&node.outside), REMOTE[1], OUTSIDE[1]);
    });
}

#[test]
fn several_networks_are_one_cluster() {
    in_world(|world| {
        let node = Node::new(world);
        let spec = Spec {
            networks: networks(&[
                "10.244.0.0/21",
                "10.244.7.0/24",
                "fd10:244:0:3::/64",
                "fd10:244:0:7::/64",
            ]),
            ..dual_stack()
        };
        reconciled(&mut Firewall::open().unwrap(), &spec);
        for v in 0..2 {
            assert_masqueraded_as_under_flannel(&node, v);
        }
    });
}

#[test]
fn what_is_spared_sees_the_pods_themselves() {
    in_world(|world| {
        let node = Node::new(world);
        let mut spec = dual_stack();
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &spec);
        for v in 0..2 {
            node.assert_seen(Some(&node.pod), LAN[v], NODE_TO_LAN[v]);
        }
        spec.masquerade.as_mut().unwrap().spared =
            networks(&["198.51.100.0/24", "2001:db8:5::/64"]);
        reconciled(&mut firewall, &spec);
        for v in 0..2 {
            node.assert_seen(Some(&node.pod), LAN[v], POD[v]);
            node.assert_seen(Some(&node.pod), OUTSIDE[v], NODE_TO_OUTSIDE[v]);
        }
    });
}

#[test]
fn a_packet_with_kubernetes_mark_is_left_to_kubernetes() {
    in_world(|world| {
        let node = Node::new(world);
        reconciled(&mut Firewall::open().unwrap(), &dual_stack());
        // Beside other bits, too: flannel's nft mode compares the whole mark.
        world.exec(
            "nft 'add table inet marker; add chain inet marker c { type filter hook forward priority -10; }
                  add rule inet marker c iifname pod oifname outside meta mark set 0x24000'",
        );
        for v in 0..2 {
            node.assert_seen(Some(&node.pod), OUTSIDE[v], POD[v]);
        }
    });
}

#[test]
fn what_a_pod_sends_to_a_group_keeps_its_address() {
    in_world(|world| {
        // What is routed to a group at this node goes outside, as a multicast router's packets do.
        let node = Node::new(world);
        reconciled(&mut Firewall::open().unwrap(), &dual_stack());
        world.exec(
            "nft 'add table ip probe; add set ip probe seen { type ipv4_addr; flags dynamic; }
                  add chain ip probe c { type filter hook postrouting priority 200; }
                  add rule ip probe c ip daddr 224.1.2.3 add @seen { ip saddr }'
             ip addr add 10.244.3.77/32 dev lo
             ip route add 224.0.0.0/4 dev outside",
        );
        let socket = UdpSocket::bind("10.244.3.77:0").unwrap();
        socket.send_to(b"x", "224.1.2.3:9").unwrap();
        let seen = world.exec("nft list set ip probe seen");
        assert!(seen.contains("10.244.3.77"), "{seen}");
        drop(node);
    });
}

/// The rules that flanneld makes with iptables, and ours: the same probes, the same answers.
#[test]
fn every_probe_is_answered_as_under_flanneld_s_own_rules() {
    in_world(|world| {
        let node = Node::new(world);
        let probes = || {
            let everyone = [
                None,
                Some(&node.pod),
                Some(&node.remote),
                Some(&node.outside),
                Some(&node.lan),
            ];
            let mut seen = Vec::new();
            for v in 0..2 {
                for from in everyone {
                    for to in [POD[v], REMOTE[v], OUTSIDE[v], LAN[v]] {
                        seen.push((
                            from.map(|n| n.name().to_owned()),
                            to,
                            node.seen(from, to).ok(),
                        ));
                    }
                }
            }
            seen
        };
        for (program, net, pod, groups) in [
            ("iptables", "10.244.0.0/16", "10.244.3.0/24", "224.0.0.0/4"),
            (
                "ip6tables",
                "fd10:244::/48",
                "fd10:244:0:3::/64",
                "ff00::/8",
            ),
        ] {
            iptables_of_flannel(world, program, net, pod, groups);
        }
        let under_flannel = probes();
        assert!(
            under_flannel.iter().all(|(.., seen)| seen.is_some()),
            "{under_flannel:?}"
        );

        reconciled(&mut Firewall::open().unwrap(), &dual_stack());
        assert!(
            !world
                .exec("iptables-save; ip6tables-save")
                .contains("FLANNEL")
        );
        assert_eq!(probes(), under_flannel);
    });
}

pub(crate) fn iptables_of_flannel(
    world: &World,
    program: &str,
    net: &str,
    pod: &str,
    groups: &str,
) {
    let masq = "-m comment --comment \"flanneld masq\"";
    let forward = "-m comment --comment \"flanneld forward\"";
    world.exec(&format!(
        "{program}-restore --noflush <<'EOF'
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING {masq} -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN
-A FLANNEL-POSTRTG -s {pod} -d {net} {masq} -j RETURN
-A FLANNEL-POSTRTG -s {net} -d {pod} {masq} -j RETURN
-A FLANNEL-POSTRTG ! -s {net} -d {pod} {masq} -j RETURN
-A FLANNEL-POSTRTG -s {net} ! -d {groups} {masq} -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {net} -d {net} {masq} -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD {forward} -j FLANNEL-FWD
-A FLANNEL-FWD -s {net} {forward} -j ACCEPT
-A FLANNEL-FWD -d {net} {forward} -j ACCEPT
COMMIT
EOF"
    ));
}

#[test]
fn no_connection_begins_unmasqueraded_while_the_rules_change() {
    in_world(|world| {
        let node = Node::new(world);
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &ipv4_only());
        let mut spared = ipv4_only();
        spared.masquerade.as_mut().unwrap().spared = networks(&["203.0.113.0/24"]);
        let wider = Spec {
            networks: networks(&["10.244.0.0/16", "10.243.0.0/16"]),
            ..ipv4_only()
        };
        let mut plain = ipv4_only();
        plain.masquerade.as_mut().unwrap().random_fully = false;
        let specs = [spared, wider, plain, ipv4_only()];

        let (sent, seen) = while_connections_begin(&node, || {
            for round in 0..100 {
                let report = reconciled(&mut firewall, &specs[round % specs.len()]);
                assert_eq!(report.generations.len(), 1, "{report:?}");
            }
        });
        assert_all_masqueraded(sent, &seen);
    });
}

#[test]
fn no_connection_begins_unmasqueraded_while_flanneld_s_rules_are_taken_over() {
    in_world(|world| {
        let node = Node::new(world);
        let flannels = || {
            let (net, pod) = ("10.244.0.0/16", "10.244.3.0/24");
            iptables_of_flannel(world, "iptables", net, pod, "224.0.0.0/4");
        };
        flannels();
        let (sent, seen) = while_connections_begin(&node, || {
            for _ in 0..20 {
                let mut firewall = Firewall::open().unwrap();
                let report = reconciled(&mut firewall, &ipv4_only());
                assert_eq!(report.generations.len(), 2, "{report:?}");
                // And back, as an operator would go.
                flannels();
                firewall.remove().unwrap();
            }
        });
        assert_all_masqueraded(sent, &seen);
    });
}

/// The measure itself: rules that go and come in two steps are seen to be gone.
#[test]
fn a_connection_that_begins_between_two_steps_would_be_seen() {
    in_world(|world| {
        let node = Node::new(world);
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &ipv4_only());
        let (_, seen) = while_connections_begin(&node, || {
            for _ in 0..20 {
                world.exec("nft flush chain ip flannel-ipv4 postrtg");
                reconciled(&mut firewall, &ipv4_only());
            }
        });
        let node: IpAddr = NODE_TO_OUTSIDE[0].parse().unwrap();
        assert!(seen.iter().any(|from| *from != node));
    });
}

/// Has a pod begin connection after connection with somebody outside meanwhile, and works until
/// there are enough: how many began, and from where each came.
fn while_connections_begin(node: &Node<'_>, mut work: impl FnMut()) -> (usize, Vec<IpAddr>) {
    // Every datagram is a connection of its own, and whoever gets it notes its sender.
    let sink = node
        .outside
        .enter(|| UdpSocket::bind("192.0.2.9:9000").unwrap());
    sink.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let is_over = AtomicBool::new(false);
    let sent = AtomicUsize::new(0);
    let send = |what: &[u8]| {
        let socket = UdpSocket::bind("10.244.3.5:0").unwrap();
        socket.send_to(what, "192.0.2.9:9000").unwrap();
    };
    let begin_and_begin = || {
        while !is_over.load(Ordering::Relaxed) {
            send(b"x");
            sent.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_micros(200));
        }
        send(b"end");
    };
    let note_senders = || {
        let mut seen = Vec::new();
        let mut bytes = [0; 8];
        loop {
            let (length, from) = sink.recv_from(&mut bytes).unwrap();
            if &bytes[..length] == b"end" {
                return seen;
            }
            seen.push(from.ip());
        }
    };
    thread::scope(|scope| {
        let sender = scope.spawn(|| node.pod.enter(begin_and_begin));
        let receiver = scope.spawn(note_senders);
        while sent.load(Ordering::Relaxed) <= ENOUGH {
            work();
        }
        is_over.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        (sent.load(Ordering::Relaxed), receiver.join().unwrap())
    })
}

fn assert_all_masqueraded(sent: usize, seen: &[IpAddr]) {
    let node: IpAddr = NODE_TO_OUTSIDE[0].parse().unwrap();
    let bare = seen.iter().filter(|from| **from != node).count();
    assert_eq!((bare, seen.len()), (0, sent), "of {sent} connections");
}

const ENOUGH: usize = 100;
