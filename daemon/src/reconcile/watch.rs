//! What the reconciler waits for: the kernel's news with their authors' names, and a nudge from
//! the rest of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use weft_net::route::NeighbourState;
use weft_net::watch::{
    Event, Filter, News, Owner, RulesetEvent, RulesetWatch, Watch, Witness, open_ports, owner_of,
};
use weft_net::{Error, Result};

use crate::diff::Actual;
use crate::drift::{Culprit, Deed, Links, Suspects, Target};
use crate::firewall::Firewall;
use crate::kernel;
use crate::plan::{Device, Family};

/// What has to be looked at again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dirty {
    /// Devices, routes, neighbours, forwarding entries.
    pub(super) tables: bool,
    pub(super) ruleset: bool,
    /// Interfaces and addresses of the underlay.
    pub(super) ground: bool,
}

impl Dirty {
    pub(super) const ALL: Self = Self {
        tables: true,
        ruleset: true,
        ground: true,
    };

    pub(super) fn any(self) -> bool {
        self.tables || self.ruleset || self.ground
    }
}

#[derive(Debug)]
pub(super) struct Eyes {
    watch: Watch,
    ruleset: RulesetWatch,
    filter: Filter,
    nudge: OwnedFd,
    /// Where the kernel allows it; elsewhere, who is gone too soon stays without a name.
    witness: Option<Witness>,
    /// Ports of programs that are always there: none of them is a newcomer.
    residents: BTreeSet<u32>,
    events: Vec<Event>,
    commits: Vec<RulesetEvent>,
}

/// What is compared with the news to tell whether they concern us.
pub(super) struct Ours<'a> {
    pub(super) links: Links,
    pub(super) devices: &'a [Device],
    pub(super) believed: &'a Actual,
}

impl Eyes {
    pub(super) fn open(own_ports: Vec<u32>) -> Result<Self> {
        let filter = Filter {
            own_ports,
            neighbours_on: Some(Vec::new()),
            mute_forwarding: false,
        };
        let nudge = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::new("make an eventfd", errno))?;
        Ok(Self {
            watch: Watch::open(&filter)?,
            ruleset: RulesetWatch::open(&filter, &Firewall::watched())?,
            filter,
            nudge,
            witness: Witness::open()
                .inspect_err(|why| tracing::debug!("{why}: short-lived culprits may go unnamed"))
                .ok(),
            residents: BTreeSet::new(),
            events: Vec::new(),
            commits: Vec::new(),
        })
    }

    /// Write eight bytes to it, and the reconciler looks at its inbox.
    pub(super) fn nudge(&self) -> Result<OwnedFd> {
        self.nudge
            .try_clone()
            .map_err(|e| Error::new("share an eventfd", e))
    }

    /// Somebody notes names for us, so that nothing is lost by being late.
    pub(super) fn has_witness(&self) -> bool {
        self.witness.is_some()
    }

    /// Returns at the deadline, or when something happened.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<()> {
        let left = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let mut fds = [
            PollFd::new(&self.watch, PollFlags::IN),
            PollFd::new(&self.ruleset, PollFlags::IN),
            PollFd::new(&self.nudge, PollFlags::IN),
        ];
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("wait for the kernel's news", errno)),
        }
        let mut counter = [0; 8];
        // Empty or not: what counts is in the inbox.
        let _ = rustix::io::read(self.nudge.as_fd(), &mut counter);
        Ok(())
    }

    /// Reads all news; the authors' names at once, since they may be gone in a moment.
    pub(super) fn look(&mut self, ours: &Ours<'_>, suspects: &mut Suspects) -> Result<Dirty> {
        let mut dirty = Dirty::default();
        let now = Instant::now();
        let mut names = Names {
            known: BTreeMap::new(),
            witness: self.witness.as_ref(),
            residents: &self.residents,
        };
        self.watch.read(&mut self.events)?;
        for event in self.events.drain(..) {
            let (target, what) = ours.concerned(&event.news);
            dirty.merge(what);
            if let Some(to) = target {
                let by = names.of(&event);
                suspects.note(Deed { to, by, at: now });
            }
        }
        self.ruleset.read(&mut self.commits)?;
        for commit in self.commits.drain(..) {
            match commit {
                RulesetEvent::Overrun => dirty.ruleset = true,
                RulesetEvent::Commit { touched, .. } if touched.is_empty() => {}
                RulesetEvent::Commit { generation, .. } => {
                    dirty.ruleset = true;
                    let by = Culprit {
                        pid: generation.pid,
                        command: Some(generation.program),
                    };
                    let to = Target::Ruleset;
                    suspects.note(Deed { to, by, at: now });
                }
            }
        }
        Ok(dirty)
    }

    /// To be called now and then, when nothing happens.
    pub(super) fn know_residents(&mut self) {
        self.residents = open_ports().into_iter().collect();
    }

    /// From here on only these links' neighbours and forwarding entries are told of.
    pub(super) fn follow(&mut self, links: Links) -> Result<()> {
        let wanted: Vec<u32> = links.v4.into_iter().chain(links.v6).collect();
        if self.filter.neighbours_on.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.filter.neighbours_on = Some(wanted);
        self.watch.set_filter(&self.filter)
    }

    /// The kernel does not say that a change of a forwarding entry is our own.
    pub(super) fn mute_forwarding(&mut self, mute: bool) -> Result<()> {
        self.filter.mute_forwarding = mute;
        self.watch.set_filter(&self.filter)
    }
}

