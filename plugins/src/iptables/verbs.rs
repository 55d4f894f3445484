//! ADD, CHECK, DEL and GC of what `rules` describes.

use std::collections::BTreeSet;
use std::slice;

use weft_cni::{Attachments, Error, Result};

use super::rules::{
    DNAT_PREFIXES, MASQUERADE_PREFIX, Masquerade, PortMappings, Wanted, masquerade_comments,
    port_comments,
};
use super::run::Host;
use super::save::{self, Saved};
use super::script::Script;
use super::traces::{Trace, traces, traces_of_any};
use super::{Family, Variant};
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
        let traces = traces(slice::from_ref(&chain));
        del(host, &traces, |family| self.wanted(family), &remove)
            .map_err(|e| e.within("cannot end the pod's masquerading"))
    }

    pub fn gc(network: &str, living: &Attachments, host: &Host) -> Result<()> {
        let living = owners_of(network, living).map(|owner| Self::chain_of(&owner));
        let comments = masquerade_comments(network);
        gc(host, &[MASQUERADE_PREFIX], &comments, &living.collect())
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
        let traces = traces(&chains);
        let remove = |saved: &Saved| save::removal(saved, chains.iter().map(String::as_str));
        del(host, &traces, |family| self.wanted(family), &remove)
            .map_err(|e| e.within("cannot unmap the pod's ports"))
    }

    pub fn gc(network: &str, living: &Attachments, host: &Host) -> Result<()> {
        let living = owners_of(network, living).flat_map(|owner| Self::chains_of(&owner));
        let comments = port_comments(network);
        gc(host, &DNAT_PREFIXES, &comments, &living.collect())
            .map_err(|e| e.within("cannot collect the mapped ports of pods that are gone"))
    }
}

fn add(host: &Host, wanted: impl Fn(Family) -> Option<Wanted>) -> Result<()> {
    let wanted = Family::BOTH.map(|family| (family, wanted(family)));
    if wanted.iter().all(|(_, wanted)| wanted.is_none()) {
        return Ok(());
    }
    let _lock = host.lock()?;
    for (family, wanted) in wanted {
        let Some(wanted) = wanted else { continue };
        let script = save::addition(&wanted)?;
        if host.restore(family, None, &script)?.is_err() {
            let change = |saved: &Saved| save::reconciliation(&wanted, saved);
            fit(host, family, None, &change)?;
        }
    }
    Ok(())
}

fn stands(host: &Host, family: Family, wanted: Option<Wanted>) -> Result<()> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let script = save::verification(&wanted)?;
    host.restore(family, None, &script)?
        .map_err(|refusal| refusal.0)
}

/// Where the known rules are all there is, one transaction removes them and proves it.
fn del(
    host: &Host,
    traces: &[Trace],
    wanted: impl Fn(Family) -> Option<Wanted>,
    remove: &dyn Fn(&Saved) -> Result<Script>,
) -> Result<()> {
    let exact = |trace: &Trace| {
        let wanted = wanted(trace.family)?;
        // In a variant that the host does not use, a guess would most likely be a process wasted.
        let is_likely = host.prefers(trace.family, trace.variant);
        is_likely.then(|| save::exact_removal(&wanted).ok())?
    };
    clean(host, traces, |trace| {
        let (family, variant) = (trace.family, Some(trace.variant));
        if let Some(script) = exact(trace)
            && host.restore(family, variant, &script)?.is_ok()
        {
            return Ok(());
        }
        fit(host, family, variant, remove)
    })
}

fn gc(
    host: &Host,
    prefixes: &[&str],
    comments: &[String],
    living: &BTreeSet<String>,
) -> Result<()> {
    let traces = traces_of_any(|chain| save::is_owned(chain, prefixes) && !living.contains(chain));
    let remove = |saved: &Saved| {
        let dead = save::dead_chains(saved, prefixes, comments, living);
        save::removal(saved, dead.iter().map(String::as_str))
    };
    clean(host, &traces, |trace| {
        fit(host, trace.family, Some(trace.variant), &remove)
    })
}

/// Goes on after failures, and tells them all.
fn clean(host: &Host, traces: &[Trace], in_table: impl Fn(&Trace) -> Result<()>) -> Result<()> {
    // A legacy table is no sign of us: any program may have made it, by a mere look. Where only a
    // guess leads, and there is no program that could have made anything, nothing is missed.
    let is_reachable = |trace: &&Trace| trace.is_seen || host.has(trace.family, trace.variant);
    let traces: Vec<_> = traces.iter().filter(is_reachable).collect();
    if traces.is_empty() {
        return Ok(());
    }
    // It only spares others a second try: nothing shared is touched, so a lock that cannot be had
    // is no reason to leave rules behind.
    let _lock = host.lock().ok();
    let failures = traces
        .into_iter()
        .filter_map(|trace| in_table(trace).err())
        .collect();
    Error::all(failures)
}

/// Reads the table and makes it fit; again, when somebody who does not know our lock came between.
fn fit(
    host: &Host,
    family: Family,
    variant: Option<Variant>,
    change: &dyn Fn(&Saved) -> Result<Script>,
) -> Result<()> {
    let mut tries = 3;
    loop {
        tries -= 1;
        let saved = host
            .save(family, variant)?
            .ok_or_else(|| unreadable(family))?;
        let script = change(&saved)?;
        if script.is_empty() {
            return Ok(());
        }
        match host.restore(family, variant, &script)? {
            Ok(()) => return Ok(()),
            Err(refusal) if tries == 0 => return Err(refusal.0),
            Err(_) => {}
        }
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
