//! Two nodes with a pod each, joined by a wire.
//!
//! ```text
//! pod ─ eth0 ══ pod0 ─ cni0 (node) eth0 ══ eth0 (node) cni0 ─ pod0 ══ eth0 ─ pod
//!                                   the wire
//! ```
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use weft_netns::{Netns, Running, World, wait_until, wait_until_answers};

use super::Contestant;
use super::Daemon;
use super::tcp::IPERF_PORT;

const PATIENCE: Duration = Duration::from_secs(10);
/// What an Ethernet carries.
pub(super) const WIRE_MTU: u16 = 1500;

/// Lines of shell that make a namespace forward, whichever way packets come.
const FORWARDING: &str = "echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
    echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter
    echo 0 > /proc/sys/net/ipv4/conf/default/rp_filter";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// What lies between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// A veth pair, which hands on superpackets whole.
    Virtual,
    /// A veth pair that carries what a wire carries: packets of 1500 bytes, merged on arrival.
    Real,
    /// The same without the merging.
    Unmerged,
    /// A router, which a test makes lose and disorder packets. They have 1500 bytes.
    Routed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub wire: Wire,
    /// Of the pods.
    pub inner: Family,
    /// Of the nodes.
    pub outer: Family,
}

/// A node and its pod.
#[derive(Debug)]
pub struct Side {
    pub pod: Netns,
    pub node: Netns,
    pub setting: Setting,
    /// 1 or 2.
    number: u8,
}

#[derive(Debug)]
pub struct Site {
    pub contestant: Contestant,
    pub setting: Setting,
    pub one: Side,
    pub two: Side,
    /// Between the nodes, on a routed wire.
    pub router: Option<Netns>,
    /// Of the contestant: one a node, or none.
    pub daemons: Vec<Daemon>,
    _iperf: [Running; 2],
}

impl Site {
    /// Namespaces are named after `tag`, which must be one of its kind.
    #[track_caller]
    pub fn build(world: &World, tag: &str, contestant: Contestant, setting: Setting) -> Self {
        let side = |number| Side {
            pod: world.netns(&format!("{tag}-pod-{number}")),
            node: world.netns(&format!("{tag}-node-{number}")),
            setting,
            number,
        };
        let (one, two) = (side(1), side(2));
        let router = match setting.wire {
            Wire::Virtual | Wire::Real | Wire::Unmerged => {
                lay_wire(&one, &two);
                None
            }
            Wire::Routed => Some(route_between(
                world.netns(&format!("{tag}-router")),
                [&one, &two],
            )),
        };
        let mtu = contestant.mtu(setting.outer);
        for side in [&one, &two] {
            side.furnish(mtu);
        }
        for (from, to) in [(&one, &two), (&two, &one)] {
            from.node.enter(|| wait_until_answers(to.underlay()));
        }
        let daemons = contestant.join(world, [&one, &two], mtu);
        one.pod.enter(|| wait_until_answers(two.pod_address()));
        let iperf = [&one, &two].map(iperf_server);
        Self {
            contestant,
            setting,
            one,
            two,
            router,
            daemons,
            _iperf: iperf,
        }
    }
}

