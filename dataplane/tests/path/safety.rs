//! Who may send what.

use std::net::UdpSocket;

use weft_dataplane::{Drop, Engine, Rungs};
use weft_netns::{in_world, wait_until};

use crate::cluster::{Cluster, LIMIT, Outer, PORT};

/// A UDP packet of 40 bytes from one inner address to another.
fn packet(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[..12].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0]);
    packet[12..16].copy_from_slice(&src);
    packet[16..20].copy_from_slice(&dst);
    packet
}

/// Node a's engine alone; node b sends what it likes from its addresses.
fn against_forgeries(test: impl FnOnce(&Cluster, &Engine, &UdpSocket)) {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let engine = cluster.a.start(Outer::V4, Rungs::FAST, &Default::default());
        let bind = || UdpSocket::bind("192.0.2.2:0");
        let forger = cluster.b.netns.enter(bind).unwrap();
        forger.connect(("192.0.2.1", PORT)).unwrap();
        test(&cluster, &engine, &forger);
    });
}

fn counted(engine: &Engine, why: Drop) {
    wait_until("the drop is counted", LIMIT, || {
        engine.stats().received.dropped(why) == 1
    });
}

const PEERS_POD: [u8; 4] = [10, 1, 2, 2];
const OUR_POD: [u8; 4] = [10, 1, 1, 2];

#[test]
fn a_stranger_is_not_heard() {
    against_forgeries(|cluster, engine, _| {
        cluster
            .b
            .netns
            .exec("ip address add 192.0.2.99/24 dev wire");
        let bind = || UdpSocket::bind("192.0.2.99:0");
        let stranger = cluster.b.netns.enter(bind).unwrap();
        stranger
            .send_to(&packet(PEERS_POD, OUR_POD), ("192.0.2.1", PORT))
            .unwrap();
        wait_until("the stranger is counted", LIMIT, || {
            engine.stats().unheard == 1
        });
        assert_eq!(engine.stats().received.packets, 0);
    });
}

#[test]
fn a_peer_speaks_for_its_own_pods_alone() {
    against_forgeries(|_, engine, forger| {
        forger.send(&packet([10, 1, 3, 2], OUR_POD)).unwrap();
        counted(engine, Drop::ForeignSource);
        forger.send(&packet(PEERS_POD, [10, 1, 3, 2])).unwrap();
        counted(engine, Drop::ForeignDestination);
        assert_eq!(engine.stats().received.packets, 0);
        forger.send(&packet(PEERS_POD, OUR_POD)).unwrap();
        wait_until("a right one passes", LIMIT, || {
            engine.stats().received.packets == 1
        });
    });
}

#[test]
fn what_is_no_packet_is_counted_and_nothing_else() {
    against_forgeries(|_, engine, forger| {
        let mut short = packet(PEERS_POD, OUR_POD);
        short[2..4].copy_from_slice(&400_u16.to_be_bytes());
        let garbage: [&[u8]; 6] = [&[], &[0x45], &[0xff; 100], &[0x60; 39], &short, &[0x46; 20]];
        for bytes in garbage {
            forger.send(bytes).unwrap();
        }
        let malformed = || {
            let drops = engine.stats().received;
            let malformed = drops
                .drops()
                .filter(|(why, _)| matches!(why, Drop::Malformed(_)));
            malformed.map(|(_, count)| count).sum::<u64>()
        };
        // An empty datagram has no packet in it.
        wait_until("all are counted", LIMIT, || malformed() == 5);
        assert!(engine.runs());
    });
}

#[test]
fn a_flood_under_a_peers_address_ends_at_the_socket() {
    against_forgeries(|cluster, engine, forger| {
        let foreign = packet(PEERS_POD, [10, 1, 3, 2]);
        wait_until("the kernel looks closer", LIMIT, || {
            (0..256).for_each(|_| drop(forger.send(&foreign)));
            engine.stats().unheard > 0
        });
        assert!(engine.stats().received.dropped(Drop::ForeignDestination) >= 1024);
        forger.send(&packet(PEERS_POD, OUR_POD)).unwrap();
        wait_until("a right one passes", LIMIT, || {
            engine.stats().received.packets == 1
        });
        // Who comes with a swap is heard at once.
        engine.swap(cluster.a.table(Outer::V4));
        forger.send(&packet(PEERS_POD, OUR_POD)).unwrap();
        wait_until("a right one passes", LIMIT, || {
            engine.stats().received.packets == 2
        });
    });
}
