//! What the userspace path does to a packet between its system calls, piece by piece:
//! `make bench-packets`. Each figure is for one packet, of the 46 or 64 that a superpacket has; the
//! bytes are those of IP packets.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use criterion::measurement::WallTime;
use criterion::{Bencher, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use ipnetwork::IpNetwork;
use weft_dataplane::packet::checksum::Sum;
use weft_dataplane::packet::coalesce::{Accepts, Coalescer, FLOWS};
use weft_dataplane::packet::inner::Inner;
use weft_dataplane::packet::peers::{Parts, Table};
use weft_dataplane::packet::virtio::{self, Header};
use weft_dataplane::packet::{hop, segment};

const PEERS: u32 = 5000;

/// A superpacket as the kernel hands it out, and the name of its kind.
struct Super {
    name: &'static str,
    header: Header,
    packet: Vec<u8>,
}

impl Super {
    fn all() -> [Self; 4] {
        [
            Self::new("TCP, IPv4, 1452 bytes", false, true, 1400, 46),
            Self::new("TCP, IPv6, 1472 bytes", true, true, 1400, 46),
            Self::new("UDP, IPv4, 1428 bytes", false, false, 1400, 46),
            Self::new("UDP, IPv4, 64 bytes", false, false, 36, 64),
        ]
    }

    fn new(name: &'static str, v6: bool, tcp: bool, size: u16, count: usize) -> Self {
        let payload = usize::from(size) * count;
        let transport = match tcp {
            true => [
                &[
                    0x9c, 0x40, 0x14, 0x51, 0, 0, 16, 0, 0, 0, 1, 0, 0x80, 0x18, 1, 246,
                ],
                &[0; 16][..],
            ]
            .concat(),
            false => [&[0x9c, 0x40, 0x14, 0x51], &length(8 + payload)[..], &[0, 0]].concat(),
        };
        let protocol = if tcp { 6 } else { 17 };
        let mut packet = match v6 {
            true => {
                let fields = [&[0x60, 0, 0, 0], &length(transport.len() + payload)[..]].concat();
                let source = inner_v6(17).octets();
                [
                    fields,
                    vec![protocol, 64],
                    source.to_vec(),
                    inner_v6(18).octets().to_vec(),
                ]
                .concat()
            }
            false => {
                let whole = length(20 + transport.len() + payload);
                let fields =
                    [&[0x45, 0], &whole[..], &[0, 1, 0x40, 0, 64, protocol, 0, 0]].concat();
                let source = inner_v4(17).octets();
                [fields, source.to_vec(), inner_v4(18).octets().to_vec()].concat()
            }
        };
        let start = packet.len();
        let headers = start + transport.len();
        packet.extend(transport);
        packet.extend((0..payload).map(|i| u8::try_from(i % 251).expect("a byte")));
        if !v6 {
            let sum = Sum::of(&packet[..20]).finish().to_be_bytes();
            packet[10..12].copy_from_slice(&sum);
        }
        let header = Header {
            flags: virtio::NEEDS_CSUM,
            gso_type: match (tcp, v6) {
                (true, false) => virtio::GSO_TCPV4,
                (true, true) => virtio::GSO_TCPV6,
                (false, _) => virtio::GSO_UDP_L4,
            },
            hdr_len: u16::try_from(headers).expect("a short header"),
            gso_size: size,
            csum_start: u16::try_from(start).expect("a short header"),
            csum_offset: if tcp { 16 } else { 6 },
        };
        Self {
            name,
            header,
            packet,
        }
    }

    /// The same from another port. Neither checksum that is complete knows of ports.
    fn with_port(mut self, port: u8) -> Self {
        self.packet[usize::from(self.header.csum_start) + 1] = port;
        self
    }

    fn segments(&self) -> Vec<Vec<u8>> {
        let plan = segment::plan(&self.header, &self.packet).expect("a plan");
        let mut out = vec![0; plan.bytes(0..plan.count)];
        plan.write(&self.packet, 0..plan.count, &mut out);
        out.chunks(plan.size).map(<[u8]>::to_vec).collect()
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a length").to_be_bytes()
}

/// An address of the peer of that number.
fn inner_v4(peer: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0005 + (peer << 8))
}

fn inner_v6(peer: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits((0xfd10_u128 << 112) + (u128::from(peer) << 64) + 5)
}

fn table() -> Table {
    let v4 = |peer| {
        (
            IpNetwork::new(inner_v4(peer).into(), 24).expect("a subnet"),
            peer,
        )
    };
    let v6 = |peer| {
        (
            IpNetwork::new(inner_v6(peer).into(), 64).expect("a subnet"),
            peer,
        )
    };
    let outer = |peer| (IpAddr::from(Ipv4Addr::from_bits(0xc0a8_0000 + peer)), peer);
    Table::new(Parts {
        subnets: &(0..PEERS)
            .flat_map(|peer| [v4(peer), v6(peer)])
            .collect::<Vec<_>>(),
        addresses: &(0..PEERS).map(outer).collect::<Vec<_>>(),
        own: &[v4(18).0, v6(18).0],
    })
}

/// A group whose elements are packets, which have `bytes` in all.
fn per_packet<'a>(
    c: &'a mut Criterion,
    name: &str,
    packets: usize,
    bytes: usize,
) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::ElementsAndBytes {
        elements: 1,
        bytes: (bytes / packets) as u64,
    });
    group
}

