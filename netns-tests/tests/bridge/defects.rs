//! What the reference plugin gets wrong, each a test named after where it was told.

use std::fs;
use std::thread;

use serde_json::{Value, json};
use weft_netns::{Attachment, ping};

use crate::node::{SECOND, add, ip_of, network, reaches, set_sysctl, sysctl};
use crate::{dual_stack, in_node, reaches_in};

/// P5, plugins#756: whoever is remembered under an address used again blackholes it for 11 s.
#[test]
fn p5_an_address_used_again_is_reached_at_once_from_the_node_and_from_pods() {
    in_node(|world| {
        let neighbour = world.netns("neighbour");
        let chain = network(json!({}));
        add(&chain, &Attachment::new("neighbour", &neighbour));
        let pod = world.netns("pod");
        for remembering in ["cni0", "eth0"] {
            let line = "ip neighbour replace 10.22.0.3 lladdr 02:00:00:00:00:99 nud stale dev";
            if remembering == "cni0" {
                world.exec(&format!("{line} cni0"));
            } else {
                neighbour.exec(&format!("{line} eth0"));
            }
        }
        assert_eq!(
            ip_of(&add(&chain, &Attachment::new("c", &pod)), 0),
            "10.22.0.3"
        );
        reaches("10.22.0.3");
        reaches_in(&neighbour, "10.22.0.3");
    });
}

/// A pod's neighbours keep what they know of an address: its next owner has the same MAC.
#[test]
fn p5_the_next_owner_of_an_address_has_the_same_mac() {
    in_node(|world| {
        let one =
            json!({"subnet": "10.22.0.0/24", "rangeStart": "10.22.0.7", "rangeEnd": "10.22.0.7"});
        let chain = network(json!({"ipam": {"type": "host-local", "ranges": [[one]]}}));
        let mac = |id: &str| {
            let pod = world.netns(id);
            let who = Attachment::new(id, &pod);
            let result = add(&chain, &who);
            chain.del(&who).ok();
            result["interfaces"][2]["mac"].clone()
        };
        assert_eq!(mac("first"), mac("second"));
    });
}

/// P19: isDefaultGateway beside a default route of the address management: "file exists".
#[test]
fn p19_a_default_route_that_is_asked_for_twice_is_made_once() {
    in_node(|world| {
        let pod = world.netns("pod");
        let mut ipam = dual_stack();
        ipam["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
        add(&network(json!({"ipam": ipam})), &Attachment::new("c", &pod));
        assert_eq!(
            pod.exec("ip -4 route; ip -6 route")
                .matches("default")
                .count(),
            2
        );
    });
}

/// P7: the gateway's address was tentative, and silent, for one or two seconds.
#[test]
fn p7_the_gateway_of_the_first_ipv6_pod_answers_at_once() {
    in_node(|world| {
        let pod = world.netns("pod");
        add(
            &network(json!({"ipam": dual_stack()})),
            &Attachment::new("c", &pod),
        );
        let addresses = world.exec("ip -6 address show cni0 scope global");
        assert!(
            addresses.contains("fd22::1") && !addresses.contains("tentative"),
            "{addresses}"
        );
        reaches_in(&pod, "fd22::1");
    });
}

/// P8, podman#6114: a node that begins to forward IPv6 forgot what its routers had told it.
#[test]
fn p8_interfaces_that_listen_to_routers_go_on_listening() {
    in_node(|world| {
        let pod = world.netns("pod");
        world.exec("ip link add wan type veth peer name wan-far; ip link set wan up");
        world.exec("ip link set wan-far up; ip -6 route add default via fe80::1 dev wan proto ra");
        for link in ["wan", "wan-far"] {
            set_sysctl(&format!("net/ipv6/conf/{link}/accept_ra"), "1");
        }
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "0");
        add(
            &network(json!({"ipam": dual_stack()})),
            &Attachment::new("c", &pod),
        );
        assert_eq!(sysctl("net/ipv6/conf/wan/accept_ra"), "2");
        assert_eq!(
            sysctl("net/ipv6/conf/wan-far/accept_ra"),
            "1",
            "has learned nothing"
        );
        assert!(
            world
                .exec("ip -6 route")
                .contains("default via fe80::1 dev wan")
        );
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "1");
    });
}

/// plugins#160: a stray router advertisement gave pods addresses on top of the managed ones.
#[test]
fn plugins_160_a_pod_with_managed_addresses_takes_none_from_routers() {
    in_node(|world| {
        let pod = world.netns("pod");
        add(
            &network(json!({"ipam": dual_stack()})),
            &Attachment::new("c", &pod),
        );
        assert_eq!(pod.enter(|| sysctl("net/ipv6/conf/eth0/accept_ra")), "0");
    });
}

/// plugins#805: udev gave host links another MAC, and CHECK failed from then on.
#[test]
fn p10_links_have_addresses_that_udev_leaves_alone() {
    in_node(|world| {
        let pod = world.netns("pod");
        let result = add(&network(json!({})), &Attachment::new("c", &pod));
        let port = result["interfaces"][1]["name"].as_str().unwrap();
        world.exec("mount -t sysfs sysfs /sys");
        for link in ["cni0", port] {
            let kind =
                fs::read_to_string(format!("/sys/class/net/{link}/addr_assign_type")).unwrap();
            assert_eq!(
                kind.trim(),
                "3",
                "{link}: NET_ADDR_SET, as somebody chose it"
            );
        }
    });
}

