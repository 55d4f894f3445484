//! weftd and weft: leases → plan → reconcile.

pub mod conf;
pub mod device;
pub mod diff;
pub mod drift;
pub mod firewall;
pub mod fuzz;
pub mod lease;
pub mod plan;
pub mod store;
