//! The index's bytes: a header, and two kinds of slots. All numbers are little-endian.

use std::net::IpAddr;

use super::table::{SLOT, Slot};
use crate::{
    boot::BootId,
    choice::{Bitmap, Block},
    directory::Identity,
    owner::Key,
    range::{address, number},
};

/// What stands at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The directory as it was when the index was last known to agree with it.
    pub(super) seal: Option<Identity>,
    pub(super) boot: Option<BootId>,
    /// Counts the boots in which the index was in use.
    pub(super) epoch: u32,
    pub(super) entry_bits: u8,
    pub(super) block_bits: u8,
    pub(super) entries: u64,
    pub(super) blocks: u64,
}

/// One address, and who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) address: IpAddr,
    /// The epoch in which the reservation was made; 0 is before there was an index.
    pub(crate) epoch: u32,
    /// Of the reservation's file.
    pub(crate) mtime: i64,
    /// The file is beyond doubt what a plugin wrote for an attachment.
    pub(crate) exact: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Occupied {
    pub(super) block: Block,
    pub(super) taken: Bitmap,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut rest = Writer(&mut bytes[16..]);
        rest.put(&self.boot.unwrap_or_default());
        rest.put(&self.epoch.to_le_bytes());
        rest.put(&[
            self.entry_bits,
            self.block_bits,
            self.boot.is_some().into(),
            self.seal.is_some().into(),
        ]);
        rest.put(&self.entries.to_le_bytes());
        rest.put(&self.blocks.to_le_bytes());
        let seal = self.seal.unwrap_or_default();
        rest.put(&seal.device.to_le_bytes());
        rest.put(&seal.inode.to_le_bytes());
        rest.put(&seal.mtime.to_le_bytes());
        rest.put(&seal.ctime.to_le_bytes());
        let sum = checksum(&bytes[16..]);
        let mut front = Writer(&mut bytes[..16]);
        front.put(&MAGIC);
        front.put(&sum.to_le_bytes());
        bytes
    }

    /// Nothing if these bytes are no header, or not one of this form.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let mut front = Reader(&bytes[..16]);
        let whole = front.take::<8>() == MAGIC
            && u64::from_le_bytes(front.take()) == checksum(&bytes[16..]);
        if !whole {
            return None;
        }
        let mut rest = Reader(&bytes[16..]);
        let boot = rest.take();
        let epoch = u32::from_le_bytes(rest.take());
        let [entry_bits, block_bits, has_boot, has_seal] = rest.take();
        let mut number = || u64::from_le_bytes(rest.take());
        let (entries, blocks) = (number(), number());
        let (device, inode) = (number(), number());
        let (mtime, ctime) = (number().cast_signed(), number().cast_signed());
        let sane = entry_bits <= MOST_BITS && block_bits <= MOST_BITS;
        sane.then_some(Self {
            seal: (has_seal == 1).then_some(Identity {
                device,
                inode,
                mtime,
                ctime,
            }),
            boot: (has_boot == 1).then_some(boot),
            epoch,
            entry_bits,
            block_bits,
            entries,
            blocks,
        })
    }
}

impl Slot for Entry {
    fn hash(&self) -> u64 {
        self.key.hash()
    }

    fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        let mut slot = Writer(&mut bytes);
        slot.put(&[USED, self.address.is_ipv4().into(), self.exact.into(), 0]);
        slot.put(&self.epoch.to_le_bytes());
        slot.put(&self.mtime.to_le_bytes());
        slot.put(&self.key.0.to_le_bytes());
        slot.put(&number(self.address).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT]) -> Self {
        let mut slot = Reader(bytes);
        let [_, v4, exact, _] = slot.take();
        let epoch = u32::from_le_bytes(slot.take());
        let mtime = i64::from_le_bytes(slot.take());
        let key = Key(u128::from_le_bytes(slot.take()));
        let address = address(v4 == 1, u128::from_le_bytes(slot.take()));
        Self {
            key,
            address,
            epoch,
            mtime,
            exact: exact == 1,
        }
    }
}

impl Key {
    pub(super) fn hash(self) -> u64 {
        mix(self.0)
    }
}

impl Block {
    pub(super) fn hash(self) -> u64 {
        mix(self.prefix << 1 | u128::from(self.v4))
    }
}

