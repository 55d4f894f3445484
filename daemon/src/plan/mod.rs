//! What the kernel should hold, as values: a pure function of configuration, own lease, peers
//! and the ground they stand on. Nothing here looks at the kernel or changes it.

mod direct;
mod firewall;
mod overlay;
#[cfg(test)]
mod tests;
mod tunnel;

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use weft_net::Mac;

use crate::conf::{Backend, NetConf};
use crate::lease::{Lease, Published, Vtep};
use crate::store::Peers;

pub use overlay::Overlay;
pub use tunnel::device_name;

/// Everything the plan depends on.
#[derive(Debug, Clone)]
pub struct Inputs {
    pub conf: Arc<NetConf>,
    pub own: Arc<Lease>,
    pub peers: Arc<Peers>,
    pub ground: Ground,
    pub wishes: Wishes,
    /// How packets get to peers' public addresses, where that matters (DirectRouting).
    pub ways: Ways,
    /// The peers are those of an earlier run: there may be more.
    pub remembered: bool,
}

/// The interface that packets leave the node by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    pub link: u32,
    pub mtu: u32,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// What the operator wants beyond the network's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    pub masquerade: bool,
    pub random_fully: bool,
    pub forward: bool,
    pub guard: bool,
    /// Destinations that are never masqueraded, beside the pod networks.
    pub spared: Vec<IpNetwork>,
    /// Outer checksums are left out: see [`Vxlan::checksums`].
    pub tunnel_checksums: bool,
    /// Unreachable route for what of our own subnet no pod has.
    pub blackhole: bool,
}

/// Which link leads to an address with no router between. Addresses that are not in it are
/// reached through one, or not at all.
pub type Ways = BTreeMap<IpAddr, u32>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    pub devices: Vec<Device>,
    /// Sorted by key; so are the next two.
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
    pub fdb: Vec<Forward>,
    pub firewall: crate::firewall::Spec,
    /// Shared with whoever carries it out.
    pub overlay: Option<Arc<Overlay>>,
    /// Of pods: the smaller one where two families differ.
    pub mtu: u32,
    pub skipped: Vec<Skipped>,
}

/// What packets to other nodes go into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub mtu: u32,
    /// Its own: one of each family that it carries.
    pub addresses: Vec<IpNetwork>,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Vxlan(Vxlan),
    /// A TUN: its packets are this process's business.
    Tun,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    pub vni: u32,
    pub local: IpAddr,
    pub lower: u32,
    pub port: u16,
    pub learning: bool,
    pub gbp: bool,
    pub mac: Mac,
    /// False where the kernel would get them wrong for packets that are also NATed.
    pub checksums: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub destination: IpNetwork,
    pub metric: Option<u32>,
    pub by: By,
}

/// How a route's packets leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// Into the tunnel device of a family, towards the peer's end of it.
    Tunnel { device: Family, end: IpAddr },
    /// Into the device that carries the family, and knows the peers itself.
    Overlay,
    /// Over a link of the underlay, straight to the peer.
    Link { link: u32, peer: IpAddr },
    /// Nowhere.
    Blackhole,
}

/// A permanent entry that spares asking for a peer's MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    pub device: Family,
    pub address: IpAddr,
    pub mac: Mac,
}

/// Where frames for a peer's MAC address go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    pub device: Family,
    pub mac: Mac,
    pub remote: IpAddr,
}

/// A peer that cannot be reached as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub subnet: IpNetwork,
    pub why: String,
}

impl Inputs {
    /// The same plan comes of both. What is shared is not compared value by value.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.conf, &other.conf)
            && (Arc::ptr_eq(&self.own, &other.own) || self.own == other.own)
            && Arc::ptr_eq(&self.peers, &other.peers)
            && self.ground == other.ground
            && self.wishes == other.wishes
            && self.ways == other.ways
            && self.remembered == other.remembered
    }
}

pub fn plan(inputs: &Inputs) -> Desired {
    let mut desired = match &inputs.conf.backend {
        Backend::Vxlan(vxlan) => tunnel::plan(inputs, vxlan),
        Backend::HostGw => direct::plan(inputs),
        Backend::Udp(udp) => overlay::plan(inputs, udp.port),
        Backend::Alloc => Desired {
            mtu: inputs.ground.mtu,
            ..Desired::default()
        },
    };
    if inputs.wishes.blackhole {
        desired.routes.extend(blackholes(&inputs.own));
    }
    desired.firewall = firewall::plan(inputs);
    desired.settle();
    desired
}

