use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::packet::sample::{ACK, CWR, ECE, FIN, PSH, SYN, Sample, Transport, any_packet};
use crate::packet::sample::{segments, superpacket, text, timestamps};
use crate::packet::segment;

type Emitted = Vec<(Header, Vec<u8>)>;

fn coalesce_with(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Emitted {
    let mut emitted = Vec::new();
    for packet in packets {
        let inner = Inner::parse(packet).unwrap();
        coalescer.push(&inner, packet, |header, bytes| {
            emitted.push((header, bytes.to_vec()))
        });
    }
    coalescer.flush(|header, bytes| emitted.push((header, bytes.to_vec())));
    emitted
}

fn coalesce(packets: &[Vec<u8>]) -> Emitted {
    coalesce_with(&mut Coalescer::new(FLOWS, Accepts::EXACT), packets)
}

/// How many packets each emitted one stands for, after a look that together they are `packets`.
fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    let emitted = coalesce(packets);
    assert_eq!(segmented(&emitted).concat(), packets);
    segmented(&emitted).iter().map(Vec::len).collect()
}

fn segmented(emitted: &Emitted) -> Vec<Vec<Vec<u8>>> {
    let cut = |(header, packet): &(Header, Vec<u8>)| {
        if *header == Header::default() {
            return vec![packet.clone()];
        }
        let plan = segment::plan(header, packet).unwrap();
        let mut out = vec![0; plan.bytes(0..plan.count)];
        plan.write(packet, 0..plan.count, &mut out);
        out.chunks(plan.size).map(<[u8]>::to_vec).collect()
    };
    emitted.iter().map(cut).collect()
}

/// Three packets in a row, the second or third of which `change` makes differ.
fn row(first: &Sample, change: impl Fn(&mut Sample)) -> Vec<Vec<u8>> {
    let mut second = first.next(first.payload.len());
    change(&mut second);
    let third = second.next(first.payload.len());
    [first, &second, &third].map(Sample::bytes).to_vec()
}

#[test]
fn what_continues_is_joined() {
    for v6 in [false, true] {
        assert_eq!(counts(&row(&Sample::tcp(v6, 100), |_| ())), [3]);
        assert_eq!(counts(&row(&Sample::udp(v6, 100), |_| ())), [3]);
    }
}

#[test]
fn only_the_last_may_be_shorter() {
    for first in [Sample::tcp(false, 100), Sample::udp(true, 100)] {
        assert_eq!(
            counts(&row(&first, |second| second.payload.truncate(99))),
            [2, 1]
        );
        assert_eq!(
            counts(&row(&first, |second| second.payload.push(1))),
            [1, 2]
        );
        assert_eq!(
            counts(&row(&first, |second| second.payload.clear())),
            [1, 1, 1]
        );
    }
}

#[test]
fn psh_and_fin_end_a_superpacket() {
    for flags in [ACK | PSH, ACK | FIN, ACK | FIN | PSH] {
        let row = row(&Sample::tcp(false, 100), |second| {
            second.tcp_mut().flags = flags
        });
        // The third packet has the flags too.
        assert_eq!(counts(&row), [2, 1]);
    }
}

#[test]
fn what_differs_in_a_tcp_header_begins_anew() {
    let changes: [fn(&mut Sample); 6] = [
        |s| s.tcp_mut().acknowledged += 1,
        |s| s.tcp_mut().window += 1,
        |s| s.tcp_mut().sequence += 1,
        |s| s.tcp_mut().options = timestamps(2, 2),
        |s| s.tcp_mut().options = [timestamps(1, 2), vec![1; 4]].concat(),
        |s| s.tcp_mut().flags = ACK | ECE,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        for v6 in [false, true] {
            assert_eq!(counts(&row(&Sample::tcp(v6, 100), change)), [1, 2], "{i}");
        }
    }
}

