use super::*;
use crate::packet::sample::{self, ACK, CWR, FIN, PSH, Sample, superpacket};
use proptest::prelude::*;

fn cut(header: &Header, packet: &[u8]) -> Vec<Vec<u8>> {
    let plan = plan(header, packet).unwrap();
    let mut out = vec![0xaa; plan.bytes(0..plan.count)];
    assert_eq!(plan.write(packet, 0..plan.count, &mut out), out.len());
    out.chunks(plan.size).map(<[u8]>::to_vec).collect()
}

#[test]
fn what_ends_a_flow_is_on_the_last_segment_and_cwr_on_the_first() {
    let mut whole = Sample::tcp(false, 250);
    whole.tcp_mut().flags = ACK | PSH | FIN | CWR;
    let (header, packet) = superpacket(&whole, 100);
    let flags: Vec<u8> = cut(&header, &packet).iter().map(|s| s[33]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | PSH | FIN]);
}

#[test]
fn a_plain_packet_passes_as_it_is_but_for_what_trails_it() {
    let packet = Sample::tcp(true, 10).bytes();
    let trailed = [&packet[..], &[1, 2, 3]].concat();
    for bytes in [&packet, &trailed] {
        assert_eq!(cut(&Header::default(), bytes).concat(), packet);
    }
}

#[test]
fn a_checksum_that_was_left_to_us_is_completed() {
    for whole in [
        Sample::tcp(false, 33),
        Sample::udp(true, 0),
        Sample::udp(false, 7),
    ] {
        let (header, packet) = superpacket(&whole, 1);
        let header = Header {
            gso_type: virtio::GSO_NONE,
            gso_size: 0,
            ..header
        };
        assert_eq!(cut(&header, &packet), [whole.bytes()]);
    }
}

#[test]
fn a_wrong_header_length_changes_nothing() {
    let whole = Sample::tcp(false, 3000);
    let (mut header, packet) = superpacket(&whole, 1448);
    for wrong in [0, 20, 54, 9000] {
        header.hdr_len = wrong;
        assert_eq!(cut(&header, &packet), sample::segments(&whole, 1448));
    }
}

#[test]
fn a_superpacket_of_one_segment_is_one_packet() {
    for (payload, size) in [(100, 100), (100, 101), (99, 65_535)] {
        let whole = Sample::tcp(true, payload);
        let (header, packet) = superpacket(&whole, size);
        assert_eq!(cut(&header, &packet), [whole.bytes()]);
    }
    let (header, packet) = superpacket(&Sample::udp(true, 0), 100);
    assert_eq!(cut(&header, &packet), [Sample::udp(true, 0).bytes()]);
}

#[test]
fn a_segmentation_that_does_not_fit_is_refused() {
    let (tcp, packet) = superpacket(&Sample::tcp(false, 300), 100);
    let of = |gso_type, gso_size| Header {
        gso_type,
        gso_size,
        ..tcp
    };
    let refused = |header, packet: &[u8], why| {
        assert_eq!(plan(&header, packet), Err(why));
    };
    refused(
        of(virtio::GSO_TCPV6, 100),
        &packet,
        Malformed::SegmentationMismatch,
    );
    refused(
        of(virtio::GSO_UDP_L4, 100),
        &packet,
        Malformed::SegmentationMismatch,
    );
    refused(
        of(virtio::GSO_UDP, 100),
        &packet,
        Malformed::SegmentationUnknown,
    );
    refused(of(0x21, 100), &packet, Malformed::SegmentationUnknown);
    refused(
        of(virtio::GSO_TCPV4, 0),
        &packet,
        Malformed::SegmentationSize,
    );
    let mut fragment = Sample::tcp(false, 300);
    fragment.fragment = Some((0, true));
    let fragment = fragment.bytes();
    refused(
        of(virtio::GSO_TCPV4, 100),
        &fragment,
        Malformed::SegmentationOfFragment,
    );
    let short = Sample::udp(false, 8).bytes();
    let mut short_tcp = short.clone();
    short_tcp[9] = TCP;
    refused(
        of(virtio::GSO_TCPV4, 100),
        &short_tcp,
        Malformed::TransportTruncated,
    );
    for (csum_start, csum_offset) in [(30, 5), (0, 10), (19, 1)] {
        let outside = Header {
            csum_start,
            csum_offset,
            ..of(virtio::GSO_NONE, 0)
        };
        refused(outside, &short, Malformed::ChecksumOutside);
    }
}

#[test]
fn nothing_is_written_where_there_is_no_room() {
    let (header, packet) = superpacket(&Sample::udp(false, 300), 100);
    let plan = plan(&header, &packet).unwrap();
    let mut out = [0; 383];
    assert_eq!(plan.bytes(0..3), 384);
    assert_eq!(plan.write(&packet, 0..3, &mut out), 0);
    assert_eq!(plan.write(&packet, 3..9, &mut out), 0);
    assert_eq!(plan.write(&packet[..300], 0..1, &mut out), 0);
    assert_eq!(plan.write(&packet, 1..9, &mut out), 256);
}

proptest! {
    #[test]
    fn segments_are_what_the_reference_builds(
        whole in sample::any_packet(1_usize..9000), size in 1_u16..3000,
    ) {
        let (header, packet) = superpacket(&whole, size);
        prop_assert_eq!(cut(&header, &packet), sample::segments(&whole, size.into()));
    }

    #[test]
    fn a_superpacket_may_be_written_piece_by_piece(
        whole in sample::any_packet(1_usize..9000), size in 300_u16..3000, at in 0_usize..30,
    ) {
        let (header, packet) = superpacket(&whole, size);
        let plan = plan(&header, &packet).unwrap();
        let at = at.min(plan.count);
        let mut out = vec![0; 20_000];
        let first = plan.write(&packet, 0..at, &mut out);
        let last = plan.write(&packet, at..plan.count, &mut out[first..]);
        out.truncate(first + last);
        prop_assert_eq!(out, sample::segments(&whole, size.into()).concat());
    }
}
