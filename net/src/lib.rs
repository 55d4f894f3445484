//! The kernel: one netlink socket for every family, links, addresses, routes and neighbours,
//! namespaces and sysctls. Synchronous, for programs that live a millisecond.

pub mod batch;
pub mod error;
pub mod message;
pub mod nft;
pub mod socket;

pub use batch::Batch;
pub use error::{Error, Result, Why};
pub use socket::{Protocol, Socket};
