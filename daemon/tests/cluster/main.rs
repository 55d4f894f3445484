//! Whole clusters of whole daemons: each node is a namespace with a weftd of its own, its pods are
//! namespaces behind cni0, and all of it is one private world.
//!
//! ```text
//!  pod ── cni0 ── node-1 ── eth0 ─┬─ wire-0 ──┐
//!  pod ── cni0 ── node-2 ── eth0 ─┘           ├── the world, which routes between its two wires,
//!  pod ── cni0 ── node-3 ── eth0 ─── wire-1 ──┘   and holds the store (a directory, etcd, an API server)
//!
//!  node n of wire w: 192.168.(9 + w).n, fd90:0:0:w::n
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]
#![allow(
    clippy::print_stdout,
    reason = "what was measured is shown where a test's output is"
)]

mod bad_input;
mod changes;
mod command_line;
mod conflist;
mod deaths;
mod defects;
mod etcd;
mod field;
mod flanneld;
mod flood;
mod handover;
mod harness;
mod integrity;
mod kube;
mod manifest;
mod matrix;
mod migration;
mod migration_plan;
mod outages;
mod outer;
mod races;
mod restarts;
mod service_account;
mod store;
mod strangers;
mod stream;
mod strip;
mod succession;
mod systemd;
mod udp;
mod wire;
