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
mod foreign;
mod kernel;
mod legacy;
mod passage;
mod plan;
mod report;
mod save;
mod wanted;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use rustix::io::Errno;
use weft_net::nft::{NftSocket, Table, Transaction};

pub use passage::Passage;
pub use report::{ForwardHook, Repair, Report};

use plan::Plan;

/// What the node's firewall shall do, for both families at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    /// The networks of all pods of the cluster.
    pub networks: Vec<IpNetwork>,
    /// This node's part of them.
    pub own: Vec<IpNetwork>,
    pub masquerade: Option<Masquerade>,
    /// Whether forwarded packets from and to pods are accepted.
    pub forward: bool,
    pub guard: Option<Guard>,
}

/// Pods' packets leave the cluster under the node's address, and others' reach pods under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    pub random_fully: bool,
    /// Networks besides the pods' own which their packets reach under the pod's address.
    pub spared: Vec<IpNetwork>,
}

/// Encapsulated packets from an address that is no peer's are dropped.
///
/// A peer that moves to another address is a stranger there until its lease arrives: what it
/// sends before that is dropped, as are our packets to the address where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The UDP port of the tunnel.
    pub port: u16,
    /// All that may send, before the guard begins: whoever is missing is cut off.
    pub from: BTreeSet<IpAddr>,
    /// `from` may lack some: who is let in already stays so.
    pub lenient: bool,
    /// How long it stands at least when nobody keeps it any more. Then it lets everybody in.
    pub lasting: Duration,
}

impl Guard {
    /// Enough for an upgrade, a reboot of what weftd needs, or an operator who has a look first; and
    /// a node that came meanwhile does not wait for longer.
    pub const LASTING: Duration = Duration::from_secs(3600);
}

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
    has_taken_over: bool,
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

/// What a run does about flannel's iptables chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flannels {
    TakeOver,
    Leave,
}

impl Firewall {
    /// For the network namespace the calling thread is in; there it must be used.
    pub fn open() -> Result<Self> {
        Ok(Self {
            nft: NftSocket::open()?,
            settled: None,
            legacy: None,
            has_taken_over: false,
            told: BTreeSet::new(),
            dropped_before: 0,
        })
    }

    /// When it is to be reconciled though nothing happened: then the guard's time is renewed.
    pub fn due(&self) -> Option<Instant> {
        self.settled.as_ref()?.due()
    }

    /// Makes the firewall what `spec` says.
    pub fn reconcile(&mut self, spec: &Spec) -> Result<Report> {
        let flannels = match self.has_taken_over {
            true => Flannels::Leave,
            false => Flannels::TakeOver,
        };
        let report = self.run(&spec.canonical(), flannels)?;
        self.has_taken_over = true;
        Ok(report)
    }

    /// What a reconciliation would find, and what it would do in nftables, left undone.
    pub fn inspect(&mut self, spec: &Spec) -> Result<Report> {
        let spec = spec.canonical();
        let plan = Plan::make(&mut self.nft, &spec)?;
        let mut hooks = plan.hooks_as_they_are(&spec);
        hooks.extend(wanted::FAMILIES.into_iter().filter_map(|v6| {
            let networks = wanted::of_family(&spec.networks, v6);
            report::legacy_hook(legacy::filter(v6)?, &networks, v6)
        }));
        let mut repaired = plan.repairs();
        if !self.has_taken_over {
            repaired.extend(plan.leftovers());
        }
        Ok(Report {
            repaired,
            hooks,
            notes: plan.notes(&spec, !self.has_taken_over),
            ..Report::default()
        })
    }

    /// Removes all that is ours, and nothing else.
    pub fn remove(&mut self) -> Result<Report> {
        self.run(&Spec::default(), Flannels::Leave)
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

    fn run(&mut self, spec: &Spec, flannels: Flannels) -> Result<Report> {
        let mut report = Report::default();
        if !self.is_settled(spec)? {
            self.run_nft(spec, flannels, &mut report)?;
        }
        self.run_legacy(spec, flannels, &mut report);
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

    fn run_nft(&mut self, spec: &Spec, flannels: Flannels, report: &mut Report) -> Result<()> {
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
        let takes_over = flannels == Flannels::TakeOver;
        if takes_over && plan.has_leftovers() {
            // When ours stand, and not with them: a packet may meet one base chain before a
            // commit and the next one after it, and between the two it would meet neither's rules.
            match self.nft.retry(plan::remove_leftovers) {
                Ok((made, repairs)) => {
                    generation = made;
                    report.generations.push(made);
                    report.repaired.extend(repairs);
                }
                Err(error) => notes.push(format!(
                    "flanneld's chains in iptables do no harm and could not be removed: {error}"
                )),
            }
        }
        notes.extend(plan.notes(spec, takes_over));
        self.settled = Some(Settled {
            spec: spec.clone(),
            generation,
            guarded_until: plan.guards_for().map(|time| Instant::now() + time),
            hooks: plan.hooks(spec),
            notes,
        });
        Ok(())
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

    fn run_legacy(&mut self, spec: &Spec, flannels: Flannels, report: &mut Report) {
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
        let networks = if spec.forward {
            &spec.networks[..]
        } else {
            &[]
        };
        let mut look = LegacyLook {
            at: Instant::now(),
            spec: spec.clone(),
            hooks: Vec::new(),
            notes: Vec::new(),
        };
        for v6 in families {
            let outcome = legacy::keep(networks, v6, flannels == Flannels::TakeOver);
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
    /// When less is left than there must be, by the kernel's clock, too.
    fn due(&self) -> Option<Instant> {
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

impl Spec {
    /// Networks by their first address, each once and in order: two specs that ask for the same
    /// are equal.
    fn canonical(&self) -> Self {
        Self {
            networks: canonical(&self.networks),
            own: canonical(&self.own),
            masquerade: self.masquerade.as_ref().map(|masquerade| Masquerade {
                spared: canonical(&masquerade.spared),
                ..masquerade.clone()
            }),
            ..self.clone()
        }
    }
}

fn canonical(networks: &[IpNetwork]) -> Vec<IpNetwork> {
    let first = |network: &IpNetwork| IpNetwork::new(network.network(), network.prefix()).ok();
    let sorted: BTreeSet<IpNetwork> = networks.iter().filter_map(first).collect();
    sorted.into_iter().collect()
}

/// The generation that a commit made. The kernel leaves out zero.
fn after(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}

/// The kernel's clock may be as coarse as half of that.
const TICK: Duration = Duration::from_millis(20);
/// How long a change in the tables of iptables-legacy may go unnoticed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
