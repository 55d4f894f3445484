//! Packets to test with, and the plainest way to cut a superpacket: written to be read, not to be
//! fast, and sharing nothing with what it is held against.

use proptest::prelude::*;

use super::checksum::reference;
use super::virtio::Header;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

/// A packet in parts; [`Sample::bytes`] puts them together, with all lengths and checksums.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) v6: bool,
    /// The last byte of the source address.
    pub(crate) host: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    /// IPv4's offset in units of eight bytes, and whether more follow.
    pub(crate) fragment: Option<(u16, bool)>,
    /// IPv4 options, or an IPv6 header of destination options.
    pub(crate) extra: Vec<u8>,
    pub(crate) transport: Transport,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Tcp(Tcp),
    Udp { ports: [u16; 2] },
    Icmp { kind: u8 },
}

#[derive(Debug, Clone)]
pub(crate) struct Tcp {
    pub(crate) ports: [u16; 2],
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<u8>,
}

impl Sample {
    pub(crate) fn tcp(v6: bool, payload: usize) -> Self {
        Self {
            v6,
            host: 1,
            tos: 0,
            ttl: 64,
            id: 7,
            dont_fragment: true,
            fragment: None,
            extra: Vec::new(),
            transport: Transport::Tcp(Tcp {
                ports: [1000, 80],
                sequence: 0xffff_f000,
                acknowledged: 1,
                flags: ACK,
                window: 500,
                urgent: 0,
                options: timestamps(1, 2),
            }),
            payload: text(payload, 0),
        }
    }

    pub(crate) fn udp(v6: bool, payload: usize) -> Self {
        let ports = [1000, 53];
        Self {
            transport: Transport::Udp { ports },
            ..Self::tcp(v6, payload)
        }
    }

    pub(crate) fn icmp(v6: bool, kind: u8) -> Self {
        Self {
            transport: Transport::Icmp { kind },
            ..Self::tcp(v6, 56)
        }
    }

    pub(crate) fn tcp_mut(&mut self) -> &mut Tcp {
        match &mut self.transport {
            Transport::Tcp(tcp) => tcp,
            other => panic!("{other:?} is no TCP"),
        }
    }

    /// The packet that continues this one.
    pub(crate) fn next(&self, payload: usize) -> Self {
        let mut next = self.clone();
        next.id = self.id.wrapping_add(1);
        if let Transport::Tcp(tcp) = &mut next.transport {
            let length = u32::try_from(self.payload.len()).unwrap();
            tcp.sequence = tcp.sequence.wrapping_add(length);
            tcp.flags &= !CWR;
        }
        next.payload = text(payload, next.id);
        next
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut transport = self.transport_bytes();
        let at = match self.transport {
            Transport::Tcp(_) => 16,
            Transport::Udp { .. } => 6,
            Transport::Icmp { .. } => 2,
        };
        let protocol = self.protocol();
        let pseudo = match self.transport {
            Transport::Icmp { .. } if !self.v6 => Vec::new(),
            _ => pseudo(&self.addresses(), transport.len(), protocol),
        };
        let sum = !reference::fold(&[pseudo, transport.clone()].concat());
        let is_udp = matches!(self.transport, Transport::Udp { .. });
        put(
            &mut transport,
            at,
            if is_udp && sum == 0 { 0xffff } else { sum },
        );
        [self.ip_header(protocol, transport.len()), transport].concat()
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp(_) => 6,
            Transport::Udp { .. } => 17,
            Transport::Icmp { .. } => [1, 58][usize::from(self.v6)],
        }
    }

    fn addresses(&self) -> Vec<u8> {
        match self.v6 {
            true => {
                let one = |net, host| {
                    let mut octets = [0_u8; 16];
                    (octets[0], octets[1], octets[7], octets[15]) = (0xfd, 0x10, net, host);
                    octets
                };
                [one(1, self.host), one(2, 1)].concat()
            }
            false => vec![10, 1, 1, self.host, 10, 1, 2, 1],
        }
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let header = match &self.transport {
            Transport::Tcp(tcp) => {
                let offset = u8::try_from((20 + tcp.options.len()) / 4 * 16).unwrap();
                [
                    &tcp.ports[0].to_be_bytes()[..],
                    &tcp.ports[1].to_be_bytes(),
                    &tcp.sequence.to_be_bytes(),
                    &tcp.acknowledged.to_be_bytes(),
                    &[offset, tcp.flags],
                    &tcp.window.to_be_bytes(),
                    &[0, 0],
                    &tcp.urgent.to_be_bytes(),
                    &tcp.options,
                ]
                .concat()
            }
            Transport::Udp { ports } => {
                let length = u16::try_from(8 + self.payload.len()).unwrap();
                [ports[0], ports[1], length, 0]
                    .map(u16::to_be_bytes)
                    .concat()
            }
            Transport::Icmp { kind } => vec![*kind, 0, 0, 0, 0, 1, 0, 1],
        };
        [header, self.payload.clone()].concat()
    }

    fn ip_header(&self, protocol: u8, payload: usize) -> Vec<u8> {
        let extra = self.extra.len();
        if self.v6 {
            let length = u16::try_from(extra + payload).unwrap();
            let first = 6 << 28 | u32::from(self.tos) << 20 | 0x1_2345;
            let mut header = first.to_be_bytes().to_vec();
            header.extend(length.to_be_bytes());
            header.extend([if extra > 0 { 60 } else { protocol }, self.ttl]);
            header.extend(self.addresses());
            header.extend(&self.extra);
            if extra > 0 {
                header[40] = protocol;
                header[41] = u8::try_from(extra / 8 - 1).unwrap();
            }
            return header;
        }
        let (offset, more) = self.fragment.unwrap_or_default();
        let place = offset | u16::from(more) << 13 | u16::from(self.dont_fragment) << 14;
        let length = u16::try_from(20 + extra + payload).unwrap();
        let first = u8::try_from((4 << 4) + (20 + extra) / 4).unwrap();
        let mut header = vec![first, self.tos];
        header.extend([length, self.id, place].map(u16::to_be_bytes).concat());
        header.extend([self.ttl, protocol, 0, 0]);
        header.extend(self.addresses());
        header.extend(&self.extra);
        let sum = !reference::fold(&header);
        put(&mut header, 10, sum);
        header
    }
}

