//! What a path costs that nobody uses: wake-ups, and what it keeps in memory after it was used.
use std::time::Duration;

use weft_netns::World;

use super::udp::float;
use super::{Contestant, Family, Setting, Site, Wire, stream};
use crate::report::{Bound, Report, Unit};

/// Neighbours and multicast groups are announced in a link's first seconds.
const SETTLING: Duration = Duration::from_secs(3);
/// Of the packet path, with one pair of queues, in KiB.
const MEMORY: f64 = 8192.0;

pub(super) fn row(
    world: &World,
    row: &'static str,
    contestants: &[Contestant],
    time: Duration,
    report: &mut Report,
) {
    let setting = Setting {
        wire: Wire::Virtual,
        inner: Family::V4,
        outer: Family::V4,
    };
    for contestant in contestants {
        let who = contestant.name();
        let site = Site::build(world, &format!("idle-{who}"), *contestant, setting);
        let Some(daemon) = site.daemons.last() else {
            continue;
        };
        stream(&site, 4, 1);
        std::thread::sleep(SETTLING);
        let before = daemon.wake_ups();
        std::thread::sleep(time);
        let wake_ups = float(daemon.wake_ups() - before) / time.as_secs_f64();
        let memory = float(daemon.own_memory_kib());
        report.sample(row, "wake-ups", who, Unit::PerSecond, wake_ups);
        report.sample(row, "memory of its own", who, Unit::Kib, memory);
        if *contestant == Contestant::Ours("fast") {
            report.judge(row, "wake-ups a second, fast", wake_ups, Bound::AtMost(0.0));
            report.judge(row, "memory of fast, KiB", memory, Bound::AtMost(MEMORY));
        }
    }
}
