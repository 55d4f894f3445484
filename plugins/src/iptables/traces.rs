//! Where chains of an owner may stand, found out without starting a program.

use std::{fs, io};

use weft_cni::Result;

use super::{Family, Variant};

/// What nf_tables knows of its tables `ip nat` and `ip6 nat`, in which iptables-nft keeps chains.
pub trait NatChains {
    /// Whether the chain stands; a table or a kernel that lacks is a no.
    fn exists(&self, family: Family, chain: &str) -> Result<bool>;

    /// The names of all chains.
    fn names(&self, family: Family) -> Result<Vec<String>>;
}

/// One table in which something may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) family: Family,
    pub(super) variant: Variant,
}

/// The tables that may hold one of `chains`.
pub(super) fn traces(nft: &dyn NatChains, chains: &[String]) -> Vec<Trace> {
    // Not to be told is no reason to leave something behind.
    let in_nft = |family| {
        chains
            .iter()
            .any(|chain| nft.exists(family, chain).unwrap_or(true))
    };
    where_it_may_be(in_nft)
}

/// The tables that may hold a chain of which `is_suspect` says so.
pub(super) fn traces_of_any(nft: &dyn NatChains, is_suspect: impl Fn(&str) -> bool) -> Vec<Trace> {
    where_it_may_be(|family| {
        nft.names(family)
            .map_or(true, |names| names.iter().any(|name| is_suspect(name)))
    })
}

fn where_it_may_be(in_nft: impl Fn(Family) -> bool) -> Vec<Trace> {
    let trace = |variant| move |family| Trace { family, variant };
    let nft = Family::BOTH.into_iter().filter(|family| in_nft(*family));
    let legacy = Family::BOTH
        .into_iter()
        .filter(|family| is_legacy_used(*family));
    nft.map(trace(Variant::Nft))
        .chain(legacy.map(trace(Variant::Legacy)))
        .collect()
}

/// To read these files is harmless; to look with iptables-legacy would make the table.
fn is_legacy_used(family: Family) -> bool {
    let list = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match fs::read_to_string(list) {
        Ok(names) => names.lines().any(|name| name == "nat"),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}
