//! Ours, Debian's Go plugins, Debian's netavark and the floor, interleaved in one run.
//!
//! `make bench`, or `weft-benches [--quick] [ROW...]`.
#![allow(clippy::print_stdout, reason = "what it prints is the result")]
mod peer;
mod plot;
mod process;
mod record;
mod rows;
mod strace;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_benches::results::{self, Place};
use weft_benches::{machine, report};
use weft_netns::{Kind, World};

use crate::report::Report;

/// What every row is given.
pub(crate) struct Bench {
    world: World,
    quick: bool,
}

impl Bench {
    /// How often to repeat: fewer times where an early answer is wanted.
    fn rounds(&self, full: u16) -> u16 {
        if self.quick {
            full.div_ceil(6).max(3)
        } else {
            full
        }
    }
}

fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let quick = wanted.iter().any(|arg| arg == "--quick");
    wanted.retain(|arg| arg != "--quick");
    if let Some(unknown) = wanted.iter().find(|arg| rows::find(arg).is_none()) {
        println!("no row {unknown}; there are:");
        rows::ALL
            .iter()
            .for_each(|row| println!("  {:<12} {}", row.name, row.title));
        return ExitCode::FAILURE;
    }
    let world = match World::enter(Kind::fitting()) {
        Ok(world) => world,
        Err(e) => {
            println!("cannot make a private world: {e}");
            return ExitCode::FAILURE;
        }
    };
    // Contestants inherit it: what else the machine does disturbs them less. A user may not.
    let _ = rustix::process::nice(-20);
    measure(&Bench { world, quick }, &wanted)
}

fn measure(bench: &Bench, wanted: &[String]) -> ExitCode {
    let mut report = Report::default();
    let mut broken = false;
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|row| row == name);
    for row in rows::ALL.iter().filter(|row| chosen(row.name)) {
        let started = Instant::now();
        report.rows.push((row.name, row.title));
        let ran = catch_unwind(AssertUnwindSafe(|| (row.run)(bench, &mut report)));
        if ran.is_err() {
            report.note(format!("row {} broke off: see above", row.name));
            broken = true;
        }
        eprintln!(
            "{:<12} {:>6.1} s",
            row.name,
            started.elapsed().as_secs_f64()
        );
    }
    println!("{}", report.table());
    let place = if wanted.is_empty() && !bench.quick {
        Place::Code
    } else {
        Place::Build
    };
    let json = report.json(&machine::describe(&PACKAGES));
    results::keep(place, "results", &json, &plot::svg(&report));
    if !broken && report.all_met() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

const PACKAGES: [(&str, &str); 3] = [
    ("go plugins", "containernetworking-plugins"),
    ("netavark", "netavark"),
    ("iptables", "iptables"),
];

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
