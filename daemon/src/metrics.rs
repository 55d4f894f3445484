//! The status as Prometheus reads it: its text format, version 0.0.4.

mod path;

use std::fmt::{self, Display, Write};
use std::fs;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::status::{LeaseState, Status};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What this process takes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    pub cpu: Duration,
    /// Bytes; None where there is no /proc.
    pub resident: Option<u64>,
}

impl Process {
    pub fn this() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let status = fs::read_to_string("/proc/self/status");
        Self {
            cpu: Duration::try_from(cpu).unwrap_or_default(),
            resident: status.ok().and_then(|status| resident(&status)),
        }
    }
}

/// From /proc/PID/status.
fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kilobytes * 1024)
}

pub fn text(status: &Status, process: Process, now: Instant) -> String {
    let mut page = Page::default();
    node(&mut page, status, now);
    peers(&mut page, status);
    reconciling(&mut page, status);
    if let Some(stats) = status.packet_path() {
        path::packet_path(&mut page, &stats);
    }
    store(&mut page, status);
    own_process(&mut page, status, process);
    page.text
}

fn node(page: &mut Page, status: &Status, now: Instant) {
    let about = &status.about;
    page.gauge(
        "weft_ready",
        "Whether all that could be programmed is.",
        u8::from(status.ready().is_ok()),
    );
    let labels = [
        ("version", about.version),
        ("backend", status.backend().unwrap_or("unknown")),
        ("store", about.store),
    ];
    page.family("weft_info", "gauge", "What runs here.");
    page.sample("weft_info", &labels, 1);
    page.family(
        "weft_lease_state",
        "gauge",
        "How it stands with this node's lease.",
    );
    for state in LeaseState::NAMES {
        let is_so = u8::from(status.lease_state().name() == state);
        page.sample("weft_lease_state", &[("state", state)], is_so);
    }
    if let Some(left) = status.lease_expires_in(now) {
        page.gauge(
            "weft_lease_expires_seconds",
            "When this node's lease ends unless it is renewed.",
            left.as_secs_f64(),
        );
    }
    page.gauge(
        "weft_configuration_changed",
        "Whether the network's configuration changed and waits for a restart.",
        u8::from(status.view.conf_changed.is_some()),
    );
    page.gauge(
        "weft_notes",
        "What the operator should know: see weft status.",
        status.report.notes.len(),
    );
}

fn peers(page: &mut Page, status: &Status) {
    if let Some(peers) = &status.view.peers {
        page.gauge("weft_peers", "Other nodes' leases.", peers.leases.len());
        page.gauge(
            "weft_leases_unreadable",
            "Leases that make no sense and are passed over.",
            peers.rubbish.len(),
        );
    }
    let report = &status.report;
    page.gauge(
        "weft_peers_skipped",
        "Peers that cannot be reached as they publish themselves.",
        report.skipped.len(),
    );
    page.gauge("weft_routes", "Routes to other nodes' pods.", report.routes);
    page.gauge(
        "weft_kernel_refusals",
        "What the kernel refuses to be programmed with.",
        report.failed.len(),
    );
    page.gauge(
        "weft_forward_chains_dropping",
        "Others' chains that drop forwarded packets of pods.",
        report.hooks.iter().filter(|hook| !hook.passes()).count(),
    );
    page.gauge(
        "weft_guard_on",
        "Whether encapsulated packets are taken from peers only.",
        u8::from(report.guard),
    );
    page.counter(
        "weft_guard_dropped_packets_total",
        "Encapsulated packets from addresses that are no peer.",
        report.guard_dropped,
    );
}

fn reconciling(page: &mut Page, status: &Status) {
    let report = &status.report;
    page.counter(
        "weft_reconcile_rounds_total",
        "Rounds of the loop that keeps the kernel true.",
        report.rounds,
    );
    page.counter(
        "weft_reconcile_seconds_sum",
        "Time that all rounds took.",
        report.spent.as_secs_f64(),
    );
    page.gauge(
        "weft_reconcile_seconds_last",
        "Time that the last round took.",
        report.last_took.as_secs_f64(),
    );
    page.gauge(
        "weft_reconcile_seconds_max",
        "Time that the longest round took.",
        report.longest.as_secs_f64(),
    );
    let name = "weft_drift_repaired_total";
    page.family(
        name,
        "counter",
        "What was put back, by the command that took it away.",
    );
    for ((kind, command), count) in &report.repairs {
        page.sample(name, &[("kind", kind), ("command", command)], count);
    }
}

