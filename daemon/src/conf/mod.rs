//! The network's configuration (net-conf.json, or the key `config` of a store), checked: what
//! every part of the daemon reads, with nothing optional left that has a default.

mod backend;
mod error;
mod pool;
mod syntax;
mod write;

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde_json::Value;
use weft_cni::Object;

pub use error::Error;
pub(crate) use syntax::explain;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConf {
    /// None where EnableIPv4 is false.
    pub v4: Option<Pool4>,
    /// None unless EnableIPv6 is true.
    pub v6: Option<Pool6>,
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
pub enum Checks {
    /// The nodes themselves, through a store of keys: the subnets must add up.
    Leases,
    /// Somebody else (Kubernetes): what is said about subnets is read, and not judged.
    Assigned {
        /// The cluster's networks as found elsewhere, for a configuration that leaves a network
        /// out or calls it "auto".
        v4: Option<Ipv4Network>,
        v6: Option<Ipv6Network>,
    },
}

impl NetConf {
    pub fn parse(text: &str, checks: Checks) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text).map_err(|why| explain(text, &why))?;
        let conf = Object::of(&value, "").map_err(|_| {
            Error::value("the configuration is not a JSON object", "begin it with {")
        })?;
        let with_v4 = truth(&conf, "EnableIPv4")?.unwrap_or(true);
        let with_v6 = truth(&conf, "EnableIPv6")?.unwrap_or(false);
        // What it switches is no choice here; a wrong type is told all the same.
        truth(&conf, "EnableNFTables")?;
        judge_families(with_v4, with_v6, checks)?;
        Ok(Self {
            v4: with_v4.then(|| pool::v4(&conf, checks)).transpose()?,
            v6: with_v6.then(|| pool::v6(&conf, checks)).transpose()?,
            backend: Backend::parse(&conf, with_v6)?,
        })
    }
}

fn judge_families(with_v4: bool, with_v6: bool, checks: Checks) -> Result<(), Error> {
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