/// Each time `work` deals with so many packets.
fn each_of<T>(b: &mut Bencher<'_>, packets: usize, mut work: impl FnMut() -> T) {
    let packets = u32::try_from(packets).expect("a few packets");
    b.iter_custom(|rounds| {
        let begun = Instant::now();
        for _ in 0..rounds {
            black_box(work());
        }
        begun.elapsed() / packets
    });
}

/// A superpacket from a TUN: parsed, its peer found, a hop counted, cut.
fn encapsulate(c: &mut Criterion) {
    let table = table();
    let mut out = vec![0; 128 * 1024];
    for Super {
        name,
        header,
        mut packet,
    } in Super::all()
    {
        let plan = segment::plan(&header, &packet).expect("a plan");
        let mut group = per_packet(c, "encapsulate", plan.count, plan.bytes(0..plan.count));
        group.bench_function(name, |b| {
            each_of(b, plan.count, || {
                let inner = Inner::parse(black_box(&packet)).expect("a packet");
                let peer = table.lookup(inner.dst).expect("a peer");
                if !hop::decrement(&mut packet) {
                    packet[if inner.is_v6() { 7 } else { 8 }] = 64;
                }
                let plan = segment::plan_parsed(&header, &inner, &packet).expect("a plan");
                (
                    peer,
                    inner.flow_hash(),
                    plan.write(&packet, 0..plan.count, &mut out),
                )
            });
        });
        group.finish();
    }
}

/// A batch of datagrams from a peer: parsed, their source and destination checked, a hop counted,
/// joined.
fn decapsulate(c: &mut Criterion) {
    let table = table();
    let mut coalescer = Coalescer::new(FLOWS, Accepts::ALL);
    let sender = table.sender(Ipv4Addr::from_bits(0xc0a8_0000 + 17).into());
    let sender = sender.expect("a peer's address");
    for one in Super::all() {
        let fresh = one.segments();
        let mut packets = fresh.clone();
        let bytes = packets.iter().map(Vec::len).sum();
        let mut group = per_packet(c, "decapsulate", packets.len(), bytes);
        group.bench_function(one.name, |b| {
            each_of(b, fresh.len(), || {
                let mut emitted = 0;
                for (packet, fresh) in packets.iter_mut().zip(&fresh) {
                    let inner = Inner::parse(packet).expect("a packet");
                    table.accept(sender, inner.src).expect("a peer");
                    assert!(table.is_own(inner.dst));
                    if !hop::decrement(packet) {
                        packet[..20].copy_from_slice(&fresh[..20]);
                    }
                    coalescer.push(&inner, packet, |_, bytes| emitted += emit(bytes));
                }
                coalescer.flush(|_, bytes| emitted += emit(bytes));
                assert_eq!(emitted, 1, "all are joined");
            });
        });
        group.finish();
    }
}

