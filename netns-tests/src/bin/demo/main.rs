//! `make demo`: a cluster of three nodes, in a world that ends with this program.
//!
//! ```text
//! demo ── looks at the machine, waits, looks again
//!   └─ demo, inside ── namespaces of its own ── tells the story
//!        └─ weftd × 3, plugins, ip
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the demo")]
mod cluster;
mod counters;
mod echo;
mod files;
mod journey;
mod keep;
mod machine;
mod node;
mod operator;
mod paint;
mod speed;
mod story;
mod strip;
mod upheaval;
mod weftd;

use std::process::{Command, ExitCode};
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use weft_netns::{Kind, World};

use crate::cluster::Backend;
use crate::machine::{INSIDE, Machine};

fn main() -> ExitCode {
    // Ctrl-C reaches the whole family; the inner one decides what it ends, and how.
    stop_signals().thread_block().expect("block signals");
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let (started, before) = (Instant::now(), Machine::look());
    let mark = std::process::id().to_string();
    let well = run_inside(&mark);
    let strays = machine::marked(&mark);
    machine::end(&strays);
    let stray = strays.first().map(|pid| format!("process {pid}"));
    let left = stray
        .filter(|_| well)
        .or_else(|| Machine::look().leftover(&before));
    match left {
        Some(left) => {
            println!("  {left} is left on your machine");
            ExitCode::FAILURE
        }
        None if well => {
            machine::show_untouched(started.elapsed());
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}

/// This program again, told to stop when this one is; whether it ended well.
fn run_inside(mark: &str) -> bool {
    let this = std::env::current_exe().expect("the path of this program");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut inside = Command::new(this)
        .env(INSIDE, mark)
        .env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"))
        .spawn()
        .expect("start the demo");
    let pid = Pid::from_raw(inside.id().cast_signed());
    std::thread::spawn(move || {
        while stop_signals().wait().is_ok() {
            let _ = kill(pid, Signal::SIGTERM);
        }
    });
    inside.wait().is_ok_and(|ended| ended.success())
}

/// What ends the demo early, cleanly.
fn stop_signals() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
}

fn inside() -> ExitCode {
    let backend = match Backend::named(&std::env::var("BACKEND").unwrap_or_default()) {
        Ok(backend) => backend,
        Err(mistake) => {
            println!("{mistake}");
            return ExitCode::FAILURE;
        }
    };
    let world = match World::enter(Kind::fitting()) {
        Ok(world) => world,
        Err(e) => {
            println!("cannot make a private world: {e}");
            println!("This machine refuses user namespaces to ordinary users.");
            println!("Allow them (sysctl user.max_user_namespaces,");
            println!("kernel.apparmor_restrict_unprivileged_userns), or run make demo as root.");
            return ExitCode::FAILURE;
        }
    };
    // Not earlier: becoming the root of a user namespace forgets it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("tie our life to our parent's");
    if std::env::var_os(machine::KEEP).is_none_or(|keep| keep.is_empty()) {
        keep::end_when_told();
    }
    std::panic::set_hook(Box::new(|panic| {
        let why = panic.payload_as_str().unwrap_or("for an unknown reason");
        println!("\n\n  {} {why}\n", paint::bad("The demo has failed:"));
    }));
    story::tell(&world, backend);
    ExitCode::SUCCESS
}
