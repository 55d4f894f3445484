//! The CNI plugins, one room each. A pod's way through one: parse → plan → apply, undo on error.

pub mod bridge;
pub mod estate;
pub mod flannel;
#[doc(hidden)]
pub mod fuzz;
pub mod iptables;
pub mod loopback;
mod namespace;
pub mod owner;
pub mod pods;
pub mod portmap;
mod reference;
mod told;

use weft_cni::Plugin;

/// Every plugin in the executable.
pub static SUITE: &[&dyn Plugin] = &[
    &bridge::Bridge,
    &flannel::Flannel,
    &weft_ipam::HostLocal,
    &loopback::Loopback,
    &portmap::Portmap,
];
