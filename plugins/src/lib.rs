//! The CNI plugins, one room each. A pod's way through one: parse → plan → apply, undo on error.

pub mod bridge;
pub mod loopback;
mod namespace;
pub mod owner;
pub mod pods;
mod told;
