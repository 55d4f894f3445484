//! What the numbers were measured on.
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

/// Whatever else the machine does then waits for the contestants, who inherit it. False if that is
/// refused. A niceness would not do: where the kernel groups processes by terminal, it compares
/// those of one group alone.
pub fn ask_for_real_time() -> bool {
    let ourselves = std::process::id().to_string();
    let answer = Command::new("chrt")
        .args(["-r", "-p", "1", &ourselves])
        .output();
    answer.is_ok_and(|answer| answer.status.success())
}

/// `packages` are Debian's, whose versions matter, with what to call them.
pub fn describe(packages: &[(&str, &str)]) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut described = json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cpu": model.trim_matches([' ', '\t', ':']),
        "cores": cores,
        "load": read("/proc/loadavg").split(' ').next(),
    });
    for (name, package) in packages {
        described[*name] = version(package).into();
    }
    described
}

fn version(name: &str) -> String {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f=${Version}", name])
        .output();
    query.map_or_else(
        |_| String::new(),
        |out| String::from_utf8_lossy(&out.stdout).into_owned(),
    )
}
