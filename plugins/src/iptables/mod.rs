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
