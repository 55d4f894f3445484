//! What the packet path has counted, for programs and for people.

use serde_json::{Map, Value, json};
use weft_dataplane::stats::{Direction, PeerStats};
use weft_dataplane::{Drop, Notice, Stats};

/// Summed by name: what is malformed in different ways is one thing to an operator.
pub(crate) fn drops(direction: &Direction) -> Vec<(&'static str, u64)> {
    let mut drops: Vec<(&str, u64)> = Vec::new();
    for why in Drop::all() {
        let (name, count) = (why.name(), direction.dropped(why));
        match drops.last_mut() {
            Some((last, sum)) if *last == name => *sum += count,
            _ => drops.push((name, count)),
        }
    }
    drops
}

/// How many system calls moved so many packets: 1, 2 to 3, 4 to 7 ...
pub(crate) fn batches(direction: &Direction) -> impl Iterator<Item = (u32, u64)> + '_ {
    let counts = direction.batches.iter().enumerate();
    counts.map(|(magnitude, count)| (1 << magnitude, *count))
}

/// Those that packets went to or came from.
pub(crate) fn heard_of(stats: &Stats) -> impl Iterator<Item = &PeerStats> {
    let silent = |peer: &&PeerStats| peer.sent_packets == 0 && peer.received_packets == 0;
    stats.peers.iter().filter(move |peer| !silent(peer))
}

/// What it does without. That the device was deleted is over when it runs.
pub(crate) fn missing(stats: &Stats) -> impl Iterator<Item = Notice> + '_ {
    let notices = stats.notices.iter().copied();
    notices.filter(|notice| *notice != Notice::DeviceGone)
}

pub(super) fn to_json(stats: &Stats) -> Value {
    let peers = heard_of(stats).map(|peer| {
        json!({
            "address": peer.address,
            "sent_packets": peer.sent_packets,
            "sent_bytes": peer.sent_bytes,
            "received_packets": peer.received_packets,
            "received_bytes": peer.received_bytes,
        })
    });
    let missing =
        missing(stats).map(|notice| json!({"name": notice.name(), "what": notice.to_string()}));
    json!({
        "sent": direction(&stats.sent),
        "received": direction(&stats.received),
        "unheard": stats.unheard,
        "peers": peers.collect::<Vec<_>>(),
        "missing": missing.collect::<Vec<_>>(),
    })
}

fn direction(direction: &Direction) -> Value {
    let named = |(name, count): (&str, u64)| (name.to_owned(), count.into());
    let sized = |(size, count): (u32, u64)| (size.to_string(), count.into());
    json!({
        "packets": direction.packets,
        "bytes": direction.bytes,
        "icmp_errors": direction.answers,
        "calls_by_packets": batches(direction).map(sized).collect::<Map<_, Value>>(),
        "dropped": drops(direction).into_iter().map(named).collect::<Map<_, Value>>(),
    })
}

/// "1200 packets out, 900 in; dropped: 3 out (no_peer 3), 5 in (foreign_source 4, malformed 1), 7
/// strangers' unheard".
pub(super) fn to_line(stats: &Stats) -> String {
    let (sent, received) = (&stats.sent, &stats.received);
    let dropped = |direction: &Direction| {
        let drops = drops(direction).into_iter().filter(|(_, count)| *count > 0);
        let each: Vec<String> = drops
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        if each.is_empty() {
            "none".to_owned()
        } else {
            each.join(", ")
        }
    };
    format!(
        "{} packets sent, {} received; dropped going out: {}; coming in: {}; kept out by the \
         kernel: {}",
        sent.packets,
        received.packets,
        dropped(sent),
        dropped(received),
        stats.unheard
    )
}
