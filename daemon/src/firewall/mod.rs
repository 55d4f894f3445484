//! The node's firewall: values → diff → one nftables transaction.
//!
//! [`Firewall::reconcile`] looks at what stands and writes what differs from the [`Spec`]; when
//! nothing does it writes nothing. Besides our own tables ([`wanted`]) it looks at every chain
//! that forwarded packets pass ([`passage`]): where one of iptables' drops pods' packets, plain
//! accepts go in there. What is in the tables of iptables-legacy only its program can tell
//! ([`legacy`]); others' chains are told of in a note with its remedy.
//!
//! An accept of ours in others' chains is recognised as an accept by what it matches, whoever put
//! it there; as ours, which may be removed, by its comment besides. The comment survives saving
//! and restoring, as a comment of iptables', so that no memory of what we did is needed.

mod diff;
mod flannels;
mod foreign;
mod kernel;
mod legacy;
mod passage;
mod plan;
mod report;
mod save;
mod spec;
mod wanted;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use weft_net::nft::{NftSocket, Table, Transaction};

pub use passage::Passage;
pub use report::{ForwardHook, Repair, Report};
pub use spec::{Guard, Masquerade, Spec};

use flannels::Flannels;
use plan::Plan;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's nf_tables refused to show or to change what there is.
    #[error("keep the node's firewall: {0}{remedy}", remedy = remedy(.0))]
    Nft(#[from] weft_net::Error),
}

fn remedy(error: &weft_net::Error) -> &'static str {
    match error.errno() {
        Some(Errno::PERM | Errno::ACCESS) => {
            ": weftd needs CAP_NET_ADMIN in the network namespace it works in"
        }
        Some(Errno::NOENT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => {
            ": the kernel needs its modules nf_tables, nft_chain_nat and nft_masq"
        }
        _ => "",
    }
}

#[derive(Debug)]
pub struct Firewall {
    nft: NftSocket,
    settled: Option<Settled>,
    legacy: Option<LegacyLook>,
    flannels: Flannels,
    /// Notes that have been told, and hold still.
    told: BTreeSet<String>,
    /// What the guard counted in rules that are gone.
    dropped_before: u64,
}

/// What stood complete when it was last looked at.
#[derive(Debug)]
struct Settled {
    spec: Spec,
    /// The ruleset's, then.
    generation: u32,
    /// When the guard goes by itself.
    guarded_until: Option<Instant>,
    /// When what flanneld keeps may have become what it left.
    look_again: Option<Instant>,
    hooks: Vec<ForwardHook>,
    notes: Vec<String>,
}

/// Nothing tells of changes in the tables of iptables-legacy.
#[derive(Debug)]
struct LegacyLook {
    at: Instant,
    spec: Spec,
    hooks: Vec<ForwardHook>,
    notes: Vec<String>,
}

impl Firewall {
    /// For the network namespace the calling thread is in; there it must be used.
    pub fn open() -> Result<Self> {
        Ok(Self {
            nft: NftSocket::open()?,
            settled: None,
            legacy: None,
            flannels: Flannels::default(),
            told: BTreeSet::new(),
            dropped_before: 0,
        })
    }

    /// When it is to be reconciled though nothing happened.
    pub fn due(&self) -> Option<Instant> {
        self.settled.as_ref()?.due()
    }

    /// Makes the firewall what `spec` says.
    pub fn reconcile(&mut self, spec: &Spec) -> Result<Report> {
        self.run(&spec.canonical())
    }

    /// What a reconciliation would find and do, left undone; but for accepts in iptables-legacy.
    pub fn inspect(&mut self, spec: &Spec) -> Result<Report> {
        let spec = spec.canonical();
        let plan = Plan::make(&mut self.nft, &spec)?;
        let mut hooks = plan.hooks_as_they_are(&spec);
        hooks.extend(wanted::FAMILIES.into_iter().filter_map(|v6| {
            let networks = wanted::of_family(&spec.networks, v6);
            report::legacy_hook(legacy::filter(v6)?, &networks, v6)
        }));
        let mut repaired = plan.repairs();
        repaired.extend(plan.removals());
        let legacy = |v6| legacy::removals(&spec.networks, v6);
        repaired.extend(wanted::FAMILIES.into_iter().flat_map(legacy));
        Ok(Report {
            repaired,
            hooks,
            notes: plan.notes(&spec),
            ..Report::default()
        })
    }

