//! The Kubernetes store against an API server that is no kinder than the real one.
#![cfg(feature = "kube")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]
#![allow(
    clippy::print_stdout,
    reason = "what was measured is shown where a test's output is"
)]

mod access;
mod basics;
mod bench;
mod networks;
mod numbers;
mod own;
mod real;
mod silence;
mod troubles;
mod wire;