impl Desired {
    /// The error is for the operator: what is left for pods is less than IP can do with.
    pub fn check_mtu(&self, conf: &NetConf, ground: &Ground) -> Result<(), String> {
        let (family, least) = match conf.v6 {
            Some(_) => (Family::V6, 1280),
            None => (Family::V4, 68),
        };
        if self.mtu >= least {
            return Ok(());
        }
        Err(format!(
            "the underlay's MTU of {} leaves pods {} bytes behind the outer headers, and {family} \
             needs {least}; raise it on all nodes' interfaces and on what is between them (ip link \
             set DEVICE mtu {})",
            ground.mtu,
            self.mtu,
            ground.mtu + (least - self.mtu)
        ))
    }

    /// Sorts, and keeps the first of what the kernel can hold only once: two peers with one
    /// subnet, or with one MAC address, which it would answer with success and ignore.
    fn settle(&mut self) {
        self.routes.sort_by_key(Route::key);
        self.routes.dedup_by_key(|route| route.key());
        self.neighbours.sort_unstable();
        self.neighbours.dedup_by_key(|entry| entry.key());
        self.fdb.sort_unstable();
        self.fdb.dedup_by_key(|entry| entry.key());
        self.skipped.sort_by_key(|skipped| skipped.subnet);
    }
}

impl Device {
    /// Those that it carries.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        self.addresses.iter().map(|net| Family::of(net.ip()))
    }
}

impl Route {
    pub fn key(&self) -> (IpNetwork, Option<u32>) {
        (self.destination, self.metric)
    }
}

impl Neighbour {
    pub fn key(&self) -> (Family, IpAddr) {
        (self.device, self.address)
    }
}

impl Forward {
    pub fn key(&self) -> (Family, Mac) {
        (self.device, self.mac)
    }
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The metric that the kernel gives an IPv6 route of no other.
    pub fn metric(self) -> Option<u32> {
        match self {
            Self::V4 => None,
            Self::V6 => Some(1024),
        }
    }
}

/// One family's part of a peer's lease.
#[derive(Debug, Clone, Copy)]
struct Side<'a> {
    family: Family,
    subnet: IpNetwork,
    public: IpAddr,
    backend: &'a Published,
}

impl Side<'_> {
    /// Both families' parts that the network has and the lease holds; what lacks its address
    /// is told.
    fn of<'a>(lease: &'a Lease, conf: &NetConf, skipped: &mut Vec<Skipped>) -> Vec<Side<'a>> {
        let parts = [
            (
                Family::V4,
                lease
                    .subnets
                    .v4
                    .map(IpNetwork::V4)
                    .filter(|_| conf.v4.is_some()),
                lease.attrs.public_ip.map(IpAddr::V4),
            ),
            (
                Family::V6,
                lease
                    .subnets
                    .v6
                    .map(IpNetwork::V6)
                    .filter(|_| conf.v6.is_some()),
                lease.attrs.public_ipv6.map(IpAddr::V6),
            ),
        ];
        let mut sides = Vec::with_capacity(2);
        for (family, subnet, public) in parts {
            match (subnet, public) {
                (Some(subnet), Some(public)) => sides.push(Side {
                    family,
                    subnet,
                    public,
                    backend: &lease.attrs.backend,
                }),
                (Some(subnet), None) => skipped.push(Skipped {
                    subnet,
                    why: format!("it publishes no {family} address"),
                }),
                (None, _) => {}
            }
        }
        sides
    }

    fn vtep(&self) -> Option<Vtep> {
        match self.backend {
            Published::Vxlan { v4, v6 } => match self.family {
                Family::V4 => *v4,
                Family::V6 => *v6,
            },
            Published::Nothing | Published::HostGw | Published::Other(_) => None,
        }
    }

    fn skip(&self, why: String) -> Skipped {
        Skipped {
            subnet: self.subnet,
            why,
        }
    }
}

/// Finds what occurs twice.
#[derive(Debug)]
struct Seen<K> {
    keys: HashSet<K>,
}

impl<K: Hash + Eq> Seen<K> {
    fn none() -> Self {
        Self {
            keys: HashSet::new(),
        }
    }

    fn twice(&mut self, key: K) -> bool {
        !self.keys.insert(key)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

fn blackholes(own: &Lease) -> Vec<Route> {
    let nets = [
        own.subnets.v4.map(IpNetwork::V4),
        own.subnets.v6.map(IpNetwork::V6),
    ];
    nets.into_iter()
        .flatten()
        .map(|destination| Route {
            destination,
            // The kernel's own route to the pods' bridge has to win.
            metric: Some(BLACKHOLE_METRIC),
            by: By::Blackhole,
        })
        .collect()
}

const BLACKHOLE_METRIC: u32 = 4096;
