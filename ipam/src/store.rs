//! A network's reservations, locked: the directory that holds them, and the index beside it.

use std::{net::IpAddr, time::Duration};

use crate::{
    boot::{self, Boot},
    choice::{Block, Candidate, Turn, first_free, offset},
    conf::Place,
    directory::{Directory, Found},
    error::{Error, Result},
    index::{Entry, Index},
    lock::Lock,
    owner::{self, Holder, Key, Owner},
    range::{RangeSet, number},
    survey::{entry, survey, unreadable},
};

/// What a call depends on besides its configuration.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) boot: Boot,
    /// How long another process may keep us from the reservations.
    pub(crate) lock_wait: Duration,
}

/// What the reservations are opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The directory is made if there is none.
    Reserve,
    /// Without a directory there is nothing to do.
    Release,
    /// Nothing may be made or changed.
    Look,
}

#[derive(Debug)]
pub(crate) struct Store {
    directory: Directory,
    place: Place,
    world: World,
    index: Index,
    /// The index was made from the directory just now.
    fresh: bool,
    /// The index's seal is broken, and must be renewed in the end.
    unsealed: bool,
    /// Somebody changed the directory while it was read, lock or no lock: the index may be wrong.
    disturbed: bool,
    /// Held to the end.
    _lock: Option<Lock>,
}

/// An address, proven by its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) address: IpAddr,
    /// Who holds it.
    pub(crate) key: Key,
    /// Its pod was of an earlier boot of the machine, so it is gone.
    pub(crate) stale: bool,
}

impl World {
    pub(crate) fn real() -> Self {
        Self {
            boot: Boot::current(),
            lock_wait: LOCK_WAIT,
        }
    }
}

impl Store {
    /// Nothing if there is no directory, unless the purpose is to reserve.
    pub(crate) fn open(place: &Place, world: &World, purpose: Purpose) -> Result<Option<Self>> {
        for _ in 0..TRIES {
            let Some(directory) = open_directory(place, purpose)? else {
                return Ok(None);
            };
            let path = directory.path().join("lock");
            let failed = |source| Error::file("open", &path, source);
            let file = match directory.lock_file(purpose != Purpose::Look) {
                // Where nobody can make the file, nobody can reserve.
                Err(why) if purpose == Purpose::Release && is_read_only(&why) => None,
                file => file.map_err(failed)?,
            };
            let lock = file
                .map(|file| Lock::acquire(file, &path, world.lock_wait))
                .transpose()?;
            // While we waited, somebody may have removed it all.
            let locked = lock.as_ref().is_none_or(Lock::is_there);
            if locked && directory.is_there().map_err(failed)? {
                return Self::read(directory, lock, place, world, purpose).map(Some);
            }
        }
        Err(Error::Restless {
            path: place.reservations.clone(),
        })
    }

    fn read(
        directory: Directory,
        lock: Option<Lock>,
        place: &Place,
        world: &World,
        purpose: Purpose,
    ) -> Result<Self> {
        let failed = |source| Error::file("read", directory.path(), source);
        let identity = directory.identity().map_err(failed)?;
        let old = Index::open(&place.index);
        let boot = &world.boot;
        let holds = |index: &Index| {
            boot.id.is_some() && index.boot() == boot.id && index.is_sealed_for(identity)
        };
        let (index, fresh) = match old {
            Some(index) if holds(&index) => (index, false),
            old => (
                build(&directory, place, old.as_ref(), boot, purpose).map_err(failed)?,
                true,
            ),
        };
        let disturbed = fresh && directory.identity().map_err(failed)? != identity;
        let (place, world) = (place.clone(), world.clone());
        Ok(Self {
            directory,
            place,
            world,
            index,
            fresh,
            unsealed: fresh,
            disturbed,
            _lock: lock,
        })
    }

    /// Every address that `owner` holds.
    pub(crate) fn held_by(&mut self, owner: &Owner) -> Result<Vec<Held>> {
        let key = owner.key();
        let mut held: Vec<Held> = Vec::new();
        for known in self.ask(|index| index.entries_of(key))? {
            let found = self.verify(&known)?;
            let twice = held.iter().any(|held| held.address == known.address);
            if let Some(found) = found.filter(|found| !twice && owner.holds(&found.content)) {
                held.push(self.held(&known, &found));
            }
        }
        Ok(held)
    }

    /// Who holds `address`, as its file says; nothing if nobody does.
    pub(crate) fn holder_of(&mut self, address: IpAddr) -> Result<Option<(Held, Found)>> {
        let Some(found) = self.find(address)? else {
            return Ok(None);
        };
        let key = owner::key(&found.content);
        let known = self.ask(|index| index.entries_of(key))?;
        let held = match known.iter().find(|known| known.address == address) {
            Some(known) => self.held(known, &found),
            None => Held {
                address,
                key,
                stale: false,
            },
        };
        Ok(Some((held, found)))
    }

