//! What this crate asks of the kernel, asked of a real one: every test in a network namespace of
//! its own, checked against what `ip` and `bridge` say. They need root.
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]

mod addresses;
mod announcements;
mod batches;
mod ethtool;
mod links;
mod lookups;
mod namespaces;
mod neighbours;
mod routes;
mod tun;
mod vxlan;
mod watch;
mod witness;
mod world;
