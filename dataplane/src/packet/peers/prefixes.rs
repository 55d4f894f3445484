//! Longest prefix match as one hash table for each prefix length that occurs: a cluster has one
//! or two of them, so a look-up is one or two cache lines, at five peers or at five thousand.

use std::fmt;

/// Addresses of one family, as numbers.
pub(super) trait Bits: Copy + Eq + fmt::Debug + 'static {
    const WIDTH: u8;
    /// The bits of a prefix of that length.
    fn mask(length: u8) -> Self;
    fn and(self, mask: Self) -> Self;
    fn hash(self) -> u64;
}

#[derive(Debug, Clone)]
pub(super) struct Prefixes<B> {
    /// The longest prefixes first.
    lengths: Vec<Length<B>>,
}

#[derive(Debug, Clone)]
struct Length<B> {
    mask: B,
    /// How far a hash is shifted to be a place.
    shift: u32,
    /// A power of two of them, at most half in use: a search ends soon.
    places: Box<[Place<B>]>,
}

#[derive(Debug, Clone, Copy)]
struct Place<B> {
    prefix: B,
    peer: u32,
}

/// Marks a place that is not in use. No table has that many peers.
const NOBODY: u32 = u32::MAX;

impl<B: Bits> Prefixes<B> {
    /// From addresses, prefix lengths and peers. Of equal prefixes the last one counts.
    pub(super) fn new(subnets: &[(B, u8, u32)]) -> Self {
        let mut lengths = Vec::new();
        for length in (0..=B::WIDTH).rev() {
            let of_length = subnets.iter().filter(|(_, l, _)| *l == length);
            let count = of_length.clone().count();
            if count > 0 {
                let mut table = Length::new(B::mask(length), count);
                for (address, _, peer) in of_length {
                    table.insert(*address, *peer);
                }
                lengths.push(table);
            }
        }
        Self { lengths }
    }

    #[inline]
    pub(super) fn lookup(&self, address: B) -> Option<u32> {
        self.lengths
            .iter()
            .find_map(|length| length.lookup(address))
    }
}

impl<B> Default for Prefixes<B> {
    fn default() -> Self {
        Self {
            lengths: Vec::new(),
        }
    }
}

impl<B: Bits> Length<B> {
    fn new(mask: B, count: usize) -> Self {
        let places = (2 * count).next_power_of_two();
        let nobody = Place {
            prefix: mask,
            peer: NOBODY,
        };
        Self {
            mask,
            shift: 64 - places.trailing_zeros(),
            places: vec![nobody; places].into_boxed_slice(),
        }
    }

    fn insert(&mut self, address: B, peer: u32) {
        let prefix = address.and(self.mask);
        let mut at = self.start(prefix);
        while self.places[at].peer != NOBODY && self.places[at].prefix != prefix {
            at = (at + 1) & (self.places.len() - 1);
        }
        self.places[at] = Place { prefix, peer };
    }

    #[inline]
    fn lookup(&self, address: B) -> Option<u32> {
        let prefix = address.and(self.mask);
        let mut at = self.start(prefix);
        loop {
            let place = self.places[at];
            if place.peer == NOBODY {
                return None;
            }
            if place.prefix == prefix {
                return Some(place.peer);
            }
            at = (at + 1) & (self.places.len() - 1);
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "fewer bits than places")]
    fn start(&self, prefix: B) -> usize {
        (prefix.hash() >> self.shift) as usize & (self.places.len() - 1)
    }
}

/// Odd, and without a pattern (the golden ratio's digits): the upper bits of a product with it
/// depend on all lower ones (Fibonacci hashing).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Bits for u32 {
    const WIDTH: u8 = 32;

    fn mask(length: u8) -> Self {
        Self::MAX
            .checked_shl(Self::BITS - Self::from(length))
            .unwrap_or(0)
    }

    #[inline]
    fn and(self, mask: Self) -> Self {
        self & mask
    }

    #[inline]
    fn hash(self) -> u64 {
        u64::from(self).wrapping_mul(SPREAD)
    }
}

impl Bits for u64 {
    const WIDTH: u8 = 64;

    fn mask(length: u8) -> Self {
        let shift = Self::BITS - u32::from(length);
        Self::MAX.checked_shl(shift).unwrap_or(0)
    }

    #[inline]
    fn and(self, mask: Self) -> Self {
        self & mask
    }

    #[inline]
    fn hash(self) -> u64 {
        self.wrapping_mul(SPREAD)
    }
}

impl Bits for u128 {
    const WIDTH: u8 = 128;

    fn mask(length: u8) -> Self {
        Self::MAX
            .checked_shl(Self::BITS - u32::from(length))
            .unwrap_or(0)
    }

    #[inline]
    fn and(self, mask: Self) -> Self {
        self & mask
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
    fn hash(self) -> u64 {
        let (high, low) = ((self >> 64) as u64, self as u64);
        (high.wrapping_mul(SPREAD) ^ low).wrapping_mul(SPREAD)
    }
}
