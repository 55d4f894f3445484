//! The plugin's verbs.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use weft_cni::{Attachments, Call, Code, Error, Outcome, Plugin, Result};

use crate::{
    allocate::{Attachment, allocate},
    choice::turns,
    conf::{self, Place, Plan},
    error,
    owner::{self, Holder, Owner},
    range::RangeSet,
    store::{Held, Purpose, Store, World},
};

/// Address management by files in a directory, which every plugin on the node shares.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostLocal;

impl Plugin for HostLocal {
    fn name(&self) -> &'static str {
        "host-local"
    }

    fn add(&self, call: &Call) -> Result<Outcome> {
        add(call, &World::real())
    }

    fn del(&self, call: &Call) -> Result<()> {
        del(call, &World::real())
    }

    fn check(&self, call: &Call) -> Result<()> {
        check(call, &World::real())
    }

    fn gc(&self, call: &Call) -> Result<()> {
        gc(call, &World::real())
    }

    fn status(&self, call: &Call) -> Result<()> {
        status(call, &World::real())
    }
}

/// The addresses that the attachment of this call holds; none if nothing is known of it.
///
/// For plugins that must remove what is keyed by address before the reservation goes, which is the
/// last thing to go.
pub fn reserved(call: &Call) -> Result<Vec<IpAddr>> {
    reserved_in(call, &World::real())
}

pub(crate) fn add(call: &Call, world: &World) -> Result<Outcome> {
    let plan = Plan::of(call)?;
    let whom = Attachment {
        container_id: call.container_id(),
        ifname: call.ifname(),
    };
    let mut store = open_or_create(&plan.place, world)?;
    let allocated = allocate(&mut store, &plan, whom);
    store.close();
    Ok(Outcome {
        interfaces: Vec::new(),
        ips: allocated?,
        routes: plan.routes,
        dns: plan.dns,
    })
}

pub(crate) fn del(call: &Call, world: &World) -> Result<()> {
    let place = Place::of(&call.conf)?;
    let Some(mut store) = Store::open(&place, world, Purpose::Release)? else {
        return Ok(());
    };
    let released = release_all(&mut store, call);
    store.close();
    released
}

fn release_all(store: &mut Store, call: &Call) -> Result<()> {
    let mut failures = Vec::new();
    for held in held_by(store, call)? {
        failures.extend(store.release(&held).err().map(Error::from));
    }
    Error::all(failures)
}

fn check(call: &Call, world: &World) -> Result<()> {
    conf::range_sets(&call.conf)?;
    if reserved_in(call, world)?.is_empty() {
        let container_id = call.container_id().to_owned();
        return Err(error::Error::NotFound { container_id }.into());
    }
    Ok(())
}

fn reserved_in(call: &Call, world: &World) -> Result<Vec<IpAddr>> {
    let place = Place::of(&call.conf)?;
    let Some(mut store) = Store::open(&place, world, Purpose::Release)? else {
        return Ok(Vec::new());
    };
    let held = held_by(&mut store, call);
    store.close();
    Ok(held?.into_iter().map(|held| held.address).collect())
}

/// What the attachment holds; if nothing, what the oldest plugins reserved for its container.
fn held_by(store: &mut Store, call: &Call) -> Result<Vec<Held>> {
    let held = store.held_by(&Owner::attachment(call.container_id(), call.ifname()))?;
    if !held.is_empty() {
        return Ok(held);
    }
    Ok(store.held_by(&Owner::legacy(call.container_id()))?)
}

pub(crate) fn gc(call: &Call, world: &World) -> Result<()> {
    let place = Place::of(&call.conf)?;
    let Some(living) = call.conf.attachments()? else {
        return Ok(());
    };
    let Some(mut store) = Store::open(&place, world, Purpose::Release)? else {
        return Ok(());
    };
    let collected = collect(&mut store, &living);
    store.close();
    collected
}

/// Goes on after a failure: what can be collected is.
fn collect(store: &mut Store, living: &Attachments) -> Result<()> {
    let mut failures = Vec::new();
    failures.extend(store.remove_leftovers().err().map(Error::from));
    for address in store.addresses()? {
        failures.extend(collect_one(store, living, address).err().map(Error::from));
    }
    Error::all(failures)
}

fn collect_one(store: &mut Store, living: &Attachments, address: IpAddr) -> error::Result<()> {
    let Some((held, found)) = store.holder_of(address)? else {
        return Ok(());
    };
    match owner::holder(&found.content) {
        Holder::Nobody => store.remove(address),
        Holder::Attachment {
            container_id,
            ifname,
        } if !living.contains(container_id, ifname) => store.release(&held),
        Holder::Container(id) if !living.has_container(id) => store.release(&held),
        Holder::Attachment { .. } | Holder::Container(_) | Holder::Other => Ok(()),
    }
}

fn status(call: &Call, world: &World) -> Result<()> {
    let not_available = |error: Error| Error {
        code: Code::NotAvailable,
        ..error
    };
    judge_status(call, world).map_err(not_available)
}

fn judge_status(call: &Call, world: &World) -> Result<()> {
    let sets = conf::range_sets(&call.conf)?;
    let place = Place::of(&call.conf)?;
    judge_directory(&place.reservations)?;
    if conf::status_when_exhausted(&call.conf)? {
        judge_room(&place, &sets, world)?;
    }
    Ok(())
}

/// Whether reservations could be made here, found out without making anything.
fn judge_directory(path: &Path) -> Result<()> {
    let there = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or_else(|| Path::new("."));
    let usable = access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from);
    let usable = usable.and_then(|()| match there.is_dir() {
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    });
    usable
        .map_err(|why| error::Error::file("make reservations in", PathBuf::from(there), why).into())
}

fn judge_room(place: &Place, sets: &[RangeSet], world: &World) -> Result<()> {
    let Some(mut store) = Store::open(place, world, Purpose::Look)? else {
        return Ok(());
    };
    for set in sets {
        let free = store.first_free(&turns(set, None))?.is_some();
        if !free && store.oldest_stale(set)?.is_none() {
            return Err(error::Error::Exhausted {
                set: set.to_string(),
            }
            .into());
        }
    }
    Ok(())
}

fn open_or_create(place: &Place, world: &World) -> error::Result<Store> {
    let opened = Store::open(place, world, Purpose::Reserve)?;
    opened.ok_or_else(|| error::Error::Restless {
        path: place.reservations.clone(),
    })
}

#[cfg(test)]
mod tests;
