//! ADD, CHECK, DEL and GC of what `rules` describes.

use std::collections::BTreeSet;
use std::slice;

use weft_cni::{Attachments, Error, Result};

use super::lock::Lock;
use super::rules::Wanted;
use super::run::{Host, Refusal};
use super::save::{self, Saved};
use super::script::Script;
use super::traces::{Trace, traces, traces_of_any};
use super::{Family, Masquerade, PortMappings, Variant, masquerade, port_mappings};
use crate::owner::owners_of;

impl Masquerade<'_> {
    pub fn add(&self, host: &Host) -> Result<()> {
        add(host, |family| self.wanted(family)).map_err(|e| e.within("cannot masquerade the pod"))
    }

    pub fn check(&self, host: &Host) -> Result<()> {
        Family::BOTH
            .into_iter()
            .try_for_each(|family| stands(host, family, self.wanted(family)))
            .map_err(|e| e.within("the pod is not masqueraded"))
    }

    /// Other attachments of the container to the network share its chain: only what `addresses`
    /// have is removed, unless there are none known, which removes everything.
    pub fn del(&self, host: &Host) -> Result<()> {
        let chain = Self::chain_of(self.owner);
        let remove = |saved: &Saved| match self.addresses {
            [] => save::removal(saved, [chain.as_str()]),
            known => save::removal_of_addresses(saved, &chain, known),
        };
        let chains = slice::from_ref(&chain);
        del(host, chains, |family| self.wanted(family), &remove)
            .map_err(|e| e.within("cannot end the pod's masquerading"))
    }

    pub fn gc(network: &str, living: &Attachments, host: &Host) -> Result<()> {
        let living = owners_of(network, living).map(|owner| Self::chain_of(&owner));
        let comments = masquerade::comments_of(network);
        gc(host, &[masquerade::PREFIX], &comments, &living.collect())
            .map_err(|e| e.within("cannot collect the masquerading of pods that are gone"))
    }
}

impl PortMappings<'_> {
    pub fn add(&self, host: &Host) -> Result<()> {
        add(host, |family| self.wanted(family)).map_err(|e| e.within("cannot map the pod's ports"))
    }

    pub fn check(&self, host: &Host) -> Result<()> {
        Family::BOTH
            .into_iter()
            .try_for_each(|family| {
                let standing = stands(host, family, self.wanted(family));
                standing.or_else(|error| match self.wanted_by_reference(family) {
                    Some(theirs) => stands(host, family, Some(theirs)).map_err(|_| error),
                    None => Err(error),
                })
            })
            .map_err(|e| e.within("the pod's ports are not mapped"))
    }

    /// Removes everything of the owner; what is known of its ports only makes it cheaper.
    pub fn del(&self, host: &Host) -> Result<()> {
        let chains = Self::chains_of(self.owner);
        let remove = |saved: &Saved| save::removal(saved, chains.iter().map(String::as_str));
        del(host, &chains, |family| self.wanted(family), &remove)
            .map_err(|e| e.within("cannot unmap the pod's ports"))
    }

    pub fn gc(network: &str, living: &Attachments, host: &Host) -> Result<()> {
        let living = owners_of(network, living).flat_map(|owner| Self::chains_of(&owner));
        let comments = port_mappings::comments_of(network);
        gc(host, &port_mappings::PREFIXES, &comments, &living.collect())
            .map_err(|e| e.within("cannot collect the mapped ports of pods that are gone"))
    }
}

fn add(host: &Host, wanted: impl Fn(Family) -> Option<Wanted>) -> Result<()> {
    let wanted = Family::BOTH.map(|family| Some((family, wanted(family)?)));
    let mut wanted = wanted.into_iter().flatten().peekable();
    if wanted.peek().is_none() {
        return Ok(());
    }
    let lock = host.lock()?;
    let mut added: Vec<(Table<'_>, Wanted)> = Vec::new();
    for (family, wanted) in wanted {
        let table = Table {
            host,
            family,
            variant: None,
            lock: Some(&lock),
        };
        if let Err(error) = table.add(&wanted) {
            for (table, wanted) in added {
                // What cannot be undone is left to DEL, which the runtime will call.
                let _ = table.remove_exactly(&wanted);
            }
            return Err(error);
        }
        added.push((table, wanted));
    }
    Ok(())
}

fn stands(host: &Host, family: Family, wanted: Option<Wanted>) -> Result<()> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let script = save::verification(&wanted)?;
    host.restore(family, None, &script, None)?
        .map_err(|refusal| refusal.0)
}

