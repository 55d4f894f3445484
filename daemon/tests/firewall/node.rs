//! A node between its pods, another node's pods and the world. The test itself is the node.
//!
//! ```text
//!  pod 10.244.3.5 ──┐                       ┌── remote 10.244.7.9 (by way of the node's 10.244.3.0)
//!  fd10:244:0:3::5  │                       │   fd10:244:0:7::9
//!                   ├── node 10.244.3.1 ────┤
//!                   │        192.0.2.1      │
//!                   │        2001:db8::1    └── outside 192.0.2.9, 2001:db8::9
//!                   └──────────── lan 198.51.100.9, 2001:db8:5::9: to be spared
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;

use weft_netns::{Netns, UdpResponder, World, ask_udp, wait_until_answers};

pub(crate) struct Node<'a> {
    world: &'a World,
    pub(crate) pod: Netns,
    pub(crate) remote: Netns,
    pub(crate) outside: Netns,
    pub(crate) lan: Netns,
    _responders: Vec<UdpResponder>,
}

pub(crate) const POD: [&str; 2] = ["10.244.3.5", "fd10:244:0:3::5"];
pub(crate) const REMOTE: [&str; 2] = ["10.244.7.9", "fd10:244:0:7::9"];
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
pub(crate) const LAN: [&str; 2] = ["198.51.100.9", "2001:db8:5::9"];
/// The node's own addresses towards each of them.
pub(crate) const NODE_TO_REMOTE: [&str; 2] = ["10.99.0.1", "fd99::1"];
pub(crate) const NODE_TO_OUTSIDE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const NODE_TO_LAN: [&str; 2] = ["198.51.100.1", "2001:db8:5::1"];

impl<'a> Node<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        world.exec(
            "echo 1 > /proc/sys/net/ipv4/ip_forward
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        );
        // A neighbour is not asked for as long as the asker's own address is on trial.
        let no_trial = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad";
        world.exec(no_trial);
        let link = |name: &str, far: [&str; 2], near: [&str; 2], len: [u8; 2]| {
            let netns = world.netns(name);
            netns.exec(no_trial);
            world.exec(&format!(
                "ip link add {name} type veth peer name eth0 netns {name}"
            ));
            for v in 0..2 {
                world.exec(&format!(
                    "ip addr add {}/{} dev {name} nodad",
                    near[v], len[v]
                ));
                netns.exec(&format!("ip addr add {}/{} dev eth0 nodad", far[v], len[v]));
            }
            netns.exec("ip link set lo up; ip link set eth0 up");
            world.exec(&format!("ip link set {name} up"));
            for near in near {
                netns.exec(&format!("ip route add default via {near}"));
            }
            netns
        };
        let pod = link("pod", POD, ["10.244.3.1", "fd10:244:0:3::1"], [24, 64]);
        let outside = link("outside", OUTSIDE, NODE_TO_OUTSIDE, [24, 64]);
        let lan = link("lan", LAN, NODE_TO_LAN, [24, 64]);
        let remote = link("remote", ["10.99.0.2", "fd99::2"], NODE_TO_REMOTE, [24, 64]);
        for (v, address) in REMOTE.iter().enumerate() {
            remote.exec(&format!("ip addr add {address} dev lo nodad"));
            world.exec(&format!(
                "ip route add {address} via {}",
                ["10.99.0.2", "fd99::2"][v]
            ));
        }
        for (near, address) in NODE_TO_REMOTE.iter().zip(REMOTE) {
            remote.exec(&format!(
                "ip route replace default via {near} src {address}"
            ));
        }
        let everyone = [
            (&pod, POD),
            (&remote, REMOTE),
            (&outside, OUTSIDE),
            (&lan, LAN),
        ];
        let responders = everyone.into_iter().flat_map(|(netns, addresses)| {
            addresses.map(|address| {
                let address = SocketAddr::new(address.parse().unwrap(), 7).to_string();
                netns.enter(|| UdpResponder::bind(&address))
            })
        });
        let responders = responders.collect();
        for address in [POD, REMOTE, OUTSIDE, LAN].concat() {
            wait_until_answers(address.parse().unwrap());
        }
        Self {
            world,
            pod,
            remote,
            outside,
            lan,
            _responders: responders,
        }
    }

    /// The address `to` sees when somebody inside `from` asks; `None` is the node itself.
    pub(crate) fn seen(&self, from: Option<&Netns>, to: &str) -> io::Result<IpAddr> {
        let asked = SocketAddr::new(to.parse().unwrap(), 7).to_string();
        let answer = match from {
            Some(netns) => netns.enter(|| ask_udp(&asked)),
            None => thread::spawn(move || ask_udp(&asked)).join().unwrap(),
        };
        answer.map(|address| address.ip().to_canonical())
    }

    #[track_caller]
    pub(crate) fn assert_seen(&self, from: Option<&Netns>, to: &str, address: &str) {
        let who = from.map_or("the node", Netns::name);
        let seen = self.seen(from, to).unwrap_or_else(|error| {
            panic!(
                "{who} to {to}: {error}\n{}",
                self.world.exec("nft list ruleset; ip route")
            )
        });
        assert_eq!(seen, address.parse::<IpAddr>().unwrap(), "{who} to {to}");
    }

    #[track_caller]
    pub(crate) fn assert_silent(&self, from: Option<&Netns>, to: &str) {
        let seen = self.seen(from, to);
        assert!(seen.is_err(), "{to} answered: {seen:?}");
    }
}
