//! The ICMP errors that a router owes the sender of a packet it does not forward.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use crate::packet::icmp;
use crate::packet::inner::Inner;
use crate::rungs::{Notice, Notices};

/// Why a packet is not forwarded, as far as its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Expired,
    NoPeer,
    TooBig(u16),
}

/// Answers leave by raw sockets: the kernel routes them to a pod here or, through the TUN, to one
/// behind a peer. (Written to the TUN they would be martians, since their source is our own.)
#[derive(Debug)]
pub(super) struct Answers {
    v4: Option<Way>,
    v6: Option<Way>,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Way {
    socket: OwnedFd,
    source: IpAddr,
}

impl Answers {
    pub(super) fn new(sources: &[IpAddr], notices: &Notices) -> Self {
        let way = |v6: bool| {
            let source = *sources.iter().find(|source| source.is_ipv6() == v6)?;
            match raw_socket(v6) {
                Ok(socket) => Some(Way { socket, source }),
                Err(_) => {
                    notices.give(Notice::AnswersRefused);
                    None
                }
            }
        };
        Self {
            v4: way(false),
            v6: way(true),
            bucket: Mutex::new(Bucket::full(Instant::now())),
        }
    }

    /// Tells the packet's sender, unless that must not be, or was done too often of late. Says
    /// whether it did.
    pub(super) fn answer(&self, reason: Reason, inner: &Inner, packet: &[u8]) -> bool {
        let way = match inner.is_v6() {
            true => &self.v6,
            false => &self.v4,
        };
        let Some(way) = way else {
            return false;
        };
        if !icmp::may_answer(inner, packet) || !self.take(Instant::now()) {
            return false;
        }
        let mut out = [0; icmp::LONGEST];
        let length = match reason {
            Reason::Expired => icmp::time_exceeded(packet, way.source, &mut out),
            Reason::NoPeer => icmp::net_unreachable(packet, way.source, &mut out),
            Reason::TooBig(mtu) => icmp::too_big(packet, way.source, mtu, &mut out),
        };
        let to = SocketAddr::new(inner.src, 0);
        let sent = rustix::net::sendto(&way.socket, &out[..length], SendFlags::DONTWAIT, &to);
        length > 0 && sent.is_ok()
    }

    fn take(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(now)
    }
}

/// IPPROTO_RAW: what is written begins with the IP header.
fn raw_socket(v6: bool) -> rustix::io::Result<OwnedFd> {
    let family = match v6 {
        true => AddressFamily::INET6,
        false => AddressFamily::INET,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = rustix::net::Protocol::from_raw(RAW);
    rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol))
}

const RAW: std::num::NonZeroU32 = match std::num::NonZeroU32::new(255) {
    Some(raw) => raw,
    None => std::num::NonZeroU32::MIN,
};

/// A thousand answers a second, fifty of them at once: what Linux allows itself.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    filled: Instant,
}

const BURST: u32 = 50;
const INTERVAL: Duration = Duration::from_millis(1);

impl Bucket {
    fn full(now: Instant) -> Self {
        Self {
            tokens: BURST,
            filled: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let intervals = now.duration_since(self.filled).as_millis() / INTERVAL.as_millis();
        let intervals = u32::try_from(intervals).unwrap_or(u32::MAX);
        if intervals > 0 {
            self.tokens = self.tokens.saturating_add(intervals).min(BURST);
            self.filled = now;
        }
        let taken = self.tokens > 0;
        self.tokens -= u32::from(taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_bursts_and_then_at_their_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        let taken = (0..100).filter(|_| bucket.take(start)).count();
        assert_eq!(taken, 50);
        let later = start + Duration::from_millis(3);
        assert_eq!((0..100).filter(|_| bucket.take(later)).count(), 3);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| bucket.take(much_later)).count(), 50);
    }
}