fn del(
    host: &Host,
    chains: &[String],
    wanted: impl Fn(Family) -> Option<Wanted>,
    remove: &dyn Fn(&Saved) -> Result<Script>,
) -> Result<()> {
    clean(host, &|| traces(chains), &|table, trace| {
        // In a variant that the host does not use, a guess would most likely be a process wasted.
        let is_likely = host.prefers(trace.family, trace.variant);
        match wanted(trace.family).filter(|_| is_likely) {
            Some(wanted) if table.remove_exactly(&wanted).unwrap_or(false) => Ok(()),
            _ => table.fit(remove),
        }
    })
}

fn gc(
    host: &Host,
    prefixes: &[&str],
    comments: &[String],
    living: &BTreeSet<String>,
) -> Result<()> {
    let is_suspect = |chain: &str| save::is_owned(chain, prefixes) && !living.contains(chain);
    let remove = |saved: &Saved| {
        let dead = save::dead_chains(saved, prefixes, comments, living);
        save::removal(saved, dead.iter().map(String::as_str))
    };
    let traces = || traces_of_any(is_suspect);
    clean(host, &traces, &|table, _| table.fit(&remove))
}

/// Goes on after failures, and tells them all.
fn clean(
    host: &Host,
    traces: &dyn Fn() -> Vec<Trace>,
    in_table: &dyn Fn(&Table<'_>, &Trace) -> Result<()>,
) -> Result<()> {
    // Before the look: an ADD that was killed may still have a program at work.
    let lock = host.lock_if_used();
    // A legacy table is no sign of us: any program may have made it, by a mere look. Where only a
    // guess leads, and there is no program that could have made anything, nothing is missed.
    let is_reachable = |trace: &Trace| trace.is_seen || host.has(trace.family, trace.variant);
    let failures = traces()
        .into_iter()
        .filter(is_reachable)
        .filter_map(|trace| {
            let table = Table {
                host,
                family: trace.family,
                variant: Some(trace.variant),
                lock: lock.as_ref(),
            };
            in_table(&table, &trace).err()
        })
        .collect();
    Error::all(failures)
}

/// The nat table of one family in one variant, or in the one that the host prefers.
struct Table<'a> {
    host: &'a Host,
    family: Family,
    variant: Option<Variant>,
    lock: Option<&'a Lock>,
}

impl Table<'_> {
    fn add(&self, wanted: &Wanted) -> Result<()> {
        match self.restore(&save::addition(wanted)?)? {
            Ok(()) => Ok(()),
            Err(refusal) if !refusal.is_curable() => Err(refusal.0),
            Err(_) => self.fit(&|saved| save::reconciliation(wanted, saved)),
        }
    }

    /// Where the known rules are all there is, one transaction removes them and proves it.
    fn remove_exactly(&self, wanted: &Wanted) -> Result<bool> {
        Ok(self.restore(&save::exact_removal(wanted)?)?.is_ok())
    }

    /// Reads the table and changes it; again, when somebody who does not know our lock came
    /// between.
    fn fit(&self, change: &dyn Fn(&Saved) -> Result<Script>) -> Result<()> {
        let mut tries = 3;
        loop {
            tries -= 1;
            let saved = self.host.save(self.family, self.variant)?;
            let script = change(&saved.ok_or_else(|| unreadable(self.family))?)?;
            if script.is_empty() {
                return Ok(());
            }
            match self.restore(&script)? {
                Ok(()) => return Ok(()),
                Err(refusal) if tries == 0 || !refusal.is_curable() => return Err(refusal.0),
                Err(_) => {}
            }
        }
    }

    fn restore(&self, script: &Script) -> Result<std::result::Result<(), Refusal>> {
        self.host
            .restore(self.family, self.variant, script, self.lock)
    }
}

fn unreadable(family: Family) -> Error {
    let table = match family {
        Family::V4 => "ip nat",
        Family::V6 => "ip6 nat",
    };
    Error::io(format!(
        "iptables cannot read the nftables table {table}: somebody keeps rules in it that iptables has no words for"
    ))
    .with_details(format!(
        "find them with `nft list table {table}` and move them to a table of their own"
    ))
}
