//! What the path has to know of an inner packet, read once and without trust.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Malformed, TCP, UDP, u16_at, u32_at};

/// An IPv4 or IPv6 packet whose lengths hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Of the payload behind all IPv6 extension headers.
    pub protocol: u8,
    /// Where the transport's header starts: behind IP options and extension headers.
    pub transport: usize,
    /// What the IP header says the packet's length is: at most the slice's.
    pub length: usize,
    /// The first four bytes of a transport that has ports, in a packet that is no fragment.
    pub ports: u32,
    pub fragment: Option<Fragment>,
    /// IPv4 without DF. No router ever fragments IPv6.
    pub may_fragment: bool,
    pub ttl: u8,
    /// The TOS byte or traffic class: DSCP and, in the lowest two bits, ECN.
    pub tos: u8,
    /// Whether there are no IPv4 options and no IPv6 extension headers.
    pub plain: bool,
}

/// A piece of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    /// In bytes.
    pub offset: u16,
    pub more: bool,
}

impl Inner {
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        match packet.first().ok_or(Malformed::Empty)? >> 4 {
            4 => parse_v4(packet),
            6 => parse_v6(packet),
            _ => Err(Malformed::Version),
        }
    }

    pub fn is_v6(&self) -> bool {
        self.src.is_ipv6()
    }

    pub fn ecn(&self) -> u8 {
        self.tos & 3
    }

    /// Whether another fragment holds the transport's header.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }

    /// The same for all packets of a flow, and well spread over flows. The fragments of one
    /// datagram have one hash, whether they show their ports or not.
    pub fn flow_hash(&self) -> u32 {
        let addresses = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                (u64::from(src.to_bits()) << 32) | u64::from(dst.to_bits())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                mix_wide(src.to_bits()) ^ mix_wide(dst.to_bits()).rotate_left(32)
            }
            // An address family alone has no packets.
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
        };
        let flow = match self.fragment {
            Some(fragment) => u64::from(fragment.id),
            None => (u64::from(self.ports) << 8) | u64::from(self.protocol),
        };
        // Ports in steps make one product an arithmetic progression; two are none.
        upper(mix(mix(addresses ^ SEED, flow ^ STRIDE) ^ STRIDE, SEED))
    }
}

/// More than any packet has for a reason, few enough to bound the work.
const EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

fn parse_v4(packet: &[u8]) -> Result<Inner, Malformed> {
    let header: &[u8; 20] = packet.first_chunk().ok_or(Malformed::HeaderTruncated)?;
    let transport = usize::from(header[0] & 0xf) * 4;
    let length = usize::from(u16_at(header, 2));
    if transport < 20 {
        return Err(Malformed::HeaderLength);
    }
    if transport > packet.len() {
        return Err(Malformed::HeaderTruncated);
    }
    check_length(packet, transport, length)?;
    let place = u16_at(header, 6);
    let fragment = (place & 0x3fff != 0).then(|| Fragment {
        id: u32::from(u16_at(header, 4)),
        offset: (place & 0x1fff) << 3,
        more: place & 0x2000 != 0,
    });
    let protocol = header[9];
    Ok(Inner {
        src: IpAddr::V4(Ipv4Addr::from_bits(u32_at(header, 12))),
        dst: IpAddr::V4(Ipv4Addr::from_bits(u32_at(header, 16))),
        protocol,
        transport,
        length,
        ports: ports(&packet[..length], transport, protocol, fragment),
        fragment,
        may_fragment: place & 0x4000 == 0,
        ttl: header[8],
        tos: header[1],
        plain: transport == 20,
    })
}

fn parse_v6(packet: &[u8]) -> Result<Inner, Malformed> {
    let header: &[u8; 40] = packet.first_chunk().ok_or(Malformed::HeaderTruncated)?;
    let length = 40 + usize::from(u16_at(header, 4));
    check_length(packet, 40, length)?;
    let (protocol, transport, fragment) = match header[6] {
        protocol @ (TCP | UDP) => (protocol, 40, None),
        next => walk(&packet[..length], next)?,
    };
    Ok(Inner {
        src: IpAddr::V6(v6_at(header, 8)),
        dst: IpAddr::V6(v6_at(header, 24)),
        protocol,
        transport,
        length,
        ports: ports(&packet[..length], transport, protocol, fragment),
        fragment,
        may_fragment: false,
        ttl: header[7],
        tos: (header[0] << 4) | (header[1] >> 4),
        plain: transport == 40,
    })
}

fn check_length(packet: &[u8], header: usize, length: usize) -> Result<(), Malformed> {
    if length < header {
        return Err(Malformed::LengthBelowHeader);
    }
    if length > packet.len() {
        return Err(Malformed::LengthBeyondEnd);
    }
    Ok(())
}

