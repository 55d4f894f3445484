//! As many daemons as subnets, started at once.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_benches::report::{Bound, Report, Unit};
use weft_netns::wait_until;

use crate::Bench;
use crate::field::{Field, Node, ms_between};
use crate::weftd::{self, Leases, Weftd};

pub(super) const NAME: &str = "race";

const DAEMONS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(120);
/// Exactly 200 subnets.
const CONF: &str = r#"{"Network":"10.50.0.0/16","SubnetLen":24,"SubnetMin":"10.50.1.0","SubnetMax":"10.50.200.0","Backend":{"Type":"alloc"}}"#;

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let field = bench.field();
    for round in 0..bench.rounds(6) {
        let stores = ["etcd", "embedded"];
        for store in stores {
            let leases = found(field, store, round);
            let (leased, serving) = race(field, &leases);
            for (what, took) in [("leased", leased), ("all serve", serving)] {
                let what = format!("{store}, {what}");
                report.sample(NAME, &what, "weft", Unit::Milliseconds, took);
            }
        }
    }
    for store in ["etcd", "embedded"] {
        let took = report.median(NAME, &format!("{store}, leased"), "weft") / 1e3;
        let claim = format!("{store}: 200 different subnets, s");
        report.judge(NAME, &claim, took, Bound::AtMost(5.0));
    }
}

fn found(field: &Field<'_>, store: &str, round: u16) -> Leases {
    if store == "etcd" {
        let prefix = field.prefix();
        field.store().put(&format!("{prefix}/config"), CONF);
        return Leases::Etcd {
            endpoint: field.endpoint(),
            prefix,
        };
    }
    let dir = field.world.scratch(&format!("leases-{round}"));
    fs::write(dir.join("config"), CONF).expect("write the configuration");
    Leases::Embedded(dir)
}

/// Milliseconds from the first exec until all have a lease, and until all serve.
fn race(field: &Field<'_>, leases: &Leases) -> (f64, f64) {
    let nodes: Vec<Node> = (0..DAEMONS).map(|_| field.node()).collect();
    let mut daemons: Vec<Weftd> = Vec::with_capacity(DAEMONS);
    let begun = Instant::now();
    let leased = std::thread::scope(|scope| {
        let watching = scope.spawn(|| all_leased(field, leases));
        daemons.extend(nodes.iter().map(|node| Weftd::start_ordinary(node, leases)));
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
