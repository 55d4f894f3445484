//! The threads that move packets, and how they are started, fed and stopped.

mod answer;
mod batches;
mod egress;
mod guard;
mod ingress;
mod linger;
mod post;
mod wait;

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::peer::{PeerTable, Place, View};
use crate::rungs::{Footing, Notices, Rungs};
use crate::stats::{Counters, Direction, PeerStats, Stats};
use crate::sys;
use crate::tun::{Offloads, Tun};
use crate::udp::{Leaving, Sockets};
use answer::Answers;
use egress::Egress;
use guard::Ask;
use ingress::Ingress;
use linger::Pace;

/// What an engine needs beside its devices and its peers.
#[derive(Debug, Clone)]
pub struct Config {
    /// The TUN's own addresses: ICMP errors come from there.
    pub device_addresses: Vec<IpAddr>,
    pub rungs: Rungs,
    pub notices: Notices,
    /// How long a thread may look for more before it sleeps, giving way to all others meanwhile:
    /// it does so only while few packets come in quick succession. Zero lets it sleep at once,
    /// for a processor's sake and at the expense of round trips.
    pub linger: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            device_addresses: Vec::new(),
            rungs: Rungs::default(),
            notices: Notices::default(),
            linger: LINGER,
        }
    }
}

/// Longer than a round trip within a data centre in which everybody sleeps between packets: some
/// virtual machines take 40 µs to wake a processor, and a round trip does that four times.
const LINGER: Duration = Duration::from_micros(250);

/// Packets move as long as this value lives.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    sent: Vec<Arc<Counters>>,
    received: Vec<Arc<Counters>>,
}

/// The descriptors of an engine that has stopped, or that is to be followed by another. What
/// arrives meanwhile waits in their queues.
#[derive(Debug, Default)]
pub struct Fds {
    /// The TUN's queues.
    pub queues: Vec<OwnedFd>,
    /// For each queue the listening sockets.
    pub listening: Vec<Vec<OwnedFd>>,
}

/// What all threads look at.
#[derive(Debug)]
struct Shared {
    place: Arc<Place>,
    footing: Footing,
    leaving: Leaving,
    answers: Answers,
    queues: Vec<Queue>,
    linger: Duration,
    /// Readable when all is to end.
    stop: OwnedFd,
}

/// What a pair of threads works on.
#[derive(Debug)]
struct Queue {
    tun: OwnedFd,
    listening: Vec<OwnedFd>,
    pace: Pace,
}

impl Engine {
    /// Starts two threads for each queue of the TUN, one for each direction.
    pub fn start(config: Config, tun: Tun, sockets: Sockets, peers: PeerTable) -> Result<Self> {
        let offloads = tun.offloads();
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|why| Error::new("make an event to stop the packet threads by", why))?;
        let queues = tun.into_queues();
        if queues.len() != sockets.listening.len() {
            let (queues, sockets) = (queues.len(), sockets.listening.len());
            let doing = format!("pair {queues} TUN queues with sockets for {sockets}");
            return Err(Error::new(doing, Errno::INVAL));
        }
        let pairs = queues.into_iter().zip(sockets.listening);
        let shared = Arc::new(Shared {
            place: Arc::new(Place::new(peers)),
            answers: Answers::new(&config.device_addresses, &config.notices),
            footing: Footing::new(config.rungs, config.notices),
            leaving: sockets.leaving,
            queues: pairs
                .map(|(tun, listening)| Queue::new(tun, listening))
                .collect(),
            linger: config.linger,
            stop,
        });
        let mut engine = Self {
            shared,
            threads: Vec::new(),
            sent: Vec::new(),
            received: Vec::new(),
        };
        engine.shared.sieve();
        for number in 0..engine.shared.queues.len() {
            engine.spawn_pair(number, offloads)?;
        }
        Ok(engine)
    }

    /// From here on the threads know these peers. No packet is lost over it.
    pub fn swap(&self, peers: PeerTable) {
        self.shared.place.swap(peers);
        self.shared.sieve();
    }

    pub fn stats(&self) -> Stats {
        let sum = |threads: &[Arc<Counters>]| {
            let mut sum = Direction::default();
            threads.iter().for_each(|counters| sum.add(counters));
            sum
        };
        Stats {
            sent: sum(&self.sent),
            received: sum(&self.received),
            unheard: self.shared.unheard(),
            peers: self.peer_stats(),
            notices: self.shared.footing.notices.given().collect(),
        }
    }

    /// Whether all threads still run. They end by themselves when their device is deleted.
    pub fn runs(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Copies of the descriptors, for a successor that starts before this engine stops.
    pub fn fds(&self) -> Result<Fds> {
        let copy = || -> std::io::Result<Fds> {
            let mut fds = Fds {
                queues: Vec::new(),
                listening: Vec::new(),
            };
            for queue in &self.shared.queues {
                fds.queues.push(queue.tun.try_clone()?);
                let sockets = queue.listening.iter().map(OwnedFd::try_clone);
                fds.listening.push(sockets.collect::<std::io::Result<_>>()?);
            }
            Ok(fds)
        };
        copy().map_err(|why| Error::new("duplicate the descriptors of the packet path", why))
    }

    /// Ends the threads, once they have sent on what they have taken.
    pub fn stop(self) -> Result<Fds> {
        self.fds()
    }

    fn spawn_pair(&mut self, number: usize, offloads: Offloads) -> Result<()> {
        let (sent, received) = (Arc::<Counters>::default(), Arc::<Counters>::default());
        self.sent.push(Arc::clone(&sent));
        self.received.push(Arc::clone(&received));
        let shared = Arc::clone(&self.shared);
        self.spawn(format!("weft-out-{number}"), move || {
            Egress::new(&shared, &shared.queues[number], offloads, &sent).run();
        })?;
        let shared = Arc::clone(&self.shared);
        self.spawn(format!("weft-in-{number}"), move || {
            Ingress::new(&shared, &shared.queues[number], offloads, &received).run();
        })
    }

    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = Builder::new().name(name.clone()).spawn(work);
        let thread = thread.map_err(|why| Error::new(format!("start thread {name}"), why))?;
        self.threads.push(thread);
        Ok(())
    }

    fn peer_stats(&self) -> Vec<PeerStats> {
        let table = self.shared.place.current();
        let stats = table.entries().iter().map(|entry| {
            let (sent_packets, sent_bytes) = entry.counters.sent.read();
            let (received_packets, received_bytes) = entry.counters.received.read();
            PeerStats {
                address: entry.address,
                sent_packets,
                sent_bytes,
                received_packets,
                received_bytes,
            }
        });
        stats.collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Written once, so there is always room.
        let _ = rustix::io::write(&self.shared.stop, &1_u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn view(&self) -> View {
        View::new(Arc::clone(&self.place))
    }

    fn sieve(&self) {
        let table = self.place.current();
        for queue in &self.queues {
            let notices = &self.footing.notices;
            guard::sieve(&queue.listening, &table, Ask::Lenient, notices);
        }
    }

    fn unheard(&self) -> u64 {
        let sockets = self.queues.iter().flat_map(|queue| &queue.listening);
        let drops = sockets.map(|socket| sys::drops(socket.as_fd()).unwrap_or(0));
        drops.map(u64::from).sum()
    }
}

impl Queue {
    fn new(tun: OwnedFd, listening: Vec<OwnedFd>) -> Self {
        Self {
            tun,
            listening,
            pace: Pace::default(),
        }
    }
}
