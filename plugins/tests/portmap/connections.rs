//! Who reaches a mapped port, from where, and under which address the pod sees them.

use std::net::IpAddr;

use serde_json::{Value, json};
use weft_netns::{Need, TcpResponder, Verb, ask_tcp, ask_udp, in_world, skip_unless};

use crate::node::{Node, mapped, tcp, udp};

fn seen(answer: std::io::Result<std::net::SocketAddr>) -> Result<String, String> {
    let plain = |ip: IpAddr| ip.to_canonical().to_string();
    answer
        .map(|peer| plain(peer.ip()))
        .map_err(|error| error.to_string())
}

#[track_caller]
fn reached(answer: std::io::Result<std::net::SocketAddr>) -> String {
    seen(answer).unwrap()
}

#[test]
fn a_mapped_port_answers_from_everywhere() {
    in_world(|world| {
        let node = Node::new(world);
        let (pod, neighbour) = (node.pod(2), node.pod(3));
        let _serving = pod.serve();
        node.add(
            &pod,
            json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]),
        );

        let from_outside = |address| node.outside.enter(|| reached(ask_tcp(address)));
        assert_eq!(
            from_outside("10.9.0.1:8080"),
            "10.9.0.2",
            "the source is kept"
        );
        assert_eq!(from_outside("[fd09::1]:8080"), "fd09::2");
        assert_eq!(
            from_outside("10.1.0.1:8080"),
            "10.9.0.2",
            "any address of the host"
        );

        assert_eq!(
            reached(ask_tcp("127.0.0.1:8080")),
            "10.1.0.1",
            "the host by its loopback"
        );
        assert_eq!(
            reached(ask_tcp("10.9.0.1:8080")),
            "10.9.0.1",
            "the host by its address"
        );
        assert_eq!(reached(ask_tcp("[fd09::1]:8080")), "fd09::1");

        for address in ["10.1.0.1:8080", "10.9.0.1:8080"] {
            let itself = pod.netns.enter(|| reached(ask_tcp(address)));
            assert_eq!(itself, "10.1.0.1", "the pod itself");
            let other = neighbour.netns.enter(|| reached(ask_tcp(address)));
            assert_eq!(other, "10.1.0.1", "another pod of the subnet");
        }
        assert_eq!(
            pod.netns.enter(|| reached(ask_tcp("[fd01::1]:8080"))),
            "fd01::1"
        );
        assert_eq!(
            neighbour.netns.enter(|| reached(ask_tcp("[fd09::1]:8080"))),
            "fd01::1"
        );

        node.call(Verb::Check, &pod, mapped(tcp(8080))).ok();
        node.call(Verb::Del, &pod, mapped(tcp(8080))).ok();
        assert_eq!(node.elements(), Vec::<String>::new());
        assert!(node.outside.enter(|| ask_tcp("10.9.0.1:8080")).is_err());
    });
}

#[test]
fn other_protocols_and_ports_are_left_alone() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let _serving = pod.serve();
        node.add(&pod, udp(8080));
        assert_eq!(
            node.outside.enter(|| reached(ask_udp("10.9.0.1:8080"))),
            "10.9.0.2"
        );
        assert_eq!(
            node.outside.enter(|| reached(ask_udp("[fd09::1]:8080"))),
            "fd09::2"
        );
        assert_eq!(reached(ask_udp("127.0.0.1:8080")), "10.1.0.1");
        assert!(node.outside.enter(|| ask_tcp("10.9.0.1:8080")).is_err());
        assert!(node.outside.enter(|| ask_udp("10.9.0.1:8081")).is_err());
    });
}

/// GHSA-jv3w-x3r3-g6rm: the port alone was matched, whatever the destination.
#[test]
fn p14_a_mapped_port_of_another_machine_is_not_hijacked() {
    in_world(|world| {
        let node = Node::new(world);
        let (pod, neighbour) = (node.pod(2), node.pod(3));
        let _serving = pod.serve();
        node.add(&pod, tcp(8080));
        let _outside = node.outside.enter(|| TcpResponder::bind("[::]:8080"));

        assert_eq!(
            neighbour.netns.enter(|| reached(ask_tcp("10.9.0.2:8080"))),
            "10.1.0.3"
        );
        assert_eq!(
            neighbour.netns.enter(|| reached(ask_tcp("[fd09::2]:8080"))),
            "fd01::3"
        );
        assert_eq!(reached(ask_tcp("10.9.0.2:8080")), "10.9.0.1");
        let direct = node.outside.enter(|| seen(ask_tcp("10.1.0.2:8080")));
        assert!(
            direct.is_err(),
            "the pod's own port of that number is no mapped one"
        );
    });
}

