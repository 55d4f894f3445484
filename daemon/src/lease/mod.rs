//! A lease: which subnets a node holds, and what it publishes about itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use weft_net::Mac;

/// What one node holds. A store that is etcd always has the IPv4 part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Subnets {
    pub v4: Option<Ipv4Network>,
    pub v6: Option<Ipv6Network>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub subnets: Subnets,
    pub attrs: Attrs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    pub public_ip: Option<Ipv4Addr>,
    pub public_ipv6: Option<Ipv6Addr>,
    pub backend: Published,
    /// What weftd adds and flanneld's readers pass over.
    pub extra: Option<Extra>,
}

/// What a backend publishes for its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// udp and alloc publish not even their name.
    Nothing,
    Vxlan {
        v4: Option<Vtep>,
        v6: Option<Vtep>,
    },
    HostGw,
    /// A backend that is not ours: its name, for telling.
    Other(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtep {
    /// Versions of flanneld long gone publish none.
    pub vni: Option<u32>,
    pub mac: Mac,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extra {
    /// Who holds the lease, whatever its address: see [`Identity`].
    pub identity: Option<Identity>,
    /// The addresses that its encapsulated packets come from.
    pub sources: Vec<IpAddr>,
    /// Its public address is not what its packets come from, and it cannot tell from what.
    pub overwritten: bool,
}

/// A node, beyond its address. Both parts count: machines cloned with their machine-id differ
/// in name, and two clusters' nodes of one name differ in machine-id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub machine: String,
    pub node: String,
}

impl Published {
    /// As the configuration calls it.
    pub fn name(&self) -> &str {
        match self {
            Self::Nothing => "none (udp or alloc)",
            Self::Vxlan { .. } => "vxlan",
            Self::HostGw => "host-gw",
            Self::Other(name) => name,
        }
    }
}
