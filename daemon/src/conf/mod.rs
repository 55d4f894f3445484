//! The network's configuration (net-conf.json, or the key `config` of a store), checked: what
//! every part of the daemon reads, with nothing optional left that has a default.

mod backend;
mod error;
mod networks;
mod pool;
mod syntax;
mod write;

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde_json::Value;
use weft_cni::Object;

pub use error::Error;
pub use networks::leaves_networks_out;
pub(crate) use syntax::explain;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConf {
    /// None where EnableIPv4 is false.
    pub v4: Option<Pool4>,
    /// None unless EnableIPv6 is true.
    pub v6: Option<Pool6>,
    /// What counts as pods' addresses: the pools' networks first, and where somebody else gives
    /// out the subnets, there may be more.
    pub networks: Vec<IpNetwork>,
    pub backend: Backend,
}

/// The subnets that nodes are given, `min` to `max`, each of length `subnet_len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool4 {
    pub network: Ipv4Network,
    pub subnet_len: u8,
    pub min: Ipv4Addr,
    pub max: Ipv4Addr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool6 {
    pub network: Ipv6Network,
    pub subnet_len: u8,
    pub min: Ipv6Addr,
    pub max: Ipv6Addr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    Vxlan(Vxlan),
    HostGw,
    Udp(Udp),
    Alloc,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    pub vni: u32,
    /// The kernel's own default, 8472, where the configuration says 0 or nothing.
    pub port: u16,
    /// Of the underlay: the device gets less. None: that of the interface.
    pub mtu: Option<u32>,
    pub gbp: bool,
    pub learning: bool,
    pub direct_routing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Udp {
    pub port: u16,
}

/// How strictly a configuration is read, which depends on who gives out the subnets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks<'a> {
    /// The nodes themselves, through a store of keys: the subnets must add up.
    Leases,
    /// Somebody else (Kubernetes): what is said about subnets is read, and not judged.
    Assigned {
        /// The cluster's networks as found elsewhere, for a configuration that leaves a network
        /// out or calls it "auto".
        found: &'a [IpNetwork],
    },
}

impl NetConf {
    pub fn parse(text: &str, checks: Checks<'_>) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text).map_err(|why| explain(text, &why))?;
        let conf = Object::of(&value, "").map_err(|_| {
            Error::value("the configuration is not a JSON object", "begin it with {")
        })?;
        let usual = networks::families(&conf, checks);
        let with_v4 = truth(&conf, "EnableIPv4")?.unwrap_or(usual.0);
        let with_v6 = truth(&conf, "EnableIPv6")?.unwrap_or(usual.1);
        // What it switches is no choice here; a wrong type is told all the same.
        truth(&conf, "EnableNFTables")?;
        judge_families(with_v4, with_v6, checks)?;
        let v4 = with_v4.then(|| networks::v4(&conf, checks)).transpose()?;
        let v6 = with_v6.then(|| networks::v6(&conf, checks)).transpose()?;
        let pool4 = v4.iter().flatten().next();
        let pool6 = v6.iter().flatten().next();
        Ok(Self {
            v4: pool4.map(|n| pool::v4(&conf, *n, checks)).transpose()?,
            v6: pool6.map(|n| pool::v6(&conf, *n, checks)).transpose()?,
            networks: networks::all(v4.iter().flatten(), v6.iter().flatten()),
            backend: Backend::parse(&conf, with_v6)?,
        })
    }

    /// These are pods', too. Of families that are off nothing is.
    pub fn count_in(&mut self, networks: &[IpNetwork]) {
        let (v4, v6) = (self.v4.is_some(), self.v6.is_some());
        for network in networks {
            let is_on = if network.is_ipv4() { v4 } else { v6 };
            if is_on && !self.holds(*network) {
                self.networks.push(*network);
            }
        }
    }

    /// Whether all addresses of a network are pods' addresses.
    pub fn holds(&self, network: IpNetwork) -> bool {
        self.networks
            .iter()
            .any(|known| known.prefix() <= network.prefix() && known.contains(network.network()))
    }
}

fn judge_families(with_v4: bool, with_v6: bool, checks: Checks<'_>) -> Result<(), Error> {
    match (with_v4, with_v6) {
        (false, false) => Err(Error::value(
            "\"EnableIPv4\" is false and \"EnableIPv6\" is not true, so no network is left",
            "set one of them to true",
        )),
        (false, true) if checks == Checks::Leases => Err(Error::value(
            "\"EnableIPv4\" is false, but a lease's key begins with its IPv4 subnet",
            "leave EnableIPv4 true (dual stack), or run IPv6 alone with --kube-subnet-mgr",
        )),
        _ => Ok(()),
    }
}

fn truth(conf: &Object<'_>, key: &str) -> Result<Option<bool>, Error> {
    let read = conf.truth(key);
    read.map_err(|why| Error::value(why.msg, "write true or false, without quotation marks"))
}

#[cfg(test)]
mod tests;
