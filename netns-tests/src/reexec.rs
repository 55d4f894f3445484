//! A test runs itself again, alone, in a fresh world.
//!
//! Namespaces belong to threads, and some can be entered only by a process with
//! a single thread, which a test process is not. So `unshare` makes the
//! namespaces and becomes the test's own binary, which runs just this test,
//! furnishes the world, and does there what the test says.
//!
//! ```text
//! cargo test ── thread "bridge::a_pod_answers" ── waits, shows what was said
//!                 └─ unshare ─ exec ─ the same binary, --exact bridge::a_pod_answers
//!                                       └─ the test's closure ── exit code PASSED
//! ```
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::Cmd;
use crate::skip::{Need, skip_unless};
use crate::world::{Kind, World};

/// Tells the inner process that it is one, and marks all its descendants.
const MARK: &str = "WEFT_WORLD";
/// What the mark of a world in a user namespace begins with.
const ROOTLESS: &str = "rootless";
/// Says that the closure ran to its end. The test runner's own exit codes are
/// no proof: it also succeeds when no test has the name it was given.
const PASSED: i32 = 87;
/// A world that lives longer than this hangs.
const TIME_LIMIT: Duration = Duration::from_secs(600);

/// Runs the calling test's closure in a fresh world. Once per test.
#[track_caller]
pub fn in_world<F: FnOnce(&World)>(test: F) {
    in_world_of(Kind::fitting(), test);
}

/// As [`in_world`], but without the powers of root, even for root.
#[track_caller]
pub fn in_rootless_world<F: FnOnce(&World)>(test: F) {
    in_world_of(Kind::Rootless, test);
}

#[track_caller]
fn in_world_of<F: FnOnce(&World)>(kind: Kind, test: F) {
    if let Ok(mark) = std::env::var(MARK) {
        live_in(
            if mark.starts_with(ROOTLESS) {
                Kind::Rootless
            } else {
                Kind::Root
            },
            test,
        );
    }
    if kind == Kind::Rootless && !skip_unless(&[Need::UserNamespaces]) {
        return;
    }
    run_again(kind, &test_name(std::any::type_name::<F>()));
}

/// The inner process. It ends here, so that nothing after the closure runs twice.
fn live_in<F: FnOnce(&World)>(kind: Kind, test: F) -> ! {
    // When the outer process is killed, so are we.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("tie our life to our parent's");
    let world = World::furnish(kind).unwrap_or_else(|e| panic!("cannot furnish a world: {e}"));
    let passed = catch_unwind(AssertUnwindSafe(|| test(&world))).is_ok();
    std::process::exit(if passed { PASSED } else { 1 });
}

/// The outer process.
#[track_caller]
fn run_again(kind: Kind, name: &str) {
    static RUN: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut run = RUN.lock().unwrap_or_else(PoisonError::into_inner);
    let first = run.get_or_insert_default().insert(name.to_owned());
    drop(run);
    assert!(
        first,
        "{name} enters two worlds: give each a test of its own"
    );

    let mark = fresh_mark(kind);
    let itself = std::env::current_exe().expect("the path of the test binary");
    let running = Cmd::new("unshare")
        .args(["--net", "--mount"])
        .args((kind == Kind::Rootless).then_some("--map-root-user"))
        .arg(itself)
        .args([
            name,
            "--exact",
            "--nocapture",
            "--include-ignored",
            "--test-threads=1",
        ])
        .env(MARK, &mark)
        .env("PATH", path_with_sbin())
        .env("TMPDIR", "/run")
        .spawn();
    let ended = running.ends_within(TIME_LIMIT);
    if !ended {
        running.signal(Signal::SIGKILL);
    }
    let done = running.finish();
    kill_all_marked(&mark);

    for line in done.stderr.lines().filter(|line| line.starts_with("SKIP ")) {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    eprint!("{}{}", done.stdout, done.stderr);
    assert!(ended, "{name} did not end within {TIME_LIMIT:?}");
    assert!(
        done.code() != Some(0),
        "{name} is not the name of the test that called in_world"
    );
    assert!(
        done.code() == Some(PASSED),
        "{name} failed in its world, with {}",
        done.how()
    );
}

/// The name the test runner knows this test by. It names its threads so, except
/// when it runs them all on the main one; then the closure's type tells.
fn test_name(closure: &str) -> String {
    let current = current_test();
    if current != "main" {
        return current;
    }
    let path = closure
        .split_once("::")
        .map_or(closure, |(_crate, path)| path);
    path.split("::{{closure}}")
        .next()
        .unwrap_or(path)
        .to_owned()
}

/// The test of the current thread, as the test runner calls it.
pub(crate) fn current_test() -> String {
    let name = std::thread::current().name().unwrap_or("main").to_owned();
    if name == "main" && std::env::var_os(MARK).is_some() {
        // The inner process was told which test it is.
        return std::env::args().nth(1).unwrap_or(name);
    }
    name
}

fn fresh_mark(kind: Kind) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let kind = if kind == Kind::Rootless {
        ROOTLESS
    } else {
        "root"
    };
    format!("{kind}-{}-{number}", std::process::id())
}

fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// Ends what a test left running, however it was daemonised: its descendants
/// carry the mark in their environment.
fn kill_all_marked(mark: &str) {
    // While a process is executing a program, its environment looks empty: then
    // one has to look again, but not for ever at one that has cleared it.
    const LOOKS: usize = 10;
    for _ in 0..LOOKS {
        let bearings: Vec<_> = processes().map(|pid| (pid, bearing(pid, mark))).collect();
        for (pid, _) in bearings
            .iter()
            .filter(|(_, bearing)| *bearing == Bearing::Marked)
        {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if bearings
            .iter()
            .all(|(_, bearing)| *bearing == Bearing::Stranger)
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bearing {
    Marked,
    Stranger,
    Unknown,
}

fn bearing(pid: i32, mark: &str) -> Bearing {
    let Ok(environ) = std::fs::read(format!("/proc/{pid}/environ")) else {
        return Bearing::Stranger;
    };
    let marked = format!("{MARK}={mark}").into_bytes();
    let is_program = || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    if environ
        .split(|byte| *byte == 0)
        .any(|variable| variable == marked)
    {
        Bearing::Marked
    } else if environ.is_empty() && is_program() {
        Bearing::Unknown
    } else {
        Bearing::Stranger
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_test_is_read_from_its_thread() {
        assert_eq!(
            current_test().rsplit("::").next(),
            Some("the_name_of_a_test_is_read_from_its_thread")
        );
    }

    #[test]
    #[should_panic(expected = "enters two worlds")]
    fn a_test_that_enters_two_worlds_is_told_so() {
        in_world(|_| {});
        in_world(|_| {});
    }
}