/// A superpacket, as a TUN hands it out.
pub(crate) fn superpacket(whole: &Sample, size: u16) -> (Header, Vec<u8>) {
    let mut bytes = whole.bytes();
    let start = whole.bytes().len() - whole.transport_bytes().len();
    let (kind, offset) = match (&whole.transport, whole.v6) {
        (Transport::Tcp(_), false) => (1, 16),
        (Transport::Tcp(_), true) => (4, 16),
        _ => (5, 6),
    };
    let ecn = matches!(&whole.transport, Transport::Tcp(tcp) if tcp.flags & CWR != 0);
    let pseudo = pseudo(&whole.addresses(), bytes.len() - start, whole.protocol());
    put(&mut bytes, start + offset, reference::fold(&pseudo));
    let header = Header {
        flags: 1,
        gso_type: kind | if ecn { 0x80 } else { 0 },
        hdr_len: u16::try_from(bytes.len() - whole.payload.len()).unwrap(),
        gso_size: size,
        csum_start: u16::try_from(start).unwrap(),
        csum_offset: u16::try_from(offset).unwrap(),
    };
    (header, bytes)
}

/// What a superpacket stands for: each segment is built from its parts.
pub(crate) fn segments(whole: &Sample, size: usize) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = whole.payload.chunks(size).collect();
    let segment = |(i, piece): (usize, &&[u8])| {
        let mut segment = whole.clone();
        segment.payload = piece.to_vec();
        segment.id = whole.id.wrapping_add(u16::try_from(i).unwrap());
        if let Transport::Tcp(tcp) = &mut segment.transport {
            let offset = u32::try_from(i * size).unwrap();
            tcp.sequence = tcp.sequence.wrapping_add(offset);
            if i > 0 {
                tcp.flags &= !CWR;
            }
            if i + 1 < pieces.len() {
                tcp.flags &= !(FIN | PSH);
            }
        }
        segment.bytes()
    };
    pieces.iter().enumerate().map(segment).collect()
}

pub(crate) fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    [
        &[1, 1, 8, 10][..],
        &value.to_be_bytes(),
        &echo.to_be_bytes(),
    ]
    .concat()
}

/// Bytes that tell where they come from.
pub(crate) fn text(length: usize, seed: u16) -> Vec<u8> {
    let byte = |i: usize| u8::try_from((i * 31 + usize::from(seed) * 17 + i / 256) % 251).unwrap();
    (0..length).map(byte).collect()
}

fn pseudo(addresses: &[u8], length: usize, protocol: u8) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [addresses, &length, &[0, 0, 0, protocol]].concat()
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A TCP or UDP packet of either version, whole and right.
pub(crate) fn any_packet(payload: impl Strategy<Value = usize>) -> impl Strategy<Value = Sample> {
    let ip = (
        any::<bool>(),
        1_u8..4,
        any::<u8>(),
        2_u8..,
        any::<u16>(),
        any::<bool>(),
    );
    let options = prop_oneof![
        Just(Vec::new()),
        (any::<u32>(), any::<u32>()).prop_map(|(value, echo)| timestamps(value, echo)),
        (1_usize..11).prop_map(|words| text(4 * words, 3)),
    ];
    let flags = prop::sample::select(vec![ACK, ACK | PSH, ACK | FIN | PSH, ACK | ECE, ACK | CWR]);
    let tcp = (
        any::<[u16; 2]>(),
        any::<[u32; 2]>(),
        flags,
        any::<u16>(),
        options,
    )
        .prop_map(
            |(ports, [sequence, acknowledged], flags, window, options)| {
                Transport::Tcp(Tcp {
                    ports,
                    sequence,
                    acknowledged,
                    flags,
                    window,
                    urgent: 0,
                    options,
                })
            },
        );
    let udp = any::<[u16; 2]>().prop_map(|ports| Transport::Udp { ports });
    (ip, prop_oneof![tcp, udp], payload).prop_map(
        |((v6, host, tos, ttl, id, dont_fragment), transport, payload)| Sample {
            v6,
            host,
            tos,
            ttl,
            id,
            dont_fragment,
            fragment: None,
            extra: Vec::new(),
            transport,
            payload: text(payload, id),
        },
    )
}
