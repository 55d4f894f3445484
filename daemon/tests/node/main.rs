//! What weftd asks of the machine it runs on, on the real kernel: every test in a world of its
//! own. They need root, or user namespaces.
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]

mod cleanup;
mod interface;
mod lock;
mod preflight;
