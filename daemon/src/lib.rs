//! weftd and weft: leases → plan → reconcile.

pub mod conf;
pub mod firewall;
pub mod lease;
pub mod store;