fn store(page: &mut Page, status: &Status) {
    let health = &status.view.health;
    page.gauge(
        "weft_store_up",
        "Whether all is well with the store of leases.",
        u8::from(health.trouble.is_none()),
    );
    page.counter(
        "weft_store_calls_total",
        "Calls to the store.",
        health.calls,
    );
    page.counter(
        "weft_store_failures_total",
        "Calls to the store that failed.",
        health.failures,
    );
    page.counter(
        "weft_store_reconnects_total",
        "Connections to the store that were replaced.",
        health.reconnects,
    );
    page.counter(
        "weft_store_seconds_sum",
        "Time that all calls to the store took.",
        health.spent.as_secs_f64(),
    );
    page.gauge(
        "weft_store_slowest_seconds",
        "Time that the slowest call to the store took.",
        health.slowest.as_secs_f64(),
    );
}

/// Under the names that Prometheus' own libraries give them.
fn own_process(page: &mut Page, status: &Status, process: Process) {
    page.counter(
        "process_cpu_seconds_total",
        "Processor time of user and system.",
        process.cpu.as_secs_f64(),
    );
    if let Some(resident) = process.resident {
        page.gauge(
            "process_resident_memory_bytes",
            "Resident memory.",
            resident,
        );
    }
    let started = status.about.started.duration_since(UNIX_EPOCH);
    page.gauge(
        "process_start_time_seconds",
        "When the process started, in seconds since 1970.",
        started.unwrap_or_default().as_secs_f64(),
    );
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        if labels.is_empty() {
            return self.line(format_args!("{name} {value}"));
        }
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", Escaped(value)))
            .collect();
        self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a text cannot fail.
        writeln!(self.text, "{line}").ok();
    }
}

