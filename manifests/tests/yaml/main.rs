//! What is applied to clusters: whole, strictly what the API knows, the same by whichever way it
//! is rendered, with no right and no privilege more than are needed.
#![allow(
    clippy::unwrap_used,
    reason = "clippy exempts #[test] functions but not their helpers"
)]

mod chart;
mod contents;
mod documents;
mod migrate;
mod overlays;
mod schema;
mod template;
mod units;
