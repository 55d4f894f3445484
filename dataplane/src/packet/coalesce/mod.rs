//! From what came over the wire to what a TUN takes at once: packets that continue one another
//! become superpackets, such that cutting those gives the same packets again.

mod join;

use std::fmt;

use super::checksum::Sum;
use super::inner::Inner;
use super::virtio::{self, Header};
use super::{field, put_u16};
use crate::buffer::{Buffer, LINE};
use join::{Candidate, Kind, TCP_CHECKSUM, TCP_FLAGS, UDP_CHECKSUM, UDP_LENGTH};

/// What the TUN's other side takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    pub tcp4: bool,
    pub tcp6: bool,
    /// UDP superpackets of IPv4: since Linux 6.2.
    pub udp4: bool,
    pub udp6: bool,
    /// UDP datagrams of IPv4 with DF, whatever their ids: cutting counts those up anew. Nobody
    /// may look at the id of a datagram that is never fragmented (RFC 6864), and Linux draws it
    /// from a counter that all flows between two addresses share.
    pub any_id: bool,
}

impl Accepts {
    pub const ALL: Self = Self {
        tcp4: true,
        tcp6: true,
        udp4: true,
        udp6: true,
        any_id: true,
    };
    /// All that can be cut into the very same bytes again.
    pub const EXACT: Self = Self {
        any_id: false,
        ..Self::ALL
    };
    pub const NONE: Self = Self {
        tcp4: false,
        tcp6: false,
        udp4: false,
        udp6: false,
        any_id: false,
    };
}

/// Joins packets of a few flows at a time. Within a flow (and among the fragments and the rest of
/// what two addresses send each other) packets leave in the order they came in, joined or not.
pub struct Coalescer {
    accepts: Accepts,
    slots: Box<[Slot]>,
    /// The slots' numbers: the open ones first, the longest open at the front. Of the others the
    /// one closed last is taken first, since its buffer is still in the cache.
    order: Box<[usize]>,
    open: usize,
}

/// How many flows a [`Coalescer`] holds open by default: 1 MB of buffers, of which a page is
/// touched when a packet comes to lie there.
pub const FLOWS: usize = 16;

impl Coalescer {
    pub fn new(flows: usize, accepts: Accepts) -> Self {
        let flows = flows.max(1);
        Self {
            accepts,
            slots: (0..flows).map(|_| Slot::new()).collect(),
            order: (0..flows).collect(),
            open: 0,
        }
    }

    /// Takes a finished packet that was parsed as `inner` (its hops may have been counted since).
    /// What is ready is given to `emit`: now, or at a later push, or when flushed.
    pub fn push(&mut self, inner: &Inner, packet: &[u8], mut emit: impl FnMut(Header, &[u8])) {
        let Some(candidate) = Candidate::of(inner, packet, self.accepts) else {
            self.close_related(inner, &mut emit);
            emit(Header::default(), packet);
            return;
        };
        let place = self.place_of(&candidate);
        if let Some(place) = place {
            let slot = &mut self.slots[self.order[place]];
            if slot.try_join(&candidate, packet) {
                if slot.ended {
                    self.close(place, &mut emit);
                }
                return;
            }
            self.close(place, &mut emit);
        }
        if candidate.ends {
            emit(Header::default(), packet);
            return;
        }
        if self.open == self.order.len() {
            self.close(0, &mut emit);
        }
        if self.slots[self.order[self.open]].start(candidate, packet) {
            self.open += 1;
        } else {
            emit(Header::default(), packet);
        }
    }

    /// Gives out all that waits for a continuation: at the end of each batch of receives.
    pub fn flush(&mut self, mut emit: impl FnMut(Header, &[u8])) {
        for place in 0..self.open {
            self.slots[self.order[place]].finish(&mut emit);
        }
        self.open = 0;
    }

    fn place_of(&self, candidate: &Candidate) -> Option<usize> {
        self.order[..self.open]
            .iter()
            .position(|&slot| self.slots[slot].flow.same_flow(candidate))
    }

    /// Closes what a packet that is not joined must not overtake. A fragment may belong to any
    /// flow between its addresses.
    fn close_related(&mut self, inner: &Inner, emit: &mut impl FnMut(Header, &[u8])) {
        let mut place = 0;
        while place < self.open {
            if self.slots[self.order[place]].flow.is_related(inner) {
                self.close(place, emit);
            } else {
                place += 1;
            }
        }
    }

    fn close(&mut self, place: usize, emit: &mut impl FnMut(Header, &[u8])) {
        self.slots[self.order[place]].finish(emit);
        self.order[place..self.open].rotate_left(1);
        self.open -= 1;
    }
}

impl fmt::Debug for Coalescer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalescer")
            .field("accepts", &self.accepts)
            .field("flows", &self.slots.len())
            .field("open", &self.open)
            .finish()
    }
}