/// Past the extension headers: the payload's protocol, where it starts, and of which datagram it
/// is a piece. What a later fragment starts with is payload.
fn walk(packet: &[u8], next: u8) -> Result<(u8, usize, Option<Fragment>), Malformed> {
    let (mut next, mut at, mut fragment) = (next, 40, None);
    for _ in 0..=EXTENSIONS {
        let unit = match next {
            FRAGMENT => 0,
            AUTHENTICATION => 4,
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 => 8,
            _ => return Ok((next, at, fragment)),
        };
        let header = packet
            .get(at..at + 8)
            .ok_or(Malformed::ExtensionTruncated)?;
        let length = 8 + usize::from(header[1]) * unit;
        if length > packet.len() - at {
            return Err(Malformed::ExtensionTruncated);
        }
        let was = next;
        (next, at) = (header[0], at + length);
        if was == FRAGMENT {
            let place = u16_at(header, 2);
            let piece = Fragment {
                id: u32_at(header, 4),
                offset: place & 0xfff8,
                more: place & 1 != 0,
            };
            fragment = Some(piece);
            if piece.offset != 0 {
                return Ok((next, at, fragment));
            }
        }
    }
    Err(Malformed::ExtensionsTooMany)
}

/// TCP, UDP, DCCP, SCTP and UDP-Lite start with two ports; ESP with what tells its flows apart.
fn ports(packet: &[u8], at: usize, protocol: u8, fragment: Option<Fragment>) -> u32 {
    match (protocol, fragment) {
        (TCP | UDP | 33 | 50 | 132 | 136, None) if packet.len() >= at + 4 => u32_at(packet, at),
        _ => 0,
    }
}

fn v6_at(header: &[u8; 40], at: usize) -> Ipv6Addr {
    let half = |at| (u64::from(u32_at(header, at)) << 32) | u64::from(u32_at(header, at + 4));
    Ipv6Addr::from_bits((u128::from(half(at)) << 64) | u128::from(half(at + 8)))
}

/// Odd numbers without a pattern: the golden ratio's and another irrational's digits.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const STRIDE: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// Multiplies to 128 bits and folds: every bit of both has a say in every bit of the result.
fn mix(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    high_half(wide) ^ low_half(wide)
}

fn mix_wide(bits: u128) -> u64 {
    mix(high_half(bits) ^ STRIDE, low_half(bits) ^ SEED)
}

