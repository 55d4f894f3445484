//! The result of an ADD, in one form of our own, read from and written to every version's shape.

mod read;
mod write;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// What a pod has been given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Address>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// Colon-separated; empty where unknown.
    pub mac: String,
    pub mtu: Option<u32>,
    /// The namespace as the runtime named it; empty for an interface of the host.
    pub sandbox: String,
    pub socket_path: String,
    pub pci_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index into the interfaces; absent is not 0.
    pub interface: Option<usize>,
    /// Host bits are kept: this is the address and the length of its subnet.
    pub address: IpNetwork,
    pub gateway: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Host bits are kept as given.
    pub dst: IpNetwork,
    pub gw: Option<IpAddr>,
    pub mtu: Option<u32>,
    pub advmss: Option<u32>,
    pub priority: Option<u32>,
    pub table: Option<u32>,
    pub scope: Option<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    pub nameservers: Vec<String>,
    pub domain: String,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Route {
    pub fn to(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Self {
            dst,
            gw,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }

    pub fn is_default(&self) -> bool {
        self.dst.prefix() == 0 && self.dst.ip().is_unspecified()
    }
}

impl Dns {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Outcome {
    /// The addresses of the interface `ifname` in the pod, as the later plugins of a chain see
    /// them: an address that names no interface, or one that is not there, counts as the pod's.
    pub fn addresses_in_pod(&self, ifname: &str) -> impl Iterator<Item = &Address> {
        self.ips.iter().filter(move |ip| {
            let named = ip.interface.and_then(|index| self.interfaces.get(index));
            named.is_none_or(|named| named.name == ifname && !named.sandbox.is_empty())
        })
    }
}
