//! What it holds in RAM, now and at its peak.
use std::time::Duration;

use weft_benches::report::{Bound, Report, Unit};

use crate::Bench;
use crate::field::Node;
use crate::listener::Listener;
use crate::weftd::{Leases, Weftd};

pub(super) const NAME: &str = "memory";

const PATIENCE: Duration = Duration::from_secs(60);
const SETTLED: Duration = Duration::from_secs(2);
const FEW: u32 = 3;
const MANY: u32 = 5000;

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    for _ in 0..bench.rounds(4) {
        for (peers, title) in [(FEW, "few peers"), (MANY, "5,000 peers")] {
            let (_node, weftd) = settled(bench, peers);
            for (what, name) in [("VmRSS:", "resident"), ("VmHWM:", "peak")] {
                let what = weftd.memory(what);
                let name = format!("{title}, {name}");
                report.sample(NAME, &name, "weft", Unit::Kib, what);
            }
        }
    }
    for (title, bound) in [
        ("few peers, resident", 8.0),
        ("5,000 peers, resident", 16.0),
        ("5,000 peers, peak", 16.0),
    ] {
        let megabytes = report.median(NAME, title, "weft") * 1024.0 / 1e6;
        report.judge(
            NAME,
            &format!("{title}, MB"),
            megabytes,
            Bound::AtMost(bound),
        );
    }
}

/// A weftd on a node of its own that has nothing left to do.
pub(super) fn settled(bench: &Bench<'_>, peers: u32) -> (Node, Weftd) {
    settled_in(bench, peers, &bench.field().prefix())
}

pub(super) fn settled_in(bench: &Bench<'_>, peers: u32, prefix: &str) -> (Node, Weftd) {
    let field = bench.field();
    field.store().found(prefix, 0..peers);
    let leases = Leases::Etcd {
        endpoint: field.endpoint(),
        prefix: prefix.to_owned(),
    };
    let node = field.node();
    let mut listener = Listener::open(&node.netns);
    let weftd = Weftd::start(&node, &leases);
    let all = listener.until(PATIENCE, |heard| heard.all_of(peers as usize));
    assert!(all.is_some(), "{}", weftd.running.said_so_far());
    weftd.until_serving(&node);
    std::thread::sleep(SETTLED);
    (node, weftd)
}
