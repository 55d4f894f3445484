//! The iptables back-ends on a real kernel, with both variants of iptables, beside Debian's Go
//! plugins.
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]

mod node;
mod pods;
mod sharing;
mod taking_over;
mod trouble;
