//! A node's daemon: started, killed, asked.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weft_netns::{Cmd, Running, wait_until};

use crate::node::{Node, SUBNET_FILE};
use crate::stop_signals;

/// Nothing in the demo takes a healthy daemon this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// A repair is told with it.
const SAID_WITHIN: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// The leases of the cluster, which all its daemons share.
pub(crate) const STORE: &str = "/run/leases";

pub(crate) struct Weftd {
    running: Running,
    /// Which subnet file was there before.
    before: Option<u64>,
}

impl Weftd {
    pub(crate) fn start(node: &Node) -> Self {
        let (program, before) = (program(), subnet_file(node));
        let running = node.enter(|| {
            // What is blocked here would be blocked there.
            stop_signals().thread_unblock().expect("unblock signals");
            Cmd::new(program).args(arguments(node)).spawn()
        });
        Self { running, before }
    }

    /// The subnet file is written anew once all is programmed that there is.
    pub(crate) fn await_ready(&self, node: &Node) {
        let written = || {
            let ended = self.running.ends_within(Duration::ZERO);
            assert!(
                !ended,
                "weftd on {} has ended. It said:\n{}",
                node.name,
                self.log()
            );
            subnet_file(node).is_some_and(|file| Some(file) != self.before)
        };
        let what = format!("weftd on {} has written {SUBNET_FILE}", node.name);
        wait_until(&what, PATIENCE, written);
    }

    pub(crate) fn kill(self) {
        self.end(Signal::SIGKILL);
    }

    pub(crate) fn stop(self) {
        self.end(Signal::SIGTERM);
    }

    fn end(self, signal: Signal) {
        self.running.signal(signal);
        self.running.finish();
    }

    pub(crate) fn log(&self) -> String {
        self.running.said_so_far()
    }

    /// Waits for the first line of its log, from `from` on, that says all of `words`.
    pub(crate) fn await_said(&self, words: &[String], from: usize) -> String {
        let deadline = Instant::now() + SAID_WITHIN;
        loop {
            let log = self.log();
            let said = log.get(from..).unwrap_or_default();
            if let Some(line) = said.lines().find(|line| says(line, words)) {
                return message(line).to_owned();
            }
            assert!(
                Instant::now() < deadline,
                "weftd does not say {}. What it says is:\n{said}",
                words.join(" … ")
            );
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

fn says(line: &str, words: &[String]) -> bool {
    words.iter().all(|word| line.contains(&**word))
}

/// A line of the log without time, level and module.
fn message(line: &str) -> &str {
    let (_, rest) = line.split_once("WARN ").unwrap_or(("", line));
    match rest.split_once(": ") {
        Some((module, message)) if module.contains("::") => message,
        _ => rest,
    }
}

/// What a deployment would say, and where nothing else would do, the demo's own.
fn arguments(node: &Node) -> Vec<String> {
    vec![
        "--iface=eth0".to_owned(),
        "--ip-masq".to_owned(),
        format!("--embedded-dir={STORE}"),
        format!("--node-name={}", node.name),
        format!("--machine-id=demo-{}", node.name),
        "--state-dir=/run/weft/state".to_owned(),
    ]
}

/// As `make demo` leaves it, with no store but the embedded one.
pub(crate) fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("dist/demo/weftd");
    let path = std::env::var_os("WEFTD").map_or(built, PathBuf::from);
    fs::canonicalize(&path)
        .unwrap_or_else(|e| panic!("no weftd at {} ({e}): make demo builds it", path.display()))
}

/// A rewritten file is another file.
fn subnet_file(node: &Node) -> Option<u64> {
    node.enter(|| fs::metadata(SUBNET_FILE).ok().map(|file| file.ino()))
}
