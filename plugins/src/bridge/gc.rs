//! GC: what the network has on this node and no living pod owns. It goes in DEL's order, the
//! reservations last.

use weft_cni::{Call, Delegate, Error, Result};
use weft_net::route::{Requests, Rtnl};

use super::{conf, masquerade, spoof};
use crate::{
    owner::{self, Owner},
    told::Told,
};

pub(super) fn collect(call: &Call) -> Result<()> {
    // A runtime that does not say who lives has not said that nobody does.
    let Some(living) = call.conf.attachments()? else {
        return Ok(());
    };
    let owners: Vec<Owner> = owner::owners_of(call.network(), &living).collect();
    let marks: Vec<String> = owners.iter().map(Owner::mark).collect();
    let network = owner::network_mark(call.network());
    let collected = [
        collect_links(call, &owners),
        masquerade::collect(call.network(), &marks, &living),
        spoof::collect(&network, &marks).told(),
        collect_reservations(call),
    ];
    Error::all(collected.into_iter().filter_map(Result::err).collect())
}

/// The ports of the bridge that carry the network's name and no living pod's.
fn collect_links(call: &Call, owners: &[Owner]) -> Result<()> {
    let mut host = Rtnl::open().told()?;
    let bridge = match host.link(conf::bridge_name(&call.conf)?.as_str()) {
        Err(error) if error.is_not_found() => return Ok(()),
        bridge => bridge.told()?,
    };
    let prefix = owner::host_veth_prefix(call.network());
    let living: Vec<String> = owners.iter().map(Owner::host_veth).collect();
    let ports = host.links_of_master(bridge.index).told()?;
    let dead = ports.iter().filter(|port| {
        let ours = port.name.len() == owner::HOST_VETH_LENGTH && port.name.starts_with(&prefix);
        ours && port.is_veth() && !living.contains(&port.name)
    });
    let mut requests = Requests::new();
    let tickets: Vec<_> = dead.map(|port| requests.delete_link(port.index)).collect();
    if requests.is_empty() {
        return Ok(());
    }
    let mut answers = host.run(requests).told()?;
    let mut failures = Vec::new();
    for ticket in tickets {
        match answers.take(ticket) {
            Err(error) if error.is_not_found() => {}
            deleted => failures.extend(deleted.told().err()),
        }
    }
    Error::all(failures)
}

fn collect_reservations(call: &Call) -> Result<()> {
    match call.conf.ipam_type()? {
        Some(ipam) => Delegate::find(call, ipam)?.gc(call),
        None => Ok(()),
    }
}
