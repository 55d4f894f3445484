//! Hears what the kernel tells of a node's tunnel, and when.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weft_net::Mac;
use weft_net::route::NeighbourState;
use weft_net::watch::{Event, Filter, News, Watch};
use weft_netns::Netns;

/// Where many events come, they are read this often: whoever makes them is not disturbed by a
/// wake-up for each.
const PACE: Duration = Duration::from_millis(1);

pub(crate) struct Listener {
    watch: Watch,
    events: Vec<Event>,
    pub(crate) heard: Heard,
}

/// What came and has not gone since listening began.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) routes: BTreeSet<IpNetwork>,
    pub(crate) neighbours: BTreeSet<IpAddr>,
    pub(crate) forwards: BTreeSet<Mac>,
    /// Every message, whatever it was.
    pub(crate) messages: usize,
    /// When flannel.1 went last.
    pub(crate) lost_device: Option<Instant>,
}

impl Listener {
    pub(crate) fn open(netns: &Netns) -> Self {
        let watch = netns.enter(|| Watch::open(&Filter::default()));
        Self {
            watch: watch.expect("listen to the kernel"),
            events: Vec::new(),
            heard: Heard::default(),
        }
    }

    /// Forgets what was heard, what waits to be read included.
    pub(crate) fn begin(&mut self) {
        self.read();
        self.heard = Heard::default();
    }

    /// When the condition came to hold; None if it did not in time.
    pub(crate) fn until(
        &mut self,
        limit: Duration,
        condition: impl Fn(&Heard) -> bool,
    ) -> Option<Instant> {
        let deadline = Instant::now() + limit;
        loop {
            let many = self.read() > 4;
            let now = Instant::now();
            if condition(&self.heard) {
                return Some(now);
            }
            let left = deadline.checked_duration_since(now)?;
            if many {
                sleep(PACE);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.watch.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, timeout);
        }
    }

    /// Until nothing was heard for so long; how many messages came.
    pub(crate) fn until_quiet(&mut self, quiet: Duration, limit: Duration) -> usize {
        let begun = Instant::now();
        let mut last = begun;
        let before = self.heard.messages;
        while last.elapsed() < quiet && begun.elapsed() < limit {
            if self.read() > 0 {
                last = Instant::now();
            }
            sleep(PACE);
        }
        self.heard.messages - before
    }

    fn read(&mut self) -> usize {
        self.watch
            .read(&mut self.events)
            .expect("read the kernel's news");
        let count = self.events.len();
        for event in self.events.drain(..) {
            self.heard.note(event.news);
        }
        self.heard.messages += count;
        count
    }
}

impl Heard {
    pub(crate) fn all_of(&self, peers: usize) -> bool {
        self.counts().iter().all(|count| *count >= peers)
    }

    pub(crate) fn counts(&self) -> [usize; 3] {
        let Self {
            routes,
            neighbours,
            forwards,
            ..
        } = self;
        [routes.len(), neighbours.len(), forwards.len()]
    }

    fn note(&mut self, news: News) {
        match news {
            News::Route { route, gone } if route.destination.prefix() == 24 => {
                set(&mut self.routes, route.destination, gone);
            }
            News::Neighbour { neighbour, gone } => {
                let gone = gone || neighbour.state != NeighbourState::Permanent;
                set(&mut self.neighbours, neighbour.address, gone);
            }
            News::Fdb { entry, gone } if entry.remote.is_some() => {
                set(&mut self.forwards, entry.mac, gone);
            }
            News::Link {
                name, gone: true, ..
            } if name.as_str() == "flannel.1" => {
                // Its routes go without a word.
                self.routes.clear();
                self.neighbours.clear();
                self.forwards.clear();
                self.lost_device = Some(Instant::now());
            }
            News::Overrun => panic!("the kernel told more than could be kept"),
            _ => {}
        }
    }
}

fn set<T: Ord>(held: &mut BTreeSet<T>, one: T, gone: bool) {
    if gone {
        held.remove(&one);
    } else {
        held.insert(one);
    }
}
