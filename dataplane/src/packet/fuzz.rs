//! What fuzzing feeds: everything that reads a packet of somebody else's, by name.
//!
//! The targets of cargo-fuzz call these, and so does a test with the corpus kept in the tree.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Sum;
use super::coalesce::{Accepts, Coalescer};
use super::inner::Inner;
use super::segment::{self, Plan};
use super::virtio::Header;
use super::{ICMPV6, TCP, UDP, ecn, field, hop, icmp as answers, put_u16, u16_at};

/// A reader, which must bear whatever it is given.
pub type Body = fn(&[u8]);

pub static TARGETS: &[(&str, Body)] = &[
    ("inner", inner),
    ("segment", segment),
    ("coalesce", coalesce),
    ("icmp", icmp),
];

/// Gives `data` to the reader of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, body) = target.expect("the name of a target");
    body(data);
}

/// A packet: what is read of it lies in it, and a hop less changes nothing else.
pub fn inner(packet: &[u8]) {
    let mut copy = packet.to_vec();
    let lives = hop::decrement(&mut copy);
    let Ok(inner) = Inner::parse(packet) else {
        return;
    };
    assert!(inner.transport <= inner.length && inner.length <= packet.len());
    assert_eq!(Inner::parse(&packet[..inner.length]), Ok(inner));
    assert_eq!(lives, inner.ttl > 1);
    let mut after = Inner::parse(&copy).expect("what parsed before");
    assert_eq!(after.flow_hash(), inner.flow_hash());
    after.ttl += u8::from(lives);
    assert_eq!(after, inner);
    assert_eq!(ecn::bring_in(&mut copy, 3), inner.ecn() != 0);
    let marked = Inner::parse(&copy).expect("what parsed before");
    assert_eq!(marked.tos, inner.tos | if inner.ecn() == 0 { 0 } else { 3 });
}

/// What a TUN hands out: a header and a packet, of which nothing gets lost.
pub fn segment(read: &[u8]) {
    let Some((header, packet)) = Header::split(read) else {
        return;
    };
    let Ok(plan) = segment::plan(&header, packet) else {
        return;
    };
    assert!(plan.count > 0 && plan.last_size <= plan.size);
    // A segment size of one byte makes tens of thousands of packets: the ends are enough.
    for range in [
        0..plan.count.min(66),
        plan.count.saturating_sub(66)..plan.count,
    ] {
        let mut out = vec![0; plan.bytes(range.clone())];
        assert_eq!(plan.write(packet, range, &mut out), out.len());
        for one in out.chunks(plan.size) {
            let inner = Inner::parse(one).expect("a finished packet");
            assert_eq!(inner.length, one.len());
            let whole = inner.fragment.is_none() && inner.plain && plan.count > 1;
            assert!(!whole || transport_sum(&inner, one).verifies());
            assert!(plan.count == 1 || inner.is_v6() || header_sum(&inner, one).verifies());
        }
    }
}

/// What came over the wire: a byte that sets the coalescer up, then packets, each with a byte that
/// says whether its checksums are to be made right, and its length in two.
pub fn coalesce(data: &[u8]) {
    let Some((set_up, mut rest)) = data.split_first() else {
        return;
    };
    let mut packets = Vec::new();
    while let Some(([repair, a, b], behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*a, *b])).min(behind.len());
        let mut packet = behind[..length].to_vec();
        if repair & 1 != 0 {
            make_right(&mut packet);
        }
        packets.push(packet);
        rest = &behind[length..];
    }
    packets.retain(|packet| Inner::parse(packet).is_ok());
    let accepts = match set_up & 8 {
        0 => Accepts::EXACT,
        _ => Accepts::ALL,
    };
    let mut coalescer = Coalescer::new(usize::from(set_up & 7), accepts);
    let mut out = Vec::new();
    for packet in &packets {
        let inner = Inner::parse(packet).expect("what was retained");
        coalescer.push(&inner, packet, |header, bytes| cut(header, bytes, &mut out));
    }
    coalescer.flush(|header, bytes| cut(header, bytes, &mut out));
    if accepts.any_id {
        out.iter_mut()
            .chain(&mut packets)
            .for_each(|packet| forget_id(packet));
    }
    // A sort that is stable shows both: nothing is lost or changed, and no flow is disordered.
    out.sort_by_key(|packet| flow(packet));
    packets.sort_by_key(|packet| flow(packet));
    assert_eq!(out, packets);
}

