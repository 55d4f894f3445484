//! A pod on a node that has not run the plugins for a while: nothing of them is in memory.
use std::fs;

use nix::unistd::sync;

use crate::peer::{CniPeer, Pod};
use crate::report::{Bound, Report, Unit};
use crate::{Bench, ms};

pub(crate) const NAME: &str = "cold";

const ROUNDS: u16 = 9;
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    if fs::OpenOptions::new()
        .write(true)
        .open(DROP_CACHES)
        .is_err()
    {
        report.note("cold: only root may drop the page cache; not measured");
        return;
    }
    let weft = CniPeer::weft(&bench.world, "weft-cold");
    let go = CniPeer::go(&bench.world, "go-cold");
    let warm_up = 1;
    for number in 0..warm_up + bench.rounds(ROUNDS) {
        for peer in [&weft, &go] {
            let netns = bench.world.netns(&format!("cold-{}-{number}", peer.name));
            let mut pod = Pod::new(netns.name(), &netns, 8080);
            let cost = peer.node.enter(|| {
                drop_caches();
                let cost = peer.add(&mut pod);
                peer.del(&pod);
                cost
            });
            if number >= warm_up {
                report.sample(NAME, "ADD", peer.name, Unit::Milliseconds, ms(cost.wall));
            }
        }
    }
    let ratio = report.ratio(NAME, "ADD", "weft", "go");
    report.judge(
        NAME,
        "wall of the first ADD, over Go's",
        ratio,
        Bound::AtMost(0.25),
    );
}

fn drop_caches() {
    sync();
    fs::write(DROP_CACHES, "3").expect("drop the page cache");
}