#[test]
fn what_differs_in_an_ip_header_begins_anew() {
    let changes: [fn(&mut Sample); 3] = [|s| s.ttl -= 1, |s| s.tos += 4, |s| s.tos |= 3];
    for (i, change) in changes.into_iter().enumerate() {
        for v6 in [false, true] {
            assert_eq!(counts(&row(&Sample::tcp(v6, 100), change)), [1, 2], "{i}");
            assert_eq!(counts(&row(&Sample::udp(v6, 100), change)), [1, 2], "{i}");
        }
    }
    let v4: [fn(&mut Sample); 2] = [|s| s.id += 1, |s| s.dont_fragment = false];
    for (i, change) in v4.into_iter().enumerate() {
        assert_eq!(
            counts(&row(&Sample::udp(false, 100), change)),
            [1, 2],
            "{i}"
        );
    }
}

#[test]
fn ids_and_sequence_numbers_wrap() {
    let mut first = Sample::tcp(false, 100);
    first.id = 0xffff;
    first.tcp_mut().sequence = u32::MAX - 50;
    assert_eq!(counts(&row(&first, |_| ())), [3]);
}

#[test]
fn cwr_is_for_the_first_packet_alone() {
    let mut first = Sample::tcp(true, 100);
    first.tcp_mut().flags = ACK | CWR;
    let emitted = coalesce(&row(&first, |_| ()));
    assert_eq!(emitted.len(), 1);
    assert_eq!(emitted[0].0.gso_type, virtio::GSO_TCPV6 | virtio::GSO_ECN);
    let later = row(&Sample::tcp(true, 100), |second| {
        second.tcp_mut().flags = ACK | CWR
    });
    assert_eq!(counts(&later), [1, 2]);
}

#[test]
fn what_is_not_joined_is_not_overtaken_either() {
    let alone: [fn(&mut Sample); 5] = [
        |s| s.tcp_mut().flags = SYN | ACK,
        |s| s.tcp_mut().flags = 0,
        |s| s.tcp_mut().flags = ACK | 0x20,
        |s| s.fragment = Some((0, true)),
        |s| s.extra = vec![1; 8],
    ];
    for (i, change) in alone.into_iter().enumerate() {
        let first = Sample::tcp(false, 100);
        let (mut second, third) = (first.next(100), first.next(100));
        change(&mut second);
        let packets: Vec<_> = [&first, &second, &third, &third.next(100)]
            .map(Sample::bytes)
            .into();
        assert_eq!(counts(&packets), [1, 1, 2], "{i}");
    }
    let first = Sample::tcp(true, 100);
    let mut second = first.next(100);
    second.extra = vec![0, 0, 1, 4, 0, 0, 0, 0];
    let packets = [&first, &second, &second.next(100)].map(Sample::bytes);
    assert_eq!(counts(&packets), [1, 1, 1]);
}

#[test]
fn a_later_fragment_overtakes_nothing_between_its_addresses() {
    let (tcp, udp) = (Sample::tcp(false, 100), Sample::udp(false, 100));
    let mut other = Sample::udp(false, 100);
    other.host = 9;
    let mut fragment = Sample::udp(false, 100);
    fragment.fragment = Some((100, false));
    let packets = [&other, &tcp, &udp, &fragment].map(Sample::bytes);
    let emitted = coalesce(&packets);
    let order: Vec<_> = emitted.iter().map(|(_, bytes)| bytes.clone()).collect();
    let [other, tcp, udp, fragment] = packets;
    assert_eq!(order, [tcp, udp, fragment, other]);
}

#[test]
fn a_wrong_checksum_is_passed_on_untouched() {
    let (tcp, udp) = (Sample::tcp(false, 100), Sample::udp(false, 100));
    for (first, at) in [(&tcp, 11), (&tcp, 37), (&tcp, 150), (&udp, 27), (&udp, 127)] {
        let mut packets = row(first, |_| ());
        packets[1][at] ^= 0x10;
        assert_eq!(counts(&packets), [1, 1, 1], "{at}");
        assert!(
            coalesce(&packets)
                .iter()
                .all(|(header, _)| *header == Header::default())
        );
    }
}

#[test]
fn udp_without_a_checksum_is_left_without() {
    let mut packets = row(&Sample::udp(false, 100), |_| ());
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    assert_eq!(counts(&packets), [1, 1, 1]);
}