fn high_half(bits: u128) -> u64 {
    low_half(bits >> 64)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn low_half(bits: u128) -> u64 {
    bits as u64
}

fn upper(bits: u64) -> u32 {
    u32::try_from(bits >> 32).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::packet::sample::{Sample, Transport};

    /// An IPv6 packet with these headers between its own and a UDP header.
    fn behind(next: u8, extensions: &[&[u8]]) -> Vec<u8> {
        let datagram = Sample::udp(true, 4).bytes();
        let mut packet = datagram[..40].to_vec();
        packet[6] = next;
        packet.extend(extensions.concat());
        packet.extend(&datagram[40..]);
        let length = u16::try_from(packet.len() - 40).unwrap();
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet
    }

    #[test]
    fn a_packet_is_what_its_header_says() {
        let mut sample = Sample::tcp(false, 10);
        (sample.tos, sample.extra) = (0xb9, vec![1; 8]);
        let packet = [sample.bytes(), vec![0; 3]].concat();
        let expected = Inner {
            src: IpAddr::from([10, 1, 1, 1]),
            dst: IpAddr::from([10, 1, 2, 1]),
            protocol: TCP,
            transport: 28,
            length: packet.len() - 3,
            ports: 1000 << 16 | 80,
            fragment: None,
            may_fragment: false,
            ttl: 64,
            tos: 0xb9,
            plain: false,
        };
        assert_eq!(Inner::parse(&packet), Ok(expected));
        assert_eq!(expected.ecn(), 1);
        let mut sample = Sample::udp(true, 10);
        sample.tos = 0xb9;
        let packet = sample.bytes();
        let expected = Inner {
            src: "fd10:0:0:1::1".parse().unwrap(),
            dst: "fd10:0:0:2::1".parse().unwrap(),
            protocol: UDP,
            transport: 40,
            length: packet.len(),
            ports: 1000 << 16 | 53,
            plain: true,
            ..expected
        };
        assert_eq!(Inner::parse(&packet), Ok(expected));
    }

    #[test]
    fn lengths_that_do_not_hold_are_refused() {
        let v4 = Sample::udp(false, 4).bytes();
        let v6 = Sample::udp(true, 4).bytes();
        let with = |packet: &[u8], at: usize, bytes: &[u8]| {
            let mut packet = packet.to_vec();
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            Inner::parse(&packet).unwrap_err()
        };
        assert_eq!(Inner::parse(&[]), Err(Malformed::Empty));
        assert_eq!(Inner::parse(&[0x50; 60]), Err(Malformed::Version));
        assert_eq!(Inner::parse(&v4[..19]), Err(Malformed::HeaderTruncated));
        assert_eq!(Inner::parse(&v6[..39]), Err(Malformed::HeaderTruncated));
        assert_eq!(Inner::parse(&v4[..31]), Err(Malformed::LengthBeyondEnd));
        assert_eq!(Inner::parse(&v6[..51]), Err(Malformed::LengthBeyondEnd));
        assert_eq!(with(&v4, 0, &[0x44]), Malformed::HeaderLength);
        assert_eq!(with(&v4, 0, &[0x4f]), Malformed::HeaderTruncated);
        assert_eq!(with(&v4, 2, &[0, 19]), Malformed::LengthBelowHeader);
        assert_eq!(with(&v6, 4, &[1, 0]), Malformed::LengthBeyondEnd);
    }

    #[test]
    fn extension_headers_are_walked() {
        let options: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
        let routing = &[&[ROUTING, 1], &[0; 14][..]].concat();
        let routing_then = &[&[UDP, 1], &[0; 14][..]].concat();
        let authentication = &[&[UDP, 4], &[0; 22][..]].concat();
        for (next, extensions, transport) in [
            (
                HOP_BY_HOP,
                vec![routing_first(options), routing_then.clone()],
                64,
            ),
            (AUTHENTICATION, vec![authentication.clone()], 64),
            (ROUTING, vec![routing.clone(), routing_then.clone()], 72),
        ] {
            let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
            let inner = Inner::parse(&behind(next, &extensions)).unwrap();
            let seen = (inner.protocol, inner.transport, inner.ports, inner.plain);
            assert_eq!(seen, (UDP, transport, 1000 << 16 | 53, false));
        }
    }

    fn routing_first(options: &[u8]) -> Vec<u8> {
        [&[ROUTING], &options[1..]].concat()
    }

    #[test]
    fn the_walk_over_extension_headers_is_bounded() {
        let more: &[u8] = &[DESTINATION, 0, 1, 4, 0, 0, 0, 0];
        let last: &[u8] = &[UDP, 0, 1, 4, 0, 0, 0, 0];
        let chain = |count: usize| {
            let mut extensions = vec![more; count - 1];
            extensions.push(last);
            Inner::parse(&behind(DESTINATION, &extensions))
        };
        assert!(chain(8).is_ok());
        assert_eq!(chain(9).unwrap_err(), Malformed::ExtensionsTooMany);
        let beyond = behind(DESTINATION, &[&[UDP, 200, 1, 4, 0, 0, 0, 0]]);
        assert_eq!(
            Inner::parse(&beyond).unwrap_err(),
            Malformed::ExtensionTruncated
        );
        let mut cut = behind(HOP_BY_HOP, &[last]);
        cut.truncate(44);
        cut[5] = 4;
        assert_eq!(
            Inner::parse(&cut).unwrap_err(),
            Malformed::ExtensionTruncated
        );
    }

    #[test]
    fn the_fragments_of_a_datagram_have_one_hash_with_or_without_ports() {
        let v4 = |id: u16, place: Option<(u16, bool)>| {
            let mut sample = Sample::udp(false, 64);
            (sample.id, sample.fragment) = (id, place);
            Inner::parse(&sample.bytes()).unwrap()
        };
        let v6 = |id: u8, offset: u8| {
            let header = [UDP, 0, 0, offset << 3 | 1, 0, 0, 0, id];
            Inner::parse(&behind(FRAGMENT, &[&header])).unwrap()
        };
        for [first, later, other] in [
            [
                v4(1, Some((0, true))),
                v4(1, Some((9, false))),
                v4(2, Some((0, true))),
            ],
            [v6(1, 0), v6(1, 9), v6(2, 0)],
        ] {
            assert_eq!(first.flow_hash(), later.flow_hash());
            assert_ne!(first.flow_hash(), other.flow_hash());
            assert!(later.is_later_fragment() && !first.is_later_fragment());
            assert_eq!(later.fragment.map(|f| f.offset), Some(72));
        }
        assert_eq!(v4(1, None).flow_hash(), v4(2, None).flow_hash());
    }

    /// What the sockets are chosen by: 64 flows of one client to one server.
    #[test]
    fn flows_spread_over_every_few_bits_of_the_hash() {
        for v6 in [false, true] {
            let hashes: Vec<u32> = (0..64)
                .map(|i| {
                    let mut sample = Sample::udp(v6, 1);
                    sample.transport = Transport::Udp {
                        ports: [40_000 + 2 * i, 5201],
                    };
                    Inner::parse(&sample.bytes()).unwrap().flow_hash()
                })
                .collect();
            assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), 64);
            for shift in 0..=28 {
                let used: HashSet<_> = hashes.iter().map(|h| h >> shift & 15).collect();
                assert!(used.len() >= 12, "{} of 16 at bit {shift}", used.len());
            }
        }
    }
}
