//! What the loop tells of itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use super::Standing;
use crate::drift::{Culprit, Object};
use crate::firewall::ForwardHook;
use crate::plan::Skipped;
use crate::store::Rubbish;

#[derive(Debug, Clone)]
pub struct Report {
    /// Everything that could be programmed is; else what stands in the way.
    pub ready: Result<(), String>,
    pub standing: Option<Standing>,
    /// Name and MTU.
    pub devices: Vec<(String, u32)>,
    pub mtu: u32,
    pub routes: usize,
    /// Peers that cannot be reached as they publish themselves.
    pub skipped: Vec<Skipped>,
    /// What could not be read of what other nodes publish.
    unreadable: Vec<Rubbish>,
    /// What the kernel refused, for as long as it does.
    pub failed: Vec<String>,
    pub rounds: u64,
    pub last_took: Duration,
    pub longest: Duration,
    pub spent: Duration,
    /// How often something was put back, by its kind and by the command that took it away.
    pub repairs: BTreeMap<(&'static str, String), u64>,
    /// The latest, at most fifty.
    pub last_repairs: VecDeque<Repaired>,
    /// What the operator should know, once each.
    pub notes: BTreeSet<String>,
    pub hooks: Vec<ForwardHook>,
    pub guard: bool,
    /// As it was last looked at; and of these, what was counted by rules that are gone.
    pub guard_dropped: u64,
    pub guard_dropped_before: u64,
    told: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    pub when: SystemTime,
    /// "route 10.1.2.0/24"
    pub what: String,
    pub by: Option<Culprit>,
    /// From the deed to the repair, where the deed was seen.
    pub after: Option<Duration>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            ready: Err("nothing is programmed yet".into()),
            standing: None,
            devices: Vec::new(),
            mtu: 0,
            routes: 0,
            skipped: Vec::new(),
            unreadable: Vec::new(),
            failed: Vec::new(),
            rounds: 0,
            last_took: Duration::ZERO,
            longest: Duration::ZERO,
            spent: Duration::ZERO,
            repairs: BTreeMap::new(),
            last_repairs: VecDeque::new(),
            notes: BTreeSet::new(),
            hooks: Vec::new(),
            guard: false,
            guard_dropped: 0,
            guard_dropped_before: 0,
            told: 0,
        }
    }
}

impl Report {
    pub(super) fn begin(&mut self) {
        self.rounds += 1;
        self.told = 0;
    }

    /// Said whenever it changes: a node that cannot serve says so in the log, too.
    pub(super) fn set_ready(&mut self, ready: Result<(), String>) {
        match &ready {
            _ if ready == self.ready => {}
            Ok(()) => tracing::info!("ready"),
            Err(why) => tracing::warn!("not ready: {why}"),
        }
        self.ready = ready;
    }

    pub(super) fn end(&mut self, took: Duration) {
        if self.told > TOLD_A_ROUND {
            tracing::warn!("and {} more", self.told - TOLD_A_ROUND);
        }
        self.last_took = took;
        self.longest = self.longest.max(took);
        self.spent += took;
    }

    /// Said once, however often it is met.
    pub(super) fn note(&mut self, note: String) {
        if self.notes.len() < MOST_NOTES && self.notes.insert(note.clone()) {
            tracing::warn!("{note}");
        }
    }

    pub(super) fn skip(&mut self, skipped: &[Skipped]) {
        for peer in skipped {
            if !self.skipped.contains(peer) {
                tracing::warn!(subnet = %peer.subnet, "peer left out: {}", peer.why);
            }
        }
        self.skipped = skipped.to_vec();
    }

    pub(super) fn read(&mut self, rubbish: &[Rubbish]) {
        if self.unreadable == rubbish {
            return;
        }
        for lease in rubbish {
            if !self.unreadable.contains(lease) {
                tracing::warn!(
                    "what {} publishes cannot be read: {}",
                    lease.name,
                    lease.why
                );
            }
        }
        self.unreadable = rubbish.to_vec();
    }

    /// A flush takes thousands of things away: then the first few of a round are told one by one.
    pub(super) fn tells_each(&mut self) -> bool {
        self.told += 1;
        self.told <= TOLD_A_ROUND
    }

    pub(super) fn repaired(
        &mut self,
        object: &Object,
        by: Option<Culprit>,
        after: Option<Duration>,
    ) {
        let command = by.as_ref().and_then(|culprit| culprit.command.clone());
        let label = command.unwrap_or_else(|| "unknown".into());
        *self.repairs.entry((object.kind(), label)).or_default() += 1;
        if self.last_repairs.len() == MOST_REPAIRS {
            self.last_repairs.pop_front();
        }
        self.last_repairs.push_back(Repaired {
            when: SystemTime::now(),
            what: object.to_string(),
            by,
            after,
        });
    }
}

const MOST_REPAIRS: usize = 50;
const MOST_NOTES: usize = 100;
const TOLD_A_ROUND: u32 = 10;
