//! `make demo`: two pods on one bridge, in a world that ends with this program.
#![allow(clippy::print_stdout, reason = "what it prints is the demo")]
mod drawing;
mod story;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, ExitCode};

use weft_netns::{Kind, World};

/// Set for the second run of this program: the one that enters the world.
const INSIDE: &str = "WEFT_DEMO_INSIDE";

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_some() {
        return tell();
    }
    let before = host();
    let this = std::env::current_exe().expect("the path of this program");
    let inside = Command::new(this)
        .env(INSIDE, "1")
        .status()
        .expect("start the demo");
    if !inside.success() {
        return ExitCode::FAILURE;
    }
    // Others may change the machine meanwhile; what counts is what we would make.
    let ours = |seen: &&String| story::NAMES.iter().any(|name| seen.ends_with(name));
    if let Some(left) = host().difference(&before).find(ours) {
        println!("{left} is left on your machine");
        return ExitCode::FAILURE;
    }
    println!("    your machine            its links, namespaces and CNI files are as they were\n");
    ExitCode::SUCCESS
}

fn tell() -> ExitCode {
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
    story::tell(&world);
    ExitCode::SUCCESS
}

/// What of the machine a CNI plugin could have changed, and anybody may see.
fn host() -> BTreeSet<String> {
    let mut seen: BTreeSet<String> = story::links().into_iter().collect();
    for dir in [
        "/run/netns",
        "/var/lib/cni",
        "/var/lib/cni/networks",
        "/opt/cni/bin",
    ] {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        seen.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    seen
}
