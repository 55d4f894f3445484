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

    /// In RAM, with what it shares with others.
    pub fn memory_kib(&self) -> u64 {
        number(&self.status(""), "VmRSS:")
    }

    /// In RAM, of its own making.
    pub fn own_memory_kib(&self) -> u64 {
        number(&self.status(""), "RssAnon:")
    }

    /// How often any of its threads has waited, and was woken.
    pub fn wake_ups(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.running.pid()));
        let tasks = tasks.into_iter().flatten().flatten();
        tasks
            .map(|task| format!("task/{}/", task.file_name().display()))
            .map(|task| number(&self.status(&task), "voluntary_ctxt_switches:"))
            .sum()
    }

    fn status(&self, task: &str) -> String {
        let path = format!("/proc/{}/{task}status", self.running.pid());
        fs::read_to_string(path).unwrap_or_default()
    }
}

/// Nothing is said of what has ended.
fn number(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let status = "VmRSS:\t    2216 kB\nvoluntary_ctxt_switches:\t7\n\
                      nonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(number(status, "VmRSS:"), 2216);
        assert_eq!(number(status, "voluntary_ctxt_switches:"), 7);
        assert_eq!(number(status, "RssAnon:"), 0);
    }
}
