//! The userspace packet path: TUN queues, UDP batches, segmenting and coalescing, the peer table.
//!
//! [`Engine`] moves packets between a [`Tun`] and UDP [`Sockets`]; what it knows of the world is a
//! [`PeerTable`], swapped whole. [`handover`] carries its descriptors to another process.

mod buffer;
pub mod engine;
mod error;
pub mod handover;
pub mod packet;
pub mod peer;
pub mod rungs;
mod sieve;
pub mod stats;
mod sys;
pub mod tun;
pub mod udp;

pub use engine::{Config, Engine, Fds};
pub use error::{Error, Result};
pub use peer::{Peer, PeerTable};
pub use rungs::{Notice, Notices, Rungs};
pub use stats::{Drop, Stats};
pub use tun::Tun;
pub use udp::Sockets;
