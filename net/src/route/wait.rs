//! Waiting for a link to get somewhere, on the kernel's events rather than on a clock.

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
        self.wait(RTNLGRP_LINK, found.index, timeout, |rtnl| {
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
            None => self.wait(RTNLGRP_IPV6_IFADDR, link, timeout, settled),
        }
    }

    /// Waits until `look` finds something, looking again after each event of the group that
    /// concerns the link: one that came before the first look is in what that sees.
    fn wait<T>(
        &mut self,
        group: u32,
        link: u32,
        timeout: Duration,
        look: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        self.socket.subscribe(group)?;
        let outcome = self.wait_on_events(link, timeout, look);
        let left = self.socket.unsubscribe(group);
        outcome.and_then(|found| left.map(|()| found))
    }

    fn wait_on_events<T>(
        &mut self,
        link: u32,
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
            while !self.next_event_concerns(link, deadline, timeout)? {}
        }
    }

    fn next_event_concerns(
        &mut self,
        index: u32,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<bool> {
        if !self.socket.wait(deadline)? {
            return Err(Error::new(
                format!("wait for link {index}"),
                Why::TimedOut(timeout),
            ));
        }
        match self.socket.receive() {
            Ok(mut messages) => Ok(messages.any(|m| u32_at(m.payload, 4) == Some(index))),
            // Events were lost, ours may have been among them.
            Err(error) if error.errno() == Some(Errno::NOBUFS) => Ok(true),
            Err(error) => Err(error),
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
const RTNLGRP_IPV6_IFADDR: u32 = 9;
