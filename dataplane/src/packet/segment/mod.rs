//! From what a TUN hands out to what may go on a wire: superpackets are cut, and checksums that
//! were left to an offload are computed.

use std::ops::Range;

use super::checksum::Sum;
use super::inner::Inner;
use super::virtio::{self, Header};
use super::{Malformed, TCP, UDP, field, put_u16, put_u32, u16_at, u32_at};

/// How one packet becomes `count` finished ones, of `size` bytes each but the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub count: usize,
    pub size: usize,
    pub last_size: usize,
    work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Nothing is missing.
    None,
    /// The sum from `start` to the end belongs at `at`.
    Checksum { start: usize, at: usize },
    /// Segments behind copies of the first `headers` bytes.
    Cut {
        cut: Cut,
        v6: bool,
        transport: usize,
        headers: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Tcp,
    Udp,
}

/// Reads what is to be done with a packet, trusting neither it nor what the header says of it.
pub fn plan(header: &Header, packet: &[u8]) -> Result<Plan, Malformed> {
    let inner = Inner::parse(packet)?;
    plan_parsed(header, &inner, packet)
}

/// The same for a packet that has been parsed.
pub fn plan_parsed(header: &Header, inner: &Inner, packet: &[u8]) -> Result<Plan, Malformed> {
    let length = inner.length.min(packet.len());
    let (cut, headers) = match header.gso_type & !virtio::GSO_ECN {
        virtio::GSO_NONE => return plan_whole(header, inner, length),
        virtio::GSO_TCPV4 if inner.protocol == TCP && !inner.is_v6() => tcp(inner, packet)?,
        virtio::GSO_TCPV6 if inner.protocol == TCP && inner.is_v6() => tcp(inner, packet)?,
        virtio::GSO_UDP_L4 if inner.protocol == UDP => udp(inner, packet)?,
        virtio::GSO_TCPV4 | virtio::GSO_TCPV6 | virtio::GSO_UDP_L4 => {
            return Err(Malformed::SegmentationMismatch);
        }
        _ => return Err(Malformed::SegmentationUnknown),
    };
    let mss = usize::from(header.gso_size);
    if mss == 0 {
        return Err(Malformed::SegmentationSize);
    }
    if inner.fragment.is_some() {
        return Err(Malformed::SegmentationOfFragment);
    }
    let payload = length.saturating_sub(headers);
    let count = payload.div_ceil(mss).max(1);
    Ok(Plan {
        count,
        size: if count == 1 { length } else { headers + mss },
        last_size: headers + payload - (count - 1) * mss,
        work: Work::Cut {
            cut,
            v6: inner.is_v6(),
            transport: inner.transport,
            headers,
        },
    })
}

impl Plan {
    /// How many bytes [`Plan::write`] needs for these packets.
    pub fn bytes(&self, packets: Range<usize>) -> usize {
        let end = packets.end.min(self.count);
        let count = end.saturating_sub(packets.start);
        match count {
            0 => 0,
            _ if end == self.count => (count - 1) * self.size + self.last_size,
            _ => count * self.size,
        }
    }

    /// Writes the packets of that range, back to back and with nothing missing, and says how many
    /// bytes they are. `packet` is what the plan was made for. Nothing is written to an `out` that
    /// has no room for all of them.
    pub fn write(&self, packet: &[u8], packets: Range<usize>, out: &mut [u8]) -> usize {
        let bytes = self.bytes(packets.clone());
        let whole = self.bytes_of_original();
        let (Some(out), Some(packet)) = (out.get_mut(..bytes), packet.get(..whole)) else {
            return 0;
        };
        if bytes == 0 {
            return 0;
        }
        match self.work {
            Work::None => out.copy_from_slice(packet),
            Work::Checksum { start, at } => {
                out.copy_from_slice(packet);
                let sum = Sum::of(&out[start..]);
                let checksum = match at - start {
                    UDP_CHECKSUM => sum.finish_udp(),
                    _ => sum.finish(),
                };
                put_u16(out, at, checksum);
            }
            Work::Cut {
                cut,
                v6,
                transport,
                headers,
            } => {
                let (headers, payload) = packet.split_at(headers);
                let segments = out.chunks_mut(self.size).zip(packets);
                let ip = |protocol| Ip::of(headers, v6, transport, protocol);
                match cut {
                    Cut::Tcp => self.write_tcp(&ip(TCP), headers, payload, segments),
                    Cut::Udp => self.write_udp(&ip(UDP), headers, payload, segments),
                }
            }
        }
        bytes
    }

    fn bytes_of_original(&self) -> usize {
        match self.work {
            Work::None | Work::Checksum { .. } => self.last_size,
            Work::Cut { headers, .. } => (self.count - 1) * (self.size - headers) + self.last_size,
        }
    }
}

