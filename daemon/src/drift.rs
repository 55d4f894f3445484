//! Somebody else changed what is ours: who it was, and how often it is put back before the
//! rival is given time to be stopped. Pure; time is passed in.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use weft_net::Mac;

use crate::diff::Change;
use crate::plan::Family;

/// What can be lost, one by one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Route(IpNetwork),
    Neighbour(Family, IpAddr),
    Forward(Family, Mac),
    Device(Family),
    Address(Family),
    Ruleset,
}

/// Which process did it. Port ids of netlink are process ids, for ordinary programs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Culprit {
    /// 0: the kernel, or a program that does not speak netlink (ioctl).
    pub pid: u32,
    /// None: gone before it could be looked at.
    pub command: Option<String>,
}

/// What the kernel said that somebody did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    pub to: Target,
    pub by: Culprit,
    pub at: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Route(IpNetwork),
    Neighbour(u32, IpAddr),
    Forward(u32, Mac),
    /// Takes along the routes over it, without a word for each.
    Link(u32),
    Address(u32),
    Ruleset,
}

/// The links that objects are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Links {
    pub v4: Option<u32>,
    pub v6: Option<u32>,
    pub ground: u32,
}

/// Deeds of the last seconds.
#[derive(Debug, Default)]
pub struct Suspects {
    deeds: VecDeque<Deed>,
}

impl Suspects {
    pub fn note(&mut self, deed: Deed) {
        if self.deeds.len() == MOST_SUSPECTS {
            self.deeds.pop_front();
        }
        self.deeds.push_back(deed);
    }

    pub fn forget_before(&mut self, then: Instant) {
        while self.deeds.front().is_some_and(|deed| deed.at < then) {
            self.deeds.pop_front();
        }
    }

    /// Who did it, by the last deed that explains it: one to the object, or one to the link it
    /// is on, with which it went. One deed is told in several pieces, of which some have no name,
    /// so a name that is hardly older counts more.
    pub fn blame(&self, object: &Object, links: Links) -> Option<&Deed> {
        let explains =
            |deed: &&Deed| object.is_hit_by(&deed.to, links) || object.went_with(&deed.to, links);
        let mut fitting = self.deeds.iter().rev().filter(explains);
        let last = fitting.next()?;
        let same = |deed: &&Deed| last.at.saturating_duration_since(deed.at) < ONE_DEED;
        let named = |deed: &&Deed| deed.by.command.is_some();
        std::iter::once(last)
            .chain(fitting)
            .take_while(same)
            .find(named)
            .or(Some(last))
    }
}

impl Object {
    pub fn of(change: &Change) -> Self {
        match change {
            Change::SetRoute(route) => Self::Route(route.destination),
            Change::RemoveRoute((destination, _), _) => Self::Route(*destination),
            Change::SetNeighbour(entry) | Change::RemoveNeighbour(entry) => {
                Self::Neighbour(entry.device, entry.address)
            }
            Change::SetForward(entry) | Change::RemoveForward(entry) => {
                Self::Forward(entry.device, entry.mac)
            }
        }
    }

    /// For a metric's label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Route(_) => "route",
            Self::Neighbour(..) => "neighbour",
            Self::Forward(..) => "fdb",
            Self::Device(_) => "device",
            Self::Address(_) => "address",
            Self::Ruleset => "ruleset",
        }
    }

    fn is_hit_by(&self, target: &Target, links: Links) -> bool {
        match (self, target) {
            (Self::Route(a), Target::Route(b)) => a == b,
            (Self::Neighbour(family, a), Target::Neighbour(link, b)) => {
                a == b && links.is(*family, *link)
            }
            (Self::Forward(family, a), Target::Forward(link, b)) => {
                a == b && links.is(*family, *link)
            }
            (Self::Device(family), Target::Link(link))
            | (Self::Address(family), Target::Address(link)) => links.is(*family, *link),
            (Self::Ruleset, Target::Ruleset) => true,
            _ => false,
        }
    }

    fn went_with(&self, target: &Target, links: Links) -> bool {
        let Target::Link(link) = target else {
            return false;
        };
        match self {
            Self::Route(_) => *link == links.ground || [links.v4, links.v6].contains(&Some(*link)),
            Self::Neighbour(family, _) | Self::Forward(family, _) | Self::Address(family) => {
                links.is(*family, *link)
            }
            Self::Device(_) | Self::Ruleset => false,
        }
    }
}

impl Links {
    pub fn of(&self, family: Family) -> Option<u32> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    fn is(&self, family: Family, link: u32) -> bool {
        self.of(family) == Some(link)
    }
}

/// Repairs that are undone again and again, object by object.
#[derive(Debug, Default)]
pub struct Rivalry {
    strikes: BTreeMap<Object, Strikes>,
}

#[derive(Debug, Clone, Copy)]
struct Strikes {
    count: u32,
    last: Instant,
    not_before: Instant,
}

/// Whether something is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Now,
    /// Somebody keeps undoing it. `first`: it has not been said yet.
    Later {
        at: Instant,
        first: bool,
    },
}

impl Rivalry {
    /// Asked once for each time that something is found missing.
    pub fn found_missing(&mut self, object: &Object, now: Instant) -> Verdict {
        let fresh = Strikes {
            count: 0,
            last: now,
            not_before: now,
        };
        let strikes = self.strikes.entry(object.clone()).or_insert(fresh);
        if now.saturating_duration_since(strikes.last) > FORGIVEN_AFTER {
            *strikes = fresh;
        }
        if now < strikes.not_before {
            return Verdict::Later {
                at: strikes.not_before,
                first: false,
            };
        }
        let due = strikes.count > AT_ONCE && strikes.not_before <= strikes.last;
        if due {
            let doublings = (strikes.count - AT_ONCE - 1).min(10);
            let wait = (FIRST_WAIT * 2u32.pow(doublings)).min(LONGEST_WAIT);
            strikes.not_before = now + wait;
            return Verdict::Later {
                at: strikes.not_before,
                first: strikes.count == AT_ONCE + 1,
            };
        }
        strikes.count += 1;
        strikes.last = now;
        Verdict::Now
    }