impl Slot for Occupied {
    fn hash(&self) -> u64 {
        self.block.hash()
    }

    fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        let mut slot = Writer(&mut bytes);
        slot.put(&[USED, self.block.v4.into(), 0, 0, 0, 0, 0, 0]);
        slot.put(&self.block.prefix.to_le_bytes());
        for word in self.taken.0 {
            slot.put(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; SLOT]) -> Self {
        let mut slot = Reader(bytes);
        let [_, v4, ..] = slot.take::<8>();
        let prefix = u128::from_le_bytes(slot.take());
        let taken = Bitmap([0; 4].map(|_: u64| u64::from_le_bytes(slot.take())));
        Self {
            block: Block {
                v4: v4 == 1,
                prefix,
            },
            taken,
        }
    }
}

struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let rest = std::mem::take(&mut self.0);
        let (here, rest) = rest.split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        self.0 = rest;
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (here, rest) = self.0.split_at(N);
        bytes.copy_from_slice(here);
        self.0 = rest;
        bytes
    }
}

/// Folds to 64 bits of which every one depends on all (the finalizer of splitmix64).
fn mix(number: u128) -> u64 {
    let low = u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default();
    let high = u64::try_from(number >> 64).unwrap_or_default();
    let mut hash = low ^ high.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn checksum(bytes: &[u8]) -> u64 {
    crate::owner::hash(bytes).hash()
}

pub(super) const HEADER: usize = 128;
/// The last digit is the form's number: another form is no index to us, and is made anew.
const MAGIC: [u8; 8] = *b"weftipm1";
const USED: u8 = 1;
/// 64 GiB of slots: no index of ours, so a header that says more is damaged.
const MOST_BITS: u8 = 30;

/// Reads bytes as each of the things that an index holds, and writes them again.
pub(crate) fn read_as_anything(bytes: &[u8]) {
    let header = bytes.first_chunk().and_then(Header::decode);
    if let Some(header) = header {
        assert_eq!(Header::decode(&header.encode()), Some(header));
    }
    if let Some(slot) = bytes.first_chunk() {
        let entry = Entry::decode(slot);
        assert_eq!(Entry::decode(&entry.encode()), entry);
        let occupied = Occupied::decode(slot);
        assert_eq!(Occupied::decode(&occupied.encode()).block, occupied.block);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        let seal = proptest::option::of((any::<u64>(), any::<u64>(), any::<i64>(), any::<i64>()));
        let counts = (any::<u64>(), any::<u64>(), any::<u32>());
        (
            seal,
            any::<Option<BootId>>(),
            counts,
            0..=MOST_BITS,
            0..=MOST_BITS,
        )
            .prop_map(
                |(seal, boot, (entries, blocks, epoch), entry_bits, block_bits)| Header {
                    seal: seal.map(|(device, inode, mtime, ctime)| Identity {
                        device,
                        inode,
                        mtime,
                        ctime,
                    }),
                    boot,
                    epoch,
                    entry_bits,
                    block_bits,
                    entries,
                    blocks,
                },
            )
    }

    proptest! {
        #[test]
        fn a_header_survives_its_bytes_and_no_damage(header in header(), at in 0..HEADER, flip in 1..=255u8) {
            let mut bytes = header.encode();
            prop_assert_eq!(Header::decode(&bytes), Some(header));
            bytes[at] ^= flip;
            prop_assert_eq!(Header::decode(&bytes), None);
        }

        #[test]
        fn a_slot_survives_its_bytes(key in any::<u128>(), v4 in any::<bool>(), n in any::<u128>(), epoch in any::<u32>(), mtime in any::<i64>(), exact in any::<bool>(), words in any::<[u64; 4]>()) {
            let n = if v4 { n & 0xffff_ffff } else { n };
            let entry = Entry { key: Key(key), address: address(v4, n), epoch, mtime, exact };
            prop_assert_eq!(Entry::decode(&entry.encode()), entry);
            let occupied = Occupied { block: Block::of(entry.address), taken: Bitmap(words) };
            let again = Occupied::decode(&occupied.encode());
            prop_assert_eq!((again.block, again.taken), (occupied.block, occupied.taken));
            prop_assert!(occupied.encode() != [0; SLOT] && entry.encode() != [0; SLOT]);
        }
    }
}
