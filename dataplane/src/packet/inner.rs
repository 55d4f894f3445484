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
        upper(mix(addresses ^ SEED, flow ^ STRIDE))
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
