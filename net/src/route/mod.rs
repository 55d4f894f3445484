//! Links, addresses, routes and neighbours (NETLINK_ROUTE).
//!
//! Requests are written with netlink-packet-route's types and answers read with
//! [`Attributes`](crate::message::Attributes): we use a dozen attributes of the hundreds the
//! kernel may send, and one that we do not use must be unable to fail a dump.

mod address;
mod bridge;
mod link;
mod link_requests;
mod lookup;
mod neighbour;
mod routes;
mod tun;
mod vxlan;
mod wait;

use std::marker::PhantomData;

use netlink_packet_core::Emitable;

pub use address::Address;
pub(crate) use address::read as read_address;
pub use bridge::{PortSettings, PortVlan, VlanOwner, VlanRange};
pub use link::{Bridge, BridgePort, Link, LinkRef, OperState, PortState};
pub use link_requests::{Ipv4Conf, LinkChange, NewBridge, NewVeth, VethPeer};
pub use lookup::Way;
pub use neighbour::{FdbEntry, Neighbour, NeighbourState};
pub(crate) use neighbour::{read_fdb, read_neighbour};
pub(crate) use routes::read as read_routes;
pub use routes::{Route, RouteFilter, RouteKind, Scope};
pub use tun::Tun;
pub use vxlan::{NewVxlan, Vxlan, VxlanChange};

use crate::batch::{Batch, Doing};
use crate::error::{Error, Result, Why};
use crate::netns::Namespace;
use crate::socket::{Protocol, Socket};

/// A connection to one network namespace's links, addresses, routes and neighbours. It stays
/// with the namespace it was opened in, wherever its thread goes later.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
}

impl Rtnl {
    /// In the namespace the calling thread is in.
    pub fn open() -> Result<Self> {
        Ok(Self {
            socket: Socket::open(Protocol::Route)?,
        })
    }

    /// In another namespace; the thread is back in its own when this returns.
    pub fn open_in(namespace: &Namespace) -> Result<Self> {
        namespace.enter(Self::open)?
    }

    /// See [`Socket::port`].
    pub fn port(&mut self) -> Result<u32> {
        self.socket.port()
    }

    /// Carries out requests, in order, in one send. A request that fails does not keep the ones
    /// after it from being carried out.
    pub fn run(&mut self, requests: Requests) -> Result<Answers> {
        let Requests { mut batch } = requests;
        Ok(Answers {
            results: self.socket.run(&mut batch)?,
        })
    }

    /// Carries out one request: `rtnl.one(|r| r.delete_link("eth0"))`.
    pub fn one<T: Reply>(&mut self, add: impl FnOnce(&mut Requests) -> Ticket<T>) -> Result<T> {
        let mut requests = Requests::new();
        let ticket = add(&mut requests);
        self.run(requests)?.take(ticket)
    }

    /// Reads a table. `each` appends what it finds in an entry.
    fn dump<T>(
        &mut self,
        message_type: u16,
        doing: &str,
        filter: &impl Emitable,
        each: impl FnMut(&[u8], &mut Vec<T>) -> Option<()>,
    ) -> Result<Vec<T>> {
        self.socket
            .dump(message_type, doing, &bytes_of(filter), each)
    }
}

/// Requests to be carried out together, in order.
#[derive(Debug, Default)]
pub struct Requests {
    batch: Batch,
}

impl Requests {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    pub fn len(&self) -> usize {
        self.batch.len()
    }

    fn change(
        &mut self,
        message_type: u16,
        flags: u16,
        doing: impl Into<Doing>,
        message: &impl Emitable,
    ) -> Ticket<()> {
        let ticket = Ticket::new(self.batch.len());
        self.batch
            .change(message_type, flags, doing, |out| emit(out, message));
        ticket
    }

    fn get<T>(&mut self, message_type: u16, doing: String, message: &impl Emitable) -> Ticket<T> {
        let ticket = Ticket::new(self.batch.len());
        self.batch
            .get(message_type, doing, |out| emit(out, message));
        ticket
    }
}

/// Finds a request's answer, which is a `T`.
#[derive(Debug)]
#[must_use = "a request's failure is only seen by looking at its answer"]
pub struct Ticket<T> {
    index: usize,
    answer: PhantomData<T>,
}

impl<T> Ticket<T> {
    fn new(index: usize) -> Self {
        Self {
            index,
            answer: PhantomData,
        }
    }
}

/// What came of requests.
#[derive(Debug)]
pub struct Answers {
    results: Vec<Result<Vec<u8>>>,
}

impl Answers {
    /// The answer to one request.
    pub fn take<T: Reply>(&mut self, ticket: Ticket<T>) -> Result<T> {
        let result = self
            .results
            .get_mut(ticket.index)
            .map(|r| std::mem::replace(r, Ok(Vec::new())));
        let bytes = result.unwrap_or_else(|| Ok(Vec::new()))?;
        T::read(&bytes).ok_or_else(|| Error::new("read an answer", Why::Garbled("too short")))
    }

    /// The first failure among all requests, taken ones excepted.
    pub fn all(self) -> Result<()> {
        self.results.into_iter().try_for_each(|r| r.map(drop))
    }
}

/// What an answer's bytes are read as.
pub trait Reply: Sized {
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl Reply for () {
    fn read(_: &[u8]) -> Option<Self> {
        Some(())
    }
}

fn emit(out: &mut Vec<u8>, message: &impl Emitable) {
    let start = out.len();
    out.resize(start + message.buffer_len(), 0);
    message.emit(&mut out[start..]);
}

fn bytes_of(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = Vec::new();
    emit(&mut bytes, message);
    bytes
}

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_SETLINK: u16 = 19;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_DELNEIGH: u16 = 29;
pub(crate) const RTM_GETNEIGH: u16 = 30;

/// Reads a payload as each of the things that the kernel may say it is.
pub(crate) fn read_as_anything(payload: &[u8]) {
    let _ = (Link::read(payload), Way::read(payload));
    let _ = (read_address(payload), read_routes(payload, &mut Vec::new()));
    let _ = (read_neighbour(payload), read_fdb(payload));
    let _ = bridge::read_vlans(payload, &mut Vec::new());
}
