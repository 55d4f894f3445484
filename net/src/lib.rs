//! The kernel: one netlink socket for every family, links, addresses, routes and neighbours, what
//! others do to them, namespaces and sysctls. Synchronous, for programs that live a millisecond and
//! for threads that wait.

pub mod batch;
pub mod conntrack;
pub mod error;
pub mod ethtool;
#[doc(hidden)]
pub mod fuzz;
mod ip;
pub mod mac;
pub mod message;
pub mod netns;
pub mod nft;
pub mod route;
pub mod socket;
pub mod sys;
pub mod sysctl;
pub mod watch;

pub use batch::Batch;
pub use error::{Error, Result, Why};
pub use ethtool::Ethtool;
pub use mac::Mac;
pub use netns::Namespace;
pub use route::Rtnl;
pub use socket::{Protocol, Socket};
