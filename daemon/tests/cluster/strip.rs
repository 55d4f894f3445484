//! A strip of pings, one every few milliseconds, in which every lost one is counted.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use weft_netns::{Netns, wait_until};

use crate::harness::LIMIT;

const EVERY: Duration = Duration::from_millis(5);
/// What has not come back by then is lost. Nothing on the way holds packets for so long.
const LATEST: Duration = Duration::from_secs(5);

pub(crate) struct Strip {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    pinging: Option<JoinHandle<Outcome>>,
    begun: Instant,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) sent: u32,
    /// When each lost one was sent.
    pub(crate) lost: Vec<Duration>,
}

impl Strip {
    /// From inside `netns`, until it is ended.
    pub(crate) fn start(netns: &Netns, target: IpAddr) -> Self {
        let socket = netns.enter(|| open(target));
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU32::new(0));
        let begun = Instant::now();
        let pinging = {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || Pinging::new(socket, target, begun).run(&stop, &answered))
        };
        let strip = Self {
            stop,
            answered,
            pinging: Some(pinging),
            begun,
        };
        strip.sees_more();
        strip
    }

    /// Waits for answers to pings of this moment.
    #[track_caller]
    pub(crate) fn sees_more(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_until("pings are answered", LIMIT, || {
            self.answered.load(Ordering::Relaxed) > before + 3
        });
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn end(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.pinging.take().unwrap().join().unwrap()
    }

    /// Ends it; not one may be missing.
    #[track_caller]
    pub(crate) fn ends_whole(self) {
        let outcome = self.end();
        assert!(
            outcome.lost.is_empty(),
            "{} of {} pings were lost, at {:?}",
            outcome.lost.len(),
            outcome.sent,
            outcome.lost
        );
        assert!(outcome.sent > 3, "nothing was asked");
    }
}

impl Drop for Strip {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Pinging {
    socket: Socket,
    v4: bool,
    identifier: u16,
    begun: Instant,
    sent: u32,
    /// By number, when it was sent.
    waiting: BTreeMap<u32, Duration>,
    lost: Vec<Duration>,
}

impl Pinging {
    fn new(socket: Socket, target: IpAddr, begun: Instant) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0x4000);
        Self {
            socket,
            v4: target.is_ipv4(),
            identifier: NEXT.fetch_add(1, Ordering::Relaxed),
            begun,
            sent: 0,
            waiting: BTreeMap::new(),
            lost: Vec::new(),
        }
    }

    fn run(mut self, stop: &AtomicBool, answered: &AtomicU32) -> Outcome {
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                self.send();
                next = Instant::now() + EVERY;
            }
            self.receive(answered);
        }
        let last = Instant::now() + LATEST;
        while !self.waiting.is_empty() && Instant::now() < last {
            self.receive(answered);
        }
        self.lost.extend(self.waiting.into_values());
        Outcome {
            sent: self.sent,
            lost: self.lost,
        }
    }

    fn send(&mut self) {
        self.sent += 1;
        let at = self.begun.elapsed();
        let mut message = vec![if self.v4 { 8 } else { 128 }, 0, 0, 0];
        message.extend(self.identifier.to_be_bytes());
        message.extend([0, 1]);
        message.extend(self.sent.to_be_bytes());
        if self.v4 {
            let sum = checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&sum);
        }
        match self.socket.send(&message) {
            Ok(_) => drop(self.waiting.insert(self.sent, at)),
            Err(_) => self.lost.push(at),
        }
    }

    /// At most a millisecond.
    fn receive(&mut self, answered: &AtomicU32) {
        let mut packet = [0; 256];
        let Ok(length) = (&self.socket).read(&mut packet) else {
            return;
        };
        let skip = if self.v4 { 20 } else { 0 };
        let reply = if self.v4 { 0 } else { 129 };
        let Some(message) = packet[..length].get(skip..) else {
            return;
        };
        let Some((head, number)) = message.split_first_chunk::<8>() else {
            return;
        };
        let ours = head[0] == reply && head[4..6] == self.identifier.to_be_bytes();
        if let Ok(number) = <[u8; 4]>::try_from(number)
            && ours
            && self.waiting.remove(&u32::from_be_bytes(number)).is_some()
        {
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn open(target: IpAddr) -> Socket {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).expect("a raw socket");
    socket
        .connect(&SocketAddr::new(target, 0).into())
        .expect("a way to the target");
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .expect("a time limit");
    socket
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(message: &[u8]) -> u16 {
    let words = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
