//! A run: rows, one after the other; in each, all contestants in turn.
#![allow(clippy::print_stdout, reason = "what it prints is the result")]
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weft_netns::{Kind as WorldKind, World};

pub use super::plan::Plan;
use super::plan::{Kind, Row};
use super::promises;
use super::step::steps;
use super::tun::lacks_tun;
use super::{Contestant, Setting, Site, flood, idle, integrity, over_tcp, picture};
use crate::machine;
use crate::report::Report;

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
    let mut whole = true;
    for row in &plan.rows {
        let started = Instant::now();
        report.rows.push((row.name, row.title));
        whole &= match row.kind {
            Kind::SideBySide(setting) => {
                side_by_side(world, plan, &contestants, row, setting, &mut report)
            }
            Kind::Idle | Kind::Integrity | Kind::Flood if tried.is_empty() => {
                report.note(format!("{} SKIPPED: nobody takes part", row.name));
                true
            }
            Kind::Idle => guarded(&mut report, row.name, |report| {
                idle::row(world, row.name, tried, plan.pace.moment * 2, report);
            }),
            Kind::Integrity => guarded(&mut report, row.name, |report| {
                integrity::row(world, row.name, tried, plan.pace.megabytes << 20, report);
            }),
            Kind::Flood => guarded(&mut report, row.name, |report| {
                flood::row(world, row.name, tried, plan.pace.flood, report);
            }),
        };
        eprintln!(
            "{:<10} {:>6.1} s",
            row.name,
            started.elapsed().as_secs_f64()
        );
    }
    println!("{}", report.table());
    keep(&report, plan.complete && whole);
    whole && (report.all_met() || !plan.strict)
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
    for round in 0..plan.pace.rounds {
        for step in steps(&plan.measurements, &plan.pace, is_main(setting)) {
            // Both orders, in turn.
            if round % 2 == 1 {
                sites.reverse();
            }
            sites.retain(|site| {
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
    for step in steps(&plan.measurements, &plan.pace, is_main(setting)) {
        promises::compare(report, row.name, &step.what());
    }
    promises::judge(report, plan, row.name, setting.wire);
    whole
}

/// The setting that promises are made for. The others are there to see that they do not differ.
fn is_main(setting: Setting) -> bool {
    use super::Family::V4;
    setting.inner == V4 && setting.outer == V4
}

const PACKAGES: [(&str, &str); 2] = [("iperf3", "iperf3"), ("wireguard-go", "wireguard-go")];

/// A complete run is worth keeping beside the code; any other stays among what is built.
fn keep(report: &Report, complete: bool) {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir: PathBuf = if complete {
        benches.join("results")
    } else {
        benches.with_file_name("target").join("bench-results")
    };
    fs::create_dir_all(&dir).expect("make the directory of results");
    let json = report.json(&machine::describe(&PACKAGES));
    let json = serde_json::to_string_pretty(&json).expect("numbers and strings are JSON");
    fs::write(dir.join("path.json"), json + "\n").expect("write the results");
    fs::write(dir.join("path.svg"), picture::svg(report)).expect("write the plot");
    println!("kept in {}: path.json, path.svg", dir.display());
}
