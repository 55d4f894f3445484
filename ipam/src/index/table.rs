//! A hash table of slots of one size, on storage.
//!
//! Open addressing with linear probing, at most half full, so that a look-up is one short read.
//! Removing closes the gap, so that tables do not age.

use std::{io, marker::PhantomData, ops::ControlFlow};

use super::storage::Storage;

/// What a slot can hold. All zero is an empty slot, so no slot encodes to that.
pub(super) trait Slot: Sized {
    fn hash(&self) -> u64;
    fn encode(&self) -> [u8; SLOT];
    fn decode(bytes: &[u8; SLOT]) -> Self;
}

/// Where in the storage the slots are; how many, as a power of two.
#[derive(Debug)]
pub(super) struct Table<S> {
    base: u64,
    bits: u8,
    slots: PhantomData<S>,
}

// Derived, these would ask the same of S.
impl<S> Clone for Table<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Table<S> {}

impl<S: Slot> Table<S> {
    pub(super) fn new(base: u64, bits: u8) -> Self {
        Self {
            base,
            bits,
            slots: PhantomData,
        }
    }

    pub(super) fn bytes(bits: u8) -> u64 {
        (SLOT as u64) << bits
    }

    /// Whether another one would make it more than half full.
    pub(super) fn is_full_with(&self, used: u64) -> bool {
        (used + 1) * 2 > self.capacity()
    }

    /// Shows every slot that may have this hash, with its position, until told to stop; says the
    /// position of the empty slot behind them if it came that far.
    pub(super) fn probe(
        &self,
        storage: &Storage,
        hash: u64,
        mut show: impl FnMut(u64, S) -> ControlFlow<()>,
    ) -> io::Result<Option<u64>> {
        let mut at = self.home(hash);
        let mut looked = 0;
        let mut window = [0; WINDOW * SLOT];
        while looked < self.capacity() {
            let count = (WINDOW as u64).min(self.capacity() - at);
            let length = usize::try_from(count).unwrap_or(WINDOW) * SLOT;
            storage.read(self.place(at), &mut window[..length])?;
            for bytes in window[..length].as_chunks().0 {
                if *bytes == EMPTY {
                    return Ok(Some(at));
                }
                if show(at, S::decode(bytes)).is_break() {
                    return Ok(None);
                }
                at = self.after(at);
            }
            looked += count;
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a table without an empty slot",
        ))
    }

    pub(super) fn insert(&self, storage: &mut Storage, slot: &S) -> io::Result<()> {
        let empty = self.probe(storage, slot.hash(), |_, _| ControlFlow::Continue(()))?;
        match empty {
            Some(at) => self.write(storage, at, slot),
            None => unreachable!("the probe was never told to stop"),
        }
    }

    pub(super) fn write(&self, storage: &mut Storage, at: u64, slot: &S) -> io::Result<()> {
        storage.write(self.place(at), &slot.encode())
    }

    /// Empties the slot at `gap`, and moves up those behind that would not be found past a gap.
    pub(super) fn remove(&self, storage: &mut Storage, mut gap: u64) -> io::Result<()> {
        let mut at = self.after(gap);
        while let Some(bytes) = self.read(storage, at)? {
            let home = self.home(S::decode(&bytes).hash());
            // Its home lies at or before the gap, going round.
            if self.distance(home, at) >= self.distance(gap, at) {
                storage.write(self.place(gap), &bytes)?;
                gap = at;
            }
            at = self.after(at);
        }
        storage.write(self.place(gap), &EMPTY)
    }

    pub(super) fn each(
        &self,
        storage: &Storage,
        mut show: impl FnMut(S) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut page = [0; PAGE * SLOT];
        for start in (0..self.capacity()).step_by(PAGE) {
            let count = (PAGE as u64).min(self.capacity() - start);
            let length = usize::try_from(count).unwrap_or(PAGE) * SLOT;
            storage.read(self.place(start), &mut page[..length])?;
            for bytes in page[..length]
                .as_chunks()
                .0
                .iter()
                .filter(|bytes| **bytes != EMPTY)
            {
                show(S::decode(bytes))?;
            }
        }
        Ok(())
    }

    fn read(&self, storage: &Storage, at: u64) -> io::Result<Option<[u8; SLOT]>> {
        let mut bytes = EMPTY;
        storage.read(self.place(at), &mut bytes)?;
        Ok((bytes != EMPTY).then_some(bytes))
    }

    fn capacity(&self) -> u64 {
        1 << self.bits
    }

    fn place(&self, at: u64) -> u64 {
        self.base + at * SLOT as u64
    }

    fn home(&self, hash: u64) -> u64 {
        hash & (self.capacity() - 1)
    }

    fn after(&self, at: u64) -> u64 {
        self.home(at + 1)
    }

    fn distance(&self, from: u64, to: u64) -> u64 {
        self.home(to.wrapping_sub(from))
    }
}

/// A divisor of every sector's size: a slot is written as a whole, even when the power fails.
pub(super) const SLOT: usize = 64;
const EMPTY: [u8; SLOT] = [0; SLOT];
/// At half full this is more than nearly every look-up needs.
const WINDOW: usize = 16;
const PAGE: usize = 256;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Its lowest byte is its hash, so that many collide.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Number(u16);

    impl Slot for Number {
        fn hash(&self) -> u64 {
            u64::from(self.0 & 0xff)
        }

        fn encode(&self) -> [u8; SLOT] {
            let mut bytes = [1; SLOT];
            bytes[..2].copy_from_slice(&self.0.to_le_bytes());
            bytes
        }

        fn decode(bytes: &[u8; SLOT]) -> Self {
            Self(u16::from_le_bytes([bytes[0], bytes[1]]))
        }
    }

    fn find(table: &Table<Number>, storage: &Storage, number: Number) -> Option<u64> {
        let mut found = None;
        let show = |at, slot| {
            if slot == number {
                found = Some(at);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        table.probe(storage, number.hash(), show).unwrap();
        found
    }

    proptest! {
        #[test]
        fn a_table_is_a_set(steps in proptest::collection::vec((any::<bool>(), 0..600u16), 0..400)) {
            let bits = 6;
            let mut storage = Storage::in_memory(10 + Table::<Number>::bytes(bits)).unwrap();
            let table = Table::new(10, bits);
            let mut model = BTreeSet::new();
            for (add, number) in steps {
                let number = Number(number);
                match find(&table, &storage, number) {
                    Some(at) => {
                        prop_assert!(model.contains(&number));
                        if !add {
                            table.remove(&mut storage, at).unwrap();
                            model.remove(&number);
                        }
                    }
                    None => {
                        prop_assert!(!model.contains(&number));
                        if add && !table.is_full_with(model.len() as u64) {
                            table.insert(&mut storage, &number).unwrap();
                            model.insert(number);
                        }
                    }
                }
                let mut all = BTreeSet::new();
                table.each(&storage, |slot| { assert!(all.insert(slot)); Ok(()) }).unwrap();
                prop_assert_eq!(&all, &model);
            }
        }
    }

    #[test]
    fn a_table_full_of_rubbish_is_an_error_and_no_endless_search() {
        let mut storage = Storage::in_memory(Table::<Number>::bytes(4)).unwrap();
        storage.write(0, &[7; 16 * SLOT]).unwrap();
        let probe = Table::<Number>::new(0, 4).probe(&storage, 3, |_, _| ControlFlow::Continue(()));
        assert_eq!(probe.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
