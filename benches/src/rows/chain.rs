//! One pod after the other, each contestant in turn.
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use weft_netns::{Netns, Verb};

use crate::peer::{CniPeer, Floor, Netavark, Pod, plain_config};
use crate::process::Cost;
use crate::report::{Bound, Report, Unit};
use crate::{Bench, ms};

pub(crate) const NAME: &str = "chain";
pub(crate) const PLAIN: &str = "plain";

const ROUNDS: u16 = 60;
/// The kernel finishes in the background what a contestant has begun: the next one waits for it.
const AFTERMATH: Duration = Duration::from_millis(40);
/// Not counted: the first pods make the bridge and the tables, and warm the caches.
const WARM_UP: u16 = 2;

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let weft = CniPeer::weft(&bench.world, "weft-node");
    let go = CniPeer::go(&bench.world, "go-node");
    let floor = Floor::record(&bench.world, "floor-node");
    let netavark = Netavark::new(&bench.world, "netavark-node");
    let mut stage = Stage::new(bench, NAME);
    stage.enter_cni(&weft);
    stage.enter_floor(&floor);
    stage.enter_cni(&go);
    match &netavark {
        Some(netavark) => stage.enter_netavark(netavark),
        None => report.note("netavark is not installed (Debian package netavark)"),
    }
    stage.perform(report);

    let sum = |who: &str| report.median(NAME, "ADD CPU", who) + report.median(NAME, "DEL CPU", who);
    let cpu = sum("weft") / sum("go");
    report.judge(
        NAME,
        "CPU of ADD + DEL, over Go's",
        cpu,
        Bound::AtMost(1.0 / 10.0),
    );
    let wall = |verb: &str| report.ratio(NAME, verb, "weft", "go");
    let (add, del) = (wall("ADD"), wall("DEL"));
    report.judge(
        NAME,
        "wall of ADD, over Go's",
        add,
        Bound::AtMost(1.0 / 8.0),
    );
    report.judge(
        NAME,
        "wall of DEL, over Go's",
        del,
        Bound::AtMost(1.0 / 7.0),
    );
    for verb in ["ADD", "DEL"] {
        let over = report.ratio(NAME, verb, "weft", "floor");
        report.judge(
            NAME,
            &format!("wall of {verb}, over the floor's"),
            over,
            Bound::AtMost(1.5),
        );
    }
    let (add, del) = floor.sends();
    report.note(format!(
        "the floor sends what ours sent: {add} times for ADD, {del} for DEL"
    ));
    count_children(bench, report, &weft, &go);
}

pub(crate) fn run_plain(bench: &Bench, report: &mut Report) {
    let weft = CniPeer::weft(&bench.world, "weft-plain").network(plain_config);
    let go = CniPeer::go(&bench.world, "go-plain").network(plain_config);
    let mut stage = Stage::new(bench, PLAIN);
    stage.enter_cni(&weft);
    stage.enter_cni(&go);
    stage.perform(report);
}

/// The contestants of a row, and a fresh namespace for each pod of each.
struct Stage<'a> {
    row: &'static str,
    bench: &'a Bench,
    rounds: u16,
    acts: Vec<Act<'a>>,
}

/// What ADD and DEL cost for this pod of this round.
type Round<'a> = Box<dyn Fn(&Netns, u16) -> (Cost, Cost) + Sync + 'a>;

/// A contestant: how it adds and deletes its pod of a round.
struct Act<'a> {
    name: &'static str,
    node: &'a Netns,
    pods: Vec<Netns>,
    round: Round<'a>,
}

impl<'a> Stage<'a> {
    fn new(bench: &'a Bench, row: &'static str) -> Self {
        Self {
            row,
            bench,
            rounds: WARM_UP + bench.rounds(ROUNDS),
            acts: Vec::new(),
        }
    }

    fn enter_cni(&mut self, peer: &'a CniPeer) {
        let round = |netns: &Netns, number: u16| {
            let mut pod = Pod::new(netns.name(), netns, 8000 + number);
            (peer.add(&mut pod), peer.del(&pod))
        };
        self.enter(peer.name, &peer.node, Box::new(round));
        // A pod stays all the time: nobody is measured making or removing what is shared.
        let resident = self
            .acts
            .last()
            .and_then(|act| act.pods.last())
            .expect("a namespace");
        peer.node
            .enter(|| peer.add(&mut Pod::new("resident", resident, 7999)));
    }

