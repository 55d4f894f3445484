//! Pod to pod over two nodes, by way of everything that can join their pods: each contestant has
//! nodes of its own, all are up at once, and they are measured in turn.
mod contestant;
mod cpu;
mod daemon;
pub mod flood;
mod idle;
pub mod integrity;
mod lossfree;
mod picture;
mod plan;
mod promises;
mod random;
mod relay;
pub mod run;
mod site;
mod step;
mod tcp;
mod trips;
mod tun;
mod udp;

pub use contestant::{Contestant, DEFAULT};
pub use daemon::Daemon;
pub use lossfree::{Found, search};
pub use relay::Relay;
pub use site::{Family, Setting, Side, Site, Wire};
pub use tcp::{Stream, stream};
pub use trips::{Trips, over_tcp, over_udp};
pub use tun::{open_tun, pollable};
pub use udp::{Load, Outcome, carry, payload_of};