#[test]
fn a_port_of_one_address_of_the_host_is_of_no_other() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let _serving = pod.serve();
        node.add(
            &pod,
            json!([{"hostPort": 8080, "containerPort": 80, "hostIP": "10.9.0.7"},
                   {"hostPort": 8081, "containerPort": 80, "hostIP": "fd09::1"},
                   {"hostPort": 8082, "containerPort": 80, "hostIP": "0.0.0.0"},
                   {"hostPort": 8083, "containerPort": 80, "hostIP": "::"}]),
        );
        let answers = |address| node.outside.enter(|| ask_tcp(address).is_ok());
        for address in [
            "10.9.0.7:8080",
            "[fd09::1]:8081",
            "10.9.0.1:8082",
            "[fd09::1]:8083",
        ] {
            assert!(answers(address), "{address}");
        }
        for address in [
            "10.9.0.1:8080",
            "10.9.0.1:8081",
            "[fd09::1]:8082",
            "10.9.0.1:8083",
        ] {
            assert!(!answers(address), "{address}");
        }
        let itself = pod.netns.enter(|| reached(ask_tcp("10.9.0.7:8080")));
        assert_eq!(itself, "10.1.0.1");
    });
}

#[test]
fn one_address_of_the_host_wins_over_all_of_them() {
    in_world(|world| {
        let node = Node::new(world);
        let (general, special) = (node.pod(2), node.pod(3));
        let _special = special.serve();
        node.add(
            &special,
            json!([{"hostPort": 8080, "containerPort": 80, "hostIP": "10.9.0.7"}]),
        );
        node.add(
            &general,
            json!([{"hostPort": 8080, "containerPort": 80, "hostIP": "0.0.0.0"}]),
        );
        assert!(node.outside.enter(|| ask_tcp("10.9.0.7:8080").is_ok()));
        assert!(
            node.outside.enter(|| ask_tcp("10.9.0.1:8080").is_err()),
            "nobody listens there"
        );
    });
}

#[test]
fn the_hosts_own_ipv6_loopback_refuses_at_once() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let _serving = pod.serve();
        node.add(&pod, tcp(8080));
        let refused = ask_tcp("[::1]:8080").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn everybody_or_nobody_is_masqueraded_on_demand() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let _serving = pod.serve();
        let with = |key: &str, value: bool| {
            let mut extra = mapped(tcp(8080));
            extra[key] = value.into();
            node.call(Verb::Add, &pod, extra.clone()).ok();
            node.call(Verb::Check, &pod, extra).ok();
        };
        with("masqAll", true);
        assert_eq!(
            node.outside.enter(|| reached(ask_tcp("10.9.0.1:8080"))),
            "10.1.0.1"
        );
        assert_eq!(
            node.outside.enter(|| reached(ask_tcp("[fd09::1]:8080"))),
            "fd01::1"
        );
        with("snat", false);
        assert_eq!(
            node.outside.enter(|| reached(ask_tcp("10.9.0.1:8080"))),
            "10.9.0.2"
        );
        let itself = pod.netns.enter(|| seen(ask_tcp("10.1.0.1:8080")));
        assert!(
            itself.is_err(),
            "nobody masquerades the pod to itself: {itself:?}"
        );
        node.del_in_ignorance(&pod);
        assert_eq!(node.elements(), Vec::<String>::new());
    });
}

/// A cluster service that leads to the same pod, by the same port, is no business of ours.
#[test]
fn what_others_translate_keeps_its_source() {
    in_world(|world| {
        let node = Node::new(world);
        let (pod, neighbour) = (node.pod(2), node.pod(3));
        let _serving = pod.serve();
        node.add(&pod, tcp(8080));
        world.exec(
            "nft 'add table ip services
             add chain ip services prerouting { type nat hook prerouting priority -110; }
             add rule ip services prerouting ip daddr 172.20.0.1 tcp dport 8080 dnat to 10.1.0.2:80'",
        );
        // Else the pod would answer its neighbour past the host.
        pod.netns.exec(
            "ip route add 10.1.0.1 dev eth0; ip route replace default via 10.1.0.1
             ip route del 10.1.0.0/24",
        );
        let by = |address: &str| neighbour.netns.enter(|| reached(ask_tcp(address)));
        assert_eq!(by("172.20.0.1:8080"), "10.1.0.3");
        assert_eq!(by("10.1.0.1:8080"), "10.1.0.1", "which ours is");
    });
}

/// With br_netfilter, what a bridge hands back to the port it came from stays a bridge's matter.
#[test]
fn with_br_netfilter_the_pod_reaches_itself_through_a_hairpin_port() {
    if !skip_unless(&[Need::File("/proc/sys/net/bridge/bridge-nf-call-iptables")]) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world);
        let (pod, neighbour) = (node.pod(2), node.pod(3));
        let _serving = pod.serve();
        world.exec(
            "echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
             echo 1 >/proc/sys/net/bridge/bridge-nf-call-ip6tables
             bridge link set dev veth2 hairpin on",
        );
        node.add(&pod, tcp(8080));
        for address in ["10.1.0.1:8080", "10.9.0.1:8080", "[fd01::1]:8080"] {
            pod.netns.enter(|| reached(ask_tcp(address)));
            neighbour.netns.enter(|| reached(ask_tcp(address)));
        }
    });
}

