//! Leases that arrive while the daemon runs: at once, and one after the other.
use std::time::{Duration, Instant};

use weft_benches::report::{Bound, Report, Unit};

use super::converge::serial_program;
use crate::Bench;
use crate::field::{Field, Node, ms_between};
use crate::listener::Listener;
use crate::store::{Peer, Store};
use crate::weftd::{Leases, Weftd};

pub(super) const NAME: &str = "live";

const ARRIVING: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(60);
const WAYS: [(&str, Write); 2] = [
    ("in transactions of 128", |store, prefix| {
        store.add(prefix, 0..ARRIVING);
    }),
    ("one by one", |store, prefix| {
        (0..ARRIVING).for_each(|number| store.change(prefix, Peer(number), 0));
    }),
];

type Write = fn(&mut Store, &str);

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let field = bench.field();
    for round in 0..bench.rounds(9) {
        for (title, write) in WAYS {
            let took = weft(field, write);
            report.sample(NAME, title, "weft", Unit::Milliseconds, took);
            if round < 3 {
                let took = serial(field, write);
                report.sample(NAME, title, "serial", Unit::Milliseconds, took);
            }
        }
    }
    for (title, _) in WAYS {
        let took = report.median(NAME, title, "weft");
        report.judge(NAME, &format!("{title}, ms"), took, Bound::AtMost(150.0));
    }
}

fn weft(field: &Field<'_>, write: Write) -> f64 {
    let (node, leases, mut store, prefix) = begin(field);
    let weftd = Weftd::start(&node, &leases);
    weftd.until_serving(&node);
    let took = arrive(&node, || write(&mut store, &prefix));
    weftd.assert_alive();
    took
}

fn serial(field: &Field<'_>, write: Write) -> f64 {
    let (node, leases, mut store, prefix) = begin(field);
    let _running = serial_program(&node, &leases).spawn();
    weft_netns::wait_until("the serial program has its device", PATIENCE, || {
        node.device_address().is_some()
    });
    // What it does between that and watching nothing tells of.
    std::thread::sleep(Duration::from_millis(100));
    arrive(&node, || write(&mut store, &prefix))
}

fn begin(field: &Field<'_>) -> (Node, Leases, Store, String) {
    let (node, prefix, mut store) = (field.node(), field.prefix(), field.store());
    store.found(&prefix, 0..0);
    let leases = Leases::Etcd {
        endpoint: field.endpoint(),
        prefix: prefix.clone(),
    };
    (node, leases, store, prefix)
}

/// Milliseconds from when all is written.
fn arrive(node: &Node, write: impl FnOnce()) -> f64 {
    let mut listener = Listener::open(&node.netns);
    std::thread::scope(|scope| {
        let hearing = scope.spawn(|| {
            let all = |heard: &crate::listener::Heard| heard.all_of(ARRIVING as usize);
            listener.until(PATIENCE, all)
        });
        write();
        let written = Instant::now();
        let all = hearing.join().expect("the listening thread ends");
        ms_between(written, all.expect("all entries are heard of"))
    })
}
