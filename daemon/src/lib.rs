//! weftd and weft: leases → plan → reconcile.

pub mod cleanup;
pub mod conf;
pub mod conflist;
pub mod daemon;
pub mod device;
pub mod diff;
pub mod distribution;
pub mod drift;
pub mod firewall;
pub mod fuzz;
pub mod handover;
pub mod http;
pub mod identity;
pub mod interface;
pub mod kernel;
pub mod lease;
pub mod lock;
pub mod logging;
pub mod metrics;
pub mod migrate;
pub mod notify;
pub mod options;
pub mod overlay;
pub mod place;
pub mod plan;
pub mod preflight;
pub mod reconcile;
pub mod rfc3339;
pub mod seat;
pub mod status;
pub mod store;
pub mod subnet_file;
#[cfg(test)]
mod testing;
pub mod tool;
