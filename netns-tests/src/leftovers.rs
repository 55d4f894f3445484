//! Everything a CNI chain may leave behind, and what has changed since.
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::Cmd;
use crate::namespace::Netns;

/// Sysctls that the plugins of a chain write.
const SYSCTLS: [&str; 3] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/conf/all/route_localnet",
];

/// Where plugins keep files.
const DIRS: [&str; 3] = ["/var/lib/cni", "/run/cni", "/run/flannel"];

/// What to look at: the node always, and what is added.
#[derive(Debug)]
pub struct Watch<'a> {
    netns: Vec<&'a Netns>,
    dirs: Vec<PathBuf>,
    sysctls: Vec<String>,
}

impl Default for Watch<'_> {
    fn default() -> Self {
        Self {
            netns: Vec::new(),
            dirs: DIRS.map(PathBuf::from).into(),
            sysctls: SYSCTLS.map(String::from).into(),
        }
    }
}

impl<'a> Watch<'a> {
    /// The node alone.
    pub fn node() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn netns(mut self, netns: &'a Netns) -> Self {
        self.netns.push(netns);
        self
    }

    /// Everything below `dir`, contents included.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dirs.push(dir.as_ref().to_owned());
        self
    }

    /// A file below /proc/sys.
    #[must_use]
    pub fn sysctl(mut self, path: &str) -> Self {
        self.sysctls.push(path.to_owned());
        self
    }

    #[track_caller]
    pub fn take(&self) -> Snapshot {
        let mut facts = Facts::default();
        self.look_at_network(None, &mut facts);
        for netns in &self.netns {
            self.look_at_network(Some(netns), &mut facts);
        }
        for dir in &self.dirs {
            look_at_files(dir, &mut facts);
        }
        Snapshot { facts: facts.0 }
    }

    #[track_caller]
    fn look_at_network(&self, netns: Option<&Netns>, facts: &mut Facts) {
        let place = netns.map_or("node", Netns::name);
        let mut note = |kind: &str, what: &str| facts.note(format!("{place}: {kind} {what}"));
        for (kind, args) in IP_LISTS {
            let entries = json_list(&command("ip", netns).args(args.split(' ')));
            for entry in entries
                .into_iter()
                .filter(|entry| !is_link_local_route(entry))
            {
                note(kind, &steady(entry).to_string());
            }
        }
        for entry in json_list(&command("nft", netns).args(["-j", "list", "ruleset"])) {
            note("nft", &steady(entry).to_string());
        }
        for save in iptables_saves(netns) {
            for line in command(save, netns)
                .run()
                .ok()
                .stdout
                .lines()
                .filter(|l| is_steady(l))
            {
                note(save, without_counters(line));
            }
        }
        for sysctl in &self.sysctls {
            if let Some(value) = read_sysctl(sysctl, netns) {
                note("sysctl", &format!("{sysctl} = {value}"));
            }
        }
    }
}

/// What `ip -json` is asked for.
const IP_LISTS: [(&str, &str); 6] = [
    ("link", "-d -j link show"),
    ("address", "-j address show"),
    ("route", "-j -4 route show table all"),
    ("route6", "-j -6 route show table all"),
    ("neighbour", "-j neighbour show nud permanent"),
    ("rule", "-j rule show"),
];

/// The state of a world at one moment, as facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    facts: BTreeSet<String>,
}

/// What has come and gone between two snapshots; `Display` shows a line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub came: Vec<String>,
    pub gone: Vec<String>,
}

impl Snapshot {
    pub fn difference(&self, later: &Self) -> Difference {
        Difference {
            came: later.facts.difference(&self.facts).cloned().collect(),
            gone: self.facts.difference(&later.facts).cloned().collect(),
        }
    }

    /// Fails the test with a readable list unless both are the same.
    #[track_caller]
    pub fn assert_same(&self, later: &Self, when: &str) {
        let difference = self.difference(later);
        assert!(
            difference.is_empty(),
            "{when}, this has changed:\n{difference}"
        );
    }

    /// The facts that contain `text`.
    pub fn matching(&self, text: &str) -> Vec<&str> {
        self.facts
            .iter()
            .map(String::as_str)
            .filter(|fact| fact.contains(text))
            .collect()
    }
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        self.came.is_empty() && self.gone.is_empty()
    }

    /// Without the facts for which `expected` is true.
    #[must_use]
    pub fn except(mut self, expected: impl Fn(&str) -> bool) -> Self {
        self.came.retain(|fact| !expected(fact));
        self.gone.retain(|fact| !expected(fact));
        self
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.came
            .iter()
            .try_for_each(|fact| writeln!(f, "  + {fact}"))?;
        self.gone
            .iter()
            .try_for_each(|fact| writeln!(f, "  - {fact}"))
    }
}

/// Gathers facts. A fact seen twice, such as a duplicate rule, is two facts.
#[derive(Default)]
struct Facts(BTreeSet<String>);

impl Facts {
    fn note(&mut self, fact: String) {
        let again = (2..).map(|time| format!("{fact} (again: {time})"));
        let fresh = std::iter::once(fact.clone())
            .chain(again)
            .find(|f| !self.0.contains(f));
        self.0.extend(fresh);
    }
}

