//! A lease: which subnets a node holds, and what it publishes about itself.

mod key;
mod mac;
mod value;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use weft_net::Mac;

use crate::store::{Claim, Offer};

pub use mac::derived as derived_mac;

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
    /// Where the backend udp listens. Flannel's own publishes nothing, and so no port.
    pub udp_port: Option<u16>,
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

impl Subnets {
    /// Whether an address of one lies in the other, in either family.
    pub fn overlaps(&self, other: &Self) -> bool {
        let v4 = self.v4.zip(other.v4);
        let v6 = self.v6.zip(other.v6);
        v4.is_some_and(|(one, two)| one.overlaps(two))
            || v6.is_some_and(|(one, two)| one.overlaps(two))
    }
}

impl Claim {
    /// What is published with `subnets`. `existing` is what the node's own lease says already:
    /// peers have its MAC addresses in their tables, so they are kept.
    pub fn attrs(&self, subnets: Subnets, existing: Option<&Attrs>) -> Attrs {
        let published = existing.map(|attrs| &attrs.backend);
        let backend = match self.offer {
            Offer::Nothing | Offer::Udp { .. } => Published::Nothing,
            Offer::HostGw => Published::HostGw,
            Offer::Vxlan { vni, v4, v6 } => {
                let (known_v4, known_v6) = match published {
                    Some(Published::Vxlan { v4, v6 }) => (*v4, *v6),
                    _ => (None, None),
                };
                let vtep = |known: Option<Vtep>, device: Option<Mac>, subnet: IpNetwork| Vtep {
                    vni: Some(vni),
                    mac: known
                        .map(|vtep| vtep.mac)
                        .or(device)
                        .unwrap_or_else(|| derived_mac(subnet, vni)),
                };
                Published::Vxlan {
                    v4: subnets.v4.map(|subnet| vtep(known_v4, v4, subnet.into())),
                    v6: subnets.v6.map(|subnet| vtep(known_v6, v6, subnet.into())),
                }
            }
        };
        Attrs {
            public_ip: self.public_ip,
            public_ipv6: self.public_ipv6,
            backend,
            extra: Some(Extra {
                identity: Some(self.identity.clone()),
                sources: self.sources.clone(),
                overwritten: self.overwritten,
                udp_port: match self.offer {
                    Offer::Udp { port } => Some(port),
                    Offer::Nothing | Offer::HostGw | Offer::Vxlan { .. } => None,
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests;
