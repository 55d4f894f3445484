//! Something is removed by hand: how long until it is back.
use std::time::{Duration, Instant};

use weft_benches::report::{Bound, Report, Samples, Unit};
use weft_net::Rtnl;
use weft_net::route::{FdbEntry, Requests, Route, Ticket};
use weft_net::watch::{Filter, RulesetEvent, RulesetWatch};
use weft_netns::wait_for;

use super::memory::settled;
use crate::Bench;
use crate::field::{Node, ms_between};
use crate::floor;
use crate::listener::{Heard, Listener};
use crate::store::Peer;
use crate::tunnel;

pub(super) const NAME: &str = "repair";

const PATIENCE: Duration = Duration::from_secs(30);
const MANY: u32 = 5000;
const SOME: u32 = 500;
/// What repeats is a quarrel, which weftd takes its time for: so nothing is removed twice, and
/// removals come some time after each other, in no rhythm of weftd's.
const APART: Duration = Duration::from_millis(230);

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let rounds = bench.rounds(20).max(8);
    {
        let (node, weftd) = settled(bench, MANY);
        entries(&node, rounds, report);
        ruleset(&node, rounds, report);
        for _ in 0..bench.rounds(8) {
            let took = device(&node, MANY);
            report.sample(
                NAME,
                "device, 5,000 peers",
                "weft",
                Unit::Milliseconds,
                took,
            );
            let floor = floor::by_programs(bench.field(), MANY);
            report.sample(
                NAME,
                "device, 5,000 peers",
                "floor",
                Unit::Milliseconds,
                floor,
            );
        }
        weftd.assert_alive();
    }
    let (node, weftd) = settled(bench, SOME);
    for _ in 0..bench.rounds(8) {
        let took = device(&node, SOME);
        report.sample(NAME, "device, 500 peers", "weft", Unit::Milliseconds, took);
    }
    weftd.assert_alive();
    let took = report.median(NAME, "device, 500 peers", "weft");
    report.judge(
        NAME,
        "device with 500 peers, ms",
        took,
        Bound::AtMost(100.0),
    );
    let ratio = report.ratio(NAME, "device, 5,000 peers", "weft", "floor");
    report.judge(
        NAME,
        "device with 5,000 peers, over floor",
        ratio,
        Bound::AtMost(1.3),
    );
}

type Removal = fn(&mut Requests, u32, Peer) -> Ticket<()>;
type IsBack = fn(&Heard, Peer) -> bool;

const ENTRIES: [(&str, Removal, IsBack); 3] = [
    (
        "route",
        |requests, _, peer| requests.delete_route(&Route::to(peer.subnet().into())),
        |heard, peer| heard.routes.contains(&peer.subnet().into()),
    ),
    (
        "ARP entry",
        |requests, link, peer| requests.delete_neighbour(link, peer.gateway().into()),
        |heard, peer| heard.neighbours.contains(&peer.gateway().into()),
    ),
    (
        "FDB entry",
        |requests, link, peer| {
            let entry = FdbEntry::tunnel(link, peer.mac(0), peer.remote().into());
            requests.delete_fdb(&entry)
        },
        |heard, peer| heard.forwards.contains(&peer.mac(0)),
    ),
];

fn entries(node: &Node, rounds: u16, report: &mut Report) {
    let mut rtnl = node.netns.enter(Rtnl::open).expect("talk to the kernel");
    let link = rtnl.link(tunnel::NAME).expect("the tunnel device").index;
    let mut listener = Listener::open(&node.netns);
    let mut all = vec![Samples::default(); ENTRIES.len()];
    for round in 0..u32::from(rounds) {
        for (at, (what, removal, is_back)) in ENTRIES.iter().enumerate() {
            let peer = Peer(round * 97 + u32::try_from(at).unwrap_or(0));
            std::thread::sleep(APART);
            listener.begin();
            rtnl.one(|requests| removal(requests, link, peer))
                .unwrap_or_else(|why| panic!("remove the {what}: {why}"));
            let removed = Instant::now();
            let back = listener.until(PATIENCE, |heard| is_back(heard, peer));
            let back = back.unwrap_or_else(|| panic!("the {what} stays away"));
            all[at].push(ms_between(removed, back));
        }
    }
    for ((what, ..), samples) in ENTRIES.iter().zip(all) {
        tell(report, what, &samples);
    }
}

fn tell(report: &mut Report, what: &str, samples: &Samples) {
    for (name, value) in [
        ("median", samples.median()),
        ("p95", samples.quantile(0.95)),
    ] {
        let figure = format!("{what}, {name}");
        report.sample(NAME, &figure, "weft", Unit::Milliseconds, value);
    }
    let worst = samples.quantile(0.95);
    report.judge(
        NAME,
        &format!("{what}, p95, ms"),
        worst,
        Bound::AtMost(100.0),
    );
}

fn ruleset(node: &Node, rounds: u16, report: &mut Report) {
    let rules = || node.netns.exec("nft -s list ruleset");
    let before = rules();
    let opened = node
        .netns
        .enter(|| RulesetWatch::open(&Filter::default(), &[]));
    let mut watch = opened.expect("listen to nftables");
    let mut samples = Samples::default();
    for _ in 0..rounds {
        std::thread::sleep(APART);
        watch.read(&mut Vec::new()).expect("listen to nftables");
        node.command("nft").args(["flush", "ruleset"]).run().ok();
        let removed = Instant::now();
        let back = wait_for("the rules are back", PATIENCE, || {
            let mut events = Vec::new();
            watch.read(&mut events).expect("listen to nftables");
            events
                .iter()
                .any(|event| !is_by(event, "nft"))
                .then(Instant::now)
        });
        samples.push(ms_between(removed, back));
        assert_eq!(rules(), before, "the rules that are back");
    }
    tell(report, "ruleset", &samples);
}

fn is_by(event: &RulesetEvent, program: &str) -> bool {
    matches!(event, RulesetEvent::Commit { generation, .. } if generation.program == program)
}

/// From the kernel's word that it is gone.
fn device(node: &Node, peers: u32) -> f64 {
    std::thread::sleep(APART);
    let mut listener = Listener::open(&node.netns);
    let mut rtnl = node.netns.enter(Rtnl::open).expect("talk to the kernel");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            rtnl.one(|requests| requests.delete_link(tunnel::NAME))
                .expect("remove the tunnel device");
        });
        let done = listener.until(PATIENCE, |heard| {
            heard.lost_device.is_some() && heard.all_of(peers as usize)
        });
        let Some(done) = done else {
            panic!("{:?} of {peers} are back", listener.heard.counts());
        };
        let lost = listener.heard.lost_device.unwrap_or(done);
        ms_between(lost, done)
    })
}