#[test]
fn the_guard_keeps_neighbours_off_the_hosts_loopback() {
    in_world(|world| {
        let node = Node::new(world);
        let (pod, neighbour) = (node.pod(2), node.pod(3));
        let _serving = pod.serve();
        let _secret = TcpResponder::bind("127.0.0.1:9000");
        node.add(&pod, tcp(8080));
        assert_eq!(
            world
                .exec("cat /proc/sys/net/ipv4/conf/br0/route_localnet")
                .trim(),
            "1"
        );
        // What a hostile pod would do: send to 127.0.0.1 by way of the bridge.
        neighbour.netns.exec(
            "ip address del 127.0.0.1/8 dev lo; ip route flush table local
             ip route add local 10.1.0.3 dev eth0 table local
             echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
             ip route add 127.0.0.1 via 10.1.0.1 dev eth0 src 10.1.0.3",
        );
        assert!(neighbour.netns.enter(|| ask_tcp("127.0.0.1:9000")).is_err());
        world.exec("nft flush chain inet weft_hostports guard");
        let open = neighbour.netns.enter(|| ask_tcp("127.0.0.1:9000"));
        assert!(
            open.is_ok(),
            "without the guard it is open, so this test shows something: {open:?}"
        );
    });
}

#[test]
fn conditions_hold_for_their_owner_only() {
    in_world(|world| {
        let node = Node::new(world);
        let (choosy, open) = (node.pod(2), node.pod(3));
        let _serving = (choosy.serve(), open.serve());
        let mut extra = mapped(tcp(8080));
        extra["conditionsV4"] = json!(["ip", "saddr", "!=", "{", "10.9.0.2,", "10.9.0.3", "}"]);
        node.call(Verb::Add, &choosy, extra.clone()).ok();
        node.call(Verb::Check, &choosy, extra.clone()).ok();
        node.add(&open, tcp(8081));

        let outside = |address| node.outside.enter(|| ask_tcp(address).is_ok());
        assert!(!outside("10.9.0.1:8080"), "the condition is not met");
        assert!(outside("[fd09::1]:8080"), "there is none for IPv6");
        assert!(outside("10.9.0.1:8081"), "it is none of the other's");
        assert_eq!(
            open.netns.enter(|| reached(ask_tcp("10.9.0.1:8080"))),
            "10.1.0.1"
        );
        assert_eq!(reached(ask_tcp("127.0.0.1:8080")), "10.1.0.1");

        node.del_in_ignorance(&choosy);
        assert!(
            !world
                .exec("nft list table inet weft_hostports")
                .contains("cond_")
        );
        assert!(outside("10.9.0.1:8081"));
        node.del_in_ignorance(&open);
        assert_eq!(node.elements(), Vec::<String>::new());
    });
}

#[test]
fn conditions_that_nft_refuses_leave_nothing() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let refused = |conditions: Value, why: &str| {
            let mut extra = mapped(tcp(8080));
            extra["conditionsV4"] = conditions;
            let failure = node.call(Verb::Add, &pod, extra).failure();
            assert!(failure.msg.contains(why), "{failure:?}");
            assert_eq!(world.exec("nft list tables").trim(), "", "{why}");
        };
        refused(json!(["ip", "sadr", "10.0.0.1"]), "nft refused");
        refused(
            json!(["ip", "saddr", "10.0.0.1;", "flush", "ruleset"]),
            "end the rule",
        );
        refused(json!(["ip", "saddr", "10.0.0.1", "accept"]), "nft refused");
    });
}

#[test]
fn p9_a_udp_sender_that_never_pauses_is_led_to_the_new_pod() {
    in_world(|world| {
        let node = Node::new(world);
        let (old, new) = (node.pod(2), node.pod(3));
        let _serving = (old.serve(), new.serve());
        let socket = node
            .outside
            .enter(|| std::net::UdpSocket::bind("10.9.0.2:5555").unwrap());
        socket
            .set_read_timeout(Some(std::time::Duration::from_millis(500)))
            .unwrap();
        let ask = || {
            socket.send_to(b"?", "10.9.0.1:8080").unwrap();
            socket.recv_from(&mut [0; 64]).is_ok()
        };
        let led_to = |pod: &str| {
            world
                .exec("conntrack -L -p udp 2>/dev/null")
                .contains(&format!("src={pod} "))
        };

        assert!(
            !ask(),
            "nobody is there, and this is what conntrack remembers"
        );
        node.add(&old, udp(8080));
        assert!(ask() && led_to("10.1.0.2"));
        node.call(Verb::Del, &old, json!({})).ok();
        assert!(!led_to("10.1.0.2"), "DEL forgets");
        node.add(&new, udp(8080));
        assert!(ask() && led_to("10.1.0.3"));
    });
}

/// The host's own traffic to that port of somebody else is tracked too, and stays so.
#[test]
fn tracked_connections_to_other_machines_are_kept() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let _serving = pod.serve();
        node.add(&pod, udp(1));
        let _dns = node
            .outside
            .enter(|| weft_netns::UdpResponder::bind("10.9.0.2:53"));
        ask_udp("10.9.0.2:53").unwrap();
        let kept = || {
            world
                .exec("conntrack -L -p udp 2>/dev/null")
                .contains("dst=10.9.0.2 sport=")
        };
        assert!(kept());
        node.add(&pod, udp(53));
        assert!(kept());
    });
}