/// A label's value: a command may be called anything.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::reconcile::Report;
    use crate::status::testing;

    type Samples = BTreeMap<(String, BTreeMap<String, String>), f64>;

    /// What the format allows and nothing else: each family once, its HELP and TYPE before its
    /// samples, no sample twice, every line ended.
    fn parse(text: &str) -> Samples {
        assert!(text.ends_with('\n'));
        let mut samples = Samples::new();
        let mut families = BTreeSet::new();
        let mut family = "";
        let mut lines = text.strip_suffix('\n').unwrap().split('\n');
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(!help.is_empty() && families.insert(name), "{line}");
                let kind = lines.next().unwrap().strip_prefix("# TYPE ").unwrap();
                let kind = kind.strip_prefix(name).unwrap();
                assert!([" counter", " gauge"].contains(&kind), "{kind}");
                family = name;
                continue;
            }
            let (name, labels, value) = parse_sample(line);
            assert_eq!(name, family, "{line}");
            assert!(samples.insert((name, labels), value).is_none(), "{line}");
        }
        samples
    }

    fn parse_sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
        let name_end = line.find(['{', ' ']).unwrap();
        let (name, mut rest) = line.split_at(name_end);
        assert!(is_name(name), "{line}");
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, after) = rest.split_once("=\"").unwrap();
                assert!(is_name(label), "{line}");
                let (value, after) = parse_value(after);
                assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
                match after.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => {
                        rest = after.strip_prefix('}').unwrap();
                        break;
                    }
                }
            }
        }
        let value = rest.strip_prefix(' ').unwrap();
        (name.to_owned(), labels, value.parse().unwrap())
    }

    /// A label's value up to its closing quotation mark, and what follows.
    fn parse_value(text: &str) -> (String, &str) {
        let mut value = String::new();
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return (value, &text[at + 1..]),
                '\\' => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    c @ ('"' | '\\') => c,
                    c => panic!("\\{c} is no escape"),
                }),
                c => value.push(c),
            }
        }
        panic!("{text} does not end")
    }

    fn is_name(name: &str) -> bool {
        let first = name.chars().next().unwrap();
        (first.is_ascii_alphabetic() || first == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    fn value(samples: &Samples, name: &str) -> f64 {
        samples[&(name.to_owned(), BTreeMap::new())]
    }

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = labels
            .iter()
            .map(|(label, value)| ((*label).into(), (*value).into()));
        owned.collect()
    }

    #[test]
    fn a_node_that_serves_counts_everything() {
        let (status, now) = testing::serving();
        let process = Process {
            cpu: Duration::from_millis(1500),
            resident: Some(4096),
        };
        let samples = parse(&text(&status, process, now));
        for (name, expected) in [
            ("weft_ready", 1.0),
            ("weft_peers", 1.0),
            ("weft_peers_skipped", 1.0),
            ("weft_leases_unreadable", 1.0),
            ("weft_routes", 1.0),
            ("weft_notes", 1.0),
            ("weft_lease_expires_seconds", 86_400.0),
            ("weft_guard_dropped_packets_total", 7.0),
            ("weft_forward_chains_dropping", 1.0),
            ("weft_reconcile_rounds_total", 12.0),
            ("weft_reconcile_seconds_sum", 0.04),
            ("weft_reconcile_seconds_last", 0.004),
            ("weft_reconcile_seconds_max", 0.013),
            ("weft_store_up", 1.0),
            ("weft_store_calls_total", 120.0),
            ("weft_store_failures_total", 2.0),
            ("weft_store_reconnects_total", 1.0),
            ("weft_store_seconds_sum", 0.24),
            ("weft_store_slowest_seconds", 0.014),
            ("process_cpu_seconds_total", 1.5),
            ("process_resident_memory_bytes", 4096.0),
        ] {
            assert_eq!(value(&samples, name), expected, "{name}");
        }
        let info = labels(&[
            ("version", "0.1.0"),
            ("backend", "vxlan"),
            ("store", "etcd"),
        ]);
        assert_eq!(samples[&("weft_info".into(), info)], 1.0);
        let held = labels(&[("state", "held")]);
        assert_eq!(samples[&("weft_lease_state".into(), held)], 1.0);
        let drift = labels(&[("kind", "route"), ("command", "NetworkManager")]);
        assert_eq!(samples[&("weft_drift_repaired_total".into(), drift)], 3.0);
    }

    #[test]
    fn a_node_that_starts_leaves_out_what_nobody_knows() {
        let (status, now) = testing::starting();
        let samples = parse(&text(&status, Process::default(), now));
        assert_eq!(value(&samples, "weft_ready"), 0.0);
        let is_known = |name: &str| samples.keys().any(|(known, _)| known == name);
        assert!(!is_known("weft_peers") && !is_known("weft_lease_expires_seconds"));
    }

    #[test]
    fn a_packet_path_is_shown_with_its_peers_its_drops_and_what_it_lacks() {
        let (status, now) = testing::forwarding();
        let samples = parse(&text(&status, Process::default(), now));
        let sample = |name: &str, of: &[(&str, &str)]| samples[&(name.into(), labels(of))];
        let sent = ("direction", "sent");
        assert_eq!(sample("weft_udp_packets_total", &[sent]), 12.0);
        let two = [sent, ("packets", "2")];
        assert_eq!(sample("weft_udp_calls_total", &two), 6.0);
        let malformed = [("direction", "received"), ("reason", "malformed")];
        assert_eq!(sample("weft_udp_dropped_packets_total", &malformed), 0.0);
        let peer = [("peer", "192.168.9.3"), sent];
        assert_eq!(sample("weft_udp_peer_bytes_total", &peer), 1200.0);
        let silent = [("peer", "192.168.9.4"), sent];
        assert!(!samples.contains_key(&("weft_udp_peer_bytes_total".into(), labels(&silent))));
        let lacks = [("what", "gso_refused")];
        assert_eq!(sample("weft_udp_degraded", &lacks), 1.0);
        assert_eq!(value(&samples, "weft_udp_unheard_datagrams_total"), 5.0);
    }

    #[test]
    fn this_process_is_measured() {
        let process = Process::this();
        assert!(process.resident.is_some_and(|bytes| bytes > 100_000));
        assert!(process.cpu > Duration::ZERO);
    }

    proptest! {
        #[test]
        fn a_command_of_any_name_is_read_back_as_it_is(command in "\\PC*|[\\\\\"\n{},= a]*") {
            let (mut status, now) = testing::starting();
            let mut report = Report::default();
            report.repairs.insert(("route", command.clone()), 2);
            status.report = Arc::new(report);
            let samples = parse(&text(&status, Process::default(), now));
            let drift = labels(&[("kind", "route"), ("command", &command)]);
            prop_assert_eq!(samples[&("weft_drift_repaired_total".into(), drift)], 2.0);
        }
    }
}
