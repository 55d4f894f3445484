//! What the issue promises of the fast path, and whether it came true.
use super::Contestant::{self, Naive, Ours, Vxlan};
use super::Wire;
use super::plan::Plan;
use crate::report::Bound::{self, AtLeast, AtMost};
use crate::report::{Report, Unit};

const OURS: Contestant = Ours("fast");

struct Promise {
    what: &'static str,
    over: Contestant,
    on_virtual_wire: Bound,
    on_real_wire: Bound,
    /// What would be better still, on the one wire and on the other.
    aims: [&'static str; 2],
}

const PROMISES: [Promise; 6] = [
    Promise {
        what: "TCP 1 stream",
        over: Vxlan,
        on_virtual_wire: AtLeast(1.0),
        on_real_wire: AtLeast(1.3),
        aims: [""; 2],
    },
    Promise {
        what: "TCP 4 streams",
        over: Vxlan,
        on_virtual_wire: AtLeast(0.6),
        on_real_wire: AtLeast(1.1),
        aims: [" (aim: 0.75)", ""],
    },
    Promise {
        what: "TCP 1 stream",
        over: Naive,
        on_virtual_wire: AtLeast(9.0),
        on_real_wire: AtLeast(5.5),
        aims: [""; 2],
    },
    Promise {
        what: "64 B loss-free",
        over: Vxlan,
        on_virtual_wire: AtLeast(1.5),
        on_real_wire: AtLeast(1.3),
        aims: [" (aim: 2)", ""],
    },
    Promise {
        what: "64 B flooded",
        over: Vxlan,
        on_virtual_wire: AtLeast(2.5),
        on_real_wire: AtLeast(1.5),
        aims: [""; 2],
    },
    Promise {
        what: "round trip p50",
        over: Vxlan,
        on_virtual_wire: AtMost(2.3),
        on_real_wire: AtMost(2.3),
        aims: [" (aim: 1.3)"; 2],
    },
];

/// Whether something is promised of the contestant, or against it.
pub(super) fn concern(contestant: Contestant) -> bool {
    contestant == OURS || PROMISES.iter().any(|promise| promise.over == contestant)
}

/// Adds to a row's figures what they are against VXLAN's and against the naive loop's, round by
/// round: a machine that is at times faster is so for a whole round, so its median is the ratios'.
pub(super) fn compare(report: &mut Report, row: &'static str, what: &str) {
    for over in [Vxlan, Naive] {
        for (who, ratios) in report.ratios(row, what, over.name()) {
            for ratio in ratios {
                report.sample(row, &against(what, over), &who, Unit::Count, ratio);
            }
        }
    }
}

fn against(what: &str, over: Contestant) -> String {
    format!("{what} / {}", over.name())
}

/// Only what was to be measured is judged; what was not, though it should have been, is missed.
pub(super) fn judge(report: &mut Report, plan: &Plan, row: &'static str, wire: Wire) {
    if !["virtual", "real"].contains(&row) {
        return;
    }
    for promise in &PROMISES {
        let wanted = |contestant| plan.contestants.contains(&contestant);
        if !wanted(OURS) || !wanted(promise.over) || !plan.measures(promise.what) {
            continue;
        }
        let (what, over) = (promise.what, promise.over.name());
        let (bound, aim) = match wire {
            Wire::Virtual => (promise.on_virtual_wire, promise.aims[0]),
            Wire::Real | Wire::Unmerged | Wire::Routed => (promise.on_real_wire, promise.aims[1]),
        };
        let ratio = report.median(row, &against(what, promise.over), OURS.name());
        let claim = format!("{what}, fast over {over}{aim}");
        report.judge(row, &claim, ratio, bound);
    }
}
