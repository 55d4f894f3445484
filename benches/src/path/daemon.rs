//! A program that moves packets for a node, watched while it does.
use std::fs;
use std::time::Duration;

use weft_netns::{Cmd, Netns, Running, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Daemon {
    name: String,
    running: Running,
}

impl Daemon {
    /// Starts it and waits until `ready` holds of what it has said.
    #[track_caller]
    pub(crate) fn start(name: &str, command: Cmd, node: &Netns, ready: &str) -> Self {
        let running = command.inside(node).spawn();
        let daemon = Self {
            name: name.to_owned(),
            running,
        };
        wait_until(&format!("{name} says {ready:?}"), PATIENCE, || {
            daemon.assert_alive();
            daemon.running.said_so_far().contains(ready)
        });
        daemon
    }

    /// Fails, with what it said, if it has ended or panicked.
    #[track_caller]
    pub fn assert_alive(&self) {
        let said = self.running.said_so_far();
        let ended = self.running.ends_within(Duration::ZERO);
        assert!(
            !ended && !said.contains("panicked"),
            "{} has ended or panicked; it said\n{said}",
            self.name
        );
    }

    /// What it said, both streams.
    pub fn said(&self) -> String {
        self.running.said_so_far()
    }

    /// In RAM.
    pub fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.pid()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    }
}
