//! Congestion marks over a tunnel (RFC 6040): what a packet carries goes outside with
//! [`super::inner::Inner::ecn`], and what the underlay marked comes in here.

use super::checksum;
use super::{put_u16, u16_at};

const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;

const HEADER_CHECKSUM: usize = 10;

/// Brings the outer header's mark (the lowest two bits of `outer`) into the packet. `false` is for
/// a packet that must be dropped: marked on its way, and from a sender that does not know marks,
/// which only a loss can tell. What is no IP packet stays as it is.
#[must_use]
pub fn bring_in(packet: &mut [u8], outer: u8) -> bool {
    let v6 = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => false,
        Some(6) if packet.len() >= 40 => true,
        _ => return true,
    };
    // The traffic class lies four bits higher than the TOS byte.
    let shift = if v6 { 4 } else { 0 };
    let inner = packet[1] >> shift & 3;
    let mark = match (inner, outer & 3) {
        (0, CE) => return false,
        (ECT0 | ECT1, CE) => CE,
        (ECT0, ECT1) => ECT1,
        _ => return true,
    };
    let was = u16_at(packet, 0);
    packet[1] ^= (inner ^ mark) << shift;
    if !v6 {
        let checksum = u16_at(packet, HEADER_CHECKSUM);
        let checksum = checksum::updated(checksum, was, u16_at(packet, 0));
        put_u16(packet, HEADER_CHECKSUM, checksum);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::inner::Inner;
    use crate::packet::sample::Sample;

    /// RFC 6040, figure 4: rows are the packet's marks, columns the underlay's.
    #[test]
    fn marks_are_brought_in_as_the_standard_has_it() {
        const DROP: Option<u8> = None;
        let table = [
            (0, [Some(0), Some(0), Some(0), DROP]),
            (ECT1, [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)]),
            (ECT0, [Some(ECT0), Some(ECT1), Some(ECT0), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [0, ECT1, ECT0, CE].into_iter().zip(row) {
                for v6 in [false, true] {
                    let with = |mark| Sample {
                        tos: 0xb8 | mark,
                        ..Sample::udp(v6, 9)
                    };
                    let mut packet = with(inner).bytes();
                    let kept = bring_in(&mut packet, 0xfc | outer);
                    assert_eq!(kept, expected.is_some(), "{inner} {outer}");
                    let after = with(expected.unwrap_or(inner));
                    assert_eq!(packet, after.bytes(), "{inner} {outer}");
                    assert_eq!(Inner::parse(&packet).unwrap().tos, after.tos);
                }
            }
        }
    }

    #[test]
    fn what_is_no_packet_has_no_marks() {
        for bytes in [
            &mut [][..],
            &mut [0x45; 19],
            &mut [0x60; 39],
            &mut [0x51; 60],
        ] {
            let before = bytes.to_vec();
            assert!(bring_in(bytes, CE));
            assert_eq!(bytes, before);
        }
    }
}
