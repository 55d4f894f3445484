//! The node's firewall on the real kernel: every test in a world of its own, judged by what nft
//! shows and by what happens to packets. They need root, or user namespaces.
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]

mod common;
mod forward;
mod guard;
mod node;
mod standing;
mod takeover;
mod traffic;
