//! Every way down carries packets, and is told of once: what is left out on purpose, and what the
//! kernel at hand does not have (make test-vm brings one that is older).

use weft_dataplane::{Drop, Notice, Notices, Rungs};
use weft_netns::{in_rootless_world, in_world};

use crate::cluster::{Cluster, Outer, noted, transfer};

const FAST: Rungs = Rungs::FAST;
const MEGABYTES: usize = 1 << 20;

/// A rung against the fastest way and against itself, both ways and in both families.
fn carries(rungs: Rungs) {
    in_world(|world| {
        for (rungs_of_a, rungs_of_b) in [(rungs, FAST), (FAST, rungs), (rungs, rungs)] {
            let cluster = Cluster::new(world);
            let engines = cluster.start(Outer::V4, rungs_of_a, rungs_of_b);
            let (a, b) = (&cluster.a, &cluster.b);
            transfer(a, b, b.pod_v4(), 4 * MEGABYTES);
            transfer(b, a, a.pod_v4(), 4 * MEGABYTES);
            transfer(a, b, b.pod_v6(), 4 * MEGABYTES);
            for (engine, rungs) in engines.iter().zip([rungs_of_a, rungs_of_b]) {
                let stats = engine.stats();
                assert_eq!(stats.received.drops().collect::<Vec<_>>(), []);
                assert_eq!(stats.notices, lacking(rungs));
            }
        }
    });
}

/// What the kernel refuses of these.
fn lacking(rungs: Rungs) -> Vec<Notice> {
    let asks = rungs.vnet_header && rungs.tso && rungs.uso;
    let refuses = asks && kernel() < (6, 2);
    refuses.then_some(Notice::UsoRefused).into_iter().collect()
}

fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-', '+']).map_while(|n| n.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn the_fast_way_carries() {
    carries(FAST);
}

#[test]
fn without_udp_superpackets_it_carries() {
    carries(Rungs { uso: false, ..FAST });
}

#[test]
fn without_any_superpackets_it_carries() {
    carries(Rungs {
        tso: false,
        uso: false,
        ..FAST
    });
}

#[test]
fn without_virtio_headers_it_carries() {
    carries(Rungs {
        vnet_header: false,
        ..FAST
    });
}

#[test]
fn without_udp_segment_it_carries() {
    carries(Rungs { gso: false, ..FAST });
}

#[test]
fn without_udp_gro_it_carries() {
    carries(Rungs { gro: false, ..FAST });
}

#[test]
fn one_message_a_system_call_it_carries() {
    carries(Rungs {
        gso: false,
        send_many: false,
        receive_many: false,
        ..FAST
    });
}

#[test]
fn from_one_source_port_it_carries() {
    carries(Rungs {
        spread: false,
        ..FAST
    });
}

#[test]
fn with_ordinary_buffers_it_carries() {
    carries(Rungs {
        large_buffers: false,
        ..FAST
    });
}

#[test]
fn flannels_plain_way_carries() {
    carries(Rungs::PLAIN);
}

#[test]
fn over_ipv6_it_carries() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let _engines = cluster.start(Outer::V6, FAST, FAST);
        let (a, b) = (&cluster.a, &cluster.b);
        transfer(a, b, b.pod_v4(), 4 * MEGABYTES);
        transfer(b, a, a.pod_v6(), 4 * MEGABYTES);
    });
}

/// The buffers are as large as the system allows to everybody.
#[test]
fn without_roots_powers_it_carries_and_says_what_it_lacks() {
    in_rootless_world(|world| {
        let cluster = Cluster::new(world);
        let (a, b) = (&cluster.a, &cluster.b);
        let (notices, told) = noted();
        let _engine = a.start(Outer::V4, FAST, &notices);
        let _other = b.start(Outer::V4, FAST, &Notices::default());
        transfer(a, b, b.pod_v4(), 4 * MEGABYTES);
        transfer(b, a, a.pod_v6(), 4 * MEGABYTES);
        let told = told.lock().unwrap();
        let (first, rest) = told.split_at(lacking(FAST).len());
        assert_eq!(first, lacking(FAST));
        assert!(matches!(rest, [] | [Notice::BuffersSmall]), "{told:?}");
    });
}

/// Kernels before 6.11 answer EIO to UDP_SEGMENT when the device leaves checksums to them; later
/// ones do the work.
#[test]
fn a_device_without_checksum_offload_costs_no_more_than_udp_segment() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let (a, b) = (&cluster.a, &cluster.b);
        a.netns.exec("ethtool -K wire tx off");
        let (notices, told) = noted();
        let engine = a.start(Outer::V4, FAST, &notices);
        let _other = b.start(Outer::V4, FAST, &Notices::default());
        transfer(a, b, b.pod_v4(), 4 * MEGABYTES);
        transfer(a, b, b.pod_v4(), 4 * MEGABYTES);
        let mut refused = lacking(FAST);
        if kernel() < (6, 11) {
            refused.push(Notice::GsoRefused);
        }
        assert_eq!(*told.lock().unwrap(), refused);
        assert_eq!(engine.stats().sent.dropped(Drop::SendFailed), 0);
    });
}