fn command(program: &str, netns: Option<&Netns>) -> Cmd {
    netns.map_or_else(|| Cmd::new(program), |netns| netns.command(program))
}

/// The entries of a JSON list, or of nft's object around one.
#[track_caller]
fn json_list(cmd: &Cmd) -> Vec<Value> {
    let done = cmd.run().ok();
    let text = if done.stdout.trim().is_empty() {
        "[]"
    } else {
        &done.stdout
    };
    let mut json: Value =
        serde_json::from_str(text).unwrap_or_else(|e| panic!("`{}`: {e}", done.line));
    if let Some(list) = json.get_mut("nftables") {
        json = list.take();
    }
    let Value::Array(entries) = json else {
        panic!("`{}` printed no list", done.line)
    };
    entries
        .into_iter()
        .filter(|entry| entry.get("metainfo").is_none())
        .collect()
}

/// An entry without what changes by itself: numbers the kernel gives out,
/// counters, timers, whether somebody is at the other end.
fn steady(mut value: Value) -> Value {
    strip(&mut value);
    value
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !VOLATILE.contains(&key.as_str()));
            map.values_mut().for_each(strip);
            // A set whose last element is going is listed like one that is empty.
            map.retain(|key, value| key != "elem" || *value != serde_json::json!([]));
        }
        Value::Array(list) => {
            list.retain(|item| !is_volatile(item));
            list.iter_mut().for_each(strip);
        }
        _ => {}
    }
}

const VOLATILE: [&str; 23] = [
    "ifindex",
    "link_index",
    "handle",
    "packets",
    "bytes",
    "stats64",
    "used",
    "valid_life_time",
    "preferred_life_time",
    "cache_info",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "message_age_timer",
    "forward_delay_timer",
    "hold_timer",
    "expires",
    "ageing_timer",
    "updated",
    "operstate",
    "tentative",
    "promiscuity",
];

/// Flags that follow the carrier, and the link-local addresses that the kernel
/// gives and takes when it has found them unique.
fn is_volatile(item: &Value) -> bool {
    let is_flag = ["LOWER_UP", "NO-CARRIER", "linkdown"]
        .iter()
        .any(|flag| item == flag);
    let is_link_local = item["local"]
        .as_str()
        .is_some_and(|local| local.starts_with("fe80:"));
    is_flag || is_link_local || is_expiring(item)
}

/// An element of a set or map that has been given its last millisecond.
fn is_expiring(item: &Value) -> bool {
    let of_set = &item["elem"]["expires"];
    let of_map = &item[0]["elem"]["expires"];
    !of_set.is_null() || !of_map.is_null()
}

/// The routes that come and go with link-local addresses.
fn is_link_local_route(entry: &Value) -> bool {
    let dst = entry["dst"].as_str().unwrap_or_default();
    ["fe80:", "ff00:", "multicast"]
        .iter()
        .any(|prefix| dst.starts_with(prefix))
}

/// iptables on nftables is listed with the ruleset; but a rule of a kind that nft
/// cannot show is only here. The legacy tables are asked for only if they exist:
/// listing them would make them.
fn iptables_saves(netns: Option<&Netns>) -> Vec<&'static str> {
    let legacy_tables = |file: &str| {
        let read = || fs::read_to_string(file).unwrap_or_default();
        !netns
            .map_or_else(read, |netns| netns.enter(read))
            .trim()
            .is_empty()
    };
    let mut saves = vec!["iptables-nft-save", "ip6tables-nft-save"];
    if legacy_tables("/proc/thread-self/net/ip_tables_names") {
        saves.push("iptables-legacy-save");
    }
    if legacy_tables("/proc/thread-self/net/ip6_tables_names") {
        saves.push("ip6tables-legacy-save");
    }
    saves
}

fn is_steady(line: &str) -> bool {
    !line.starts_with('#')
}

/// `:CHAIN POLICY [packets:bytes]` without the numbers.
fn without_counters(line: &str) -> &str {
    if !line.starts_with(':') {
        return line;
    }
    line.split(" [").next().unwrap_or(line)
}

fn read_sysctl(path: &str, netns: Option<&Netns>) -> Option<String> {
    let read = || fs::read_to_string(Path::new("/proc/sys").join(path)).ok();
    let value = netns.map_or_else(read, |netns| netns.enter(read))?;
    Some(value.trim().to_owned())
}

fn look_at_files(dir: &Path, facts: &mut Facts) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        let mode = metadata.mode();
        if metadata.is_dir() {
            facts.note(format!("file {}/ {mode:o}", path.display()));
            look_at_files(&path, facts);
        } else {
            let content = fs::read(&path).unwrap_or_default();
            let content = readable(&content);
            facts.note(format!("file {} {mode:o} {content}", path.display()));
        }
    }
}

/// A text as it is; of anything else what tells it from another.
fn readable(content: &[u8]) -> String {
    match std::str::from_utf8(content) {
        Ok(text) if !text.contains('\0') => format!("{text:?}"),
        _ => {
            let mut hasher = DefaultHasher::new();
            content.hash(&mut hasher);
            format!("{} bytes, hash {:016x}", content.len(), hasher.finish())
        }
    }
}