    /// Everything that is named as an address, whatever it is.
    pub(crate) fn addresses(&self) -> Result<Vec<IpAddr>> {
        let addresses = self.directory.addresses();
        addresses.map_err(|source| Error::file("list", self.directory.path(), source))
    }

    /// The first address of these that is free, as far as is known.
    pub(crate) fn first_free<'a>(&mut self, turns: &[Turn<'a>]) -> Result<Option<Candidate<'a>>> {
        self.ask(|index| first_free(turns, |block| index.taken(block)))
    }

    /// The address in `set` of the pod that is longest gone, being of an earlier boot.
    pub(crate) fn oldest_stale(&mut self, set: &RangeSet) -> Result<Option<Held>> {
        loop {
            let Some(oldest) = self.ask(|index| oldest_stale(index, set))? else {
                return Ok(None);
            };
            let Some(found) = self.verify(&oldest)? else {
                continue;
            };
            let held = self.held(&oldest, &found);
            if held.stale {
                return Ok(Some(held));
            }
            // Its file is not the one that the index knew.
            self.note(&entry(oldest.address, &found, self.index.epoch()))?;
        }
    }

    /// Whether there were reservations in the index that the directory has not.
    ///
    /// A person who removes a file just while we make another one goes unnoticed by the seal.
    pub(crate) fn forget_vanished(&mut self) -> Result<bool> {
        if self.fresh {
            return Ok(false);
        }
        let mut there = self.addresses()?;
        there.sort_unstable();
        let vanished = self.ask(|index| {
            let mut vanished = Vec::new();
            index.each(|known| {
                vanished.extend(
                    there
                        .binary_search(&known.address)
                        .is_err()
                        .then_some(known),
                );
                Ok(())
            })?;
            Ok(vanished)
        })?;
        for known in &vanished {
            self.change(|index| index.remove(known.key, known.address))?;
        }
        Ok(!vanished.is_empty())
    }

    /// Makes the reservation; no, if somebody has it already.
    pub(crate) fn reserve(&mut self, address: IpAddr, owner: &Owner) -> Result<bool> {
        for _ in 0..TRIES {
            let path = || self.directory.path_of(address);
            let made = self.directory.reserve(address, owner.text());
            if let Some(mtime) = made.map_err(|why| Error::file("write", path(), why))? {
                self.unsealed = true;
                let (key, epoch) = (owner.key(), self.index.epoch());
                self.note(&Entry {
                    key,
                    address,
                    epoch,
                    mtime,
                    exact: true,
                })?;
                return Ok(true);
            }
            match self.directory.read(address) {
                Ok(None) => {}
                // Whoever made it died before it was written (plugins#498): nobody is writing it
                // now, since the lock is ours.
                Ok(Some(found)) if owner::holder(&found.content) == Holder::Nobody => {
                    self.remove(address)?;
                }
                Ok(Some(found)) => {
                    self.note_found(&entry(address, &found, self.index.epoch()))?;
                    return Ok(false);
                }
                Err(_) => {
                    self.note_found(&unreadable(address, self.index.epoch()))?;
                    return Ok(false);
                }
            }
        }
        Err(Error::Restless {
            path: self.directory.path_of(address),
        })
    }

    pub(crate) fn release(&mut self, held: &Held) -> Result<()> {
        self.remove(held.address)?;
        self.change(|index| index.remove(held.key, held.address))
    }

    /// Removes the file of an address that nobody holds.
    pub(crate) fn remove(&mut self, address: IpAddr) -> Result<()> {
        let removed = self.directory.remove(address);
        removed.map_err(|why| Error::file("remove", self.directory.path_of(address), why))?;
        self.unsealed = true;
        Ok(())
    }

    pub(crate) fn remove_leftovers(&mut self) -> Result<()> {
        let removed = self.directory.remove_leftovers();
        removed.map_err(|why| Error::file("clean", self.directory.path(), why))?;
        self.unsealed = true;
        Ok(())
    }

    pub(crate) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        self.directory.last_reserved(set)
    }

    /// That it could not be noted does no harm: the next one only begins its search elsewhere.
    pub(crate) fn note_last_reserved(&mut self, set: usize, address: IpAddr) {
        self.unsealed = true;
        let _ = self.directory.set_last_reserved(set, address);
    }

    /// Lets the index hold for the next call. Should this fail, or never be reached, then the next
    /// call makes the index anew.
    pub(crate) fn close(mut self) {
        if self.unsealed && !self.disturbed && self.index.is_file() {
            let _ = self.seal();
        }
    }

    /// The directory is stamped only when the index is complete, and the seal is written last: a
    /// process that dies in between leaves a stamp that no seal knows.
    fn seal(&mut self) -> std::io::Result<()> {
        let Some(stamp) = boot::now() else {
            return Ok(());
        };
        self.directory.stamp(stamp)?;
        let identity = self.directory.identity()?;
        // A file system with coarser times can't tell its states apart.
        if identity.mtime == stamp {
            self.index.seal(Some(identity))?;
        }
        Ok(())
    }

    /// The file of which an entry tells, if there is still one with that content; else the entry is
    /// corrected.
    fn verify(&mut self, known: &Entry) -> Result<Option<Found>> {
        let found = self.find(known.address)?;
        let same = |found: &Found| owner::key(&found.content) == known.key;
        if found.as_ref().is_some_and(same) {
            return Ok(found);
        }
        self.change(|index| index.remove(known.key, known.address))?;
        if let Some(found) = found.filter(|found| owner::holder(&found.content) != Holder::Nobody) {
            self.note(&entry(known.address, &found, self.index.epoch()))?;
        }
        Ok(None)
    }

    fn find(&self, address: IpAddr) -> Result<Option<Found>> {
        let found = self.directory.read(address);
        found.map_err(|why| Error::file("read", self.directory.path_of(address), why))
    }

    fn held(&self, known: &Entry, found: &Found) -> Held {
        let of_earlier_boot = known.epoch < self.index.epoch() && known.mtime == found.mtime;
        // A person's own reservation outlives boots.
        let stale = of_earlier_boot && owner::is_exactly_an_attachment(&found.content);
        Held {
            address: known.address,
            key: known.key,
            stale,
        }
    }

    fn note(&mut self, entry: &Entry) -> Result<()> {
        self.change(|index| index.insert(entry))
    }

    /// Notes what somebody else made, unless it is known: since when, only the index knows.
    fn note_found(&mut self, entry: &Entry) -> Result<()> {
        let same = |known: &Entry| (known.address, known.mtime) == (entry.address, entry.mtime);
        let known = self.ask(|index| {
            let taken = index
                .taken(Block::of(entry.address))?
                .has(offset(number(entry.address)));
            Ok(taken && index.entries_of(entry.key)?.iter().any(same))
        })?;
        if known { Ok(()) } else { self.note(entry) }
    }

    /// Changes the index. While its seal is whole it is broken first, so that a change that is cut
    /// short is never taken for the truth.
    fn change(&mut self, change: impl Fn(&mut Index) -> std::io::Result<()>) -> Result<()> {
        let whole = !self.unsealed;
        self.unsealed = true;
        self.ask_mut(|index| {
            if whole {
                index.seal(None)?;
            }
            change(index)
        })
    }

    fn ask<T>(&mut self, question: impl Fn(&Index) -> std::io::Result<T>) -> Result<T> {
        self.ask_mut(|index| question(index))
    }

    /// An index that can't be read or written is as good as none: the directory is read instead.
    fn ask_mut<T>(&mut self, question: impl Fn(&mut Index) -> std::io::Result<T>) -> Result<T> {
        let mut answer = question(&mut self.index);
        if answer.is_err() && self.index.is_file() {
            let old = Some(&self.index);
            let again = survey(&self.directory, None, old, &self.world.boot);
            let failed = |why| Error::file("read", self.directory.path(), why);
            self.index = again.map_err(failed)?;
            self.fresh = true;
            answer = question(&mut self.index);
        }
        answer.map_err(|why| Error::file("use the index", &self.place.index, why))
    }
}

