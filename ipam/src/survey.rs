//! The directory read whole → an index of it.

use std::{collections::BTreeMap, io, net::IpAddr, path::Path};

use crate::{
    boot::{Boot, BootId},
    choice::{Bitmap, Block, offset},
    directory::{Directory, Found},
    index::{Entry, Index, Room},
    owner::{self, Holder, Key},
    range::number,
};

/// Builds the index at `path`, or in memory; what the old one knew is asked how old things are.
pub(crate) fn survey(
    directory: &Directory,
    path: Option<&Path>,
    old: Option<&Index>,
    boot: &Boot,
) -> io::Result<Index> {
    // Listed twice, since the names of many thousands are more than a plugin should remember.
    let mut room = Room::default();
    let mut taken: BTreeMap<Block, Bitmap> = BTreeMap::new();
    directory.each_address(|address| {
        room.addresses += 1;
        taken.entry(Block::of(address)).or_default();
        Ok(())
    })?;
    room.blocks = taken.len() as u64;
    let ages = Ages {
        old,
        boot: boot.id,
        started: boot.surely_after().filter(|_| directory.is_local()),
    };
    let mut index = Index::create(path, room, boot.id, ages.this_epoch())?;
    directory.each_address(|address| {
        let Some(entry) = look(directory, address, &ages) else {
            return Ok(());
        };
        taken
            .entry(Block::of(address))
            .or_default()
            .set(offset(number(address)));
        index.append(&entry)
    })?;
    for (block, taken) in taken.into_iter().filter(|(_, taken)| !taken.is_empty()) {
        index.append_taken(block, taken)?;
    }
    index.install()?;
    Ok(index)
}

/// Nothing for what is gone, and for a file that is empty: its address is free for the taking.
fn look(directory: &Directory, address: IpAddr, ages: &Ages<'_>) -> Option<Entry> {
    match directory.read(address) {
        Ok(None) => None,
        Ok(Some(found)) if owner::holder(&found.content) == Holder::Nobody => None,
        Ok(Some(found)) => {
            let entry = entry(address, &found, ages.this_epoch());
            Some(Entry {
                epoch: ages.epoch_of(&entry),
                ..entry
            })
        }
        Err(_) => Some(unreadable(address, ages.this_epoch())),
    }
}

pub(crate) fn entry(address: IpAddr, found: &Found, epoch: u32) -> Entry {
    Entry {
        key: owner::key(&found.content),
        address,
        epoch,
        mtime: found.mtime,
        exact: owner::is_exactly_an_attachment(&found.content),
    }
}

/// Whatever it is, its name is taken.
pub(crate) fn unreadable(address: IpAddr, epoch: u32) -> Entry {
    Entry {
        key: Key(0),
        address,
        epoch,
        mtime: 0,
        exact: false,
    }
}

/// How old reservations are, counted in boots.
struct Ages<'a> {
    old: Option<&'a Index>,
    boot: Option<BootId>,
    /// When this boot began; nothing where everything is to count as made in it.
    started: Option<i64>,
}

impl Ages<'_> {
    fn this_epoch(&self) -> u32 {
        match self.old {
            None => 1,
            Some(old) if old.boot() == self.boot => old.epoch(),
            Some(old) => old.epoch().saturating_add(1),
        }
    }

    /// A reservation that the old index knew is as old as it said; one that it did not know counts
    /// as made in this boot unless it is surely older.
    fn epoch_of(&self, entry: &Entry) -> u32 {
        let now = self.this_epoch();
        let Some(started) = self.started else {
            return now;
        };
        match self.known(entry) {
            None if entry.mtime < started => 0,
            None => now,
            Some(known) if self.old.is_some_and(|old| old.boot() == self.boot) => known.epoch,
            Some(known) => known.epoch.min(now - 1),
        }
    }

    fn known(&self, entry: &Entry) -> Option<Entry> {
        // An index that the loss of power has damaged may well not be readable.
        let known = self.old?.entries_of(entry.key).ok()?;
        let same = |old: &Entry| old.address == entry.address && old.mtime == entry.mtime;
        known.into_iter().find(same)
    }
}
