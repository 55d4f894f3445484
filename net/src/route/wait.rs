//! Waiting for a link to get somewhere, on the kernel's events rather than on a clock.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Link, LinkRef, OperState, PortState, Rtnl};
use crate::error::{Error, Result, Why};
use crate::message::u32_at;

impl Rtnl {
    /// Returns the link as soon as it is `ready`, asking the kernel once if it is at once.
    /// [`Why::TimedOut`] if it is not within `timeout`.
    pub fn wait_for_link<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        timeout: Duration,
        ready: impl Fn(&Link) -> bool,
    ) -> Result<Link> {
        let found = self.link(link)?;
        if ready(&found) {
            return Ok(found);
        }
        self.wait_for(Awaited::Link(found.index), timeout, |rtnl| {
            rtnl.link(found.index).map(|link| Some(link).filter(&ready))
        })
    }

    /// Returns when no address of the link waits for duplicate address detection any more.
    /// EADDRINUSE if somebody else has one of them.
    pub fn wait_for_addresses(&mut self, link: u32, timeout: Duration) -> Result<()> {
        let settled = move |rtnl: &mut Self| {
            let addresses = rtnl.addresses_of(link)?;
            if let Some(taken) = addresses.iter().find(|address| address.dad_failed) {
                let doing = format!("use address {} on link {link}", taken.address);
                return Err(Error::new(doing, Errno::ADDRINUSE));
            }
            Ok(addresses
                .iter()
                .all(|address| !address.tentative)
                .then_some(()))
        };
        match settled(self)? {
            Some(()) => Ok(()),
            None => self.wait_for(Awaited::Addresses(link), timeout, settled),
        }
    }

    /// Returns when what is sent to `address` is for this host. The kernel makes the route to a new
    /// IPv6 address a moment after the address, and until then drops what comes for it.
    pub fn wait_until_local(&mut self, address: IpAddr, timeout: Duration) -> Result<()> {
        let is_local = move |rtnl: &mut Self| match rtnl.way_to(address) {
            Ok(way) => Ok(way.is_local.then_some(())),
            Err(error) if error.is_no_way() => Ok(None),
            Err(error) => Err(error),
        };
        match is_local(self)? {
            Some(()) => Ok(()),
            None => self.wait_for(Awaited::Local(address), timeout, is_local),
        }
    }

    /// Waits until `look` finds something, looking again after each event of the group that
    /// concerns what is awaited: one that came before the first look is in what that sees.
    fn wait_for<T>(
        &mut self,
        awaited: Awaited,
        timeout: Duration,
        look: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let group = awaited.group();
        self.socket.subscribe(group)?;
        let outcome = self.wait_on_events(awaited, timeout, look);
        let left = self.socket.unsubscribe(group);
        outcome.and_then(|found| left.map(|()| found))
    }

    fn wait_on_events<T>(
        &mut self,
        awaited: Awaited,
        timeout: Duration,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            match look(self) {
                Ok(Some(found)) => return Ok(found),
                Err(error) if error.errno() != Some(Errno::NOBUFS) => return Err(error),
                Ok(None) | Err(_) => {}
            }
            while !self.next_event_concerns(awaited, deadline, timeout)? {}
        }
    }

    fn next_event_concerns(
        &mut self,
        awaited: Awaited,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<bool> {
        if !self.socket.wait(deadline)? {
            return Err(Error::new(awaited.to_string(), Why::TimedOut(timeout)));
        }
        match self.socket.receive() {
            Ok(mut messages) => Ok(messages.any(|m| awaited.is_told_by(m.payload))),
            // Events were lost, ours may have been among them.
            Err(error) if error.errno() == Some(Errno::NOBUFS) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy)]
enum Awaited {
    Link(u32),
    Addresses(u32),
    Local(IpAddr),
}

impl Awaited {
    fn group(self) -> u32 {
        match self {
            Self::Link(_) => RTNLGRP_LINK,
            Self::Addresses(_) => RTNLGRP_IPV6_IFADDR,
            Self::Local(IpAddr::V4(_)) => RTNLGRP_IPV4_ROUTE,
            Self::Local(IpAddr::V6(_)) => RTNLGRP_IPV6_ROUTE,
        }
    }

    fn is_told_by(self, event: &[u8]) -> bool {
        match self {
            Self::Link(index) | Self::Addresses(index) => u32_at(event, 4) == Some(index),
            Self::Local(_) => true,
        }
    }
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(index) => write!(f, "wait for link {index}"),
            Self::Addresses(index) => write!(f, "wait for the addresses of link {index}"),
            Self::Local(address) => write!(f, "wait for the route to the host's own {address}"),
        }
    }
}

impl Link {
    /// Passes traffic, as far as the kernel can tell.
    pub fn is_operational(&self) -> bool {
        self.operstate == OperState::Up
    }

    /// Passes traffic to and from the other ports of its bridge.
    pub fn is_forwarding(&self) -> bool {
        self.is_operational() && self.port.is_some_and(|p| p.state == PortState::Forwarding)
    }
}

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
