//! The plugins' way into the directory that a runtime starts them from.

use std::fs;
use std::path::Path;

use weft_netns::{Cmd, Outcome, in_world, kill_at_syscall};

use crate::{PLUGINS, names, suite, weft, write};

fn install(from: &Path, bin: &Path) -> Cmd {
    let (from, bin) = (from.display().to_string(), bin.display().to_string());
    weft(&["install", "--from", &from, "--bin-dir", &bin])
}

#[test]
fn a_plugin_that_runs_is_replaced_and_runs_on() {
    in_world(|world| {
        let bin = world.scratch("bin");
        let sleep = world.exec("command -v sleep");
        fs::copy(sleep.trim(), bin.join("bridge")).unwrap();
        let running = Cmd::new(bin.join("bridge")).arg("60").spawn();
        install(&suite(world, "1", 100), &bin).run().ok();
        // To write to it would have failed: it is busy.
        assert!(!running.ends_within(std::time::Duration::ZERO));
        for name in PLUGINS {
            assert_eq!(fs::read(bin.join(name)).unwrap().len(), 100, "{name}");
        }
    });
}

/// Every plugin, before or after: whole, and there.
#[test]
fn killed_at_any_system_call_it_leaves_every_plugin_whole() {
    in_world(|world| {
        let bin = world.scratch("bin");
        let old = b"Go's".to_vec();
        let from = suite(world, "2", 8192);
        let new = fs::read(&from).unwrap();
        let mut deaths = 0;
        for n in 1.. {
            for name in PLUGINS {
                write(&bin.join(name), &old);
            }
            let outcome = kill_at_syscall(&install(&from, &bin), n);
            for name in PLUGINS {
                let found = fs::read(bin.join(name)).unwrap();
                assert!(found == old || found == new, "{name} after a death at {n}");
            }
            if matches!(outcome, Outcome::Finished(_)) {
                break;
            }
            deaths += 1;
            // What a death leaves is in nobody's way.
            if n % 16 == 0 {
                install(&from, &bin).run().ok();
                let left = names(&bin);
                assert!(
                    left.iter().all(|name| !name.ends_with(".new")),
                    "{left:?} after {n}"
                );
            }
        }
        assert!(deaths > 50, "{deaths}");
    });
}

#[test]
fn a_directory_that_cannot_hold_them_is_told_and_stays_as_it_was() {
    in_world(|world| {
        let from = suite(world, "3", 300_000);
        let bin = world.scratch("bin");
        let dir = bin.display();
        for (break_it, told) in [
            (
                format!("mount -t tmpfs -o size=200k full {dir}"),
                "No space left on device (os error 28); what was there before is as it was: make room",
            ),
            (
                format!("mount --bind {dir} {dir}; mount -o remount,bind,ro {dir}"),
                "Read-only file system (os error 30); what was there before is as it was: name a",
            ),
        ] {
            world.exec(&break_it);
            // Refused where all is read-only, and then it stands there from before.
            let _ = fs::write(bin.join("bridge"), "Go's");
            let done = install(&from, &bin).run();
            assert_eq!(done.code(), Some(1), "{}", done.how());
            let words = format!("weft: install the plugins: write {dir}/weft-cni: {told}");
            assert!(done.stderr.starts_with(&words), "{}", done.stderr);
            assert!(names(&bin).len() < 2, "{:?}", names(&bin));
            world.exec(&format!("umount {dir}"));
        }
        let missing = bin.join("missing");
        let done = install(&from, &missing).run();
        assert_eq!(done.code(), Some(1));
        assert!(
            done.stderr
                .contains("missing: No such file or directory (os error 2); make it"),
            "{}",
            done.stderr
        );
        let done = install(Path::new("/bin/sh"), &bin).run();
        assert!(
            done.stderr.contains("/bin/sh is not weft-cni"),
            "{}",
            done.stderr
        );
        let done = install(&missing, &bin).run();
        assert!(
            done.stderr.contains("--from names the executable"),
            "{}",
            done.stderr
        );
    });
}

#[test]
fn eight_at_once_do_not_meet() {
    in_world(|world| {
        let bin = world.scratch("bin");
        let sources: Vec<_> = (0..8)
            .map(|n| suite(world, &n.to_string(), 2_000_000))
            .collect();
        let running: Vec<_> = sources
            .iter()
            .map(|from| install(from, &bin).spawn())
            .collect();
        for install in running {
            install.finish().ok();
        }
        let one = fs::read(bin.join("weft-cni")).unwrap();
        assert!(sources.iter().any(|from| fs::read(from).unwrap() == one));
        for name in PLUGINS {
            assert!(fs::read(bin.join(name)).unwrap() == one, "{name}");
        }
        assert_eq!(names(&bin).len(), PLUGINS.len() + 1);
    });
}
