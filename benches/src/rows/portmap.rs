//! Does a mapping cost more where many are?
use std::path::Path;

use serde_json::{Value, json};
use weft_netns::Netns;

use crate::peer::{CniPeer, Pod};
use crate::report::{Bound, Report, Unit};
use crate::{Bench, ms};

pub(crate) const NAME: &str = "portmap";

const ROUNDS: u16 = 101;
const WARM_UP: u16 = 3;
const MAPPINGS: [u16; 2] = [1, 5_000];
/// The many are made by pods with this many ports each.
const PORTS_A_POD: u16 = 50;
const FIRST_PORT: u16 = 20_000;
const FRESH_PORT: u16 = 8_000;
const FLAT: f64 = 1.3;

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let netns = bench.world.netns("portmap-pod");
    let nodes = MAPPINGS.map(|mappings| (node(bench, mappings, &netns), mappings));
    for number in 0..WARM_UP + bench.rounds(ROUNDS) {
        for (peer, mappings) in &nodes {
            // A port that another pod had a moment ago is another story.
            let port = FRESH_PORT + number;
            let mut pod = mapped(&format!("pod-{number}"), &netns, port, 1);
            let (add, del) = peer.node.enter(|| {
                let add = peer.add_after(&mut pod);
                (add, peer.del(&pod))
            });
            if number < WARM_UP {
                continue;
            }
            for (verb, cost) in [("ADD", add), ("DEL", del)] {
                let what = format!("{verb}, {mappings} mapped");
                report.sample(NAME, &what, peer.name, Unit::Milliseconds, ms(cost.wall));
            }
        }
    }
    for verb in ["ADD", "DEL"] {
        let [few, many] = MAPPINGS
            .map(|mappings| report.median(NAME, &format!("{verb}, {mappings} mapped"), "weft"));
        let claim = format!("{verb} with {} mappings on the node, over 1", MAPPINGS[1]);
        report.judge(NAME, &claim, many / few, Bound::AtMost(FLAT));
    }
}

/// A node with the pods' subnet on a bridge, and `mappings` ports mapped.
fn node(bench: &Bench, mappings: u16, netns: &Netns) -> CniPeer {
    let peer = CniPeer::weft(&bench.world, &format!("mapped-{mappings}")).network(network);
    peer.node
        .exec("ip link add cni0 type bridge; ip link set cni0 up");
    peer.node.exec("ip address add 10.88.0.1/16 dev cni0");
    peer.node.enter(|| {
        let each = PORTS_A_POD.min(mappings);
        for number in 0..mappings / each {
            let first = FIRST_PORT + number * each;
            peer.add_after(&mut mapped(&format!("other-{number}"), netns, first, each));
        }
    });
    peer
}

fn mapped(id: &str, netns: &Netns, first: u16, count: u16) -> Pod {
    let mut pod = Pod::new(id, netns, first);
    let ports: Value = (first..first + count)
        .map(|port| json!({"hostPort": port, "containerPort": 80, "protocol": "tcp"}))
        .collect();
    pod.who = pod.who.capability("portMappings", ports);
    pod.result = Some(json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": pod.who.netns}],
        "ips": [{"interface": 0, "address": "10.88.0.5/16", "gateway": "10.88.0.1"}],
    }));
    pod
}

fn network(_: &Path) -> Value {
    json!({"cniVersion": "1.0.0", "name": "bench", "plugins": [
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}
