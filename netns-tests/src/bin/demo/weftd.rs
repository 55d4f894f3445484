//! A node's daemon: started, killed, asked.
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weft_netns::{Cmd, Running, wait_until};

use crate::node::Node;
use crate::stop_signals;

/// Nothing in the demo takes a healthy daemon this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// A repair is told with it.
const SAID_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const SOCKET: &str = "/run/weft/weftd.sock";
/// The leases of the cluster, which all its daemons share.
pub(crate) const STORE: &str = "/run/leases";

pub(crate) struct Weftd {
    running: Running,
}

impl Weftd {
    pub(crate) fn start(node: &Node) -> Self {
        Self::start_with(node, &[])
    }

    /// Another in its place, which goes on with what it holds.
    pub(crate) fn succeeded(self, node: &Node) -> Self {
        let next = Self::start_with(node, &["--take-over"]);
        let ended = self.running.ends_within(PATIENCE);
        assert!(ended, "weftd on {} has not stepped aside", node.name);
        next
    }

    fn start_with(node: &Node, more: &[&str]) -> Self {
        let program = program();
        let running = node.enter(|| {
            // What is blocked here would be blocked there.
            stop_signals().thread_unblock().expect("unblock signals");
            Cmd::new(program).args(arguments(node)).args(more).spawn()
        });
        Self { running }
    }

    /// Until all is programmed that there is.
    pub(crate) fn await_ready(&self, node: &Node) {
        let ready = || {
            let ended = self.running.ends_within(Duration::ZERO);
            assert!(
                !ended,
                "weftd on {} has ended. It said:\n{}",
                node.name,
                self.log()
            );
            node.enter(|| asked("/readyz").is_ok_and(|answer| answer.contains(" 200 ")))
        };
        let what = format!("weftd on {} is ready", node.name);
        wait_until(&what, PATIENCE, ready);
    }

    /// Removes all that weftd made on the node, as an operator does who leaves it.
    pub(crate) fn clean_up(node: &Node) {
        let cleaning = Cmd::new(program()).args(arguments(node)).arg("--cleanup");
        node.enter(|| cleaning.run().ok());
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

    /// Waits for the first line of its log, from `from` on, that says `what`.
    pub(crate) fn await_said(&self, what: &str, from: usize) -> String {
        let deadline = Instant::now() + SAID_WITHIN;
        loop {
            let log = self.log();
            let said = log.get(from..).unwrap_or_default();
            if let Some(line) = said.lines().find(|line| line.contains(what)) {
                return message(line).to_owned();
            }
            assert!(
                Instant::now() < deadline,
                "weftd does not say {what}. What it says is:\n{said}"
            );
            std::thread::sleep(LOOK_AGAIN);
        }
    }
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

/// What the daemon of the calling thread's node answers at its socket.
fn asked(path: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
