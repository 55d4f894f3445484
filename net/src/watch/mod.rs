//! Watching what others do to the kernel's state: links, addresses, routes, neighbours,
//! forwarding entries ([`Watch`]) and rulesets ([`RulesetWatch`]).
//!
//! A watch is for a thread that waits for its descriptor to become readable. Our own changes are
//! dropped by the kernel, by the ports they are made through, so they wake nobody.

mod event;
mod filter;
mod owner;
mod ruleset;
mod witness;

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

pub use event::{Event, Name, News};
pub use filter::Filter;
pub use owner::{Owner, open_ports, owner_of};
pub use ruleset::{RulesetEvent, RulesetWatch};
pub use witness::Witness;

use crate::error::Result;
use crate::message::Messages;
use crate::route::Route;
use crate::socket::{Protocol, Socket};

/// Watches the links, addresses, routes and neighbours of one network namespace.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    routes: Vec<Route>,
}

impl Watch {
    /// In the namespace the calling thread is in. What happened before is not told.
    pub fn open(filter: &Filter) -> Result<Self> {
        let mut socket = Socket::open(Protocol::Route)?;
        socket.enlarge_receive_buffer(RECEIVE_BUFFER)?;
        filter.attach(&socket)?;
        for group in GROUPS {
            socket.subscribe(group)?;
        }
        Ok(Self {
            socket,
            routes: Vec::new(),
        })
    }

    /// Filters differently from here on.
    pub fn set_filter(&mut self, filter: &Filter) -> Result<()> {
        filter.attach(&self.socket)
    }

    /// Appends what has happened; does not wait. After an overrun the rest follows all the same.
    pub fn read(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let routes = &mut self.routes;
        drain(&mut self.socket, |messages| {
            messages.for_each(|message| Event::read(&message, routes, events))
        })
        .map(|overrun| events.extend(overrun.then_some(Event::OVERRUN)))
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Hands over what is queued, for a while; whether some of it was lost.
fn drain(socket: &mut Socket, mut each: impl FnMut(Messages<'_>)) -> Result<bool> {
    let mut overrun = false;
    for _ in 0..DATAGRAMS_AT_ONCE {
        match socket.receive_waiting() {
            Ok(Some(messages)) => each(messages),
            Ok(None) => break,
            Err(error) if error.errno() == Some(Errno::NOBUFS) => overrun = true,
            Err(error) => return Err(error),
        }
    }
    Ok(overrun)
}

/// Bounds the memory of what is read at once; the rest keeps the descriptor readable.
const DATAGRAMS_AT_ONCE: usize = 1024;

/// Memory of the kernel's that is taken only while something waits: about 20,000 events.
const RECEIVE_BUFFER: usize = 16 * 1024 * 1024;

/// RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// Reads messages as events, whatever they are.
pub(crate) fn read_as_anything(datagram: &[u8]) {
    let (mut routes, mut events) = (Vec::new(), Vec::new());
    for message in Messages::of(datagram) {
        Event::read(&message, &mut routes, &mut events);
    }
    let table = crate::nft::Table::new(crate::nft::Family::Inet, "weft");
    let mut rulesets = ruleset::Reader::new(&[table]);
    let mut commits = Vec::new();
    rulesets.read(Messages::of(datagram), &mut commits);
}