/// P11: the bridge has the address of a subnet that the node had before.
#[test]
fn p11_an_address_of_another_subnet_is_explained_or_replaced() {
    in_node(|world| {
        let pod = world.netns("pod");
        world.exec("ip link add cni0 type bridge; ip link set cni0 up; ip address add 10.99.0.1/24 dev cni0");
        let who = Attachment::new("c", &pod);
        let failure = network(json!({})).add(&who);
        let failure = failure.failed().expect("a failure").failure();
        assert_eq!(failure.code, 7);
        assert!(
            failure
                .msg
                .contains("already has an IP address different from 10.22.0.1/24"),
            "{failure:?}"
        );
        assert!(
            failure
                .details
                .contains("ip address del 10.99.0.1/24 dev cni0"),
            "{failure:?}"
        );
        add(&network(json!({"forceAddress": true})), &who);
        let addresses = world.exec("ip -4 address show cni0");
        assert!(
            addresses.contains("10.22.0.1/24") && !addresses.contains("10.99"),
            "{addresses}"
        );
    });
}

/// P11, flannel#1850: the node got another lease, and no pod started any more.
#[test]
fn p11_an_earlier_lease_of_the_overlay_gives_way_when_its_last_pod_has_gone() {
    in_node(|world| {
        let of_lease = |subnet: &str| {
            network(
                json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]],
                "routes": [{"dst": "10.20.0.0/14"}]}}),
            )
        };
        let pods = world.many_netns("pod", 3);
        let who = |i: usize| Attachment::new(&format!("c{i}"), &pods[i]);
        let addresses = || world.exec("ip -4 address show cni0");
        let (old, new) = (of_lease("10.21.7.0/24"), of_lease("10.22.0.0/24"));
        add(&old, &who(0));
        add(&new, &who(1));
        assert!(
            addresses().contains("10.21.7.1/24"),
            "a pod still needs it: {}",
            addresses()
        );
        reaches_in(&pods[0], "10.21.7.1");
        reaches_in(&pods[1], "10.22.0.1");
        old.del(&who(0)).ok();
        new.del(&who(1)).ok();
        world.exec("ip address del 10.22.0.1/24 dev cni0");
        add(&new, &who(2));
        assert!(!addresses().contains("10.21.7.1"), "{}", addresses());
    });
}

/// A bridge that an earlier configuration made kept its MTU for ever.
#[test]
fn the_mtu_of_a_bridge_follows_the_configuration_as_far_as_its_pods_allow() {
    in_node(|world| {
        let pods = world.many_netns("pod", 3);
        let mtu = || {
            let links: Value = serde_json::from_str(&world.exec("ip -j link show cni0")).unwrap();
            links[0]["mtu"].as_u64()
        };
        let who = |i: usize| Attachment::new(&format!("c{i}"), &pods[i]);
        add(&network(json!({"mtu": 1450})), &who(0));
        assert_eq!(mtu(), Some(1450));
        add(&network(json!({"mtu": 1400})), &who(1));
        assert_eq!(mtu(), Some(1400), "lowered at once");
        add(&network(json!({"mtu": 8950})), &who(2));
        assert_eq!(
            mtu(),
            Some(1400),
            "a pod with 1400 would lose what is longer"
        );
        for i in 0..3 {
            network(json!({})).del(&who(i)).ok();
        }
        add(&network(json!({"mtu": 8950})), &who(0));
        assert_eq!(mtu(), Some(8950));
    });
}

#[test]
fn the_mtu_of_a_bridge_outlives_its_pods() {
    in_node(|world| {
        let pod = world.netns("pod");
        let chain = network(json!({"mtu": 1450}));
        let who = Attachment::new("c", &pod);
        add(&chain, &who);
        chain.del(&who).ok();
        assert!(world.exec("ip link show cni0").contains("mtu 1450"));
    });
}

#[test]
fn a_link_that_is_no_bridge_is_refused() {
    in_node(|world| {
        let pod = world.netns("pod");
        world.exec("ip link add cni0 type veth peer name far");
        let failure = network(json!({})).add(&Attachment::new("c", &pod));
        let failure = failure.failed().expect("a failure").failure();
        assert!(
            failure.code == 7 && failure.msg.contains("is not a bridge"),
            "{failure:?}"
        );
    });
}

#[test]
fn thirty_two_pods_at_once_share_one_bridge_and_one_table() {
    in_node(|world| {
        let pods = world.many_netns("pod", 32);
        let chain = network(json!({"ipam": dual_stack()}));
        thread::scope(|scope| {
            for (i, pod) in pods.iter().enumerate() {
                let chain = chain.clone();
                scope.spawn(move || chain.add(&Attachment::new(&format!("c{i}"), pod)).ok());
            }
        });
        let map = world.exec("nft list map inet weft_pods masquerade4");
        assert_eq!(map.matches("comment").count(), 32, "{map}");
        let table = world.exec("nft list table inet weft_pods");
        assert_eq!(table.matches("vmap").count(), 2, "{table}");
        assert_eq!(
            world.exec("ip -br link show master cni0").lines().count(),
            32
        );
        for i in 2..34 {
            ping(format!("10.22.0.{i}").parse().unwrap(), SECOND).expect("an answer");
        }
        thread::scope(|scope| {
            for (i, pod) in pods.iter().enumerate() {
                let chain = chain.clone();
                scope.spawn(move || chain.del(&Attachment::new(&format!("c{i}"), pod)).ok());
            }
        });
        assert!(!world.exec("ip -br link").contains("veth"));
        assert_eq!(
            world
                .exec("nft list table inet weft_pods")
                .matches("comment \"")
                .count(),
            1
        );
    });
}