/// A packet that cannot be delivered: what is answered is a right answer that nobody answers.
pub fn icmp(packet: &[u8]) {
    let Ok(inner) = Inner::parse(packet) else {
        return;
    };
    let _ = answers::may_answer(&inner, packet);
    let source = match inner.is_v6() {
        true => IpAddr::V6(Ipv6Addr::LOCALHOST),
        false => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let mut out = [0; answers::LONGEST];
    for length in [
        answers::time_exceeded(packet, source, &mut out),
        answers::net_unreachable(packet, source, &mut out),
        answers::too_big(packet, source, 1400, &mut out),
    ] {
        let answer = Inner::parse(&out[..length]).expect("an answer");
        assert_eq!(
            (answer.src, answer.dst, answer.length),
            (source, inner.src, length)
        );
        assert!(!answers::may_answer(&answer, &out[..length]));
        let sum = match inner.is_v6() {
            true => transport_sum(&answer, &out[..length]),
            false => Sum::of(&out[answer.transport..length]),
        };
        assert!(sum.verifies());
        assert!(inner.is_v6() || header_sum(&answer, &out).verifies());
    }
}

fn cut(header: Header, packet: &[u8], out: &mut Vec<Vec<u8>>) {
    if header == Header::default() {
        out.push(packet.to_vec());
        return;
    }
    let plan: Plan = segment::plan(&header, packet).expect("a superpacket");
    let mut bytes = vec![0; plan.bytes(0..plan.count)];
    plan.write(packet, 0..plan.count, &mut bytes);
    out.extend(bytes.chunks(plan.size).map(<[u8]>::to_vec));
}

/// Blanks the id, and the checksum above it, of a datagram whose id does not matter.
fn forget_id(packet: &mut [u8]) {
    let Ok(inner) = Inner::parse(packet) else {
        return;
    };
    let atomic = inner.fragment.is_none() && !inner.may_fragment;
    if !inner.is_v6() && inner.protocol == UDP && atomic {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
}

fn flow(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, u32)> {
    let inner = Inner::parse(packet).ok()?;
    Some((inner.src, inner.dst, inner.protocol, inner.ports))
}

fn header_sum(inner: &Inner, packet: &[u8]) -> Sum {
    Sum::of(&packet[..inner.transport])
}

/// The transport's sum with its pseudo-header. Zero would be UDP's word for none, and needs none.
fn transport_sum(inner: &Inner, packet: &[u8]) -> Sum {
    let transport = &packet[inner.transport..inner.length];
    let pseudo = Sum::pseudo(inner.src, inner.dst, inner.protocol);
    pseudo + Sum::word(field(transport.len())) + Sum::of(transport)
}

/// Makes a packet's lengths and checksums what they should be, where there are any.
fn make_right(packet: &mut [u8]) {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => put_u16(packet, 2, field(packet.len())),
        Some(6) if packet.len() >= 40 => put_u16(packet, 4, field(packet.len() - 40)),
        _ => return,
    }
    let Ok(inner) = Inner::parse(packet) else {
        return;
    };
    if !inner.is_v6() {
        put_u16(packet, 10, 0);
        let sum = Sum::of(&packet[..inner.transport]).finish();
        put_u16(packet, 10, sum);
    }
    let at = match inner.protocol {
        TCP => inner.transport + 16,
        UDP => inner.transport + 6,
        ICMPV6 => inner.transport + 2,
        _ => return,
    };
    if at + 2 > inner.length {
        return;
    }
    put_u16(packet, at, 0);
    if inner.protocol == UDP && u16_at(packet, at - 2) != 0 {
        put_u16(packet, at - 2, field(inner.length - inner.transport));
    }
    let sum = transport_sum(&inner, packet);
    put_u16(
        packet,
        at,
        if inner.protocol == UDP {
            sum.finish_udp()
        } else {
            sum.finish()
        },
    );
}
