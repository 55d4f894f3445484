//! What lies on disk, and what a verb takes of memory.
use std::fs;

use weft_netns::{Cmd, Verb, trace};

use crate::Bench;
use crate::peer::{CniPeer, Pod};
use crate::report::{Bound, Report, Unit};

pub(crate) const NAME: &str = "size";

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let weft = CniPeer::weft(&bench.world, "weft-size");
    let go = CniPeer::go(&bench.world, "go-size");
    for peer in [&weft, &go] {
        let file = fs::metadata(peer.executable("bridge")).expect("the executable's size");
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        let size = file.len() as f64 / 1024.0;
        report.sample(NAME, "bridge on disk", peer.name, Unit::Kib, size);
        peer.node.enter(|| memory(bench, report, peer));
    }
    let mb = |report: &Report, what: &str| report.median(NAME, what, "weft") * 1024.0 / 1e6;
    let size = mb(report, "bridge on disk");
    report.judge(NAME, "the executable, MB", size, Bound::AtMost(2.5));
    for verb in ["ADD", "DEL"] {
        let peak = mb(report, &format!("{verb}, peak memory"));
        report.judge(
            NAME,
            &format!("peak memory of {verb}, MB"),
            peak,
            Bound::AtMost(4.0),
        );
    }
}

/// The largest resident set of any process of the chain, pages of the executable included.
fn memory(bench: &Bench, report: &mut Report, peer: &CniPeer) {
    let netns = bench.world.netns(&format!("{}-weighed", peer.name));
    let mut pod = Pod::new("weighed", &netns, 8080);
    let mut peak = 0;
    let mut weigh = |cmd: &Cmd| {
        let trace = trace(cmd);
        assert_eq!(trace.done.code(), Some(0), "{}", trace.done.stdout);
        peak = peak.max(trace.peak_memory_kib);
        (trace.done.stdout, peak)
    };
    let mut record = |verb: &str, kib: u64| {
        let kib = f64::from(u32::try_from(kib).unwrap_or(u32::MAX));
        report.sample(
            NAME,
            &format!("{verb}, peak memory"),
            peer.name,
            Unit::Kib,
            kib,
        );
    };
    for plugin in 0..peer.traceable(Verb::Add, &pod).len() {
        let (result, peak) = weigh(&peer.traceable(Verb::Add, &pod)[plugin]);
        pod.result = Some(serde_json::from_str(&result).expect("a result is JSON"));
        record("ADD", peak);
    }
    for cmd in peer.traceable(Verb::Del, &pod) {
        record("DEL", weigh(&cmd).1);
    }
}
