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
        self.socket.subscribe(RTNLGRP_LINK)?;
        let outcome = self.wait_on_events(found.index, timeout, ready);
        let left = self.socket.unsubscribe(RTNLGRP_LINK);
        outcome.and_then(|link| left.map(|()| link))
    }

    /// Looks, and looks again after each event: one that came before the first look is in it.
    fn wait_on_events(
        &mut self,
        index: u32,
        timeout: Duration,
        ready: impl Fn(&Link) -> bool,
    ) -> Result<Link> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.link(index) {
                Ok(link) if ready(&link) => return Ok(link),
                Err(error) if error.errno() != Some(Errno::NOBUFS) => return Err(error),
                Ok(_) | Err(_) => {}
            }
            while !self.next_event_concerns(index, deadline, timeout)? {}
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