fn emit(packet: &[u8]) -> usize {
    black_box(packet);
    1
}

fn cut(c: &mut Criterion) {
    let mut out = vec![0; 128 * 1024];
    for one in Super::all() {
        let plan = segment::plan(&one.header, &one.packet).expect("a plan");
        let mut group = per_packet(c, "segment", plan.count, plan.bytes(0..plan.count));
        group.bench_function(one.name, |b| {
            each_of(b, plan.count, || {
                let plan = segment::plan(&one.header, black_box(&one.packet)).expect("a plan");
                plan.write(&one.packet, 0..plan.count, &mut out)
            });
        });
        group.finish();
    }
}

fn join(c: &mut Criterion) {
    for one in Super::all() {
        join_all(c, one.name, 1, &one.segments());
    }
    let flow = |port| {
        let [first, ..] = Super::all();
        first.with_port(port).segments()
    };
    let flows: Vec<_> = (0..16).map(flow).collect();
    let in_turn: Vec<_> = (0..46)
        .flat_map(|i| flows.iter().map(move |flow| flow[i].clone()))
        .collect();
    join_all(c, "TCP, IPv4, 1452 bytes, 16 flows in turn", 16, &in_turn);
}

fn join_all(c: &mut Criterion, name: &str, flows: usize, packets: &[Vec<u8>]) {
    let mut coalescer = Coalescer::new(FLOWS, Accepts::ALL);
    let parsed = |packet| Inner::parse(packet).expect("a packet");
    let inners: Vec<_> = packets.iter().map(|packet| parsed(packet)).collect();
    let bytes = packets.iter().map(Vec::len).sum();
    let mut group = per_packet(c, "coalesce", packets.len(), bytes);
    group.bench_function(name, |b| {
        each_of(b, packets.len(), || {
            let mut emitted = 0;
            for (inner, packet) in inners.iter().zip(packets) {
                coalescer.push(inner, packet, |_, bytes| emitted += emit(bytes));
            }
            coalescer.flush(|_, bytes| emitted += emit(bytes));
            assert_eq!(emitted, flows, "all are joined");
        });
    });
    group.finish();
}

fn checksum(c: &mut Criterion) {
    let bytes: Vec<u8> = (0..65_536_u32).map(|i| i.to_be_bytes()[3]).collect();
    for length in [20, 64, 1400, 65_536] {
        let mut group = per_packet(c, "checksum", 1, length);
        group.bench_function(format!("{length} bytes"), |b| {
            b.iter(|| Sum::of(black_box(&bytes[..length])).finish());
        });
        group.finish();
    }
}

/// Addresses in no order, each look-up beginning only when the one before has ended.
fn lookup(c: &mut Criterion) {
    let table = table();
    let scattered = |i: u32| i.wrapping_mul(2_654_435_761) % PEERS;
    let v4: Vec<IpAddr> = (0..4096).map(|i| inner_v4(scattered(i)).into()).collect();
    let v6: Vec<IpAddr> = (0..4096).map(|i| inner_v6(scattered(i)).into()).collect();
    for (name, addresses) in [("IPv4, 5000 peers", v4), ("IPv6, 5000 peers", v6)] {
        let mut group = per_packet(c, "look up", 1, 1472);
        let mut next = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                let peer = table.lookup(addresses[next & 4095]).expect("a peer");
                next = next.wrapping_add(1 + (peer as usize >> 31));
                peer
            });
        });
        group.finish();
    }
}

criterion_group!(
    benches,
    encapsulate,
    decapsulate,
    cut,
    join,
    checksum,
    lookup
);
criterion_main!(benches);
