//! Which interface other nodes are reached by, and at which addresses they reach us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the command line says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names or addresses, tried in this order.
    pub names: Vec<String>,
    /// Tried after the names: an address that matches, else a name that does.
    pub regexes: Vec<String>,
    /// Tried last: the interface that leads there.
    pub can_reach: Option<IpAddr>,
    /// What is published, whatever the interface's address is.
    pub public_ip: Option<Ipv4Addr>,
    pub public_ipv6: Option<Ipv6Addr>,
}
