//! The addresses of an attachment: of each range set one, or none at all.

use std::net::IpAddr;

use weft_cni::Address;

use crate::{
    choice::turns,
    conf::Plan,
    error::{Error, Result},
    owner::{self, Holder, Owner},
    range::{Range, RangeSet},
    store::{Held, Store},
};

/// Who is to have addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attachment<'a> {
    pub(crate) container_id: &'a str,
    pub(crate) ifname: &'a str,
}

impl Attachment<'_> {
    pub(crate) fn owner(&self) -> Owner {
        Owner::attachment(self.container_id, self.ifname)
    }
}

/// Reserves what the plan wants; if not all can be had, what was reserved is released.
pub(crate) fn allocate(
    store: &mut Store,
    plan: &Plan,
    whom: Attachment<'_>,
) -> Result<Vec<Address>> {
    let mut reserved = Vec::new();
    let allocated = allocate_all(store, plan, whom, &mut reserved);
    if allocated.is_err() {
        for address in reserved {
            // What went wrong first is what is told.
            let _ = store.release(&Held {
                address,
                key: whom.owner().key(),
                stale: false,
            });
        }
    }
    allocated
}

fn allocate_all(
    store: &mut Store,
    plan: &Plan,
    whom: Attachment<'_>,
    reserved: &mut Vec<IpAddr>,
) -> Result<Vec<Address>> {
    let mut requested = plan.requested.clone();
    let mut addresses = Vec::new();
    for (number, set) in plan.sets.iter().enumerate() {
        let wanted = requested.iter().position(|ip| set.contains(*ip));
        let taken = match wanted.map(|at| requested.remove(at)) {
            Some(address) => take_requested(store, set, address, whom),
            None => take_next(store, set, number, whom),
        };
        let (address, range) = taken.map_err(|error| error.in_set(number))?;
        reserved.push(address);
        store.note_last_reserved(number, address);
        addresses.push(in_result(address, range));
    }
    if requested.is_empty() {
        Ok(addresses)
    } else {
        Err(Error::Unfulfilled {
            addresses: requested,
        })
    }
}

/// The address that the runtime wants, even if the attachment has another one already.
fn take_requested<'a>(
    store: &mut Store,
    set: &'a RangeSet,
    address: IpAddr,
    whom: Attachment<'_>,
) -> Result<(IpAddr, &'a Range)> {
    let taken = || Error::Taken {
        address,
        set: set.to_string(),
    };
    let range = set.range_of(address).ok_or_else(taken)?;
    if address == range.gateway {
        return Err(Error::Gateway { address });
    }
    if store.reserve(address, &whom.owner())? {
        return Ok((address, range));
    }
    // Its own from before the machine went down: nobody else can mean it (podman#3759).
    if let Ok(Some((held, found))) = store.holder_of(address) {
        let own = match owner::holder(&found.content) {
            Holder::Attachment { container_id, .. } => container_id == whom.container_id,
            _ => false,
        };
        if own && held.stale {
            store.release(&held)?;
            if store.reserve(address, &whom.owner())? {
                return Ok((address, range));
            }
        }
    }
    Err(taken())
}

fn take_next<'a>(
    store: &mut Store,
    set: &'a RangeSet,
    number: usize,
    whom: Attachment<'_>,
) -> Result<(IpAddr, &'a Range)> {
    for held in store.held_by(&whom.owner())? {
        if !set.contains(held.address) {
            continue;
        }
        if !held.stale {
            let container_id = whom.container_id.to_owned();
            return Err(Error::Duplicate {
                address: held.address,
                container_id,
            });
        }
        // The same container, started again after the machine was (nerdctl#665).
        store.release(&held)?;
    }
    if let Some(taken) = take_free(store, set, number, whom)? {
        return Ok(taken);
    }
    if store.forget_vanished()?
        && let Some(taken) = take_free(store, set, number, whom)?
    {
        return Ok(taken);
    }
    while let Some(stale) = store.oldest_stale(set)? {
        store.release(&stale)?;
        if let Some(taken) = take_free(store, set, number, whom)? {
            return Ok(taken);
        }
    }
    Err(Error::Exhausted {
        set: set.to_string(),
    })
}

fn take_free<'a>(
    store: &mut Store,
    set: &'a RangeSet,
    number: usize,
    whom: Attachment<'_>,
) -> Result<Option<(IpAddr, &'a Range)>> {
    let turns = turns(set, store.last_reserved(number));
    // Ends: a candidate that can't be had is known as taken from then on.
    while let Some(candidate) = store.first_free(&turns)? {
        if store.reserve(candidate.address, &whom.owner())? {
            return Ok(Some((candidate.address, candidate.range)));
        }
    }
    Ok(None)
}

fn in_result(address: IpAddr, range: &Range) -> Address {
    let prefix = range.subnet.prefix();
    let network = ipnetwork::IpNetwork::new(address, prefix).unwrap_or_else(|_| address.into());
    Address {
        interface: None,
        address: network,
        gateway: Some(range.gateway),
    }
}
