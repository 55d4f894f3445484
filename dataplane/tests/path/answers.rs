//! What a router owes the sender of a packet that it does not forward.

use weft_dataplane::stats::Direction;
use weft_dataplane::{Drop, Rungs};
use weft_netns::{Cmd, Need, in_world, skip_unless, wait_until};

use crate::cluster::{Cluster, LIMIT, Node, Outer, transfer};

/// What `ping` says, whether or not it was answered.
fn ping(node: &Node, words: &str) -> String {
    let line = format!("ping -n -c 1 -W 5 {words} || true");
    let done = Cmd::shell(&line).inside(&node.pod).run();
    format!("{}{}", done.stdout, done.stderr)
}

/// An answer may be faster than the count of what it is about.
fn counted(condition: impl FnMut() -> bool) {
    wait_until("the drops are counted", LIMIT, condition);
}

fn with_ping(test: impl FnOnce(&Cluster)) {
    if skip_unless(&[Need::Tool("ping")]) {
        in_world(|world| test(&Cluster::new(world)));
    }
}

#[test]
fn both_ends_count_as_hops() {
    with_ping(|cluster| {
        let _engines = cluster.start(Outer::V4, Rungs::FAST, Rungs::FAST);
        // 64, less two nodes that forward and two ends of the tunnel.
        assert!(ping(&cluster.a, "10.1.2.2").contains("ttl=60"));
        assert!(ping(&cluster.a, "fd10:0:0:2::2").contains("ttl=60"));
    });
}

#[test]
fn a_last_hop_is_told_of_by_whichever_end_it_was() {
    with_ping(|cluster| {
        let [near, far] = cluster.start(Outer::V4, Rungs::FAST, Rungs::FAST);
        for (ttl, v4, v6) in [
            (2, "From 10.1.1.0", "From fd10:0:0:1::"),
            (3, "From 10.1.2.0", "From fd10:0:0:2::"),
        ] {
            let said = ping(&cluster.a, &format!("-t {ttl} 10.1.2.2"));
            assert!(
                said.contains(v4) && said.contains("Time to live exceeded"),
                "{said}"
            );
            let said = ping(&cluster.a, &format!("-t {ttl} fd10:0:0:2::2"));
            assert!(said.contains(v6) && said.contains("Hop limit"), "{said}");
        }
        let two = |of: Direction| (of.dropped(Drop::Expired), of.answers) == (2, 2);
        counted(|| two(near.stats().sent));
        counted(|| two(far.stats().received));
    });
}

#[test]
fn a_destination_that_no_peer_has_is_unreachable() {
    with_ping(|cluster| {
        let [near, _far] = cluster.start(Outer::V4, Rungs::FAST, Rungs::FAST);
        let said = ping(&cluster.a, "10.1.77.7");
        assert!(
            said.contains("From 10.1.1.0") && said.contains("Net Unreachable"),
            "{said}"
        );
        let said = ping(&cluster.a, "fd10:0:0:77::7");
        assert!(
            said.contains("From fd10:0:0:1::") && said.contains("No route"),
            "{said}"
        );
        counted(|| near.stats().sent.dropped(Drop::NoPeer) >= 2);
    });
}

#[test]
fn a_way_narrower_than_the_device_is_told_of_and_still_carries() {
    with_ping(|cluster| {
        for node in [&cluster.a, &cluster.b] {
            node.netns.exec("ip link set wire mtu 1400");
        }
        let [near, _far] = cluster.start(Outer::V4, Rungs::FAST, Rungs::FAST);
        let said = ping(&cluster.a, "-M do -s 1400 10.1.2.2");
        assert!(
            said.contains("From 10.1.1.0") && said.contains("mtu = 1372"),
            "{said}"
        );
        counted(|| near.stats().sent.dropped(Drop::TooBig) >= 1);
        // What may be fragmented is: by the kernel, on the outside.
        let said = ping(&cluster.a, "-M dont -s 1400 10.1.2.2");
        assert!(said.contains("1 received"), "{said}");
        transfer(&cluster.a, &cluster.b, cluster.b.pod_v4(), 1 << 20);
        transfer(&cluster.a, &cluster.b, cluster.b.pod_v6(), 1 << 20);
    });
}

#[test]
fn answers_are_rationed() {
    with_ping(|cluster| {
        let [near, _far] = cluster.start(Outer::V4, Rungs::FAST, Rungs::FAST);
        let socket = cluster.a.socket(cluster.a.pod_v4());
        for _ in 0..2_000 {
            let _ = socket.send_to(&[0; 8], "10.1.77.7:9");
        }
        wait_until("many are counted", LIMIT, || {
            // The kernel may have dropped what the device's queue had no room for.
            near.stats().sent.dropped(Drop::NoPeer) > 400
        });
        let stats = near.stats().sent;
        assert!(stats.answers < stats.dropped(Drop::NoPeer) / 2, "{stats:?}");
    });
}