/// What fits a header's length field, and one write to a TUN.
const LONGEST: usize = 65_535;
/// As many datagrams as every kernel takes in one (UDP_MAX_SEGMENTS; later ones take twice as many).
const DATAGRAMS: usize = 64;

/// One flow's packets so far: the first as it came, and the payloads of those that continue it.
struct Slot {
    buffer: Buffer,
    /// Where the first packet lies, such that its payload begins a line: the kernel copies it to
    /// where a page begins.
    start: usize,
    length: usize,
    count: usize,
    /// The first packet, which tells what a continuation must be like.
    flow: Candidate,
    /// What the first packet's TCP flags become: FIN and PSH are the last one's.
    flags: u8,
    ended: bool,
}

impl Slot {
    fn new() -> Self {
        Self {
            buffer: Buffer::new(LINE + LONGEST),
            start: 0,
            length: 0,
            count: 0,
            flow: Candidate::default(),
            flags: 0,
            ended: false,
        }
    }

    fn packet(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.length]
    }

    fn packet_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.length]
    }

    /// Begins with a packet, unless its checksums are wrong.
    fn start(&mut self, first: Candidate, packet: &[u8]) -> bool {
        self.start = first.headers.next_multiple_of(LINE) - first.headers;
        self.length = packet.len();
        self.count = 1;
        self.flags = first.flags;
        self.flow = first;
        self.ended = false;
        let (headers, payload) = packet.split_at(first.headers);
        let (to_headers, to_payload) = self.packet_mut().split_at_mut(first.headers);
        to_headers.copy_from_slice(headers);
        first.verifies(packet, Sum::copied(payload, to_payload))
    }

    /// Adds a packet that continues those before, unless its checksums are wrong.
    fn try_join(&mut self, next: &Candidate, packet: &[u8]) -> bool {
        let first = &self.flow;
        let payload = &packet[first.headers.min(packet.len())..];
        let end = self.length + payload.len();
        let continues = next.headers == first.headers
            && payload.len() <= first.payload
            && end <= LONGEST
            && (first.kind == Kind::Tcp || self.count < DATAGRAMS)
            && next.continues(first, self.count, self.length - first.headers)
            && join::same_headers(first, self.packet(), packet);
        if !continues {
            return false;
        }
        // What turns out wrong lies behind the end, and the next one is written over it.
        let place = self.start + self.length..self.start + end;
        let joins = next.verifies(packet, Sum::copied(payload, &mut self.buffer[place]));
        if joins {
            self.length = end;
            self.count += 1;
            self.flags |= next.flags;
            self.ended = next.ends || payload.len() < first.payload;
        }
        joins
    }

    fn finish(&mut self, emit: &mut impl FnMut(Header, &[u8])) {
        let header = match self.count {
            0 | 1 => Header::default(),
            _ => self.finish_headers(),
        };
        emit(header, self.packet());
    }

    /// Makes the first packet's headers those of the whole.
    fn finish_headers(&mut self) -> Header {
        let Candidate {
            kind,
            v6,
            transport,
            headers,
            payload,
            ..
        } = self.flow;
        let flags = self.flags;
        let packet = self.packet_mut();
        let segment = field(packet.len() - transport);
        let addresses = match v6 {
            true => {
                put_u16(packet, 4, field(packet.len() - 40));
                Sum::of(&packet[8..40])
            }
            false => {
                put_u16(packet, 2, field(packet.len()));
                put_u16(packet, 10, 0);
                let checksum = Sum::of(&packet[..20]).finish();
                put_u16(packet, 10, checksum);
                Sum::of(&packet[12..20])
            }
        };
        let pseudo = addresses + Sum::word(kind.protocol().into()) + Sum::word(segment);
        let (gso_type, csum_offset) = match (kind, v6) {
            (Kind::Tcp, false) => (virtio::GSO_TCPV4, TCP_CHECKSUM),
            (Kind::Tcp, true) => (virtio::GSO_TCPV6, TCP_CHECKSUM),
            (Kind::Udp, _) => (virtio::GSO_UDP_L4, UDP_CHECKSUM),
        };
        put_u16(packet, transport + csum_offset, pseudo.fold());
        let mut gso_type = gso_type;
        match kind {
            Kind::Tcp => {
                packet[transport + TCP_FLAGS] = flags;
                if flags & join::CWR != 0 {
                    gso_type |= virtio::GSO_ECN;
                }
            }
            Kind::Udp => put_u16(packet, transport + UDP_LENGTH, segment),
        }
        Header {
            flags: virtio::NEEDS_CSUM,
            gso_type,
            hdr_len: field(headers),
            gso_size: field(payload),
            csum_start: field(transport),
            csum_offset: field(csum_offset),
        }
    }
}

#[cfg(test)]
mod tests;