#[test]
fn trailing_bytes_and_wrong_udp_lengths_are_passed_on() {
    let mut packets = row(&Sample::udp(false, 100), |_| ());
    packets[0].push(0);
    assert_eq!(counts(&packets), [1, 2]);
    // A datagram shorter than its packet, and right in all checksums.
    let mut short = Sample::udp(true, 100).bytes();
    short[44..48].copy_from_slice(&[0, 100, 0, 0]);
    let sum = Sum::of(&short[8..40]) + Sum::word(17) + Sum::word(100) + Sum::of(&short[40..]);
    put_u16(&mut short, 46, sum.finish());
    assert_eq!(counts(&[short.clone(), short]), [1, 1]);
}

#[test]
fn a_superpacket_ends_where_its_length_field_does() {
    for v6 in [false, true] {
        let mut packets = vec![Sample::tcp(v6, 1400)];
        for i in 0..99 {
            packets.push(packets[i].next(1400));
        }
        let packets: Vec<_> = packets.iter().map(Sample::bytes).collect();
        // 46 * 1400 and its headers are below 65,535, and 47 * 1400 is above.
        assert_eq!(counts(&packets), [46, 46, 8]);
    }
}

#[test]
fn datagrams_are_joined_64_at_a_time() {
    let mut packets = vec![Sample::udp(false, 36)];
    for i in 0..99 {
        packets.push(packets[i].next(36));
    }
    let packets: Vec<_> = packets.iter().map(Sample::bytes).collect();
    assert_eq!(counts(&packets), [64, 36]);
}

#[test]
fn flows_in_turn_are_joined_each_as_many_as_are_held_open() {
    let flows: Vec<_> = (1..=4)
        .map(|host| Sample {
            host,
            ..Sample::tcp(false, 100)
        })
        .collect();
    let mut packets: Vec<_> = flows.iter().map(Sample::bytes).collect();
    packets.extend(flows.iter().map(|flow| flow.next(100).bytes()));
    assert_eq!(coalesce(&packets).len(), 4);
    let mut three = Coalescer::new(3, Accepts::EXACT);
    let emitted = coalesce_with(&mut three, &packets);
    assert_eq!(emitted.len(), 8, "each packet finds its flow evicted");
}

#[test]
fn the_ids_of_datagrams_that_are_never_fragmented_may_be_anything() {
    let joined = |change: fn(&mut Sample)| {
        let mut first = Sample::udp(false, 100);
        change(&mut first);
        let packets = row(&first, |second| second.id += 7);
        coalesce_with(&mut Coalescer::new(FLOWS, Accepts::ALL), &packets).len()
    };
    assert_eq!(joined(|_| ()), 1);
    assert_eq!(joined(|first| first.dont_fragment = false), 2);
    assert_eq!(
        joined(|first| first.transport = Sample::tcp(false, 1).transport),
        2
    );
}

#[test]
fn what_the_other_side_does_not_take_is_not_made() {
    let packets = row(&Sample::udp(false, 100), |_| ());
    for (accepts, count) in [(Accepts::NONE, 3), (Accepts::EXACT, 1)] {
        let emitted = coalesce_with(&mut Coalescer::new(4, accepts), &packets);
        assert_eq!(emitted.len(), count);
    }
}

#[test]
fn hops_may_be_counted_between_parsing_and_joining() {
    let mut packets = row(&Sample::tcp(false, 100), |_| ());
    let mut coalescer = Coalescer::new(1, Accepts::EXACT);
    let mut emitted = Vec::new();
    for packet in &mut packets {
        let inner = Inner::parse(packet).unwrap();
        assert!(crate::packet::hop::decrement(packet));
        coalescer.push(&inner, packet, |_, _| panic!("they continue one another"));
    }
    coalescer.flush(|header, bytes| emitted.push((header, bytes.to_vec())));
    assert_eq!(segmented(&emitted), [packets]);
}

/// What a flow does next.
#[derive(Debug, Clone)]
enum Step {
    GoesOn,
    Payload(usize),
    Flags(u8),
    Differs(u8),
    Damaged(usize),
    Trailed,
    Repeats,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => Just(Step::GoesOn),
        2 => (0_usize..300).prop_map(Step::Payload),
        1 => any::<u8>().prop_map(Step::Flags),
        2 => (0_u8..11).prop_map(Step::Differs),
        1 => (0_usize..200).prop_map(Step::Damaged),
        1 => Just(Step::Trailed),
        1 => Just(Step::Repeats),
    ]
}

