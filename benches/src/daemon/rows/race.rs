//! As many daemons as subnets, started at once.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use weft_benches::report::{Bound, Report, Unit};
use weft_netns::wait_until;

use crate::Bench;
use crate::field::{Field, Node, ms_between};
use crate::weftd::{self, Leases, Weftd};

pub(super) const NAME: &str = "race";

const DAEMONS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(120);
const STORES: [&str; 2] = ["etcd", "embedded"];
/// Leases are what is raced for; with tunnels, 200 nodes' 120,000 entries are made besides, by
/// the cores of one machine.
const BACKENDS: [&str; 2] = ["alloc", "vxlan"];

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let field = bench.field();
    let nodes: Vec<Node> = (0..DAEMONS).map(|_| field.node()).collect();
    for round in 0..bench.rounds(4).min(4) {
        for backend in BACKENDS {
            for store in STORES {
                let leases = found(field, store, backend, round);
                let (leased, serving) = race(field, &nodes, &leases);
                for (what, took) in [("all leased", leased), ("all serve", serving)] {
                    let what = format!("{store}, {backend}: {what}");
                    report.sample(NAME, &what, "weft", Unit::Milliseconds, took);
                }
                nodes.iter().for_each(reset);
            }
        }
    }
    for store in STORES {
        let took = report.median(NAME, &format!("{store}, alloc: all leased"), "weft") / 1e3;
        let claim = format!("{store}: 200 different subnets, s");
        report.judge(NAME, &claim, took, Bound::AtMost(5.0));
    }
}

/// Exactly 200 subnets.
fn conf(backend: &str) -> String {
    let conf = json!({
        "Network": "10.50.0.0/16", "SubnetLen": 24,
        "SubnetMin": "10.50.1.0", "SubnetMax": "10.50.200.0",
        "Backend": {"Type": backend},
    });
    conf.to_string()
}

fn found(field: &Field<'_>, store: &str, backend: &str, round: u16) -> Leases {
    let conf = conf(backend);
    if store == "etcd" {
        let prefix = field.prefix();
        field.store().put(&format!("{prefix}/config"), &conf);
        return Leases::Etcd {
            endpoint: field.endpoint(),
            prefix,
        };
    }
    let dir = field.world.scratch(&format!("leases-{backend}-{round}"));
    fs::write(dir.join("config"), conf).expect("write the configuration");
    Leases::Embedded(dir)
}

/// Milliseconds from the first exec until all have a lease, and until all serve.
fn race(field: &Field<'_>, nodes: &[Node], leases: &Leases) -> (f64, f64) {
    let mut daemons: Vec<Weftd> = Vec::with_capacity(DAEMONS);
    let begun = Instant::now();
    let leased = std::thread::scope(|scope| {
        let watching = scope.spawn(|| all_leased(field, leases));
        let start = |node| Weftd::start_ordinary(node, leases);
        daemons.extend(nodes.iter().map(start));
        watching.join().expect("the watching thread ends")
    });
    wait_until("all serve", PATIENCE, || {
        nodes.iter().all(|node| weftd::subnet_file(node).exists())
    });
    let serving = Instant::now();
    daemons.iter().for_each(Weftd::assert_alive);
    let subnets: BTreeSet<String> = nodes.iter().map(subnet).collect();
    assert_eq!(subnets.len(), DAEMONS, "different subnets");
    (ms_between(begun, leased), ms_between(begun, serving))
}

/// As if no daemon had ever run there.
fn reset(node: &Node) {
    node.netns
        .exec("ip link del flannel.1 2>/dev/null || true; nft flush ruleset");
    let again = fs::remove_dir_all(&node.dir).and_then(|()| fs::create_dir(&node.dir));
    again.expect("empty a directory");
}

fn all_leased(field: &Field<'_>, leases: &Leases) -> Instant {
    let mut store = field.store();
    wait_until("all have a lease", PATIENCE, || {
        let count = match leases {
            Leases::Etcd { prefix, .. } => store.leases(prefix),
            Leases::Embedded(dir) => files(&dir.join("subnets")),
        };
        count >= DAEMONS
    });
    Instant::now()
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

fn subnet(node: &Node) -> String {
    let text = fs::read_to_string(weftd::subnet_file(node)).expect("read the subnet file");
    let line = text
        .lines()
        .find(|line| line.starts_with("FLANNEL_SUBNET="));
    line.unwrap_or_else(|| panic!("no subnet in {text}"))
        .to_owned()
}
