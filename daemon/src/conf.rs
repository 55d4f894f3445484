//! The network's configuration (net-conf.json, or the key `config` of a store), checked: what
//! every part of the daemon reads, with nothing optional left that has a default.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};

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
