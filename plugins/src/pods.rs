//! The nftables table of the pods: whose packets are masqueraded when they leave, and which pods
//! nobody has judged yet.
//!
//! ```text
//! table inet weft_pods {
//!     map masquerade4 { type ipv4_addr : verdict       10.1.0.5 : goto beyond_10.1.0.0_16 }
//!     map masquerade6 { type ipv6_addr : verdict }
//!     set unjudged4 { type ipv4_addr }
//!     set unjudged6 { type ipv6_addr }
//!     chain postrouting { type nat hook postrouting priority srcnat
//!         ip saddr vmap @masquerade4
//!         ip6 saddr vmap @masquerade6 }
//!     chain beyond_10.1.0.0_16 { ip daddr != 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade }
//! }
//! ```
//!
//! A pod is an element, whose comment says whose it is: made and removed in one step whatever the
//! number of pods, and never twice.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use rustix::io::Errno;
use weft_net::{
    Error, Result,
    nft::{
        Base, Chain, ChainKind, DataType, Element, Expr, Family, Found, Hook, NftSocket, Object,
        Op, Policy, Selector, Set, SetSpec, StoredElement, Table, Transaction, Verdict, expr,
        octets, priority,
    },
};

use crate::owner::Owner;

/// What the kernel must know of a pod before its first packet.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    pub owner: &'a Owner,
    /// Addresses, with their subnets, whose packets leave under the node's address.
    pub masqueraded: &'a [IpNetwork],
    /// Addresses that no packet may use until somebody has judged them. Network policy will fill
    /// it: the transaction that admits a pod is the one moment before its first packet.
    pub unjudged: &'a [IpAddr],
}

/// Admits the pod in one transaction. What stands under its addresses of an owner that went
/// without a word is replaced.
pub fn admit(admission: &Admission<'_>) -> Result<()> {
    if admission.masqueraded.is_empty() && admission.unjudged.is_empty() {
        return Ok(());
    }
    let entries = Entries::of(admission);
    let mut nft = NftSocket::open()?;
    let mut transaction = Transaction::new();
    entries.add_to(&mut transaction);
    match nft.commit(transaction) {
        Err(error) if error.is_not_found() || error.exists() => {
            nft.retry(|nft| admit_from_scratch(nft, admission, &entries))
        }
        done => done,
    }
}

