//! What it does when nothing happens.
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use weft_benches::report::{Bound, Report, Unit};

use super::memory::settled;
use crate::Bench;
use crate::weftd::{self, Leases, Way, Weftd};

pub(super) const NAME: &str = "idle";

const MINUTE: Duration = Duration::from_secs(60);
/// In an early answer a quarter of it stands for the whole.
const QUARTER: u32 = 4;

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let daemons = [
        ("few peers", settled(bench, 3)),
        ("5,000 peers", settled(bench, 5000)),
    ];
    // What is done once, after a while, is no idle minute's.
    sleep(Duration::from_secs(3));
    let parts = if bench.quick { QUARTER } else { 1 };
    let before: Vec<_> = daemons.iter().map(|(_, (_, weftd))| weftd.cpu()).collect();
    sleep(MINUTE / parts);
    for ((title, (_, weftd)), before) in daemons.iter().zip(before) {
        let spent = weftd.cpu().saturating_sub(before) * parts;
        let what = format!("CPU of a minute, {title}");
        report.sample(
            NAME,
            &what,
            "weft",
            Unit::Milliseconds,
            spent.as_secs_f64() * 1e3,
        );
        let claim = format!("{what}, ms");
        report.judge(NAME, &claim, spent.as_secs_f64() * 1e3, Bound::AtMost(20.0));
    }
    let children = children(bench);
    report.judge(
        NAME,
        "child processes, from exec on",
        children,
        Bound::AtMost(0.0),
    );
}

/// Counted by strace.
fn children(bench: &Bench<'_>) -> f64 {
    let field = bench.field();
    let (node, prefix) = (field.node(), field.prefix());
    field.store().found(&prefix, 0..3);
    let leases = Leases::Etcd {
        endpoint: field.endpoint(),
        prefix,
    };
    let log = node.dir.join("strace");
    let calls = "execve,execveat,fork,vfork,clone,clone3";
    let weftd = Weftd::run(&weftd::command(
        &node,
        &leases,
        Way::Traced { calls, log: &log },
    ));
    weftd.until_serving(&node);
    sleep(Duration::from_secs(2));
    weftd.stop(Signal::SIGTERM);
    let log = fs::read_to_string(&log).expect("read what strace wrote");
    let made = log.lines().filter(|line| {
        line.contains("fork(") || (line.contains("clone") && !line.contains("CLONE_THREAD"))
    });
    f64::from(u32::try_from(made.count()).unwrap_or(u32::MAX))
}
