//! Which packet may be joined at all, and to which.

use std::net::{IpAddr, Ipv4Addr};

use super::Accepts;
use crate::packet::checksum::Sum;
use crate::packet::inner::Inner;
use crate::packet::{TCP, UDP, field, u16_at, u32_at};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
}

impl Kind {
    pub(super) fn protocol(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }
}

/// A packet that may begin or continue a superpacket, if its checksums are right: whole and plain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) kind: Kind,
    pub(super) v6: bool,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) ports: u32,
    pub(super) transport: usize,
    pub(super) headers: usize,
    pub(super) payload: usize,
    /// TCP's; none for UDP.
    pub(super) flags: u8,
    /// Nothing may follow.
    pub(super) ends: bool,
    sequence: u32,
    /// None where it does not matter.
    id: Option<u16>,
}

pub(super) const TCP_FLAGS: usize = 13;
pub(super) const TCP_CHECKSUM: usize = 16;
pub(super) const UDP_LENGTH: usize = 4;
pub(super) const UDP_CHECKSUM: usize = 6;
pub(super) const CWR: u8 = 0x80;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

impl Candidate {
    pub(super) fn of(inner: &Inner, packet: &[u8], accepts: Accepts) -> Option<Self> {
        let whole = inner.length == packet.len() && inner.fragment.is_none();
        if !whole || !inner.plain {
            return None;
        }
        let v6 = inner.is_v6();
        let transport = packet.get(inner.transport..)?;
        let (kind, header, flags) = match (inner.protocol, v6) {
            (TCP, false) if accepts.tcp4 => tcp(transport)?,
            (TCP, true) if accepts.tcp6 => tcp(transport)?,
            (UDP, false) if accepts.udp4 => udp(transport)?,
            (UDP, true) if accepts.udp6 => udp(transport)?,
            _ => return None,
        };
        let headers = inner.transport + header;
        let candidate = Self {
            kind,
            v6,
            src: inner.src,
            dst: inner.dst,
            ports: inner.ports,
            transport: inner.transport,
            headers,
            payload: packet.len() - headers,
            flags,
            ends: flags & (FIN | PSH) != 0,
            sequence: u32_at(transport, 4),
            id: match (v6, kind) {
                (true, _) => None,
                (false, Kind::Udp) if accepts.any_id && !inner.may_fragment => None,
                (false, _) => Some(u16_at(packet, 4)),
            },
        };
        (candidate.payload > 0).then_some(candidate)
    }

    pub(super) fn same_flow(&self, other: &Self) -> bool {
        self.ports == other.ports
            && self.kind == other.kind
            && self.src == other.src
            && self.dst == other.dst
    }

    /// Whether the flow may be the one of a packet that is not joined.
    pub(super) fn is_related(&self, inner: &Inner) -> bool {
        let ports = self.ports == inner.ports || inner.ports == 0;
        let flow = ports && self.kind.protocol() == inner.protocol;
        (flow || inner.fragment.is_some()) && self.src == inner.src && self.dst == inner.dst
    }

    /// Whether this one's numbers follow `count` packets with `payload` bytes, from `first` on.
    pub(super) fn continues(&self, first: &Self, count: usize, payload: usize) -> bool {
        let follows = match self.kind {
            Kind::Tcp => {
                let payload = u32::try_from(payload).unwrap_or(u32::MAX);
                // CWR is the first segment's alone; ECE is the same on all.
                self.sequence == first.sequence.wrapping_add(payload)
                    && self.flags & CWR == 0
                    && (self.flags ^ first.flags) & !(CWR | FIN | PSH) == 0
            }
            Kind::Udp => true,
        };
        let expected = first.id.map(|id| id.wrapping_add(field(count)));
        follows && self.id == expected
    }

    /// Whether the checksums are right, and are what a segmentation would write: it knows only
    /// one of the two zeros of a ones' complement. `payload` is the payload's sum.
    pub(super) fn verifies(&self, packet: &[u8], payload: Sum) -> bool {
        let at = self.transport;
        let representable = match self.kind {
            Kind::Tcp => u16_at(packet, at + TCP_CHECKSUM) != 0xffff,
            Kind::Udp => u16_at(packet, at + UDP_CHECKSUM) != 0,
        };
        let header = self.v6 || (u16_at(packet, 10) != 0xffff && Sum::of(&packet[..20]).verifies());
        let addresses = match self.v6 {
            true => Sum::of(&packet[8..40]),
            false => Sum::of(&packet[12..20]),
        };
        let sum = addresses
            + Sum::word(self.kind.protocol().into())
            + Sum::word(field(packet.len() - at))
            + Sum::of(&packet[at..self.headers])
            + payload;
        representable && header && sum.verifies()
    }
}

impl Default for Candidate {
    fn default() -> Self {
        Self {
            kind: Kind::Tcp,
            v6: false,
            src: Ipv4Addr::UNSPECIFIED.into(),
            dst: Ipv4Addr::UNSPECIFIED.into(),
            ports: 0,
            transport: 0,
            headers: 0,
            payload: 0,
            flags: 0,
            ends: false,
            sequence: 0,
            id: None,
        }
    }
}

/// Whether two packets of one flow have the same headers but for what a segmentation counts or
/// computes anew: lengths, ids, checksums, sequence numbers and flags.
pub(super) fn same_headers(first: &Candidate, one: &[u8], other: &[u8]) -> bool {
    let same = |from: usize, to: usize| one[from..to] == other[from..to];
    let ip = match first.v6 {
        true => same(0, 4) && same(6, 40),
        false => same(0, 2) && same(6, 10) && same(12, 20),
    };
    let at = first.transport;
    let transport = match first.kind {
        // Acknowledgement, header length, window, urgent pointer and options.
        Kind::Tcp => {
            same(at + 8, at + 13) && same(at + 14, at + 16) && same(at + 18, first.headers)
        }
        Kind::Udp => true,
    };
    ip && transport
}

/// The header's length and flags, of a segment that may be joined.
fn tcp(transport: &[u8]) -> Option<(Kind, usize, u8)> {
    let header: &[u8; 20] = transport.first_chunk()?;
    let length = usize::from(header[12] >> 4) * 4;
    let flags = header[TCP_FLAGS];
    let plain = flags & ACK != 0 && flags & !(ACK | PSH | FIN | ECE | CWR) == 0;
    (plain && length >= 20 && length <= transport.len()).then_some((Kind::Tcp, length, flags))
}

fn udp(transport: &[u8]) -> Option<(Kind, usize, u8)> {
    let header: &[u8; 8] = transport.first_chunk()?;
    let exact = usize::from(u16_at(header, UDP_LENGTH)) == transport.len();
    exact.then_some((Kind::Udp, 8, 0))
}