/// Removes what `owner` has under these addresses, and nothing of anybody else's.
pub fn dismiss(nft: &mut NftSocket, owner: &Owner, addresses: &[IpAddr]) -> Result<()> {
    let keys: Vec<(Set<'static>, Vec<u8>)> = addresses
        .iter()
        .flat_map(|ip| {
            [
                (masquerade(ip.is_ipv6()), octets(*ip)),
                (unjudged(ip.is_ipv6()), octets(*ip)),
            ]
        })
        .collect();
    delete(nft, &keys, |element| is_of(element, &owner.mark()))
}

/// Removes what `owner` has, whatever its addresses: for when nobody can tell them any more.
pub fn dismiss_by_name(nft: &mut NftSocket, owner: &Owner) -> Result<()> {
    let mark = owner.mark();
    remove_where(nft, |comment| comment.starts_with(&mark))
}

/// Removes what the network has under marks that are not among the living.
pub fn collect(nft: &mut NftSocket, network_mark: &str, living: &[String]) -> Result<()> {
    remove_where(nft, |comment| {
        comment.starts_with(network_mark) && !living.iter().any(|mark| comment.starts_with(mark))
    })?;
    remove_unused_chains(nft)
}

/// Of all elements.
pub(crate) fn comments(nft: &mut NftSocket) -> Result<BTreeSet<String>> {
    let mut comments = BTreeSet::new();
    for set in SETS {
        match nft.elements(set) {
            Ok(elements) => {
                comments.extend(elements.iter().map(|element| element.comment().to_owned()));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(comments)
}

/// Whether all that [`admit`] made for the addresses stands.
pub fn is_masqueraded(owner: &Owner, addresses: &[IpNetwork]) -> Result<bool> {
    let keys: Vec<Vec<u8>> = addresses
        .iter()
        .map(|address| octets(address.ip()))
        .collect();
    let objects: Vec<Object<'_>> = addresses
        .iter()
        .zip(&keys)
        .map(|(address, key)| Object::Element(masquerade(address.is_ipv6()), key))
        .collect();
    let mut nft = NftSocket::open()?;
    let found = nft.find(&objects)?.found;
    for (found, address) in found.iter().zip(addresses) {
        let Some(Found::Element(element)) = found else {
            return Ok(false);
        };
        let chain = beyond(address);
        let leads_on = element.value() == weft_net::nft::Value::Verdict(Verdict::Goto(&chain));
        if !leads_on || !is_of(element, &owner.mark()) || nft.rules(TABLE.chain(&chain))?.is_empty()
        {
            return Ok(false);
        }
    }
    Ok(nft.rules(POSTROUTING)?.len() >= FAMILIES.len())
}

/// One element of a set or map, with what it is made of.
struct Entry {
    set: Set<'static>,
    key: Vec<u8>,
    /// Where a packet goes on, in a map.
    chain: Option<String>,
}

struct Entries {
    comment: String,
    list: Vec<Entry>,
}

impl Entries {
    fn of(admission: &Admission<'_>) -> Self {
        let masqueraded = admission.masqueraded.iter().map(|address| Entry {
            set: masquerade(address.is_ipv6()),
            key: octets(address.ip()),
            chain: Some(beyond(address)),
        });
        let waiting = admission.unjudged.iter().map(|ip| Entry {
            set: unjudged(ip.is_ipv6()),
            key: octets(*ip),
            chain: None,
        });
        Self {
            comment: admission.owner.comment(),
            list: masqueraded.chain(waiting).collect(),
        }
    }

    /// Creates them; an element that stands already fails the transaction, since the kernel would
    /// keep its comment and thereby its owner.
    fn add_to(&self, transaction: &mut Transaction) {
        for entry in &self.list {
            let element = Element::new(&entry.key).comment(&self.comment);
            let element = match &entry.chain {
                Some(chain) => element.verdict(Verdict::Goto(chain)),
                None => element,
            };
            transaction.create_elements(entry.set, &[element]);
        }
    }
}

/// Makes what the pod's elements rest on, takes away what stands in their place, and adds them: as
/// one change to the very ruleset that was looked at.
fn admit_from_scratch(
    nft: &mut NftSocket,
    admission: &Admission<'_>,
    entries: &Entries,
) -> Result<()> {
    let chains: Vec<String> = admission.masqueraded.iter().map(beyond).collect();
    let mut objects = vec![Object::Table(TABLE)];
    objects.extend(chains.iter().map(|chain| Object::Chain(TABLE.chain(chain))));
    objects.extend(
        entries
            .list
            .iter()
            .map(|entry| Object::Element(entry.set, &entry.key)),
    );
    let snapshot = nft.find(&objects)?;
    let mut found = snapshot.found.iter().map(Option::is_some);

    let mut transaction = Transaction::at(snapshot.generation);
    if !found.next().unwrap_or_default() {
        lay_out(&mut transaction);
    }
    let mut made: Vec<&str> = Vec::new();
    for (chain, address) in chains.iter().zip(admission.masqueraded) {
        if !found.next().unwrap_or_default() && !made.contains(&chain.as_str()) {
            add_subnet(&mut transaction, TABLE.chain(chain), address);
            made.push(chain);
        }
    }
    for entry in &entries.list {
        if found.next().unwrap_or_default() {
            transaction.delete_elements(entry.set, &[Element::new(&entry.key)]);
        }
    }
    entries.add_to(&mut transaction);
    match nft.commit(transaction) {
        // A rival was faster: what it made is there when this is tried again.
        Err(error) if error.exists() => Err(Error::new("admit a pod", Errno::RESTART)),
        done => done,
    }
}

fn lay_out(transaction: &mut Transaction) {
    transaction.create_table(TABLE, "Weft: pods");
    for v6 in FAMILIES {
        let key = [DataType::ip(v6)];
        transaction.create_set(masquerade(v6), &SetSpec::verdict_map(&key).mortal());
        transaction.create_set(unjudged(v6), &SetSpec::set(&key).mortal());
    }
    let base = Base {
        kind: ChainKind::Nat,
        hook: Hook::Postrouting,
        priority: priority::SRCNAT,
        policy: Policy::Accept,
    };
    transaction.create_chain(POSTROUTING, Some(base), "");
    for v6 in FAMILIES {
        let rule = [
            family(v6),
            expr::vmap(&[Selector::saddr(v6)], masquerade(v6).name),
        ];
        transaction.add_rule(POSTROUTING, &rule, "");
    }
}

/// What stays in the subnet, and what goes to a group, keeps the pod's own address.
fn add_subnet(transaction: &mut Transaction, chain: Chain<'_>, address: &IpNetwork) {
    let v6 = address.is_ipv6();
    let rule = [
        family(v6),
        Selector::daddr(v6).network(Op::Ne, subnet(address)),
        Selector::daddr(v6).network(Op::Ne, groups(v6)),
        expr::masquerade(false),
    ];
    transaction.create_chain(chain, None, "");
    transaction.add_rule(chain, &rule, "");
}

fn remove_where(nft: &mut NftSocket, unwanted: impl Fn(&str) -> bool) -> Result<()> {
    let mut keys = Vec::new();
    for set in SETS {
        match nft.elements(set) {
            Ok(elements) => {
                let unwanted = elements
                    .iter()
                    .filter(|element| unwanted(element.comment()));
                keys.extend(unwanted.map(|element| (set, element.key().to_vec())));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    delete(nft, &keys, |element| unwanted(element.comment()))
}

/// A subnet that no pod has an address of leaves its chain behind. The kernel refuses to delete one
/// that is used, so asking is safe.
fn remove_unused_chains(nft: &mut NftSocket) -> Result<()> {
    for chain in nft.chains(TABLE)? {
        if !chain.name.starts_with(BEYOND) {
            continue;
        }
        let mut transaction = Transaction::new();
        transaction.flush_chain(chain.chain());
        transaction.delete_chain(chain.chain());
        match nft.commit(transaction) {
            Err(error) if error.errno() == Some(Errno::BUSY) || error.is_not_found() => {}
            done => done?,
        }
    }
    Ok(())
}

fn delete(
    nft: &mut NftSocket,
    keys: &[(Set<'static>, Vec<u8>)],
    ours: impl Fn(&StoredElement) -> bool,
) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let keys: Vec<(Set<'_>, &[u8])> = keys
        .iter()
        .map(|(set, key)| (*set, key.as_slice()))
        .collect();
    nft.retire_owned(&keys, &mut |_, element| ours(element))
        .map(drop)
}

fn is_of(element: &StoredElement, mark: &str) -> bool {
    element.comment().starts_with(mark)
}

/// The name of the chain for packets of a subnet that leave it. Colons are not for names in nft.
fn beyond(address: &IpNetwork) -> String {
    let subnet = subnet(address);
    format!(
        "{BEYOND}{}_{}",
        subnet.ip().to_string().replace(':', "_"),
        subnet.prefix()
    )
}

fn subnet(address: &IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(*address)
}

fn groups(v6: bool) -> IpNetwork {
    let (first, prefix): (IpAddr, u8) = match v6 {
        true => (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        false => (Ipv4Addr::new(224, 0, 0, 0).into(), 4),
    };
    IpNetwork::new(first, prefix).unwrap_or_else(|_| first.into())
}

fn family(v6: bool) -> Expr {
    if v6 { expr::ipv6() } else { expr::ipv4() }
}

const fn masquerade(v6: bool) -> Set<'static> {
    TABLE.set(if v6 { "masquerade6" } else { "masquerade4" })
}

const fn unjudged(v6: bool) -> Set<'static> {
    TABLE.set(if v6 { "unjudged6" } else { "unjudged4" })
}

pub(crate) const TABLE: Table<'static> = Table::new(Family::Inet, "weft_pods");
const POSTROUTING: Chain<'static> = TABLE.chain("postrouting");
const BEYOND: &str = "beyond_";
const SETS: [Set<'static>; 4] = [
    masquerade(false),
    masquerade(true),
    unjudged(false),
    unjudged(true),
];
/// IPv4 and IPv6: whether it is the latter.
const FAMILIES: [bool; 2] = [false, true];
