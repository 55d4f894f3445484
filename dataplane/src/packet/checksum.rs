//! The Internet checksum (RFC 1071), wide enough for the compiler to vectorise.

use std::net::IpAddr;

use crate::sys;

/// A ones' complement sum under way: of the 16-bit words as they lie in memory, so that nothing
/// is swapped until the end (RFC 1071, 2B).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`; an odd last byte counts as if a zero followed.
    pub fn of(bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let (words, tail) = rest.as_chunks::<4>();
        let mut sum = match blocks.len() {
            0 => 0,
            1..WORTHWHILE => of_blocks(blocks),
            _ => sys::sum_by_avx2(blocks).unwrap_or_else(|| of_blocks(blocks)),
        };
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        if !tail.is_empty() {
            let mut last = [0; 4];
            last[..tail.len()].copy_from_slice(tail);
            sum += u64::from(u32::from_ne_bytes(last));
        }
        Self(sum)
    }

    /// Copies `from` to `to`, which is as long, and sums it, in the same pass where that pays.
    pub(crate) fn copied(from: &[u8], to: &mut [u8]) -> Self {
        let (blocks, rest) = from.as_chunks::<BLOCK>();
        if blocks.len() >= WORTHWHILE {
            let (to_blocks, to_rest) = to.as_chunks_mut::<BLOCK>();
            if let Some(sum) = sys::copy_and_sum_by_avx2(blocks, to_blocks) {
                to_rest.copy_from_slice(rest);
                return Self(sum) + Self::of(rest);
            }
        }
        to.copy_from_slice(from);
        Self::of(to)
    }

    /// A number as it stands in a header's field.
    pub fn word(value: u16) -> Self {
        Self(u64::from(value.to_be()))
    }

    pub fn long(value: u32) -> Self {
        Self(u64::from(value.to_be()))
    }

    /// What a transport's checksum covers beside the transport: its length is added apart.
    pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8) -> Self {
        let addresses = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Self::of(&src.octets()) + Self::of(&dst.octets()),
            (src, dst) => Self::of(&v6(src)) + Self::of(&v6(dst)),
        };
        addresses + Self::word(u16::from(protocol))
    }

    /// The sum as a number, without its complement: what NEEDS_CSUM expects in the field.
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        u16::from_be(low(sum))
    }

    /// What belongs in a checksum's field.
    pub fn finish(self) -> u16 {
        !self.fold()
    }

    /// The same for UDP, where zero would say that there is none (RFC 768).
    pub fn finish_udp(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Whether a sum over everything, the checksum's field included, says that all is well.
    pub fn verifies(self) -> bool {
        self.fold() == 0xffff
    }
}

impl std::ops::Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (sum, carry) = self.0.overflowing_add(other.0);
        Self(sum + u64::from(carry))
    }
}

/// A checksum after one word under it changed (RFC 1624, equation 3).
pub fn updated(checksum: u16, was: u16, is: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!was) + u32::from(is);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !low(u64::from(sum))
}

/// The sum of the blocks' words of 32 bits.
fn of_blocks(blocks: &[[u8; BLOCK]]) -> u64 {
    let mut lanes = [0_u64; LANES];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            // 2^32 words of 32 bits are what a lane holds, and a packet has 2^14.
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    lanes.iter().sum()
}

/// Eight lanes of 32 bits widened to 64 fill the registers of SSE2 and leave the adders busy.
const LANES: usize = 16;
pub(crate) const BLOCK: usize = 4 * LANES;
/// Fewer blocks are summed before it is known what the processor can do.
const WORTHWHILE: usize = 4;

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lowest 16 bits are meant"
)]
fn low(sum: u64) -> u16 {
    sum as u16
}

/// The same as RFC 1071 writes it down: what the rest is held against.
#[cfg(test)]
pub(crate) mod reference {
    pub(crate) fn fold(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
            sum += u32::from(u16::from_be_bytes(word));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        u16::try_from(sum).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), 0xddf2);
    }

    #[test]
    fn the_longest_packet_of_ones_fits() {
        assert_eq!(
            Sum::of(&[0xff; 65_535]).fold(),
            reference::fold(&[0xff; 65_535])
        );
        assert_eq!(Sum::of(&[0; 65_535]).fold(), 0);
        assert_eq!((Sum(u64::MAX) + Sum(u64::MAX)).fold(), 0xffff);
    }

    #[test]
    fn udp_says_all_ones_where_it_means_zero() {
        assert_eq!(
            (Sum::word(0xffff).finish(), Sum::word(0xffff).finish_udp()),
            (0, 0xffff)
        );
        assert_eq!(
            (Sum::word(1).finish(), Sum::word(1).finish_udp()),
            (0xfffe, 0xfffe)
        );
    }

    /// The example of RFC 1624, which the older RFC 1141 gets wrong.
    #[test]
    fn an_update_never_arrives_at_minus_zero() {
        assert_eq!(updated(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn the_sum_is_the_reference_whatever_the_length_and_place(
            bytes in prop::collection::vec(any::<u8>(), 0..3000), from in 0_usize..16,
        ) {
            let bytes = bytes.get(from..).unwrap_or_default();
            prop_assert_eq!(Sum::of(bytes).fold(), reference::fold(bytes));
            let mut copy = vec![0xaa; from + bytes.len()];
            prop_assert_eq!(Sum::copied(bytes, &mut copy[from..]).fold(), reference::fold(bytes));
            prop_assert_eq!(&copy[from..], bytes);
        }

        /// What is summed in wider registers, on processors that have them.
        #[test]
        fn every_processor_arrives_at_the_same_sum(
            blocks in prop::collection::vec(prop::array::uniform32(any::<u16>()), 0..40),
        ) {
            let blocks: Vec<[u8; BLOCK]> = blocks
                .iter()
                .map(|words| std::array::from_fn(|at| words[at / 2].to_ne_bytes()[at % 2]))
                .collect();
            let sum = of_blocks(&blocks);
            prop_assert_eq!(sys::sum_by_avx2(&blocks).unwrap_or(sum), sum);
            let mut copy = vec![[0; BLOCK]; blocks.len()];
            if let Some(copied) = sys::copy_and_sum_by_avx2(&blocks, &mut copy) {
                prop_assert_eq!((copied, &copy), (sum, &blocks));
            }
            prop_assert_eq!(Sum(sum).fold(), reference::fold(blocks.as_flattened()));
        }

        #[test]
        fn sums_of_parts_add_up(
            bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..150,
        ) {
            let (one, other) = bytes.split_at((2 * at).min(bytes.len()));
            prop_assert_eq!((Sum::of(one) + Sum::of(other)).fold(), reference::fold(&bytes));
        }

        #[test]
        fn an_update_is_what_the_whole_sum_would_be(words: [u16; 10], at in 0_usize..10, is: u16) {
            let sum = |words: [u16; 10]| Sum::of(&words.map(u16::to_be_bytes).concat()).finish();
            let mut changed = words;
            changed[at] = is;
            // Only a header of zeros has the sum zero, and there is no such header.
            prop_assume!(changed != [0; 10] && words != [0; 10]);
            prop_assert_eq!(updated(sum(words), words[at], is), sum(changed));
        }
    }
}
