//! `portmap` on a real kernel: connections through mapped ports, rivals, and what is left behind.
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]

mod connections;
mod kills;
mod leftovers;
mod node;
mod rivals;
mod scale;
