//! A node, as slim as it can be: what weftd reads of the 20 KB that a Node has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::fault::Fault;
use super::wire::{Status, Wrong};
use crate::lease::Subnets;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// Another one with the same name has another.
    pub(super) uid: String,
    pub(super) version: String,
    /// Those with our prefix, without it.
    pub(super) annotations: Annotations,
    /// None where the metadata alone was read.
    pub(super) rest: Option<Rest>,
}

pub(super) type Annotations = BTreeMap<String, String>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rest {
    /// None until somebody assigned them; the error is what is wrong with them.
    pub(super) subnets: Option<Result<Subnets, String>>,
    /// Of NetworkUnavailable: its status.
    pub(super) unavailable: Option<String>,
}

/// What flannel's annotations begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix(pub(super) Arc<str>);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Added or changed.
    Is(Node),
    Gone(Node),
    /// So far all was told.
    Bookmark(String),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListHead {
    pub(super) version: String,
    /// The token of the next page.
    pub(super) more: String,
}

impl Node {
    /// Whether flanneld, or weftd, runs on it.
    pub(super) fn is_managed(&self) -> bool {
        self.annotations
            .get("kube-subnet-manager")
            .is_some_and(|managed| managed == "true")
    }
}

impl Event {
    /// By its type, which tells what its object is to be read as.
    pub(super) fn of(
        kind: &str,
        node: impl FnOnce() -> Result<Node, Wrong>,
        status: impl FnOnce() -> Result<Status, Wrong>,
    ) -> Result<Self, Fault> {
        match kind {
            "ADDED" | "MODIFIED" => Ok(Self::Is(node()?)),
            "DELETED" => Ok(Self::Gone(node()?)),
            "BOOKMARK" => Ok(Self::Bookmark(node()?.version)),
            "ERROR" => {
                let Status { code, message } = status()?;
                Err(Fault::coded(code, None, message))
            }
            other => Err(Fault::Garbled(format!("a watch's event of type {other:?}"))),
        }
    }
}

/// Of podCIDR and podCIDRs. The older field counts where the newer is empty, as flanneld has it.
pub(super) fn subnets(one: &str, several: &[impl AsRef<str>]) -> Option<Result<Subnets, String>> {
    let several = several.iter().map(AsRef::as_ref);
    let mut cidrs: Vec<&str> = several.collect();
    if cidrs.is_empty() && !one.is_empty() {
        cidrs.push(one);
    }
    (!cidrs.is_empty()).then(|| judged(&cidrs))
}

fn judged(cidrs: &[&str]) -> Result<Subnets, String> {
    let mut subnets = Subnets::default();
    for text in cidrs {
        let wrong = |why: &str| format!("its podCIDRs are {cidrs:?}: {why}");
        let network: IpNetwork = text.parse().map_err(|_| wrong("that is no network"))?;
        let first = match network.network() {
            IpAddr::V4(ip) => ipnetwork::Ipv4Network::new_checked(ip, network.prefix())
                .filter(|_| network.prefix() < 32 && subnets.v4.is_none())
                .map(|v4| subnets.v4 = Some(v4)),
            IpAddr::V6(ip) => ipnetwork::Ipv6Network::new_checked(ip, network.prefix())
                .filter(|_| network.prefix() < 128 && subnets.v6.is_none())
                .map(|v6| subnets.v6 = Some(v6)),
        };
        first.ok_or_else(|| wrong("one of each family is the most, with room for pods"))?;
    }
    Ok(subnets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subnet_of_each_family_is_the_most() {
        let both = subnets("10.1.2.0/24", &["10.1.2.0/24", "fd00:0:0:2::/64"]);
        let both = both.unwrap().unwrap();
        assert!(both.v4.is_some() && both.v6.is_some());
        let v6 = subnets("", &["fd00::/64"]).unwrap().unwrap();
        assert!(v6.v4.is_none() && v6.v6.is_some());
        for wrong in [
            &["10.1.2.0/24", "10.1.3.0/24"][..],
            &["10.1.2.0/24", "fd00::/64", "fd01::/64"],
            &["10.1.2.0"],
            &["10.1.2.0/32"],
            &["rubbish"],
        ] {
            let told = subnets("", wrong).unwrap();
            assert!(told.unwrap_err().contains("podCIDRs"), "{wrong:?}");
        }
    }

    #[test]
    fn the_older_field_counts_where_the_newer_is_empty() {
        let none: [&str; 0] = [];
        assert_eq!(subnets("", &none), None);
        let v4 = |one, several: &[&str]| subnets(one, several).unwrap().unwrap().v4.unwrap();
        assert_eq!(v4("10.1.2.0/24", &[]).to_string(), "10.1.2.0/24");
        let newer = v4("10.1.2.0/24", &["10.1.3.0/24"]);
        assert_eq!(newer.to_string(), "10.1.3.0/24");
    }
}
