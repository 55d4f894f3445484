//! Whether pods are added as fast while the network changes.
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use weft_benches::report::{Bound, Report, Samples, Unit};
use weft_netns::{Attachment, Chain, Cni};

use super::memory::settled_in;
use crate::Bench;
use crate::field::Node;
use crate::store::{Peer, Store};
use crate::weftd;

pub(super) const NAME: &str = "pod-add";

const PEERS: u32 = 5000;
const CHANGE_EVERY: Duration = Duration::from_millis(20);
/// Peers at rest and peers that change take turns of so many pods.
const TURN: u32 = 10;
const TURNS: u16 = 40;

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let field = bench.field();
    let prefix = field.prefix();
    let (node, daemon) = settled_in(bench, PEERS, &prefix);
    let chain = chain(&node);
    let (churning, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut samples = [Samples::default(), Samples::default()];
    std::thread::scope(|scope| {
        let store = field.store();
        scope.spawn(|| churn(store, &prefix, &churning, &ended));
        // The first pods make the bridge and the tables.
        let mut pod = 0;
        let mut turn = |samples: &mut Samples| {
            for _ in 0..TURN {
                pod += 1;
                samples.push(add(bench, &node, &chain, pod));
            }
        };
        turn(&mut Samples::default());
        for _ in 0..bench.rounds(TURNS) {
            for (on, samples) in [false, true].into_iter().zip(&mut samples) {
                churning.store(on, Ordering::Relaxed);
                // What began before the turn ends outside of it.
                std::thread::sleep(CHANGE_EVERY * 3);
                turn(samples);
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    daemon.assert_alive();
    for (who, samples) in ["idle", "churn"].into_iter().zip(&samples) {
        for (what, q) in [("ADD, median", 0.5), ("ADD, p99", 0.99)] {
            report.sample(NAME, what, who, Unit::Milliseconds, samples.quantile(q));
        }
    }
    let ratio = report.ratio(NAME, "ADD, p99", "churn", "idle");
    report.judge(
        NAME,
        "p99 of ADD, over that with peers at rest",
        ratio,
        Bound::AtMost(1.5),
    );
}

fn chain(node: &Node) -> Chain {
    let flannel = json!({
        "type": "flannel",
        "subnetFile": weftd::subnet_file(node),
        "dataDir": node.dir.join("cni"),
        "delegate": {"hairpinMode": true, "isDefaultGateway": true},
    });
    let conflist = json!({"cniVersion": "1.0.0", "name": "cbr0", "plugins": [flannel]});
    Chain::new(&Cni::weft(), conflist)
}

/// Milliseconds of ADD.
fn add(bench: &Bench<'_>, node: &Node, chain: &Chain, number: u32) -> f64 {
    let name = format!("pod-{number}");
    let pod = bench.field().world.netns(&name);
    let who = Attachment::new(&name, &pod);
    node.netns.enter(|| {
        let begun = Instant::now();
        chain.add(&who).ok();
        let took = begun.elapsed();
        chain.del(&who).ok();
        took.as_secs_f64() * 1e3
    })
}

/// Fifty peers a second get another MAC address.
fn churn(mut store: Store, prefix: &str, churning: &AtomicBool, ended: &AtomicBool) {
    let mut number = 0_u32;
    while !ended.load(Ordering::Relaxed) {
        let next = Instant::now() + CHANGE_EVERY;
        if churning.load(Ordering::Relaxed) {
            number += 1;
            let turn = u8::try_from(number % 200 + 1).unwrap_or(1);
            store.change(prefix, Peer(number * 37 % PEERS), turn);
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}
