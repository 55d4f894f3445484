//! What of the machine the demo could have changed, and anybody may see.
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{counters, paint};

/// Set for the run of this program that enters the world, and so for all it starts.
pub(crate) const INSIDE: &str = "WEFT_DEMO_INSIDE";
/// Whether the cluster is kept until Ctrl-C.
pub(crate) const KEEP: &str = "KEEP";

/// What the names of all that the demo makes end with or contain.
const NAMES: [&str; 9] = [
    "cni0",
    "flannel.1",
    "wire",
    "node-",
    "pod-",
    "cbr0",
    "weft",
    "flannel",
    "/cni",
];

const DIRS: [&str; 9] = [
    "/run",
    "/run/netns",
    "/run/flannel",
    "/run/weft",
    "/var/lib",
    "/var/lib/cni",
    "/var/lib/cni/networks",
    "/opt/cni/bin",
    "/etc/cni/net.d",
];

const SYSCTLS: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet"];

pub(crate) struct Machine {
    seen: BTreeSet<String>,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let mut seen = BTreeSet::new();
        seen.extend(
            counters::links()
                .into_iter()
                .map(|link| format!("link {link}")),
        );
        for dir in DIRS {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            seen.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        for key in SYSCTLS {
            let value = fs::read_to_string(format!("/proc/sys/{key}")).unwrap_or_default();
            seen.insert(format!("weft sysctl {key} = {}", value.trim()));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        seen.extend(mounts.lines().map(|mount| format!("mount {mount}")));
        Self { seen }
    }

    /// Others may change the machine meanwhile; what counts is what we would make.
    pub(crate) fn leftover(&self, before: &Self) -> Option<String> {
        let ours = |seen: &&String| NAMES.iter().any(|name| seen.contains(name));
        self.seen.difference(&before.seen).find(ours).cloned()
    }
}

pub(crate) fn end(processes: &[i32]) {
    for pid in processes {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
}

/// What the inner program has left running: its descendants carry the mark.
pub(crate) fn marked(mark: &str) -> Vec<i32> {
    let mark = format!("{INSIDE}={mark}").into_bytes();
    let carries = |pid: &i32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(carries).collect()
}

pub(crate) fn show_untouched(took: Duration) {
    println!(
        "    your machine            {}: links, mounts, namespaces, sysctls and files are\n\
         \x20                           as they were, and no process is left",
        paint::good("untouched")
    );
    println!("    all of this took        {}\n", paint::time(took));
}
