//! Does an address cost more where many are taken? Each size is a network of its own.
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};
use weft_netns::Netns;

use crate::peer::{CniPeer, Pod};
use crate::report::{Bound, Report, Unit};
use crate::{Bench, ms};

pub(crate) const NAME: &str = "host-local";

const ROUNDS: u16 = 101;
/// The first call builds the index; it is not counted.
const WARM_UP: u16 = 3;
const TAKEN: [u32; 3] = [0, 5_000, 60_000];
const FLAT: f64 = 1.3;

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let netns = bench.world.netns("host-local-pod");
    let weft = TAKEN.map(|taken| (full_node(bench, "weft", taken), taken));
    let go = [TAKEN[0], TAKEN[1]].map(|taken| (full_node(bench, "go", taken), taken));
    let nodes: Vec<_> = weft.iter().chain(&go).collect();
    let rounds = WARM_UP + bench.rounds(ROUNDS);
    for number in 0..rounds {
        for (peer, taken) in &nodes {
            let (add, del) = peer.node.enter(|| one_round(peer, &netns, number));
            if number < WARM_UP {
                continue;
            }
            for (verb, wall) in [("ADD", add), ("DEL", del)] {
                let what = format!("{verb}, {taken} taken");
                report.sample(NAME, &what, peer.name, Unit::Milliseconds, wall);
            }
        }
    }
    for verb in ["ADD", "DEL"] {
        let empty = report.median(NAME, &format!("{verb}, 0 taken"), "weft");
        for taken in &TAKEN[1..] {
            let full = report.median(NAME, &format!("{verb}, {taken} taken"), "weft");
            let claim = format!("{verb} with {taken} addresses taken, over none");
            report.judge(NAME, &claim, full / empty, Bound::AtMost(FLAT));
        }
    }
}

fn one_round(peer: &CniPeer, netns: &Netns, number: u16) -> (f64, f64) {
    let mut pod = Pod::new(&format!("pod-{number}"), netns, 80);
    let add = peer.add(&mut pod);
    let del = peer.del(&pod);
    (ms(add.wall), ms(del.wall))
}

/// A node on which `taken` addresses are taken, in the order in which they would be.
fn full_node(bench: &Bench, who: &str, taken: u32) -> CniPeer {
    let node = format!("{who}-full-{taken}");
    let peer = match who {
        "weft" => CniPeer::weft(&bench.world, &node),
        _ => CniPeer::go(&bench.world, &node),
    };
    let peer = peer.network(network);
    let dir = peer.data_dir.join("bench");
    fs::create_dir_all(&dir).expect("make the network's directory");
    let first = u32::from(Ipv4Addr::new(10, 88, 0, 2));
    for (number, address) in (first..first + taken).enumerate() {
        let file = dir.join(Ipv4Addr::from(address).to_string());
        fs::write(file, format!("other-pod-{number}\r\neth0")).expect("take an address");
    }
    if let Some(last) = (first..first + taken).next_back() {
        let last = Ipv4Addr::from(last).to_string();
        fs::write(dir.join("last_reserved_ip.0"), last).expect("say which was the last");
    }
    peer
}

/// The plugin as its caller calls it.
fn network(data_dir: &Path) -> Value {
    json!({"cniVersion": "1.0.0", "name": "bench", "plugins": [{
        "type": "host-local",
        "ipam": {
            "type": "host-local", "dataDir": data_dir, "ranges": [[{"subnet": "10.88.0.0/16"}]],
        },
    }]})
}
