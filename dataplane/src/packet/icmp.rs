//! The errors a router answers with.

use std::net::IpAddr;

use super::checksum::Sum;
use super::inner::Inner;
use super::{ICMPV4, ICMPV6, field, put_u16, put_u32};

/// The longest of all answers.
pub const LONGEST: usize = 1280;

/// Whether an error about a packet may be sent (RFC 1122 3.2.2, RFC 1812 4.3.2.7, RFC 4443 2.4e):
/// never about an error, about a fragment that shows no ports, about what was sent to many, or
/// to a source that is no single host.
pub fn may_answer(inner: &Inner, packet: &[u8]) -> bool {
    let single = match (inner.src, inner.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let many = dst.is_multicast() || dst.is_broadcast();
            // Class E holds the broadcast address.
            let nobody = src.octets()[0] == 0 || src.octets()[0] >= 224 || src.is_loopback();
            !many && !nobody
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let nobody = src.is_unspecified() || src.is_multicast() || src.is_loopback();
            !dst.is_multicast() && !nobody
        }
        _ => false,
    };
    single && !inner.is_later_fragment() && !is_error(inner, packet)
}

/// The packet's last hop was used up. Writes the answer, and says how long it is; 0 for a `source`
/// of the wrong family or an `out` without room ([`LONGEST`] has it).
pub fn time_exceeded(original: &[u8], source: IpAddr, out: &mut [u8]) -> usize {
    answer(original, source, out, (11, 0), (3, 0), 0)
}

/// Nobody serves the packet's destination.
pub fn net_unreachable(original: &[u8], source: IpAddr, out: &mut [u8]) -> usize {
    answer(original, source, out, (3, 0), (1, 0), 0)
}

/// The packet does not fit the way, on which `mtu` bytes do.
pub fn too_big(original: &[u8], source: IpAddr, mtu: u16, out: &mut [u8]) -> usize {
    answer(original, source, out, (3, 4), (2, 0), mtu)
}

/// How much of the packet is told: all that keeps the answer within what every host takes
/// (RFC 1812 4.3.2.3, RFC 4443 2.4c).
const WHOLE_V4: usize = 576;
const WHOLE_V6: usize = 1280;
const ICMP: usize = 8;

/// `value` fills the last 16 bits of ICMP's header: the MTU's place in both versions.
fn answer(
    original: &[u8],
    source: IpAddr,
    out: &mut [u8],
    v4: (u8, u8),
    v6: (u8, u8),
    value: u16,
) -> usize {
    let Ok(inner) = Inner::parse(original) else {
        return 0;
    };
    let (header, whole, (kind, code)) = match (inner.src, source) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (20, WHOLE_V4, v4),
        (IpAddr::V6(_), IpAddr::V6(_)) => (40, WHOLE_V6, v6),
        _ => return 0,
    };
    let told = inner.length.min(whole - header - ICMP);
    let length = header + ICMP + told;
    let Some(out) = out.get_mut(..length) else {
        return 0;
    };
    let (ip, icmp) = out.split_at_mut(header);
    icmp[..ICMP].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    put_u16(icmp, 6, value);
    icmp[ICMP..].copy_from_slice(&original[..told]);
    let pseudo = match (source, inner.src) {
        (IpAddr::V4(source), IpAddr::V4(dst)) => {
            write_v4(ip, length, source.to_bits(), dst.to_bits());
            Sum::default()
        }
        (IpAddr::V6(source), IpAddr::V6(dst)) => {
            write_v6(ip, icmp.len(), source.octets(), dst.octets());
            Sum::pseudo(source.into(), dst.into(), ICMPV6) + Sum::word(field(icmp.len()))
        }
        _ => return 0,
    };
    let checksum = (pseudo + Sum::of(icmp)).finish();
    put_u16(icmp, 2, checksum);
    length
}

/// Precedence 6, as RFC 1812 4.3.2.5 asks, and the time to live that every answer starts with.
const INTERNETWORK_CONTROL: u8 = 0xc0;
const HOPS: u8 = 64;
/// Fragments are not wanted, so the id may be zero (RFC 6864).
const DONT_FRAGMENT: u16 = 0x4000;

fn write_v4(ip: &mut [u8], length: usize, source: u32, dst: u32) {
    ip.fill(0);
    ip[0] = 0x45;
    ip[1] = INTERNETWORK_CONTROL;
    put_u16(ip, 2, field(length));
    put_u16(ip, 6, DONT_FRAGMENT);
    ip[8] = HOPS;
    ip[9] = ICMPV4;
    put_u32(ip, 12, source);
    put_u32(ip, 16, dst);
    let checksum = Sum::of(ip).finish();
    put_u16(ip, 10, checksum);
}

fn write_v6(ip: &mut [u8], payload: usize, source: [u8; 16], dst: [u8; 16]) {
    put_u32(ip, 0, 6 << 28 | u32::from(INTERNETWORK_CONTROL) << 20);
    put_u16(ip, 4, field(payload));
    ip[6] = ICMPV6;
    ip[7] = HOPS;
    ip[8..24].copy_from_slice(&source);
    ip[24..40].copy_from_slice(&dst);
}

/// An ICMP message that is not known to be a question or its answer counts as an error.
fn is_error(inner: &Inner, packet: &[u8]) -> bool {
    let kind = packet
        .get(inner.transport..inner.length)
        .and_then(<[u8]>::first);
    match (inner.protocol, inner.is_v6(), kind) {
        (ICMPV4, false, Some(kind)) => !matches!(kind, 0 | 8 | 9 | 10 | 13..=18 | 42 | 43),
        // RFC 4443 names the redirect beside the errors.
        (ICMPV6, true, Some(kind)) => *kind < 128 || *kind == 137,
        (ICMPV4, false, None) | (ICMPV6, true, None) => true,
        _ => false,
    }
}
