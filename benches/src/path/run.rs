//! A run: rows, one after the other; in each, all contestants in turn.
#![allow(clippy::print_stdout, reason = "what it prints is the result")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use weft_netns::{Kind as WorldKind, World};

pub use super::plan::Plan;
use super::plan::{self, Kind, Row};
use super::promises;
use super::step::{Extent, steps};
use super::tun::lacks_tun;
use super::{Contestant, Setting, Site, flood, idle, integrity, over_tcp, picture};
use crate::machine;
use crate::report::Report;
use crate::results::{self, Place, Record};

/// False if anything broke off, or a target was missed that should be met.
pub fn run(world: &World, plan: &Plan, real_time: bool) -> bool {
    let mut report = Report::default();
    if !real_time {
        report.note(
            "not at real-time priority, which was refused: whatever else runs on this machine \
             disturbs the contestants, so let nothing else run",
        );
    }
    if world.kind() == WorldKind::Rootless {
        report.note("without root: socket buffers are no larger than net.core.rmem_max");
    }
    let contestants = present(plan, &mut report);
    // An early answer is about ours.
    let ours = contestants
        .iter()
        .position(|it| matches!(it, Contestant::Ours(_)));
    let tried = match ours {
        Some(at) if plan.pace.quick => &contestants[at..=at],
        _ => &contestants[..],
    };
    // The relay needs a TUN device, whoever is tried.
    let tried = if lacks_tun().is_none() { tried } else { &[] };
    let (everybody, mut whole) = (contestants.len() == plan.contestants.len(), Vec::new());
    let mut broken = false;
    for row in &plan.rows {
        let started = Instant::now();
        report.rows.push((row.name, row.title));
        let done = match row.kind {
            Kind::SideBySide(setting) => Some(side_by_side(
                world,
                plan,
                &contestants,
                row,
                setting,
                &mut report,
            )),
            Kind::Idle | Kind::Integrity | Kind::Flood if tried.is_empty() => {
                report.note(format!("{} SKIPPED: nobody takes part", row.name));
                None
            }
            Kind::Idle => Some(guarded(&mut report, row.name, |report| {
                idle::row(world, row.name, tried, plan.pace.moment * 5, report);
            })),
            Kind::Integrity => Some(guarded(&mut report, row.name, |report| {
                integrity::row(world, row.name, tried, plan.pace.megabytes << 20, report);
            })),
            Kind::Flood => Some(guarded(&mut report, row.name, |report| {
                flood::row(world, row.name, tried, plan.pace.flood, report);
            })),
        };
        broken |= done == Some(false);
        whole.extend((done == Some(true)).then_some(row.name));
        eprintln!(
            "{:<10} {:>6.1} s",
            row.name,
            started.elapsed().as_secs_f64()
        );
    }
    println!("{}", report.table());
    let worth_keeping = plan.complete && everybody;
    keep(&report, if worth_keeping { &whole } else { &[] });
    !broken && (report.all_met() || !plan.strict)
}

/// Those that can take part. Of the others it is said why not.
fn present(plan: &Plan, report: &mut Report) -> Vec<Contestant> {
    let mut present = plan.contestants.clone();
    present.retain(|contestant| match contestant.lacks() {
        Some(lack) => {
            let skipped = format!("SKIPPED {}: lacks {lack}", contestant.name());
            eprintln!("{skipped}");
            report.note(skipped);
            false
        }
        None => true,
    });
    present
}

/// False if it broke off: then the report says so, and the run goes on.
fn guarded(report: &mut Report, what: &str, work: impl FnOnce(&mut Report)) -> bool {
    let done = catch_unwind(AssertUnwindSafe(|| work(report))).is_ok();
    if !done {
        report.note(format!("{what} broke off: see above"));
    }
    done
}

const WARM_UP: Duration = Duration::from_millis(200);
/// How many rounds are enough for a setting that nothing is promised for.
const SECONDARY: u16 = 2;

fn side_by_side(
    world: &World,
    plan: &Plan,
    contestants: &[Contestant],
    row: &Row,
    setting: Setting,
    report: &mut Report,
) -> bool {
    let mut whole = true;
    let mut sites = Vec::new();
    for contestant in contestants.iter().filter(|it| it.carries(setting)) {
        let what = format!("{}: {}", row.name, contestant.name());
        whole &= guarded(report, &what, |_| {
            let tag = format!("{}{}", contestant.name(), sites.len());
            let site = Site::build(world, &tag, *contestant, setting);
            // Neighbours, handshakes and paths' sizes are learnt before anything counts.
            over_tcp(&site, WARM_UP);
            sites.push(site);
        });
    }
    for (round, extent) in rounds(plan, setting).into_iter().enumerate() {
        for step in steps(&plan.measurements, extent) {
            // Both orders, in turn.
            if round % 2 == 1 {
                sites.reverse();
            }
            sites.retain(|site| {
                if extent == Extent::Streams && !promises::concern(site.contestant) {
                    return true;
                }
                let what = format!("{}: {}", row.name, site.contestant.name());
                let done = guarded(report, &what, |report| {
                    step.take(site, &plan.pace, row.name, report);
                    site.daemons.iter().for_each(|daemon| daemon.assert_alive());
                });
                whole &= done;
                done
            });
        }
    }
    for step in steps(&plan.measurements, Extent::Full) {
        promises::compare(report, row.name, &step.what());
    }
    promises::judge(report, plan, row.name, setting.wire);
    whole
}

/// What is measured in each round.
fn rounds(plan: &Plan, setting: Setting) -> Vec<Extent> {
    let pace = plan.pace;
    if !is_main(setting) {
        return vec![Extent::Promised; pace.rounds.min(SECONDARY).into()];
    }
    let mut rounds = vec![Extent::Promised; pace.rounds.into()];
    if let Some(first) = rounds.first_mut().filter(|_| !pace.quick) {
        *first = Extent::Full;
    }
    rounds.extend(vec![Extent::Streams; pace.extra_rounds.into()]);
    rounds
}

/// The setting that promises are made for. The others are there to see that they do not differ.
fn is_main(setting: Setting) -> bool {
    use super::{Family::V4, Wire::Unmerged};
    setting.inner == V4 && setting.outer == V4 && setting.wire != Unmerged
}

const PACKAGES: [(&str, &str); 2] = [("iperf3", "iperf3"), ("wireguard-go", "wireguard-go")];

/// Rows in full are put beside those of earlier runs, next to the code. Any other run's results
/// stay among what is built.
fn keep(report: &Report, whole: &[&'static str]) {
    let machine = machine::describe(&PACKAGES);
    if whole.is_empty() {
        let json = report.json(&machine);
        return results::keep(Place::Build, NAME, &json, &picture::svg(report));
    }
    let mut record = Record::read(Place::Code, NAME, &plan::rows());
    for row in whole {
        record.replace(row, report, &machine);
    }
    let record = record.sorted(&plan::rows());
    let svg = picture::svg(&record.report);
    results::keep(Place::Code, NAME, &record.json(), &svg);
}

const NAME: &str = "path";
