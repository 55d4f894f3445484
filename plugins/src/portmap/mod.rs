//! `portmap`: ports of the host that lead to a pod.
//!
//! A mapping is an element of an nftables map (`skeleton` draws the table), which is added and
//! removed in one step whatever the number of mappings on the node. Which elements are whose is
//! told by their comments; an index in the same table tells DEL what an owner has.

mod by_iptables;
mod collect;
mod conditions;
mod conf;
mod entry;
mod flows;
mod holdings;
mod index;
mod key;
mod localnet;
mod publish;
mod reference;
mod skeleton;
mod words;

use std::collections::BTreeSet;

use weft_cni::{Call, Code, Error, Outcome, Plugin, Result};
use weft_net::nft::{NftSocket, Object};

use self::{
    by_iptables::Ports,
    conf::{Backend, Mark, Masquerade, Plan, Published},
    entry::Wanted,
    holdings::Mapped,
    publish::TakenOver,
    skeleton::Group,
};
use crate::{
    iptables::{self, Host, PortMappings},
    owner::{Owner, network_mark, owners_of},
    told::Told,
};

pub(crate) use self::{
    collect::{collect, comments},
    skeleton::TABLE,
};

#[derive(Debug)]
pub struct Portmap;

impl Plugin for Portmap {
    fn name(&self) -> &'static str {
        "portmap"
    }

    fn add(&self, call: &Call) -> Result<Outcome> {
        let prev = prev_result(call)?;
        let plan = Plan::of(call, &prev)?;
        let published = plan.published();
        if published.is_empty() {
            return Ok(prev);
        }
        let owner = Owner::of(call);
        allow_loopback(&plan, &published)?;
        match &plan.backend {
            Backend::Iptables(mark) => Ports::of(&plan, mark)?
                .of_owner(&owner)
                .add(&Host::here())?,
            Backend::Nftables { mark_bit } => {
                publish(&wanted(&owner, &plan, *mark_bit, &published), &plan)?
            }
        }
        flows::forget_before(&published);
        Ok(prev)
    }

    /// Whatever the back-end was at ADD, and whoever did it: all of it goes.
    fn del(&self, call: &Call) -> Result<()> {
        let owner = Owner::of(call);
        let plan = prev_result(call).and_then(|prev| Plan::of(call, &prev));
        let plan = plan.ok();
        let mut mapped = plan.as_ref().map(Mapped::all_of).unwrap_or_default();
        let failures = [
            unpublish(call, &owner, &mut mapped).err(),
            clear_iptables(plan.as_ref(), &owner).err(),
        ];
        // Not before every rule is gone that could lead a flow there again.
        flows::forget_after(&mapped);
        Error::all(failures.into_iter().flatten().collect())
    }

    fn check(&self, call: &Call) -> Result<()> {
        let plan = Plan::of(call, &prev_result(call)?)?;
        let published = plan.published();
        if published.is_empty() {
            return Ok(());
        }
        let owner = Owner::of(call);
        let missing = |fault| Error::internal(format!("the pod's ports are not mapped: {fault}"));
        match &plan.backend {
            Backend::Iptables(mark) => Ports::of(&plan, mark)?
                .of_owner(&owner)
                .check(&Host::here()),
            Backend::Nftables { mark_bit } => {
                let wanted = wanted(&owner, &plan, *mark_bit, &published);
                let mut nft = NftSocket::open().told()?;
                match publish::first_fault(&mut nft, &wanted).told()? {
                    Some(fault) if !is_mapped_by_reference(&mut nft, &wanted, &plan, *mark_bit) => {
                        Err(missing(fault))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn gc(&self, call: &Call) -> Result<()> {
        // A runtime that names nobody says nothing of who lives.
        let Some(living) = call.conf.attachments()? else {
            return Ok(());
        };
        let network = call.network();
        let marks: BTreeSet<String> = owners_of(network, &living)
            .map(|owner| owner.mark())
            .collect();
        let collected = NftSocket::open()
            .and_then(|mut nft| collect(&mut nft, &network_mark(network), &marks))
            .told();
        let by_iptables = PortMappings::gc(network, &living, &Host::here());
        Error::all(
            [collected.err(), by_iptables.err()]
                .into_iter()
                .flatten()
                .collect(),
        )
    }

    fn status(&self, call: &Call) -> Result<()> {
        match conf::configured_backend(&call.conf)? {
            Backend::Iptables(_) => Host::here().can_add(iptables::Family::V4),
            Backend::Nftables { .. } => NftSocket::open()
                .and_then(|mut nft| nft.generation())
                .map(drop)
                .map_err(|error| {
                    Error::internal(format!("nftables cannot be used: {error}")).with_details(
                        "load the kernel module nf_tables, or set \"backend\" to \"iptables\"",
                    )
                }),
        }
        .map_err(|error| Error {
            code: Code::NotAvailable,
            ..error
        })
    }
}

fn prev_result(call: &Call) -> Result<Outcome> {
    call.conf.prev_result()?.ok_or_else(|| {
        Error::config("must be called as chained plugin")
            .with_details("portmap needs the \"prevResult\" of a plugin that made an interface")
    })
}

fn wanted<'a>(owner: &'a Owner, plan: &Plan, bit: u8, published: &'a [Published]) -> Wanted<'a> {
    let group = |pod: ipnetwork::IpNetwork| {
        let is_ipv6 = pod.is_ipv6();
        let subnet = match plan.masquerade {
            Masquerade::Nobody => return None,
            Masquerade::Neighbours => Some(pod),
            Masquerade::Everybody => None,
        };
        let is_published = published
            .iter()
            .any(|published| published.key.is_ipv6() == is_ipv6);
        is_published.then_some(Group {
            bit,
            is_ipv6,
            subnet,
        })
    };
    let groups = [plan.pod.v4, plan.pod.v6]
        .into_iter()
        .flatten()
        .filter_map(group)
        .collect();
    Wanted {
        owner,
        published,
        groups,
        has_conditions: !plan.conditions.is_empty(),
    }
}

fn publish(wanted: &Wanted<'_>, plan: &Plan) -> Result<()> {
    let mut nft = NftSocket::open().told()?;
    if wanted.has_conditions {
        conditions::lay(wanted.owner, &plan.conditions)?;
    }
    let published = publish::publish(&mut nft, wanted).told();
    if published.is_err() && wanted.has_conditions {
        // Only the chains of the conditions can be there: all else is one transaction.
        let _ = publish::withdraw(&mut nft, &wanted.owner.mark(), &[], &[]);
    }
    for TakenOver { key, from } in
        published.map_err(|error| error.within("cannot map the pod's ports"))?
    {
        let to = wanted.owner.comment();
        eprintln!("portmap: host port {key} is taken from ({from}) by ({to}): the newest has it");
    }
    Ok(())
}

/// A pod that the reference plugin wired before us is none the worse for it.
fn is_mapped_by_reference(
    nft: &mut NftSocket,
    wanted: &Wanted<'_>,
    plan: &Plan,
    mark_bit: u8,
) -> bool {
    let in_nftables = reference::has_rules_for(nft, wanted).unwrap_or_default();
    let mut in_iptables = || {
        let is_there = reference::has_chain_of(nft, wanted.owner).unwrap_or_default();
        let ports = Ports::of(plan, &Mark::Bit(mark_bit));
        is_there
            && ports.is_ok_and(|ports| ports.of_owner(wanted.owner).check(&Host::here()).is_ok())
    };
    in_nftables || in_iptables()
}

/// What was published is added to `mapped`.
fn unpublish(call: &Call, owner: &Owner, mapped: &mut Vec<Mapped>) -> Result<()> {
    let mut nft = NftSocket::open().told()?;
    let tables = reference::TABLES.map(Object::Table);
    let holdings = match publish::withdraw(&mut nft, &owner.mark(), &guesses(call), &tables) {
        // A kernel without nftables has nothing to give up.
        Err(error) if lacks_nftables(&error) => return Ok(()),
        done => done
            .told()
            .map_err(|error| error.within("cannot unmap the pod's ports"))?,
    };
    mapped.extend(&holdings.mapped);
    let standing = reference::TABLES
        .into_iter()
        .zip(&holdings.others)
        .filter(|(_, stands)| **stands);
    let failures = standing
        .filter_map(|(table, _)| {
            reference::remove_rules(&mut nft, table, call.container_id())
                .told()
                .err()
        })
        .collect();
    if flows::must_be_forgotten(mapped) {
        // A datagram that comes while the mapping still stands would be led there for good. For
        // anything else, gone with the next tick of the kernel's clock is soon enough.
        nft.wait_for_retired();
    }
    Error::all(failures)
}

fn lacks_nftables(error: &weft_net::Error) -> bool {
    // What nfnetlink answers for a subsystem that nobody has registered.
    error.is_not_supported() || error.errno() == Some(rustix::io::Errno::INVAL)
}

/// What is known of the mappings only makes it cheaper.
fn clear_iptables(plan: Option<&Plan>, owner: &Owner) -> Result<()> {
    let ports = plan.and_then(|plan| match &plan.backend {
        Backend::Iptables(mark) => Ports::of(plan, mark).ok(),
        Backend::Nftables { .. } => None,
    });
    ports.unwrap_or_default().of_owner(owner).del(&Host::here())
}

fn allow_loopback(plan: &Plan, published: &[Published]) -> Result<()> {
    let pod = published
        .iter()
        .map(|published| published.pod)
        .find(|pod| pod.is_ipv4());
    match pod {
        Some(pod) if plan.masquerade != Masquerade::Nobody => localnet::allow(pod),
        _ => Ok(()),
    }
}

/// A configuration that makes no sense is no reason to leave things.
fn guesses(call: &Call) -> Vec<key::Key> {
    let mappings = conf::mappings(call).unwrap_or_default();
    let keys = mappings
        .iter()
        .flat_map(|mapping| [false, true].map(|v6| mapping.key(v6)));
    keys.flatten().collect()
}

/// What fuzzing feeds: the plan, and all that DEL reads.
pub(crate) fn plan_anything(call: &Call) {
    let plan = prev_result(call).and_then(|prev| Plan::of(call, &prev));
    let _ = plan.map(|plan| {
        let ports = match &plan.backend {
            Backend::Iptables(mark) => Ports::of(&plan, mark).err(),
            Backend::Nftables { .. } => None,
        };
        (plan.published().len(), ports)
    });
    let _ = (guesses(call), conf::configured_backend(&call.conf));
}
