//! A start among many peers; and the same over a slow link to etcd.
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weft_benches::report::{Bound, Report, Unit};
use weft_netns::Cmd;

use crate::Bench;
use crate::field::{CENTRE, ETCD_PORT, Field, Node, ms_between};
use crate::floor;
use crate::listener::Listener;
use crate::proxy::Proxy;
use crate::tunnel;
use crate::weftd::{Leases, Weftd};

pub(super) const NAME: &str = "converge";

const PATIENCE: Duration = Duration::from_secs(120);
const ROUND_TRIP: Duration = Duration::from_millis(4);
const SLOW: &str = "4 ms a call";

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let field = bench.field();
    let mut store = field.store();
    let slow = Proxy::before(SocketAddr::from((CENTRE, ETCD_PORT)), ROUND_TRIP);
    let mut promised = 0;
    for (peers, title) in [(1000, "1,000 peers"), (5000, "5,000 peers")] {
        promised = peers;
        let prefix = field.prefix();
        store.found(&prefix, 0..peers);
        let mut afresh = |endpoint: &str| {
            store.forget_real_nodes(&prefix);
            Leases::Etcd {
                endpoint: endpoint.to_owned(),
                prefix: prefix.clone(),
            }
        };
        for round in 0..bench.rounds(9) {
            let near = field.endpoint();
            let mut contestants: Vec<(&str, Measure<'_>)> = vec![
                ("weft", Box::new(|leases| weft(field, leases, peers))),
                ("serial", Box::new(|leases| serial(field, leases, peers))),
                ("floor", Box::new(|_| floor::by_programs(field, peers))),
                ("batch", Box::new(|_| floor::by_one_batch(field, peers))),
            ];
            if round % 2 == 1 {
                contestants.reverse();
            }
            for (who, measure) in contestants {
                let took = measure(&afresh(&near));
                report.sample(NAME, title, who, Unit::Milliseconds, took);
            }
            let took = weft(field, &afresh(&slow.endpoint()), peers);
            let what = format!("{title}, {SLOW}");
            report.sample(NAME, &what, "weft", Unit::Milliseconds, took);
        }
        if peers == 1000 || !bench.quick {
            let took = serial(field, &afresh(&slow.endpoint()), peers);
            let what = format!("{title}, {SLOW}");
            report.sample(NAME, &what, "serial", Unit::Milliseconds, took);
        }
    }
    judge(report, promised);
}

type Measure<'a> = Box<dyn Fn(&Leases) -> f64 + 'a>;

fn judge(report: &mut Report, peers: u32) {
    let title = format!("{},{:03} peers", peers / 1000, peers % 1000);
    for (who, bound) in [("floor", 1.3), ("serial", 0.25)] {
        let ratio = report.ratio(NAME, &title, "weft", who);
        let claim = format!("{title}, over {who}");
        report.judge(NAME, &claim, ratio, Bound::AtMost(bound));
    }
    let near = report.median(NAME, &title, "weft");
    let slow = report.median(NAME, &format!("{title}, {SLOW}"), "weft");
    let claim = format!("{title}: ms more at {SLOW}");
    report.judge(NAME, &claim, slow - near, Bound::AtMost(100.0));
}

fn weft(field: &Field<'_>, leases: &Leases, peers: u32) -> f64 {
    let node = field.node();
    let mut listener = Listener::open(&node.netns);
    let weftd = Weftd::start(&node, leases);
    let done = listener.until(PATIENCE, |heard| heard.all_of(peers as usize));
    let Some(done) = done else {
        panic!(
            "{:?}\n{}",
            listener.heard.counts(),
            weftd.running.said_so_far()
        );
    };
    count(&node, peers);
    ms_between(weftd.begun, done)
}

fn serial(field: &Field<'_>, leases: &Leases, peers: u32) -> f64 {
    let node = field.node();
    let mut listener = Listener::open(&node.netns);
    let begun = Instant::now();
    let running = serial_program(&node, leases).spawn();
    let done = listener.until(PATIENCE, |heard| heard.all_of(peers as usize));
    let Some(done) = done else {
        panic!("{:?}\n{}", listener.heard.counts(), running.said_so_far());
    };
    ms_between(begun, done)
}

pub(super) fn serial_program(node: &Node, leases: &Leases) -> Cmd {
    let Leases::Etcd { endpoint, prefix } = leases else {
        panic!("flanneld knows no embedded store");
    };
    let itself = std::env::current_exe().expect("our own program");
    let address = node.address.to_string();
    node.command(&itself.display().to_string())
        .args(["serial", endpoint, prefix, &address])
}

/// By programs that are not ours.
fn count(node: &Node, peers: u32) {
    let dev = tunnel::NAME;
    let counted = node.netns.exec(&format!(
        "ip route show dev {dev} | grep -c via
         ip neigh show dev {dev} nud permanent | wc -l
         bridge fdb show dev {dev} | grep -c dst"
    ));
    let counts: Vec<u32> = counted
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    assert_eq!(counts, [peers; 3], "routes, neighbours, forwarding entries");
}