    /// When the next thing may be put back that was left waiting.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let waiting = self.strikes.values().map(|strikes| strikes.not_before);
        waiting.filter(|at| *at > now).min()
    }

    pub fn forgive(&mut self, now: Instant) {
        self.strikes
            .retain(|_, strikes| now.saturating_duration_since(strikes.last) <= FORGIVEN_AFTER);
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(destination) => write!(f, "route {destination}"),
            Self::Neighbour(_, address) => write!(f, "neighbour {address}"),
            Self::Forward(_, mac) => write!(f, "forwarding entry {mac}"),
            Self::Device(family) => write!(f, "{family} tunnel device"),
            Self::Address(family) => write!(f, "{family} address of the tunnel device"),
            Self::Ruleset => f.write_str("nftables ruleset"),
        }
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.command) {
            (0, None) => f.write_str("somebody unknown (the kernel, or an old ioctl program)"),
            (pid, None) => write!(f, "pid {pid} (it has ended)"),
            (0, Some(command)) => write!(f, "{command}"),
            (pid, Some(command)) => write!(f, "pid {pid} ({command})"),
        }
    }
}

/// More than 5,000 peers' entries, lost one by one.
const MOST_SUSPECTS: usize = 20_000;
/// All that is told of one deed is told within this time, on a busy machine too.
const ONE_DEED: Duration = Duration::from_millis(500);
/// A hand on the keyboard is not a rival.
const AT_ONCE: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn route(n: u8) -> IpNetwork {
        format!("10.0.{n}.0/24").parse().expect("a network")
    }

    fn links() -> Links {
        Links {
            v4: Some(7),
            v6: None,
            ground: 2,
        }
    }

    fn deed(to: Target, pid: u32, at: Instant) -> Deed {
        let by = Culprit { pid, command: None };
        Deed { to, by, at }
    }

    #[test]
    fn the_last_deed_to_an_object_or_to_its_link_explains_its_loss() {
        let now = Instant::now();
        let later = now + Duration::from_secs(2);
        let mut suspects = Suspects::default();
        let blamed = |suspects: &Suspects| {
            let object = Object::Route(route(1));
            suspects.blame(&object, links()).map(|deed| deed.by.pid)
        };
        suspects.note(deed(Target::Link(7), 12, now));
        assert_eq!(blamed(&suspects), Some(12));
        suspects.note(deed(Target::Route(route(1)), 11, later));
        assert_eq!(blamed(&suspects), Some(11));
        suspects.note(deed(Target::Link(7), 13, later));
        assert_eq!(blamed(&suspects), Some(13));
    }

    #[test]
    fn a_name_counts_more_than_a_deed_told_a_moment_later_without_one() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        let mut named = deed(Target::Link(7), 12, now);
        named.by.command = Some("ip".into());
        suspects.note(named);
        suspects.note(deed(Target::Link(7), 0, now + ONE_DEED / 2));
        let device = Object::Device(Family::V4);
        let blamed = |suspects: &Suspects| suspects.blame(&device, links()).map(|deed| deed.by.pid);
        assert_eq!(blamed(&suspects), Some(12));
        suspects.note(deed(Target::Link(7), 0, now + ONE_DEED * 2));
        assert_eq!(blamed(&suspects), Some(0));
    }

    #[test]
    fn a_deed_to_another_link_explains_nothing() {
        let mut suspects = Suspects::default();
        suspects.note(deed(Target::Link(99), 12, Instant::now()));
        let object = Object::Forward(Family::V4, Mac([2; 6]));
        assert_eq!(suspects.blame(&object, links()), None);
    }

    #[test]
    fn suspects_are_forgotten_with_time() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        suspects.note(deed(Target::Ruleset, 5, now));
        suspects.forget_before(now + Duration::from_secs(1));
        assert_eq!(suspects.blame(&Object::Ruleset, links()), None);
    }

    #[test]
    fn what_is_removed_now_and_then_is_put_back_at_once_every_time() {
        let mut rivalry = Rivalry::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            assert_eq!(rivalry.found_missing(&Object::Ruleset, now), Verdict::Now);
            now += FORGIVEN_AFTER + Duration::from_secs(1);
        }
    }

    #[test]
    fn a_rival_that_never_tires_costs_two_repairs_a_minute_in_the_end() {
        let mut rivalry = Rivalry::default();
        let mut now = Instant::now();
        let end = now + Duration::from_secs(1200);
        let mut repairs = Vec::new();
        let mut said = 0;
        while now < end {
            match rivalry.found_missing(&Object::Ruleset, now) {
                Verdict::Now => repairs.push(now),
                Verdict::Later { first, .. } => said += usize::from(first),
            }
            now += Duration::from_millis(50);
        }
        assert_eq!(said, 1);
        let last_minute = end - Duration::from_secs(60);
        let late = repairs.iter().filter(|at| **at > last_minute).count();
        assert!((1..=2).contains(&late), "{late} in the last minute");
    }

    #[test]
    fn one_object_s_rival_does_not_slow_another_object_s_repair() {
        let mut rivalry = Rivalry::default();
        let now = Instant::now();
        let fought = Object::Route(route(1));
        while rivalry.found_missing(&fought, now) == Verdict::Now {}
        let other = Object::Route(route(2));
        assert_eq!(rivalry.found_missing(&other, now), Verdict::Now);
        assert!(rivalry.next(now).is_some());
    }
}
