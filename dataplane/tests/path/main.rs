//! The engine on a real kernel: two nodes on a wire, a pod on each.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod answers;
mod cluster;
mod lifecycle;
mod rungs;
mod safety;
mod traffic;
