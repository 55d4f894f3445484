//! Where chains of an owner may stand, found out without starting a program.

use std::{fs, io};

use weft_net::nft::{self, NftSocket, Object, Table};

use super::{Family, Variant};

/// One table in which something may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) family: Family,
    pub(super) variant: Variant,
    /// That it is there was seen, and is no guess.
    pub(super) is_seen: bool,
}

/// The tables that may hold one of `chains`.
pub(super) fn traces(chains: &[String]) -> Vec<Trace> {
    let objects: Vec<_> = Family::BOTH
        .iter()
        .flat_map(|family| {
            let chain = |name| Object::Chain(nft_table(*family).chain(name));
            chains.iter().map(move |name| chain(name))
        })
        .collect();
    let snapshot = NftSocket::open().and_then(|mut nft| nft.find(&objects));
    let found = snapshot.map(|snapshot| {
        let mut of_family = snapshot.found.chunks(chains.len().max(1));
        Family::BOTH.map(|_| {
            of_family
                .next()
                .is_some_and(|found| found.iter().any(Option::is_some))
        })
    });
    where_it_may_be(found)
}

/// The tables that may hold a chain of which `is_suspect` says so.
pub(super) fn traces_of_any(is_suspect: impl Fn(&str) -> bool) -> Vec<Trace> {
    let mut seen = |family| {
        let chains = NftSocket::open()?.chains(nft_table(family))?;
        Ok(chains.iter().any(|chain| is_suspect(&chain.name)))
    };
    let [v4, v6] = Family::BOTH.map(&mut seen);
    where_it_may_be(v4.and_then(|v4| Ok([v4, v6?])))
}

fn where_it_may_be(found: weft_net::Result<[bool; 2]>) -> Vec<Trace> {
    let nft = match found {
        Ok(found) => found.map(|is_seen| is_seen.then_some(true)),
        Err(error) if error.is_not_supported() => [None; 2],
        // Not to be told is no reason to leave something behind.
        Err(_) => [Some(false); 2],
    };
    let legacy = Family::BOTH.map(|family| is_legacy_used(family).then_some(false));
    [(Variant::Nft, nft), (Variant::Legacy, legacy)]
        .into_iter()
        .flat_map(|(variant, families)| {
            let of_both = Family::BOTH.into_iter().zip(families);
            of_both.filter_map(move |(family, is_seen)| {
                Some(Trace {
                    family,
                    variant,
                    is_seen: is_seen?,
                })
            })
        })
        .collect()
}

/// Where iptables-nft keeps its chains.
fn nft_table(family: Family) -> Table<'static> {
    let family = match family {
        Family::V4 => nft::Family::Ip,
        Family::V6 => nft::Family::Ip6,
    };
    Table::new(family, "nat")
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