fn is_read_only(why: &std::io::Error) -> bool {
    why.kind() == std::io::ErrorKind::ReadOnlyFilesystem
}

fn open_directory(place: &Place, purpose: Purpose) -> Result<Option<Directory>> {
    let path = &place.reservations;
    let open = || Directory::open(path).map_err(|why| Error::file("open", path, why));
    match open()? {
        None if purpose == Purpose::Reserve => {
            Directory::create(path).map_err(|why| Error::file("create", path, why))?;
            open()
        }
        opened => Ok(opened),
    }
}

/// Where the index can't be a file it is in memory, and serves this call alone.
fn build(
    directory: &Directory,
    place: &Place,
    old: Option<&Index>,
    boot: &Boot,
    purpose: Purpose,
) -> std::io::Result<Index> {
    let lasting = purpose != Purpose::Look && boot.id.is_some();
    if let Some(parent) = place.index.parent().filter(|_| lasting) {
        let on_disk = Directory::create(parent)
            .and_then(|()| survey(directory, Some(&place.index), old, boot));
        match on_disk {
            Ok(index) => return Ok(index),
            Err(_) => Index::discard_new(&place.index),
        }
    }
    survey(directory, None, old, boot)
}

fn oldest_stale(index: &Index, set: &RangeSet) -> std::io::Result<Option<Entry>> {
    let mut oldest: Option<Entry> = None;
    index.each(|known| {
        let range = set
            .range_of(known.address)
            .filter(|range| range.gateway != known.address);
        let stale = range.is_some() && known.exact && known.epoch < index.epoch();
        let older = oldest.is_none_or(|oldest| known.mtime < oldest.mtime);
        if stale && older {
            oldest = Some(known);
        }
        Ok(())
    })?;
    Ok(oldest)
}

/// A call that holds the lock takes a millisecond, the Go plugin's a quarter of a second with
/// 20,000 addresses taken. A runtime gives up on a pod after minutes.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often it is tried anew when a file or directory vanishes under our hands.
const TRIES: usize = 3;

#[cfg(test)]
mod tests;
