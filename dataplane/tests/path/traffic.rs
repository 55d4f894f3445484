//! What packets are like when they come out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use weft_dataplane::{Notices, Rungs};
use weft_netns::{in_world, ping, wait_until, wait_until_answers};

use crate::cluster::{Cluster, LIMIT, Outer, PORT};

#[test]
fn fragments_and_options_pass() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let _engines = cluster.start(Outer::V4, Rungs::FAST, Rungs::FAST);
        let pod = &cluster.a.pod;
        pod.exec("ping -n -c 2 -W 5 -s 9000 10.1.2.2");
        pod.exec("ping -n -c 2 -W 5 -s 9000 fd10:0:0:2::2");
        let said = pod.exec("ping -n -c 1 -W 5 -R 10.1.2.2");
        assert!(said.contains("RR:"), "{said}");
    });
}

/// What leaves node a is caught by a socket in place of node b's engine.
#[test]
fn flows_leave_from_many_ports_and_each_from_one() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let _engine = cluster.a.start(Outer::V4, Rungs::FAST, &Notices::default());
        let catch = || UdpSocket::bind(("192.0.2.2", PORT));
        let catcher = cluster.b.netns.enter(catch).unwrap();
        catcher.set_read_timeout(Some(LIMIT)).unwrap();
        let pod = cluster.a.pod_v4();
        let sockets: Vec<_> = (0..64).map(|_| cluster.a.socket(pod)).collect();
        // A neighbour that is not known yet has room for few packets.
        cluster
            .a
            .netns
            .enter(|| wait_until_answers(cluster.b.underlay(Outer::V4)));
        let mut flows = BTreeMap::<[u8; 2], Vec<(u16, u8)>>::new();
        for number in 0..8_u8 {
            for socket in &sockets {
                socket.send_to(&[number], "10.1.2.2:9").unwrap();
            }
            for _ in &sockets {
                let mut buffer = [0; 2048];
                let (length, from) = catcher.recv_from(&mut buffer).unwrap();
                // A header of 20 bytes, then the flow's port; a UDP header of 8, then the number.
                assert_eq!(length, 29);
                let flow = flows.entry([buffer[20], buffer[21]]).or_default();
                flow.push((from.port(), buffer[28]));
            }
        }
        let ports: BTreeSet<u16> = flows.values().flatten().map(|(port, _)| *port).collect();
        assert!(ports.len() >= 16, "{} ports", ports.len());
        for packets in flows.values() {
            let port = packets[0].0;
            let expected: Vec<_> = (0..8).map(|number| (port, number)).collect();
            assert_eq!(*packets, expected);
        }
    });
}

#[test]
fn a_mark_on_the_underlay_reaches_a_flow_that_knows_marks() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let [_near, far] = cluster.start(Outer::V4, Rungs::FAST, Rungs::FAST);
        cluster.b.netns.exec(
            "nft 'add table ip wire; add chain ip wire in { type filter hook prerouting priority -300; }
             add rule ip wire in udp dport 8285 ip ecn set ce'",
        );
        cluster.b.pod.exec(
            "nft 'add table ip pod; add counter ip pod marked
             add chain ip pod in { type filter hook input priority 0; }
             add rule ip pod in ip ecn ce counter name marked'",
        );
        cluster.a.pod.exec("ping -n -c 3 -i 0.2 -W 5 -Q 2 10.1.2.2");
        let said = cluster.b.pod.exec("nft list counter ip pod marked");
        assert!(said.contains("packets 3"), "{said}");
        // A flow that does not know marks loses the packet, as it would to a drop.
        let pinged = cluster
            .a
            .pod
            .enter(|| ping(cluster.b.pod_v4(), Duration::from_millis(200)));
        assert!(pinged.is_err());
        wait_until("the drop is counted", LIMIT, || {
            far.stats()
                .received
                .dropped(weft_dataplane::Drop::EcnViolation)
                == 1
        });
    });
}

#[test]
fn packets_and_bytes_are_counted_by_peer() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let [near, far] = cluster.start(Outer::V4, Rungs::FAST, Rungs::FAST);
        let before = (near.stats(), far.stats());
        let (from, to) = (
            cluster.a.socket(cluster.a.pod_v4()),
            cluster.b.socket(cluster.b.pod_v4()),
        );
        let to_address: SocketAddr = to.local_addr().unwrap();
        let mut buffer = [0; 2048];
        for _ in 0..100 {
            from.send_to(&[7; 172], to_address).unwrap();
            assert_eq!(to.recv(&mut buffer).unwrap(), 172);
        }
        let sent = near.stats().peers[0].sent_packets - before.0.peers[0].sent_packets;
        let bytes = near.stats().peers[0].sent_bytes - before.0.peers[0].sent_bytes;
        // A few more for neighbour discovery.
        assert!((100..110).contains(&sent) && (20_000..21_000).contains(&bytes));
        let received = far.stats().peers[0].received_packets - before.1.peers[0].received_packets;
        assert_eq!(received, sent);
        assert!(near.stats().sent.batches.iter().sum::<u64>() >= 1);
    });
}
