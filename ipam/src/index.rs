//! A network's index, beside its directory: who has which addresses, and which are taken.
//!
//! It saves the listing and reading of a directory of many thousand files at every call. It never
//! decides anything: what it says of an owner is read again in the owner's file, and what it says
//! of a free address is proven by making the file. It holds as long as the directory is in the
//! state that it was sealed with; else it is made anew from the directory.

mod layout;
mod storage;
mod table;

use std::{
    fs, io,
    net::IpAddr,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

pub(crate) use layout::Entry;
pub(crate) use layout::read_as_anything;
use layout::{HEADER, Header, Occupied};
use storage::Storage;
use table::Table;

use crate::{
    boot::BootId,
    choice::{Bitmap, Block, offset},
    directory::Identity,
    mortal::about_to_change,
    owner::Key,
    range::number,
};

/// How much an index is to hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    pub(crate) addresses: u64,
    pub(crate) blocks: u64,
}

#[derive(Debug)]
pub(crate) struct Index {
    storage: Storage,
    header: Header,
    /// Where it lies; nothing for one in memory.
    path: Option<PathBuf>,
}

impl Index {
    /// The index that lies there, whatever its state; nothing if there is none that can be read.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let storage = Storage::open(path).ok()?;
        let mut bytes = [0; HEADER];
        storage.read(0, &mut bytes).ok()?;
        let header = Header::decode(&bytes)?;
        if storage.size().ok()? < size(header.entry_bits, header.block_bits) {
            return None;
        }
        Some(Self {
            storage,
            header,
            path: Some(path.to_owned()),
        })
    }

    /// An empty one with room for so many addresses in so many blocks, beside `path` until it is
    /// installed there; in memory where there is no path.
    pub(crate) fn create(
        path: Option<&Path>,
        room: Room,
        boot: Option<BootId>,
        epoch: u32,
    ) -> io::Result<Self> {
        let [entry_bits, block_bits] = [room.addresses, room.blocks].map(bits_for);
        let header = Header {
            seal: None,
            boot,
            epoch,
            entry_bits,
            block_bits,
            entries: 0,
            blocks: 0,
        };
        let storage = match path {
            Some(path) => Storage::create(&new(path), size(entry_bits, block_bits))?,
            None => Storage::in_memory(size(entry_bits, block_bits))?,
        };
        Ok(Self {
            storage,
            header,
            path: path.map(Path::to_owned),
        })
    }

    /// Puts what was created in the place of what lies there.
    pub(crate) fn install(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        self.storage.write(0, &self.header.encode())?;
        about_to_change()?;
        fs::rename(new(path), path)
    }

    /// Removes what was created and could not be installed.
    pub(crate) fn discard_new(path: &Path) {
        let _ = fs::remove_file(new(path));
    }

    pub(crate) fn is_file(&self) -> bool {
        self.storage.is_file()
    }

    pub(crate) fn boot(&self) -> Option<BootId> {
        self.header.boot
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.header.epoch
    }

    pub(crate) fn is_sealed_for(&self, directory: Identity) -> bool {
        self.header.seal == Some(directory)
    }

    /// Says that the index and this state of the directory agree; or, with nothing, that they may
    /// not, before either is changed.
    pub(crate) fn seal(&mut self, directory: Option<Identity>) -> io::Result<()> {
        self.header.seal = directory;
        self.storage.write(0, &self.header.encode())
    }

    /// Whatever may belong to this owner.
    pub(crate) fn entries_of(&self, key: Key) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.entries()
            .probe(&self.storage, key.hash(), |_, entry| {
                entries.extend((entry.key == key).then_some(entry));
                ControlFlow::Continue(())
            })?;
        Ok(entries)
    }

    pub(crate) fn taken(&self, block: Block) -> io::Result<Bitmap> {
        Ok(self
            .find_block(block)?
            .map(|(_, taken)| taken)
            .unwrap_or_default())
    }

    pub(crate) fn each(&self, show: impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        self.entries().each(&self.storage, show)
    }

    /// Adds an entry that is known to be new, and not what is taken by it: for one that is being
    /// built, and was created with room enough.
    pub(crate) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        if self.entries().is_full_with(self.header.entries) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.header.entries += 1;
        self.entries().insert(&mut self.storage, entry)
    }

    pub(crate) fn append_taken(&mut self, block: Block, taken: Bitmap) -> io::Result<()> {
        if self.blocks().is_full_with(self.header.blocks) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.header.blocks += 1;
        self.blocks()
            .insert(&mut self.storage, &Occupied { block, taken })
    }

    /// Adds the entry, or puts it in the place of one for the same address and owner.
    pub(crate) fn insert(&mut self, entry: &Entry) -> io::Result<()> {
        self.mark(entry.address, true)?;
        if let Some(at) = self.find_entry(entry.key, entry.address)? {
            return self.entries().write(&mut self.storage, at, entry);
        }
        if self.entries().is_full_with(self.header.entries) {
            self.grow()?;
        }
        self.entries().insert(&mut self.storage, entry)?;
        self.header.entries += 1;
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: Key, address: IpAddr) -> io::Result<()> {
        self.mark(address, false)?;
        if let Some(at) = self.find_entry(key, address)? {
            self.entries().remove(&mut self.storage, at)?;
            self.header.entries = self.header.entries.saturating_sub(1);
        }
        Ok(())
    }

    fn find_entry(&self, key: Key, address: IpAddr) -> io::Result<Option<u64>> {
        let mut found = None;
        self.entries()
            .probe(&self.storage, key.hash(), |at, entry| {
                if (entry.key, entry.address) == (key, address) {
                    found = Some(at);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
        Ok(found)
    }

    fn find_block(&self, block: Block) -> io::Result<Option<(u64, Bitmap)>> {
        let mut found = None;
        self.blocks()
            .probe(&self.storage, block.hash(), |at, occupied| {
                if occupied.block == block {
                    found = Some((at, occupied.taken));
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
        Ok(found)
    }

    fn mark(&mut self, address: IpAddr, taken: bool) -> io::Result<()> {
        let block = Block::of(address);
        let found = self.find_block(block)?;
        let mut occupied = Occupied {
            block,
            taken: found.map(|(_, taken)| taken).unwrap_or_default(),
        };
        let offset = offset(number(address));
        if taken {
            occupied.taken.set(offset);
        } else {
            occupied.taken.clear(offset);
        }
        match (found, occupied.taken.is_empty()) {
            (None, true) => Ok(()),
            (Some((at, _)), false) => self.blocks().write(&mut self.storage, at, &occupied),
            (Some((at, _)), true) => {
                self.header.blocks = self.header.blocks.saturating_sub(1);
                self.blocks().remove(&mut self.storage, at)
            }
            (None, false) => {
                if self.blocks().is_full_with(self.header.blocks) {
                    self.grow()?;
                }
                self.header.blocks += 1;
                self.blocks().insert(&mut self.storage, &occupied)
            }
        }
    }

    /// Copies everything to a larger one. From its own slots, not from the directory: and since its
    /// size doubles, this costs each reservation next to nothing.
    fn grow(&mut self) -> io::Result<()> {
        let Header {
            boot,
            epoch,
            entries: addresses,
            blocks,
            ..
        } = self.header;
        let room = Room { addresses, blocks };
        let mut larger = Self::create(self.path.as_deref(), room, boot, epoch)?;
        self.entries().each(&self.storage, |entry| {
            larger.entries().insert(&mut larger.storage, &entry)?;
            larger.header.entries += 1;
            Ok(())
        })?;
        self.blocks().each(&self.storage, |occupied| {
            larger.blocks().insert(&mut larger.storage, &occupied)?;
            larger.header.blocks += 1;
            Ok(())
        })?;
        larger.install()?;
        *self = larger;
        Ok(())
    }

    fn entries(&self) -> Table<Entry> {
        Table::new(HEADER as u64, self.header.entry_bits)
    }

    fn blocks(&self) -> Table<Occupied> {
        let entries = Table::<Entry>::bytes(self.header.entry_bits);
        Table::new(HEADER as u64 + entries, self.header.block_bits)
    }
}

/// At most half full with so many, and with some more.
fn bits_for(count: u64) -> u8 {
    let slots = (count * 2 + MARGIN).next_power_of_two();
    u8::try_from(slots.ilog2()).unwrap_or(u8::MAX)
}

fn size(entry_bits: u8, block_bits: u8) -> u64 {
    HEADER as u64 + Table::<Entry>::bytes(entry_bits) + Table::<Occupied>::bytes(block_bits)
}

/// Where it is made: under the network's lock there is only ever one, so what lies there is what a
/// process that died has left.
fn new(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

const MARGIN: u64 = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{range::address, testing::Scratch};

    fn entry(owner: u8, host: u16) -> Entry {
        // Some in one block, some in many, of both families.
        let n = if host.is_multiple_of(2) {
            u128::from(host)
        } else {
            u128::from(host) << 8
        };
        let address = address(host.is_multiple_of(3), 0x0a00_0000 + n);
        Entry {
            key: Key(owner.into()),
            address,
            epoch: 1,
            mtime: host.into(),
            exact: true,
        }
    }

    fn check(index: &Index, model: &BTreeMap<IpAddr, Entry>) {
        let mut all = BTreeMap::new();
        index
            .each(|entry| {
                assert!(all.insert(entry.address, entry).is_none());
                Ok(())
            })
            .unwrap();
        assert_eq!(&all, model);
        for entry in model.values() {
            assert!(index.entries_of(entry.key).unwrap().contains(entry));
            let mut taken = index.taken(Block::of(entry.address)).unwrap();
            for other in model
                .keys()
                .filter(|other| Block::of(**other) == Block::of(entry.address))
            {
                assert!(taken.has(offset(number(*other))));
                taken.clear(offset(number(*other)));
            }
            assert!(taken.is_empty());
        }
        let blocks: std::collections::BTreeSet<Block> =
            model.keys().map(|ip| Block::of(*ip)).collect();
        assert_eq!(
            (index.header.entries, index.header.blocks),
            (model.len() as u64, blocks.len() as u64)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn an_index_is_a_map(
            in_memory in any::<bool>(),
            steps in proptest::collection::vec((0..3u8, 0..20u8, 0..400u16), 0..300),
        ) {
            let scratch = Scratch::new();
            let path = scratch.path().join("net.index");
            let mut index = Index::create((!in_memory).then_some(path.as_path()), Room::default(), None, 1).unwrap();
            index.install().unwrap();
            let mut model: BTreeMap<IpAddr, Entry> = BTreeMap::new();
            for (what, owner, host) in steps {
                let entry = entry(owner, host);
                match model.get(&entry.address).copied() {
                    Some(old) if what == 0 => {
                        index.remove(old.key, old.address).unwrap();
                        model.remove(&old.address);
                    }
                    Some(old) => {
                        index.insert(&old).unwrap();
                    }
                    None => {
                        index.insert(&entry).unwrap();
                        model.insert(entry.address, entry);
                    }
                }
            }
            check(&index, &model);
            index.seal(Some(Identity::default())).unwrap();
            if !in_memory {
                let again = Index::open(&path).unwrap();
                prop_assert!(again.is_sealed_for(Identity::default()));
                check(&again, &model);
            }
        }
    }

    #[test]
    fn it_grows_from_itself_and_keeps_everything() {
        let scratch = Scratch::new();
        let path = scratch.path().join("net.index");
        let mut index = Index::create(Some(&path), Room::default(), Some([7; 16]), 3).unwrap();
        index.install().unwrap();
        for host in 0..5000u16 {
            let address = address(true, u128::from(host) << 4);
            index
                .insert(&Entry {
                    address,
                    key: Key(host.into()),
                    ..entry(0, 0)
                })
                .unwrap();
        }
        assert_eq!(
            (index.boot(), index.epoch(), index.header.entries),
            (Some([7; 16]), 3, 5000)
        );
        assert_eq!(index.entries_of(Key(4321)).unwrap().len(), 1);
    }

    #[test]
    fn what_is_cut_short_or_not_an_index_is_none() {
        let scratch = Scratch::new();
        let path = scratch.path().join("net.index");
        assert!(Index::open(&path).is_none());
        fs::write(&path, "rubbish").unwrap();
        assert!(Index::open(&path).is_none());
        Index::create(Some(&path), Room::default(), None, 1)
            .unwrap()
            .install()
            .unwrap();
        assert!(Index::open(&path).is_some());
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(500)
            .unwrap();
        assert!(Index::open(&path).is_none());
    }
}
