//! weftd, a program that does flanneld's serial work, and the floor, interleaved in one run.
//!
//! `make bench-daemon`, or `daemon [--quick] [ROW...]`.
#![allow(clippy::print_stdout, reason = "what it prints is the result")]
mod field;
mod floor;
mod listener;
mod picture;
mod proxy;
mod rows;
mod serial;
mod store;
mod tunnel;
mod weftd;

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use weft_benches::machine::{self, ask_for_real_time};
use weft_benches::report::Report;
use weft_benches::results::{self, Place};
use weft_netns::{Kind, World};

use field::Field;

/// What every row is given.
pub(crate) struct Bench<'w> {
    world: &'w World,
    field: OnceCell<Field<'w>>,
    pub(crate) quick: bool,
}

impl<'w> Bench<'w> {
    pub(crate) fn field(&self) -> &Field<'w> {
        self.field.get_or_init(|| Field::lay(self.world))
    }

    /// How often to repeat: fewer times where an early answer is wanted.
    pub(crate) fn rounds(&self, full: u16) -> u16 {
        if self.quick {
            full.div_ceil(4).max(2)
        } else {
            full
        }
    }
}

fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.first().is_some_and(|word| word == "serial") {
        return match serial::run(&wanted[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                println!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    let quick = wanted.iter().any(|arg| arg == "--quick");
    wanted.retain(|arg| arg != "--quick");
    if let Some(unknown) = wanted.iter().find(|arg| rows::find(arg).is_none()) {
        println!("no row {unknown}; there are:");
        rows::ALL
            .iter()
            .for_each(|row| println!("  {:<10} {}", row.name, row.title));
        return ExitCode::FAILURE;
    }
    let real_time = ask_for_real_time();
    let world = match World::enter(Kind::fitting()) {
        Ok(world) => world,
        Err(e) => {
            println!("cannot make a private world: {e}");
            return ExitCode::FAILURE;
        }
    };
    let bench = Bench {
        world: &world,
        field: OnceCell::new(),
        quick,
    };
    measure(&bench, &wanted, real_time)
}

fn measure(bench: &Bench<'_>, wanted: &[String], real_time: bool) -> ExitCode {
    let mut report = Report::default();
    if !real_time {
        report.note("not at real-time priority, which was refused: let nothing else run");
    }
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
            "{:<10} {:>6.1} s",
            row.name,
            started.elapsed().as_secs_f64()
        );
    }
    println!("{}", report.table());
    let place = if wanted.is_empty() && !bench.quick && !broken {
        Place::Code
    } else {
        Place::Build
    };
    let json = report.json(&machine::describe(&PACKAGES));
    results::keep(place, "daemon", &json, &picture::svg(&report));
    if !broken && report.all_met() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

const PACKAGES: [(&str, &str); 2] = [("etcd", "etcd-server"), ("iproute2", "iproute2")];
