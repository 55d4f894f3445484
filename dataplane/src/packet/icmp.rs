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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::sample::Sample;

    const ROUTER_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 0));
    const ROUTER_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfd10, 0, 0, 2, 0, 0, 0, 0));

    fn answered(packet: &[u8]) -> bool {
        may_answer(&Inner::parse(packet).unwrap(), packet)
    }

    /// An answer's header fields and what it tells, after a look at its checksums.
    fn read(answer: &[u8]) -> (Inner, [u8; 2], u16, Vec<u8>) {
        let inner = Inner::parse(answer).unwrap();
        let icmp = &answer[inner.transport..];
        let pseudo = match inner.is_v6() {
            true => Sum::pseudo(inner.src, inner.dst, ICMPV6) + Sum::word(field(icmp.len())),
            false => {
                assert!(Sum::of(&answer[..20]).verifies());
                Sum::default()
            }
        };
        assert!((pseudo + Sum::of(icmp)).verifies());
        assert_eq!(icmp[4..6], [0, 0]);
        let value = u16::from_be_bytes([icmp[6], icmp[7]]);
        (inner, [icmp[0], icmp[1]], value, icmp[8..].to_vec())
    }

    #[test]
    fn each_answer_is_what_its_standard_says() {
        let mut out = [0xee; LONGEST];
        for (v6, router) in [(false, ROUTER_V4), (true, ROUTER_V6)] {
            let original = Sample::udp(v6, 100).bytes();
            let asked = Inner::parse(&original).unwrap();
            let exceeded = time_exceeded(&original, router, &mut out);
            let (inner, kind, value, told) = read(&out[..exceeded]);
            assert_eq!((inner.src, inner.dst), (router, asked.src));
            assert_eq!((inner.ttl, inner.length), (64, exceeded));
            assert_eq!(
                (kind, value, &told),
                ([[11, 0], [3, 0]][usize::from(v6)], 0, &original)
            );
            let unreachable = net_unreachable(&original, router, &mut out);
            let (_, kind, value, told) = read(&out[..unreachable]);
            assert_eq!(
                (kind, value, &told),
                ([[3, 0], [1, 0]][usize::from(v6)], 0, &original)
            );
            let big = too_big(&original, router, 1372, &mut out);
            let (_, kind, value, told) = read(&out[..big]);
            assert_eq!(
                (kind, value, &told),
                ([[3, 4], [2, 0]][usize::from(v6)], 1372, &original)
            );
        }
    }

    #[test]
    fn an_answer_fits_what_every_host_takes() {
        let mut out = [0; LONGEST];
        for (v6, router, longest) in [(false, ROUTER_V4, 576), (true, ROUTER_V6, 1280)] {
            let original = Sample::tcp(v6, 9000).bytes();
            assert_eq!(too_big(&original, router, 1400, &mut out), longest);
            assert!(original.starts_with(&read(&out[..longest]).3));
            assert_eq!(too_big(&original, router, 1400, &mut out[..longest - 1]), 0);
        }
    }

    #[test]
    fn nobody_answers_from_an_address_of_the_other_family() {
        let mut out = [0; LONGEST];
        assert_eq!(
            time_exceeded(&Sample::udp(false, 1).bytes(), ROUTER_V6, &mut out),
            0
        );
        assert_eq!(
            time_exceeded(&Sample::udp(true, 1).bytes(), ROUTER_V4, &mut out),
            0
        );
        assert_eq!(time_exceeded(&[0x45, 1, 2], ROUTER_V4, &mut out), 0);
    }

    #[test]
    fn errors_about_errors_are_never_sent() {
        for kind in [0, 8, 13, 17, 42] {
            assert!(answered(&Sample::icmp(false, kind).bytes()), "{kind}");
        }
        for kind in [3, 4, 5, 11, 12, 30, 41, 200] {
            assert!(!answered(&Sample::icmp(false, kind).bytes()), "{kind}");
        }
        for kind in [128, 129, 135, 143] {
            assert!(answered(&Sample::icmp(true, kind).bytes()), "{kind}");
        }
        for kind in [0, 1, 2, 3, 4, 100, 127, 137] {
            assert!(!answered(&Sample::icmp(true, kind).bytes()), "{kind}");
        }
        let mut empty = Sample::icmp(false, 8).bytes();
        empty[3] = 20;
        assert!(!answered(&empty));
    }

    #[test]
    fn a_fragment_without_ports_is_not_answered() {
        let at = |offset| {
            let mut sample = Sample::udp(false, 80);
            sample.fragment = Some((offset, true));
            answered(&sample.bytes())
        };
        assert!(at(0) && !at(1));
    }

    #[test]
    fn nobody_and_everybody_are_not_answered() {
        let with = |v6: bool, at: usize, address: &str| {
            let mut packet = Sample::udp(v6, 1).bytes();
            match address.parse().unwrap() {
                IpAddr::V4(address) => packet[at..at + 4].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => packet[at..at + 16].copy_from_slice(&address.octets()),
            }
            answered(&packet)
        };
        for source in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!with(false, 12, source), "{source}");
        }
        for dst in ["224.0.0.1", "239.1.2.3", "255.255.255.255"] {
            assert!(!with(false, 16, dst), "{dst}");
        }
        for source in ["::", "::1", "ff02::1"] {
            assert!(!with(true, 8, source), "{source}");
        }
        assert!(!with(true, 24, "ff02::1"));
        assert!(with(false, 12, "192.0.2.1") && with(true, 8, "2001:db8::1"));
    }
}
