//! Drift made by programs that end at once: whether the log names the right one.
use std::time::Duration;

use weft_benches::report::{Bound, Report, Unit};
use weft_netns::wait_for;

use crate::Bench;
use crate::field::Node;
use crate::listener::Listener;
use crate::store::Peer;
use crate::tunnel::NAME as DEVICE;
use crate::weftd::{Leases, Weftd};

pub(super) const NAME: &str = "named";

const PEERS: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(60);
/// Each drift is one of its own.
const APART: Duration = Duration::from_millis(150);
/// What a repair's line in the log has.
const TOLD: &str = "deleted or changed by";
/// Of 200 drifts.
const KINDS: [(&str, &str, u32, Line); 5] = [
    ("route", "ip", 60, |peer| {
        format!("ip route del {} dev {DEVICE}", peer.subnet())
    }),
    ("ARP entry", "ip", 50, |peer| {
        format!("ip neigh del {} dev {DEVICE}", peer.gateway())
    }),
    ("FDB entry", "bridge", 50, |peer| {
        format!("bridge fdb del {} dev {DEVICE} self", peer.mac(0))
    }),
    ("device", "ip", 20, |_| format!("ip link del {DEVICE}")),
    ("ruleset", "nft", 20, |_| "nft flush ruleset".to_owned()),
];

type Line = fn(Peer) -> String;

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let field = bench.field();
    let prefix = field.prefix();
    field.store().found(&prefix, 0..PEERS);
    let leases = Leases::Etcd {
        endpoint: field.endpoint(),
        prefix,
    };
    let node = field.node();
    let mut listener = Listener::open(&node.netns);
    // Neither it nor the programs come before others: so it is on a real node.
    let weftd = Weftd::start_ordinary(&node, &leases);
    let all = listener.until(PATIENCE, |heard| heard.all_of(PEERS as usize));
    assert!(all.is_some(), "{}", weftd.running.said_so_far());
    weftd.until_serving(&node);

    let part = if bench.quick { 4 } else { 1 };
    let (mut right, mut injected) = (0, 0);
    let mut wrong = Vec::new();
    let mut number = 0;
    for (kind, program, count, line) in KINDS {
        let count = count / part;
        let mut of_kind = 0;
        for _ in 0..count {
            number += 1;
            std::thread::sleep(APART);
            let line = line(Peer(number * 3));
            let told = inject(&node, &weftd, &line);
            if told.contains(&format!("({program})")) {
                of_kind += 1;
            } else {
                wrong.push(format!("{line}: {told}"));
            }
        }
        let share = f64::from(of_kind) / f64::from(count) * 100.0;
        report.sample(NAME, kind, "weft", Unit::Percent, share);
        (right, injected) = (right + of_kind, injected + count);
    }
    // Some of each kind.
    for wrong in wrong.iter().step_by(wrong.len().div_ceil(10).max(1)) {
        report.note(format!("named wrongly: {wrong}"));
    }
    let share = f64::from(right) / f64::from(injected) * 100.0;
    let claim = format!("culprits named rightly, of {injected}, %");
    report.judge(NAME, &claim, share, Bound::AtLeast(95.0));
}

/// The first line that tells of the repair.
fn inject(node: &Node, weftd: &Weftd, line: &str) -> String {
    let before = weftd.running.said_so_far().len();
    let words = line.split(' ');
    node.command("chrt")
        .args(["-o", "0"])
        .args(words)
        .run()
        .ok();
    wait_for("the repair is told of", PATIENCE, || {
        let said = weftd.running.said_so_far();
        let told = said[before..].lines().find(|line| line.contains(TOLD));
        told.map(str::to_owned)
    })
}
