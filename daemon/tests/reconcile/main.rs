//! The loop on the real kernel: it is handed views as a store would, and what the kernel holds
//! afterwards is looked at with ip and bridge. Every test has a world of its own.
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]

mod drift;
mod node;
mod overlay;
mod peers;
mod takeover;