impl Plan {
    fn write_tcp<'a>(
        &self,
        ip: &Ip,
        headers: &[u8],
        payload: &[u8],
        segments: impl Iterator<Item = (&'a mut [u8], usize)>,
    ) {
        let (at, mss) = (ip.transport, self.size - headers.len());
        let sequence = u32_at(headers, at + TCP_SEQUENCE);
        let offset_and_flags = u16_at(headers, at + TCP_OFFSET);
        // What all segments have in common is summed once.
        let sum = ip.pseudo
            + Sum::of(&headers[at..])
            + Sum::long(!sequence)
            + Sum::word(!offset_and_flags)
            + Sum::word(!u16_at(headers, at + TCP_CHECKSUM));
        for (segment, i) in segments {
            let from = i * mss;
            let mut flags = offset_and_flags;
            if i > 0 {
                flags &= !CWR;
            }
            if i + 1 < self.count {
                flags &= !(FIN | PSH);
            }
            let sequence = sequence.wrapping_add(long(from));
            let length = segment.len();
            let (head, body) = segment.split_at_mut(headers.len());
            head.copy_from_slice(headers);
            let body_sum = copy(&payload[from..], body);
            ip.write(head, length, i);
            put_u32(head, at + TCP_SEQUENCE, sequence);
            put_u16(head, at + TCP_OFFSET, flags);
            let sum = sum
                + body_sum
                + Sum::word(field(length - at))
                + Sum::long(sequence)
                + Sum::word(flags);
            put_u16(head, at + TCP_CHECKSUM, sum.finish());
        }
    }

    fn write_udp<'a>(
        &self,
        ip: &Ip,
        headers: &[u8],
        payload: &[u8],
        segments: impl Iterator<Item = (&'a mut [u8], usize)>,
    ) {
        let (at, mss) = (ip.transport, self.size - headers.len());
        let sum = ip.pseudo + Sum::long(u32_at(headers, at));
        for (segment, i) in segments {
            let length = segment.len();
            let (head, body) = segment.split_at_mut(headers.len());
            head.copy_from_slice(headers);
            let body_sum = copy(&payload[i * mss..], body);
            ip.write(head, length, i);
            let length = field(length - at);
            put_u16(head, at + UDP_LENGTH, length);
            // Once in the pseudo-header, once in the datagram's own.
            let sum = sum + body_sum + Sum::word(length) + Sum::word(length);
            put_u16(head, at + UDP_CHECKSUM, sum.finish_udp());
        }
    }
}

/// What the IP headers of all segments have in common.
struct Ip {
    v6: bool,
    transport: usize,
    /// Addresses and protocol, as the transport's checksum sees them.
    pseudo: Sum,
    /// The IPv4 header's, without the fields that differ.
    header: Sum,
    id: u16,
}

impl Ip {
    fn of(headers: &[u8], v6: bool, transport: usize, protocol: u8) -> Self {
        let addresses = match v6 {
            true => &headers[8..40],
            false => &headers[12..20],
        };
        let [length, id, checksum] = [2, 4, 10].map(|at| u16_at(headers, at));
        Self {
            v6,
            transport,
            pseudo: Sum::of(addresses) + Sum::word(protocol.into()),
            header: Sum::of(&headers[..transport])
                + Sum::word(!length)
                + Sum::word(!id)
                + Sum::word(!checksum),
            id,
        }
    }

    /// Completes the header of the `i`th segment, `length` bytes of IP packet.
    fn write(&self, header: &mut [u8], length: usize, i: usize) {
        if self.v6 {
            put_u16(header, 4, field(length - 40));
            return;
        }
        let (length, id) = (field(length), self.id.wrapping_add(field(i)));
        put_u16(header, 2, length);
        put_u16(header, 4, id);
        let sum = self.header + Sum::word(length) + Sum::word(id);
        put_u16(header, 10, sum.finish());
    }
}

const TCP_SEQUENCE: usize = 4;
const TCP_OFFSET: usize = 12;
const TCP_CHECKSUM: usize = 16;
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;
const FIN: u16 = 0x01;
const PSH: u16 = 0x08;
const CWR: u16 = 0x80;

fn copy(from: &[u8], to: &mut [u8]) -> Sum {
    Sum::copied(&from[..to.len()], to)
}

fn plan_whole(header: &Header, inner: &Inner, length: usize) -> Result<Plan, Malformed> {
    let work = if header.needs_checksum() {
        let start = usize::from(header.csum_start);
        let at = start + usize::from(header.csum_offset);
        if start < inner.transport || at + 2 > length {
            return Err(Malformed::ChecksumOutside);
        }
        Work::Checksum { start, at }
    } else {
        Work::None
    };
    Ok(Plan {
        count: 1,
        size: length,
        last_size: length,
        work,
    })
}

/// How long all headers are. What `hdr_len` says has been wrong in more than one kernel.
fn tcp(inner: &Inner, packet: &[u8]) -> Result<(Cut, usize), Malformed> {
    let header = transport::<20>(inner, packet)?;
    let length = usize::from(header[12] >> 4) * 4;
    if length < 20 || inner.transport + length > inner.length {
        return Err(Malformed::TransportTruncated);
    }
    Ok((Cut::Tcp, inner.transport + length))
}

fn udp(inner: &Inner, packet: &[u8]) -> Result<(Cut, usize), Malformed> {
    transport::<8>(inner, packet)?;
    Ok((Cut::Udp, inner.transport + 8))
}

fn transport<'a, const N: usize>(
    inner: &Inner,
    packet: &'a [u8],
) -> Result<&'a [u8; N], Malformed> {
    packet
        .get(inner.transport..inner.length)
        .and_then(<[u8]>::first_chunk)
        .ok_or(Malformed::TransportTruncated)
}

fn long(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
