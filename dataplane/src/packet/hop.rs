//! One hop less to live.

use super::checksum;
use super::{put_u16, u16_at};

const TTL: usize = 8;
const HEADER_CHECKSUM: usize = 10;
const HOP_LIMIT: usize = 7;

/// Takes one from the TTL or hop limit; `false` is for a packet that may live no longer (it is
/// left as it was), and for what is no IP packet.
#[must_use]
pub fn decrement(packet: &mut [u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 && packet[TTL] > 1 => {
            let was = u16_at(packet, TTL);
            let is = was - 0x0100;
            put_u16(packet, TTL, is);
            let checksum = u16_at(packet, HEADER_CHECKSUM);
            put_u16(
                packet,
                HEADER_CHECKSUM,
                checksum::updated(checksum, was, is),
            );
            true
        }
        Some(6) if packet.len() >= 40 && packet[HOP_LIMIT] > 1 => {
            packet[HOP_LIMIT] -= 1;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum::Sum;
    use proptest::prelude::*;

    #[test]
    fn the_last_hop_leaves_a_packet_as_it_is() {
        let v4 = |ttl| {
            [
                0x45, 0, 0, 20, 0, 0, 0, 0, ttl, 6, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0,
            ]
        };
        for ttl in [0, 1] {
            let mut packet = v4(ttl);
            assert!(!decrement(&mut packet));
            assert_eq!(packet, v4(ttl));
        }
        assert!(decrement(&mut v4(2)));
        let mut v6 = [0x60; 40];
        v6[HOP_LIMIT] = 2;
        assert!(decrement(&mut v6) && !decrement(&mut v6));
        assert_eq!(v6[HOP_LIMIT], 1);
    }

    #[test]
    fn what_is_no_packet_has_no_hops() {
        for bytes in [
            &mut [][..],
            &mut [0x45; 19],
            &mut [0x60; 39],
            &mut [0x55; 60],
        ] {
            assert!(!decrement(bytes));
        }
    }

    proptest! {
        #[test]
        fn the_header_checksum_stays_exact(mut header: [u8; 20], ttl in 2_u8..) {
            header[0] = 0x45;
            header[TTL] = ttl;
            put_u16(&mut header, HEADER_CHECKSUM, 0);
            let whole = |mut header: [u8; 20]| {
                put_u16(&mut header, HEADER_CHECKSUM, 0);
                Sum::of(&header).finish()
            };
            let checksum = whole(header);
            put_u16(&mut header, HEADER_CHECKSUM, checksum);
            prop_assert!(decrement(&mut header));
            prop_assert_eq!(header[TTL], ttl - 1);
            prop_assert_eq!(u16_at(&header, HEADER_CHECKSUM), whole(header));
        }
    }
}
