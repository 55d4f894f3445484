//! The packet path of the udp backend.

use weft_dataplane::stats::Direction;
use weft_dataplane::{Notice, Stats};

use super::Page;
use crate::status::path::{batches, drops, heard_of, missing};

pub(super) fn packet_path(page: &mut Page, stats: &Stats) {
    directions(page, stats);
    peers(page, stats);
    page.counter(
        "weft_udp_unheard_datagrams_total",
        "Datagrams that the kernel kept from the sockets: strangers', or more than they hold.",
        stats.unheard,
    );
    let name = "weft_udp_degraded";
    page.family(name, "gauge", "What the packet path has to do without.");
    for notice in Notice::ALL {
        let is_so = missing(stats).any(|other| other == notice);
        if notice != Notice::DeviceGone {
            page.sample(name, &[("what", notice.name())], u8::from(is_so));
        }
    }
}

fn directions(page: &mut Page, stats: &Stats) {
    let both = [("sent", &stats.sent), ("received", &stats.received)];
    let mut each = |name: &str, help: &str, value: fn(&Direction) -> u64| {
        page.family(name, "counter", help);
        for (direction, counts) in both {
            page.sample(name, &[("direction", direction)], value(counts));
        }
    };
    each(
        "weft_udp_packets_total",
        "Pods' packets that went to peers and came from them.",
        |counts| counts.packets,
    );
    each("weft_udp_bytes_total", "Their bytes.", |counts| {
        counts.bytes
    });
    each(
        "weft_udp_icmp_errors_total",
        "ICMP errors that were sent because of them.",
        |counts| counts.answers,
    );
    let name = "weft_udp_dropped_packets_total";
    page.family(name, "counter", "Packets that went no further, by reason.");
    for (direction, counts) in both {
        for (reason, count) in drops(counts) {
            page.sample(name, &[("direction", direction), ("reason", reason)], count);
        }
    }
    let name = "weft_udp_calls_total";
    page.family(
        name,
        "counter",
        "System calls, by how many packets each moved at least.",
    );
    for (direction, counts) in both {
        for (packets, count) in batches(counts) {
            let packets = packets.to_string();
            let labels = [("direction", direction), ("packets", packets.as_str())];
            page.sample(name, &labels, count);
        }
    }
}

fn peers(page: &mut Page, stats: &Stats) {
    let peers: Vec<_> = heard_of(stats)
        .map(|peer| (peer.address.to_string(), peer))
        .collect();
    let mut each =
        |name: &str, help: &str, values: fn(&weft_dataplane::stats::PeerStats) -> [u64; 2]| {
            page.family(name, "counter", help);
            for (address, peer) in &peers {
                let [sent, received] = values(peer);
                for (direction, value) in [("sent", sent), ("received", received)] {
                    page.sample(name, &[("peer", address), ("direction", direction)], value);
                }
            }
        };
    each(
        "weft_udp_peer_packets_total",
        "Packets to and from a peer, if there were any.",
        |peer| [peer.sent_packets, peer.received_packets],
    );
    each("weft_udp_peer_bytes_total", "Their bytes.", |peer| {
        [peer.sent_bytes, peer.received_bytes]
    });
}
