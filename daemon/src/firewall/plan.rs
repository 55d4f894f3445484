//! A look at the ruleset, and what follows from it.

use std::time::Duration;

use ipnetwork::IpNetwork;
use weft_net::Result;
use weft_net::nft::{NftSocket, Table, Transaction};

use super::diff::{self, Change};
use super::foreign::{self, ForeignHook};
use super::passage::Edit;
use super::report::{self, ForwardHook, Repair};
use super::wanted::{self, GUARD, of_family};
use super::{Spec, after, kernel};

#[derive(Debug)]
pub(super) struct Plan {
    /// The ruleset's, when it was looked at.
    pub(super) generation: u32,
    /// What the guard's rules have counted.
    pub(super) dropped: u64,
    changes: Vec<Change>,
    /// How long the guard that stands lasts.
    guarded_for: Option<Duration>,
    /// Others' chains that forwarded packets pass, each with our edits.
    hooks: Vec<(ForeignHook, Vec<Edit>)>,
    /// What flanneld left in the tables of iptables-nft, as nft names it.
    pub(super) leftovers: Vec<String>,
}

impl Plan {
    pub(super) fn make(nft: &mut NftSocket, spec: &Spec) -> Result<Self> {
        // First: what changes while the rest is read outdates it.
        let generation = nft.generation()?;
        let wanted = wanted::wanted(spec);
        let tables = nft.tables()?;
        let chains = nft.all_chains()?;
        let seen = kernel::read(nft, &wanted, &tables, &chains)?;
        let hooks = foreign::read_hooks(nft, &tables, &chains)?
            .into_iter()
            .map(|hook| {
                let edits = edits(&hook, spec);
                (hook, edits)
            })
            .collect();
        Ok(Self {
            generation,
            dropped: seen.dropped,
            guarded_for: seen.guarded_for(),
            changes: diff::diff(&wanted, &seen.standing),
            hooks,
            leftovers: foreign::leftovers(nft, &chains, &spec.networks)?
                .iter()
                .map(ToString::to_string)
                .collect(),
        })
    }

    /// The same without changes in others' tables.
    pub(super) fn of_own_tables(mut self) -> Self {
        self.hooks.iter_mut().for_each(|(_, edits)| edits.clear());
        self
    }

    /// All of it, or nothing if the ruleset is not what was looked at.
    pub(super) fn transaction(&self) -> Transaction {
        let mut transaction = Transaction::at(self.generation);
        kernel::write(&self.changes, &mut transaction);
        for (hook, edits) in &self.hooks {
            foreign::write(hook, edits, &mut transaction);
        }
        transaction
    }

    /// Whether carrying it out changes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.hooks.iter().all(|(_, edits)| edits.is_empty())
    }

    /// What is not as it should be. That time goes by is nobody's doing.
    pub(super) fn repairs(&self) -> Vec<Repair> {
        let harms = self
            .changes
            .iter()
            .filter(|change| !matches!(change, Change::Renew(..)));
        let own = harms.map(|change| Repair::of(change.table(), change));
        let others = self.hooks.iter().flat_map(|(hook, edits)| {
            edits
                .iter()
                .map(|edit| Repair::of(hook.table(), report::describe(edit)))
        });
        own.chain(others).collect()
    }

    /// What would be removed once ours stand.
    pub(super) fn removals(&self) -> impl Iterator<Item = Repair> + '_ {
        self.leftovers.iter().map(|leftover| Repair {
            table: "iptables-nft".into(),
            what: format!("{leftover}, which is flanneld's, removed once ours stand"),
        })
    }

    /// How long the guard lasts with it carried out.
    pub(super) fn guards_for(&self) -> Option<Duration> {
        let given = self.changes.iter().find_map(|change| match change {
            Change::Renew(_, _, _, time) | Change::AddElements(_, _, _, Some(time)) => Some(*time),
            _ => None,
        });
        given.or(self.guarded_for)
    }

    /// Whether the guard's rules are about to be made anew.
    pub(super) fn loses_counters(&self) -> bool {
        self.changes.iter().any(|change| {
            matches!(change, Change::DeleteTable(table) | Change::Fill(table, ..)
                if *table == GUARD)
        })
    }

    /// What becomes of pods' packets at each hook with our edits made.
    pub(super) fn hooks(&self, spec: &Spec) -> Vec<ForwardHook> {
        self.judge(spec, true)
    }

    pub(super) fn hooks_as_they_are(&self, spec: &Spec) -> Vec<ForwardHook> {
        self.judge(spec, false)
    }

    /// What the operator should know.
    pub(super) fn notes(&self, spec: &Spec) -> Vec<String> {
        if !spec.forward {
            return Vec::new();
        }
        let hooks = self.hooks(spec);
        hooks.iter().filter_map(ForwardHook::note).collect()
    }

    fn judge(&self, spec: &Spec, edited: bool) -> Vec<ForwardHook> {
        let judge = |(hook, edits): &(ForeignHook, Vec<Edit>)| {
            let networks = of_family(&spec.networks, hook.v6);
            let edits = if edited { &edits[..] } else { &[] };
            report::hook(hook, edits, &networks)
        };
        self.hooks.iter().filter_map(judge).collect()
    }
}

/// Removes what flanneld left in the tables of iptables-nft; the generation that made, and what was
/// done.
pub(super) fn remove_leftovers(
    nft: &mut NftSocket,
    networks: &[IpNetwork],
) -> Result<(u32, Vec<Repair>)> {
    let generation = nft.generation()?;
    let chains = nft.all_chains()?;
    let leftovers = foreign::leftovers(nft, &chains, networks)?;
    let mut transaction = Transaction::at(generation);
    for leftover in &leftovers {
        leftover.remove(nft, &mut transaction)?;
    }
    let made = if transaction.is_empty() {
        generation
    } else {
        after(generation)
    };
    nft.commit(transaction)?;
    let repairs = leftovers.iter().map(|leftover| {
        let what = format!("{leftover}, which was flanneld's, removed");
        Repair::of(leftover.table(), what)
    });
    Ok((made, repairs.collect()))
}

fn edits(hook: &ForeignHook, spec: &Spec) -> Vec<Edit> {
    let networks: Vec<IpNetwork> = match spec.forward {
        true => of_family(&spec.networks, hook.v6),
        false => Vec::new(),
    };
    if hook.is_iptables() {
        hook.filter.edits(&networks)
    } else {
        Vec::new()
    }
}

pub(super) fn name(table: Table<'_>) -> String {
    format!("{} {}", table.family.name(), table.name)
}