    /// Removes all that is ours, and what flanneld left; nothing else.
    pub fn remove(&mut self) -> Result<Report> {
        self.run(&Spec::default())
    }

    /// Removes the guard alone, which knows no peer that comes when nobody keeps it; whether there
    /// was one.
    pub fn remove_guard(&mut self) -> Result<bool> {
        let is_there = |table: &weft_net::nft::StoredTable| table.table() == wanted::GUARD;
        if !self.nft.tables()?.iter().any(is_there) {
            return Ok(false);
        }
        let mut transaction = Transaction::new();
        transaction.delete_table(wanted::GUARD);
        self.nft.commit(transaction)?;
        self.settled = None;
        Ok(true)
    }

    /// The port that our commits are made through: a watch told of it tells of others' only.
    pub fn port(&mut self) -> Result<u32> {
        Ok(self.nft.port()?)
    }

    /// The tables whose changes call for a reconciliation at once: ours, and those of
    /// iptables-nft that accepts of ours may be in. What else may drop pods' packets is looked at
    /// by each reconciliation that somebody's commit has preceded.
    pub const fn watched() -> [Table<'static>; 5] {
        let [pods4, pods6, guard] = wanted::TABLES;
        [pods4, pods6, guard, foreign::FILTER4, foreign::FILTER6]
    }

    /// Packets that the guard has dropped.
    pub fn dropped(&mut self) -> Result<u64> {
        Ok(self.dropped_before + kernel::dropped(&mut self.nft)?)
    }

    /// Those of them that were counted by rules that are gone. The rest is [`count_dropped`].
    pub fn dropped_before(&self) -> u64 {
        self.dropped_before
    }

    fn run(&mut self, spec: &Spec) -> Result<Report> {
        let mut report = Report::default();
        self.flannels.begin();
        if !self.is_settled(spec)? {
            self.run_nft(spec, &mut report)?;
        }
        self.run_legacy(spec, &mut report);
        self.flannels.end();
        self.sum_up(&mut report);
        Ok(report)
    }

    fn is_settled(&mut self, spec: &Spec) -> Result<bool> {
        Ok(match &self.settled {
            Some(known) if known.spec == *spec && !known.is_due() => {
                self.nft.generation()? == known.generation
            }
            Some(_) | None => false,
        })
    }

    fn run_nft(&mut self, spec: &Spec, report: &mut Report) -> Result<()> {
        let known = self.settled.take();
        let mut notes = Vec::new();
        let plan = match self.commit(|nft| Plan::make(nft, spec)) {
            // Others' tables may be refused to us, as those are that a program keeps for itself.
            Err(error) if error.errno() != Some(Errno::RESTART) => {
                let plan = self.commit(|nft| Ok(Plan::make(nft, spec)?.of_own_tables()))?;
                notes.push(format!(
                    "the chains of others that drop pods' packets stay as they are: {error}"
                ));
                plan
            }
            made => made?,
        };
        report.repaired = plan.repairs();
        let stood = |known: Settled| known.spec == *spec && !known.is_over();
        report.is_drift = !report.repaired.is_empty() && known.is_some_and(stood);
        let mut generation = plan.generation;
        if !plan.is_empty() {
            generation = after(generation);
            report.generations.push(generation);
        }
        if plan.loses_counters() {
            self.dropped_before += plan.dropped;
        }
        notes.extend(plan.notes(spec));
        if !plan.leftovers.is_empty() {
            let made = self.remove_leftovers(&plan, spec, report, &mut notes);
            generation = made.unwrap_or(generation);
        }
        self.settled = Some(Settled {
            spec: spec.clone(),
            generation,
            guarded_until: plan.guards_for().map(|time| Instant::now() + time),
            look_again: self.flannels.look_again(),
            hooks: plan.hooks(spec),
            notes,
        });
        Ok(())
    }

