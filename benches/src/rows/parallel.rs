//! A node that starts, and then stops, many pods at once.
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_netns::Watch;

use crate::peer::{CniPeer, Pod, reservations};
use crate::report::{Bound, Report, Unit};
use crate::{Bench, ms};

pub(crate) const NAME: &str = "parallel";

const PODS: usize = 200;
const QUICK_PODS: usize = 40;
const AT_A_TIME: usize = 32;

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let count = if bench.quick { QUICK_PODS } else { PODS };
    let weft = CniPeer::weft(&bench.world, "weft-busy");
    let go = CniPeer::go(&bench.world, "go-busy");
    for peer in [&weft, &go] {
        start_and_stop(bench, report, peer, count);
    }
    let throughput = report.ratio(NAME, "pods added and deleted", "weft", "go");
    report.judge(
        NAME,
        "throughput of ADD + DEL, over Go's",
        throughput,
        Bound::AtLeast(8.0),
    );
    for what in [
        "calls that failed",
        "addresses given twice",
        "duplicate rules",
        "left behind",
    ] {
        let ours = report.median(NAME, what, "weft");
        report.judge(NAME, what, ours, Bound::AtMost(0.0));
    }
}

fn start_and_stop(bench: &Bench, report: &mut Report, peer: &CniPeer, count: usize) {
    let namespaces = bench
        .world
        .many_netns(&format!("busy-{}", peer.name), count + 1);
    let pods: Vec<_> = namespaces
        .iter()
        .zip(9000..)
        .map(|(netns, port)| Mutex::new(Pod::new(netns.name(), netns, port)))
        .collect();
    let (first, pods) = pods.split_first().expect("at least one pod");
    let mut once = |what: &str, unit, value: f64| {
        report.sample(NAME, what, peer.name, unit, value);
    };
    peer.node.enter(|| {
        // What is shared is there before.
        with(first, |pod| peer.add(pod));
        with(first, |pod| peer.del(pod));
        let node = Watch::node();
        let before = node.take();

        let (added, failed) = for_all(pods, |pod| peer.add(pod));
        let addresses: BTreeSet<_> = pods
            .iter()
            .filter_map(|pod| with(pod, |pod| pod.address()))
            .collect();
        let full = node.take();
        let (deleted, failed_too) = for_all(pods, |pod| peer.del(pod));
        let left = before.difference(&node.take());

        once("ADD of all", Unit::Milliseconds, ms(added));
        once("DEL of all", Unit::Milliseconds, ms(deleted));
        let rate = number(count) / (added + deleted).as_secs_f64();
        once("pods added and deleted", Unit::PerSecond, rate);
        once(
            "calls that failed",
            Unit::Count,
            number(failed + failed_too),
        );
        let twice = count - failed - addresses.len();
        once("addresses given twice", Unit::Count, number(twice));
        once(
            "duplicate rules",
            Unit::Count,
            number(full.matching("(again: ").len()),
        );
        let files = reservations(&peer.data_dir).len();
        once("left behind", Unit::Count, number(left.came.len() + files));
    });
}

/// Runs `call` for every pod, and returns how long that took and how many calls failed.
fn for_all<T>(pods: &[Mutex<Pod>], call: impl Fn(&mut Pod) -> T + Sync) -> (Duration, usize) {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let worker = || {
        while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
            let called = std::panic::AssertUnwindSafe(|| with(pod, |pod| drop(call(pod))));
            if std::panic::catch_unwind(called).is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(worker);
        }
    });
    (started.elapsed(), failed.into_inner())
}

fn with<T>(pod: &Mutex<Pod>, work: impl FnOnce(&mut Pod) -> T) -> T {
    work(&mut pod.lock().unwrap_or_else(PoisonError::into_inner))
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
