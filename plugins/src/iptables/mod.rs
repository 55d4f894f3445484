//! The iptables back-ends: mapped ports and masquerading in the very chains that the reference
//! plugins make, since other tools read those, through one `iptables-restore` for each family.
//!
//! ADD is optimistic: one transaction requires the shared rules and adds the owner's. Only where it
//! fails, which changes nothing, is the table read and a second one made to fit. DEL and GC start
//! no program unless something may be there.

mod lock;
mod masquerade;
mod port_mappings;
mod rules;
mod run;
mod save;
mod script;
mod traces;
mod verbs;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use masquerade::Masquerade;
pub use port_mappings::{Mapping, Mark, Masquerading, PortMappings, Protocol};
pub use run::Host;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

/// The two kernel interfaces that an iptables may speak. Each has tables of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Nft,
    Legacy,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    fn multicast(self) -> &'static str {
        match self {
            Self::V4 => "224.0.0.0/4",
            Self::V6 => "ff00::/8",
        }
    }
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// What fuzzing feeds: what iptables-save says, and every way of removing what it shows.
pub(crate) fn read_anything(text: &str) {
    let Some(saved) = save::Saved::parse(text) else {
        return;
    };
    let chains: Vec<&str> = saved.chains.iter().map(String::as_str).collect();
    let _ = save::removal(&saved, chains.iter().copied());
    for chain in chains {
        let _ = save::removal_of_addresses(&saved, chain, &[]);
    }
    let everybody = [String::new()];
    let _ = save::dead_chains(&saved, &["CNI-DN-", "CNI-"], &everybody, &BTreeSet::new());
}