    /// When ours stand, and not with them: a packet may meet one base chain before a commit and the
    /// next one after it, and between the two it would meet neither's rules. The generation that it
    /// made.
    fn remove_leftovers(
        &mut self,
        plan: &Plan,
        spec: &Spec,
        report: &mut Report,
        notes: &mut Vec<String>,
    ) -> Option<u32> {
        if !self.flannels.may_go() {
            let left = plan.leftovers.iter();
            notes.extend(left.filter_map(|what| self.flannels.note(what)));
            return None;
        }
        let remove = |nft: &mut NftSocket| plan::remove_leftovers(nft, &spec.networks);
        match self.nft.retry(remove) {
            Ok((made, repairs)) => {
                report.generations.push(made);
                report.repaired.extend(repairs);
                Some(made)
            }
            Err(error) => {
                notes.push(format!(
                    "flanneld's rules in iptables do no harm and could not be removed: {error}"
                ));
                None
            }
        }
    }

    /// Makes a plan and carries it out, again and again while others are faster.
    fn commit(
        &mut self,
        mut make: impl FnMut(&mut NftSocket) -> weft_net::Result<Plan>,
    ) -> weft_net::Result<Plan> {
        self.nft.retry(|nft| {
            let plan = make(nft)?;
            nft.commit(plan.transaction())?;
            Ok(plan)
        })
    }

    fn run_legacy(&mut self, spec: &Spec, report: &mut Report) {
        let families: Vec<bool> = wanted::FAMILIES
            .into_iter()
            .filter(|v6| legacy::is_in_use(*v6))
            .collect();
        let known = self.legacy.take().filter(|look| look.spec == *spec);
        if families.is_empty() {
            return;
        }
        let is_fresh = |look: &LegacyLook| look.at.elapsed() < LOOK_AGAIN;
        if known.as_ref().is_some_and(is_fresh) {
            self.legacy = known;
            return;
        }
        let mut wanted = legacy::Wanted {
            networks: &spec.networks,
            forward: spec.forward,
            flannels: &mut self.flannels,
        };
        let mut look = LegacyLook {
            at: Instant::now(),
            spec: spec.clone(),
            hooks: Vec::new(),
            notes: Vec::new(),
        };
        for v6 in families {
            let outcome = legacy::keep(&mut wanted, v6);
            report.is_drift |= known.is_some() && !outcome.repairs.is_empty();
            report.repaired.extend(outcome.repairs);
            look.notes.extend(outcome.notes);
            let hook = outcome.filter.map(|filter| {
                report::legacy_hook(filter, &wanted::of_family(&spec.networks, v6), v6)
            });
            look.hooks.extend(hook.flatten());
        }
        self.legacy = Some(look);
    }

    /// What was seen now or at the last look, and of the notes those that are news.
    fn sum_up(&mut self, report: &mut Report) {
        let mut notes = BTreeSet::new();
        if let Some(settled) = &self.settled {
            report.hooks.extend_from_slice(&settled.hooks);
            notes.extend(settled.notes.iter().cloned());
        }
        if let Some(legacy) = &self.legacy {
            report.hooks.extend_from_slice(&legacy.hooks);
            notes.extend(legacy.notes.iter().cloned());
        }
        report.notes = notes.difference(&self.told).cloned().collect();
        self.told = notes;
    }
}

impl Settled {
    fn due(&self) -> Option<Instant> {
        let due = [self.guard_due(), self.look_again];
        due.into_iter().flatten().min()
    }

    /// When less is left than there must be, by the kernel's clock, too.
    fn guard_due(&self) -> Option<Instant> {
        let lasting = self.spec.guard.as_ref()?.lasting;
        Some(self.guarded_until?.checked_sub(lasting)? + TICK)
    }

    fn is_due(&self) -> bool {
        self.due().is_some_and(|due| due <= Instant::now())
    }

    /// Nobody has kept it for as long as it lasts: this process was stopped.
    fn is_over(&self) -> bool {
        self.guarded_until.is_some_and(|end| end <= Instant::now())
    }
}

/// What the guard's rules have dropped since they stand; for whoever is asked, at any time.
pub fn count_dropped() -> Result<u64> {
    Ok(kernel::dropped(&mut NftSocket::open()?)?)
}

/// The generation that a commit made. The kernel leaves out zero.
fn after(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}

/// The kernel's clock may be as coarse as half of that.
const TICK: Duration = Duration::from_millis(20);
/// How long a change in the tables of iptables-legacy may go unnoticed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