impl Dirty {
    pub(super) fn merge(&mut self, other: Self) {
        self.tables |= other.tables;
        self.ruleset |= other.ruleset;
        self.ground |= other.ground;
    }
}

impl Ours<'_> {
    /// What happened to something of ours, and what to look at again.
    fn concerned(&self, news: &News) -> (Option<Target>, Dirty) {
        let nothing = (None, Dirty::default());
        let tables = Dirty {
            tables: true,
            ..Dirty::default()
        };
        match news {
            News::Overrun => (None, Dirty::ALL),
            News::Link { index, name, .. } => {
                let is_device = self.is_device(*index)
                    || self.devices.iter().any(|own| own.name == name.as_str());
                let is_ground = *index == self.links.ground;
                if !is_device && !is_ground && self.links.ground != 0 {
                    return nothing;
                }
                let dirty = Dirty {
                    tables: true,
                    ground: !is_device,
                    ..Dirty::default()
                };
                (Some(Target::Link(*index)), dirty)
            }
            News::Address { address, .. } if self.is_device(address.link) => {
                (Some(Target::Address(address.link)), tables)
            }
            News::Address { address, gone } => {
                let is_ground = address.link == self.links.ground;
                // With the last address of a network go, untold, the routes by way of it.
                let took_along = *gone && is_ground;
                let dirty = Dirty {
                    tables: took_along,
                    ground: is_ground || self.links.ground == 0,
                    ..Dirty::default()
                };
                (took_along.then_some(Target::Link(address.link)), dirty)
            }
            News::Route { route, .. } => {
                let known = self.believed.has_route_to(route.destination);
                if !known && !kernel::is_our_protocol(route.protocol) {
                    let dirty = Dirty {
                        ground: route.is_default(),
                        ..Dirty::default()
                    };
                    return (None, dirty);
                }
                (Some(Target::Route(route.destination)), tables)
            }
            News::Neighbour { neighbour, gone } => {
                let key = self
                    .family(neighbour.link)
                    .map(|family| (family, neighbour.address));
                let Some(key) = key else { return nothing };
                let held = self.believed.neighbours.get(&key);
                let as_it_was = !gone
                    && neighbour.state == NeighbourState::Permanent
                    && held == neighbour.mac.as_ref();
                let never_ours = held.is_none() && neighbour.state != NeighbourState::Permanent;
                if as_it_was || never_ours {
                    return nothing;
                }
                let target = Target::Neighbour(neighbour.link, neighbour.address);
                (Some(target), tables)
            }
            News::Fdb { entry, gone } => {
                let Some(family) = self.family(entry.link) else {
                    return nothing;
                };
                let held = self.believed.fdb.get(&(family, entry.mac));
                // Our own changes are told like anybody's.
                let as_it_is = if *gone {
                    held.is_none()
                } else {
                    held == entry.remote.as_ref()
                };
                if as_it_is {
                    return nothing;
                }
                (Some(Target::Forward(entry.link, entry.mac)), tables)
            }
        }
    }

    fn is_device(&self, link: u32) -> bool {
        self.family(link).is_some()
    }

    fn family(&self, link: u32) -> Option<Family> {
        [Family::V4, Family::V6]
            .into_iter()
            .find(|family| self.links.of(*family) == Some(link))
    }
}

/// Port ids' owners, each looked up once: a flush makes thousands of deeds.
struct Names<'a> {
    known: BTreeMap<u32, Culprit>,
    witness: Option<&'a Witness>,
    residents: &'a BTreeSet<u32>,
}

impl Names<'_> {
    fn of(&mut self, event: &Event) -> Culprit {
        if let Some(culprit) = self.known.get(&event.by) {
            return culprit.clone();
        }
        let seen = self.witness.and_then(|witness| witness.saw(event));
        let culprit = match (seen, event.by) {
            (Some(owner), _) => Culprit::from(owner),
            (None, 0) => self.newcomer(),
            (None, port) => named(port),
        };
        // What was told without a port may be by many.
        if event.by != 0 || self.witness.is_none() {
            self.known.insert(event.by, culprit.clone());
        }
        culprit
    }

    /// Of a link's or a forwarding entry's end the kernel does not say who made it. If there is
    /// but one program that speaks rtnetlink and was not here before, it was that one.
    fn newcomer(&self) -> Culprit {
        let mut strangers = open_ports()
            .into_iter()
            .filter(|port| !self.residents.contains(port));
        match (strangers.next(), strangers.next()) {
            (Some(port), None) => named(port),
            _ => Culprit::default(),
        }
    }
}

impl From<Owner> for Culprit {
    fn from(owner: Owner) -> Self {
        Self {
            pid: owner.pid,
            command: Some(owner.program),
        }
    }
}

/// A command that did one thing and ends is there for some 200 microseconds more: the guess that
/// holds for most is tried before anything is looked up.
fn named(port: u32) -> Culprit {
    let likely = std::fs::read_to_string(format!("/proc/{port}/comm"));
    match likely {
        Ok(name) => Culprit {
            pid: port,
            command: Some(name.trim_end().to_owned()),
        },
        Err(_) => owner_of(port).map_or(
            Culprit {
                pid: port,
                command: None,
            },
            Culprit::from,
        ),
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