    fn enter_floor(&mut self, floor: &'a Floor) {
        let round = |netns: &Netns, _| {
            let add = floor.add(netns);
            let is = |what: &str| {
                fs::read_to_string("/proc/thread-self/net/dev").is_ok_and(|t| t.contains(what))
            };
            assert!(netns.enter(|| is("eth0:")), "the floor has made no pod");
            let del = floor.del(netns);
            assert!(!netns.enter(|| is("eth0:")), "the floor has left the pod");
            (add, del)
        };
        self.enter("floor", &floor.node, Box::new(round));
    }

    fn enter_netavark(&mut self, peer: &'a Netavark) {
        let round = |netns: &Netns, number: u16| {
            let pod = Pod::new(netns.name(), netns, 8000 + number);
            (
                peer.set_up(&pod, 100 + number),
                peer.tear_down(&pod, 100 + number),
            )
        };
        self.enter("netavark", &peer.node, Box::new(round));
        let resident = self
            .acts
            .last()
            .and_then(|act| act.pods.last())
            .expect("a namespace");
        peer.node
            .enter(|| peer.set_up(&Pod::new("resident", resident, 7999), 99));
    }

    fn enter(&mut self, name: &'static str, node: &'a Netns, round: Round<'a>) {
        let prefix = format!("{}-{name}", self.row);
        let pods = self
            .bench
            .world
            .many_netns(&prefix, usize::from(self.rounds) + 1);
        self.acts.push(Act {
            name,
            node,
            pods,
            round,
        });
    }

    /// All contestants in each round, each first in its turn and after each other.
    fn perform(&self, report: &mut Report) {
        for number in 0..self.rounds {
            let mut acts: Vec<_> = self.acts.iter().collect();
            acts.rotate_left(usize::from(number / 2) % self.acts.len());
            if number % 2 == 1 {
                acts.reverse();
            }
            for act in acts {
                sleep(AFTERMATH);
                let pod = &act.pods[usize::from(number)];
                let (add, del) = act.node.enter(|| (act.round)(pod, number));
                if number >= WARM_UP {
                    record(report, self.row, act.name, &add, &del);
                }
            }
        }
    }
}

fn record(report: &mut Report, row: &'static str, who: &str, add: &Cost, del: &Cost) {
    for (what, time) in [
        ("ADD", add.wall),
        ("DEL", del.wall),
        ("ADD CPU", add.cpu),
        ("DEL CPU", del.cpu),
    ] {
        report.sample(row, what, who, Unit::Milliseconds, ms(time));
    }
}

/// Programs executed beyond the plugins that the runtime itself calls.
fn count_children(bench: &Bench, report: &mut Report, weft: &CniPeer, go: &CniPeer) {
    for peer in [go, weft] {
        let netns = bench.world.netns(&format!("{}-counted", peer.name));
        let children = peer.node.enter(|| children_of_pod(peer, &netns));
        report.sample(NAME, "child processes", peer.name, Unit::Count, children);
    }
    let ours = report.median(NAME, "child processes", "weft");
    report.judge(
        NAME,
        "child processes of ADD + DEL",
        ours,
        Bound::AtMost(0.0),
    );
}

fn children_of_pod(peer: &CniPeer, netns: &Netns) -> f64 {
    let mut pod = Pod::new("counted", netns, 7998);
    let mut children = 0;
    let mut count = |trace: &weft_netns::Trace| {
        assert_eq!(trace.done.code(), Some(0), "{}", trace.done.stdout);
        children += trace.execs - 1;
    };
    for plugin in 0..peer.traceable(Verb::Add, &pod).len() {
        let trace = weft_netns::trace(&peer.traceable(Verb::Add, &pod)[plugin]);
        count(&trace);
        pod.result = Some(serde_json::from_str(&trace.done.stdout).expect("a result is JSON"));
    }
    for cmd in peer.traceable(Verb::Del, &pod) {
        count(&weft_netns::trace(&cmd));
    }
    f64::from(u32::try_from(children).unwrap_or(u32::MAX))
}