fn flow(number: usize) -> Sample {
    let mut sample = match number % 2 {
        0 => Sample::tcp(number.is_multiple_of(4), 150),
        _ => Sample::udp(number % 4 == 1, 150),
    };
    sample.host = u8::try_from(number % 3).unwrap();
    let port = u16::try_from(3000 + number).unwrap();
    match &mut sample.transport {
        Transport::Tcp(tcp) => tcp.ports[0] = port,
        Transport::Udp { ports } => ports[0] = port,
        Transport::Icmp { .. } => (),
    }
    sample
}

fn take(state: &mut Sample, step: &Step) -> Vec<u8> {
    let mut sample = state.next(150);
    match *step {
        Step::Payload(length) => sample.payload = text(length, sample.id),
        Step::Repeats => sample = state.clone(),
        Step::Differs(how) => differ(&mut sample, how),
        Step::Flags(flags) => {
            if let Transport::Tcp(tcp) = &mut sample.transport {
                tcp.flags = flags;
            }
        }
        Step::GoesOn | Step::Damaged(_) | Step::Trailed => (),
    }
    let mut bytes = sample.bytes();
    match *step {
        // The fields that say how long everything is stay: what is no packet is not pushed.
        Step::Damaged(at) if at >= 48 && at < bytes.len() => bytes[at] ^= 4,
        Step::Trailed => bytes.push(0),
        _ => (),
    }
    // What made this packet special is not the next one's.
    (sample.fragment, sample.extra) = (None, Vec::new());
    if let Transport::Tcp(tcp) = &mut sample.transport {
        tcp.flags = ACK;
    }
    *state = sample;
    bytes
}

fn differ(sample: &mut Sample, how: u8) {
    match (how, &mut sample.transport) {
        (0, _) => sample.ttl ^= 1,
        (1, _) => sample.tos ^= 3,
        (2, _) => sample.id = sample.id.wrapping_add(1),
        (3, _) => sample.dont_fragment ^= true,
        (4, _) if !sample.v6 => sample.fragment = Some((3, true)),
        (5, _) if !sample.v6 => sample.extra = vec![1; 4],
        (5, _) => sample.extra = vec![0, 0, 1, 4, 0, 0, 0, 0],
        (6, Transport::Tcp(tcp)) => tcp.acknowledged += 1,
        (7, Transport::Tcp(tcp)) => tcp.window += 1,
        (8, Transport::Tcp(tcp)) => tcp.options = timestamps(tcp.sequence, 9),
        (9, Transport::Tcp(tcp)) => tcp.urgent ^= 1,
        (10, Transport::Tcp(tcp)) => tcp.sequence = tcp.sequence.wrapping_sub(300),
        _ => (),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn joining_undoes_cutting(whole in any_packet(200_usize..9000), size in 100_u16..3000) {
        let count = whole.payload.len().div_ceil(size.into());
        prop_assume!((2..=64).contains(&count));
        let packets = segments(&whole, size.into());
        prop_assert_eq!(coalesce(&packets), [superpacket(&whole, size)]);
    }

    #[test]
    fn cutting_undoes_joining_and_no_flow_is_disordered(
        steps in prop::collection::vec((0_usize..7, step()), 1..200), held in 1_usize..8,
    ) {
        let mut flows: Vec<_> = (0..7).map(flow).collect();
        let mut flow_of = HashMap::new();
        let mut packets = Vec::new();
        for (number, step) in &steps {
            let packet = take(&mut flows[*number], step);
            flow_of.insert(packet.clone(), *number);
            packets.push(packet);
        }
        let mut coalescer = Coalescer::new(held, Accepts::EXACT);
        let emitted = coalesce_with(&mut coalescer, &packets);
        let out = segmented(&emitted).concat();
        prop_assert_eq!(out.len(), packets.len());
        for number in 0..7 {
            let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                all.iter().filter(|p| flow_of.get(*p) == Some(&number)).cloned().collect()
            };
            prop_assert_eq!(of(&out), of(&packets));
        }
    }
}
