//! Every way to join the pods of two nodes, interleaved in one run.
//!
//! `make bench-path`, or `path [--quick] [--strict] [--of CONTESTANT,...] [ROW|MEASUREMENT...]`.
#![allow(clippy::print_stdout, reason = "what it prints is the result")]
use std::process::ExitCode;

use weft_benches::machine::ask_for_real_time;
use weft_benches::path::run::{self, Plan};
use weft_netns::{Kind, World};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let plan = match Plan::parse(&arguments) {
        Ok(plan) => plan,
        Err(usage) => {
            println!("{usage}");
            return ExitCode::FAILURE;
        }
    };
    let real_time = ask_for_real_time();
    let world = match World::enter(Kind::fitting()) {
        Ok(world) => world,
        Err(e) => {
            println!("cannot make a private world: {e}");
            return ExitCode::FAILURE;
        }
    };
    if run::run(&world, &plan, real_time) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
