//! The node's firewall: values → diff → one nftables transaction.
//!
//! [`Firewall::reconcile`] looks at what stands and writes what differs from the [`Spec`]; when
//! nothing does it writes nothing.

mod diff;
mod kernel;
mod wanted;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_net::nft::{NftSocket, Transaction};

use diff::Change;

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
    pub from: BTreeSet<IpAddr>,
}

/// What a reconciliation found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What was not as it should be and has been put right, by table.
    pub repaired: Vec<Repair>,
    /// The same spec stood complete before: so somebody else has taken away what was repaired.
    pub is_drift: bool,
    /// The generations of the ruleset that our own commits made, for telling them from others'.
    pub generations: Vec<u32>,
    /// What the operator should know, with the remedy; each is told once as long as it holds.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// As nft names it: `ip flannel-ipv4`.
    pub table: String,
    pub what: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's nf_tables.
    #[error("keep the node's firewall: {0}")]
    Nft(#[from] weft_net::Error),
}

#[derive(Debug)]
pub struct Firewall {
    nft: NftSocket,
    /// What stood complete when it was last looked at, and the ruleset's generation then.
    settled: Option<(Spec, u32)>,
    /// What the guard counted in rules that are gone.
    dropped_before: u64,
}

/// A look at the ruleset, and what follows from it.
struct Plan {
    generation: u32,
    changes: Vec<Change>,
    dropped: u64,
}

impl Firewall {
    /// For the network namespace the calling thread is in; there it must be used.
    pub fn open() -> Result<Self> {
        Ok(Self {
            nft: NftSocket::open()?,
            settled: None,
            dropped_before: 0,
        })
    }

    /// Makes the firewall what `spec` says.
    pub fn reconcile(&mut self, spec: &Spec) -> Result<Report> {
        let spec = spec.canonical();
        if self.is_settled(&spec)? {
            return Ok(Report::default());
        }
        let is_drift = self.settled.take().is_some_and(|(known, _)| known == spec);
        let plan = self.nft.retry(|nft| {
            let plan = Plan::make(nft, &spec)?;
            nft.commit(plan.transaction())?;
            Ok(plan)
        })?;
        let mut report = Report {
            is_drift: is_drift && !plan.changes.is_empty(),
            repaired: repairs(&plan.changes),
            ..Report::default()
        };
        let mut generation = plan.generation;
        if !plan.changes.is_empty() {
            generation = after(generation);
            report.generations.push(generation);
            if counters_are_lost(&plan.changes) {
                self.dropped_before += plan.dropped;
            }
        }
        self.settled = Some((spec, generation));
        Ok(report)
    }

    /// What a reconciliation would do, left undone.
    pub fn inspect(&mut self, spec: &Spec) -> Result<Report> {
        let plan = Plan::make(&mut self.nft, &spec.canonical())?;
        Ok(Report {
            repaired: repairs(&plan.changes),
            ..Report::default()
        })
    }

    /// Removes all that is ours.
    pub fn remove(&mut self) -> Result<Report> {
        self.reconcile(&Spec::default())
    }

    /// Packets that the guard has dropped.
    pub fn dropped(&mut self) -> Result<u64> {
        Ok(self.dropped_before + kernel::dropped(&mut self.nft)?)
    }

    fn is_settled(&mut self, spec: &Spec) -> Result<bool> {
        Ok(match &self.settled {
            Some((known, generation)) if known == spec => self.nft.generation()? == *generation,
            Some(_) | None => false,
        })
    }
}

impl Plan {
    fn make(nft: &mut NftSocket, spec: &Spec) -> weft_net::Result<Self> {
        // First: what changes while the rest is read outdates it.
        let generation = nft.generation()?;
        let wanted = wanted::wanted(spec);
        let chains = nft.all_chains()?;
        let seen = kernel::read(nft, &wanted, &chains)?;
        Ok(Self {
            generation,
            changes: diff::diff(&wanted, &seen.standing),
            dropped: seen.dropped,
        })
    }

    fn transaction(&self) -> Transaction {
        let mut transaction = Transaction::at(self.generation);
        kernel::write(&self.changes, &mut transaction);
        transaction
    }
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

fn repairs(changes: &[Change]) -> Vec<Repair> {
    changes
        .iter()
        .map(|change| Repair {
            table: format!("{} {}", change.table().family.name(), change.table().name),
            what: change.to_string(),
        })
        .collect()
}

fn counters_are_lost(changes: &[Change]) -> bool {
    changes.iter().any(|change| {
        matches!(change, Change::DeleteTable(table) | Change::Fill(table, ..)
            if *table == wanted::GUARD)
    })
}

/// The generation that a commit made. The kernel leaves out zero.
fn after(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}