impl Side {
    /// Of all pods of the cluster.
    pub fn network(&self) -> &'static str {
        match self.setting.inner {
            Family::V4 => "10.244.0.0/16",
            Family::V6 => "fd10:244::/48",
        }
    }

    /// Of this node's pods.
    pub fn subnet(&self) -> String {
        match self.setting.inner {
            Family::V4 => format!("10.244.{}.0/24", self.number),
            Family::V6 => format!("fd10:244:0:{}::/64", self.number),
        }
    }

    /// The subnet's first address, which the node's overlay device has.
    pub fn overlay(&self) -> IpAddr {
        self.in_subnet(0)
    }

    pub fn gateway(&self) -> IpAddr {
        self.in_subnet(1)
    }

    pub fn pod_address(&self) -> IpAddr {
        self.in_subnet(2)
    }

    fn in_subnet(&self, host: u8) -> IpAddr {
        match self.setting.inner {
            Family::V4 => Ipv4Addr::new(10, 244, self.number, host).into(),
            Family::V6 => {
                Ipv6Addr::new(0xfd10, 0x244, 0, self.number.into(), 0, 0, 0, host.into()).into()
            }
        }
    }

    /// The node's own address, for tunnels.
    pub fn underlay(&self) -> IpAddr {
        self.node_address(self.setting.outer)
    }

    /// The node's own address of either family: it has both.
    pub fn node_address(&self, family: Family) -> IpAddr {
        let link = match self.setting.wire {
            Wire::Virtual | Wire::Real | Wire::Unmerged => 0,
            Wire::Routed => self.number,
        };
        underlay(family, link, self.number)
    }

    /// 32 or 128.
    pub fn inner_bits(&self) -> u8 {
        match self.setting.inner {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The node's loopback and bridge, and the pod.
    fn furnish(&self, mtu: u16) {
        let Self { pod, node, .. } = self;
        let (gateway, address) = (self.gateway(), self.pod_address());
        let length = match self.setting.inner {
            Family::V4 => 24,
            Family::V6 => 64,
        };
        let nodad = match self.setting.inner {
            Family::V4 => "",
            Family::V6 => "nodad",
        };
        let pod_path = pod.path().display();
        node.exec(&format!(
            "ip link set lo up
             {FORWARDING}
             ip link add cni0 mtu {mtu} type bridge
             ip link set cni0 up
             ip link add pod0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod_path}
             ip link set pod0 master cni0 up
             ip addr add {gateway}/{length} dev cni0 {nodad}"
        ));
        // What one connection has suffered, the next one must not begin with. iperf3 chooses its
        // congestion control when connected, but a connection that began under BBR stays paced for
        // good, with a timer for every superpacket: it begins under one that never paces.
        pod.exec(&format!(
            "echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save
             echo reno > /proc/sys/net/ipv4/tcp_congestion_control
             ip link set lo up
             ip link set eth0 up
             ip addr add {address}/{length} dev eth0 {nodad}
             ip route add default via {gateway}"
        ));
    }
}

fn underlay(family: Family, link: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 168, 100 + link, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x100, 0, link.into(), 0, 0, 0, host.into()).into(),
    }
}

/// A line of shell that gives a device its addresses.
fn add_addresses(device: &str, addresses: [IpAddr; 2]) -> String {
    let [v4, v6] = addresses;
    format!("ip addr add {v4}/24 dev {device}; ip addr add {v6}/64 dev {device} nodad")
}

const BOTH: [Family; 2] = [Family::V4, Family::V6];

fn lay_wire(one: &Side, two: &Side) {
    one.node.exec(&format!(
        "ip link add eth0 mtu {WIRE_MTU} type veth peer name eth0 netns {}",
        two.node.path().display()
    ));
    for side in [one, two] {
        let addresses = add_addresses("eth0", BOTH.map(|family| side.node_address(family)));
        side.node.exec(&format!("ip link set eth0 up; {addresses}"));
        match side.setting.wire {
            Wire::Virtual => {}
            Wire::Real | Wire::Routed => carry_real_packets(&side.node, "eth0", "on"),
            Wire::Unmerged => carry_real_packets(&side.node, "eth0", "off"),
        }
    }
}

/// The router has .254 on both links.
fn route_between(router: Netns, sides: [&Side; 2]) -> Netns {
    router.exec(&format!("ip link set lo up\n{FORWARDING}"));
    for side in sides {
        let port = format!("eth{}", side.number);
        let routers = BOTH.map(|family| underlay(family, side.number, 254));
        router.exec(&format!(
            "ip link add {port} mtu {WIRE_MTU} type veth peer name eth0 netns {}
             ip link set {port} up
             {}",
            side.node.path().display(),
            add_addresses(&port, routers)
        ));
        let addresses = add_addresses("eth0", BOTH.map(|family| side.node_address(family)));
        let [v4, v6] = routers;
        side.node.exec(&format!(
            "ip link set eth0 up
             {addresses}
             ip route add default via {v4}
             ip route add default via {v6}"
        ));
        carry_real_packets(&router, &port, "on");
        carry_real_packets(&side.node, "eth0", "on");
    }
    router
}

fn carry_real_packets(netns: &Netns, device: &str, gro: &str) {
    netns.exec(&format!(
        "ethtool -K {device} tso off gso off tx-udp-segmentation off gro {gro}"
    ));
}

fn iperf_server(side: &Side) -> Running {
    let server = side.pod.spawn(&format!("iperf3 -s -p {IPERF_PORT}"));
    let sockets = format!("/proc/{}/net/tcp6", server.pid());
    let listening = format!(":{IPERF_PORT:04X} 0000000");
    wait_until("iperf3 listens", PATIENCE, || {
        std::fs::read_to_string(&sockets).is_ok_and(|table| table.contains(&listening))
    });
    server
}
