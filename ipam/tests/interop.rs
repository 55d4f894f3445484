//! The reference plugin and ours on one directory, in turn and at once.
//!
//! ```text
//!   host-local (Go) ──┐              ┌── 10.0.0.2   containerID\r\nifname
//!                     ├── lock ── net┤   last_reserved_ip.0
//!   host-local (ours) ┘              └── lock
//! ```

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    thread,
};

use common::{Node, one_range, ours, reference};
use serde_json::json;

#[test]
fn both_leave_the_same_bytes() {
    let Some(go) = reference("both_leave_the_same_bytes") else {
        return;
    };
    let ranges = json!([[{"subnet": "10.0.0.0/29"}, {"subnet": "10.1.0.0/29"}], [{"subnet": "fd99:0:0:1::/64"}]]);
    let [theirs, mine] = [go, ours()].map(|plugin| {
        let node = Node::new(ranges.clone());
        for id in ["a", "cid1.1.0", "c_2-x"] {
            assert!(node.run(&plugin, "ADD", id).ok);
        }
        assert!(node.run(&plugin, "DEL", "a").ok);
        node.bytes()
    });
    assert_eq!(mine, theirs);
    assert_eq!(mine["10.0.0.3"], b"cid1.1.0\r\neth0");
    assert_eq!(mine["fd99:0:0:1::3"], b"cid1.1.0\r\neth0");
}

#[test]
fn each_checks_and_deletes_what_the_other_made() {
    let Some(go) = reference("each_checks_and_deletes_what_the_other_made") else {
        return;
    };
    let ours = ours();
    for (maker, other) in [(&go, &ours), (&ours, &go)] {
        let node = Node::new(one_range("10.0.0.0/24"));
        for n in 0..5 {
            assert!(node.run(maker, "ADD", &format!("c{n}")).ok);
        }
        assert!(node.run(other, "CHECK", "c3").ok);
        assert!(!node.run(other, "ADD", "c3").ok, "it has one");
        for n in [3, 3, 1] {
            assert!(node.run(other, "DEL", &format!("c{n}")).ok);
        }
        assert!(!node.run(maker, "CHECK", "c3").ok);
        let left: Vec<String> = node.reservations().into_values().collect();
        assert_eq!(left, ["c0\r\neth0", "c2\r\neth0", "c4\r\neth0"]);
    }
}

#[test]
fn the_turn_passes_from_one_to_the_other() {
    let Some(go) = reference("the_turn_passes_from_one_to_the_other") else {
        return;
    };
    let node = Node::new(one_range("10.0.0.0/29"));
    for n in 2..=6 {
        let plugin = if n % 2 == 0 { &go } else { &ours() };
        assert_eq!(
            node.run(plugin, "ADD", &format!("c{n}")).address(),
            format!("10.0.0.{n}")
        );
    }
    let full =
        "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6";
    for plugin in [&go, &ours()] {
        assert_eq!(node.run(plugin, "ADD", "c7").json["msg"], full);
    }
}

#[test]
fn what_the_other_or_a_person_does_is_seen_at_once() {
    let Some(go) = reference("what_the_other_or_a_person_does_is_seen_at_once") else {
        return;
    };
    let (node, ours) = (Node::new(one_range("10.0.0.0/29")), ours());
    for n in 2..=6 {
        assert!(node.run(&ours, "ADD", &format!("c{n}")).ok);
    }
    assert!(node.run(&go, "DEL", "c3").ok);
    assert_eq!(node.run(&ours, "ADD", "d3").address(), "10.0.0.3");
    fs::remove_file(node.network().join("10.0.0.5")).unwrap();
    assert_eq!(node.run(&ours, "ADD", "d5").address(), "10.0.0.5");
    fs::remove_file(node.network().join("10.0.0.4")).unwrap();
    assert_eq!(node.run(&go, "ADD", "g4").address(), "10.0.0.4");
    assert!(node.run(&ours, "DEL", "g4").ok);
    assert_eq!(node.run(&ours, "ADD", "d4").address(), "10.0.0.4");
    assert_eq!(node.run(&ours, "ADD", "g4").code(), 11, "full");
}

#[test]
fn thirty_two_at_a_time_of_both_kinds_give_every_pod_its_own_address() {
    let Some(go) = reference("thirty_two_at_a_time_of_both_kinds_give_every_pod_its_own_address")
    else {
        return;
    };
    let (node, ours) = (Node::new(one_range("10.0.0.0/24")), ours());
    let adds = at_once(|n| {
        node.run(kind(n, &go, &ours), "ADD", &format!("c{n}"))
            .address()
    });
    assert_eq!(adds.iter().collect::<BTreeSet<_>>().len(), PODS);
    assert_eq!(node.reservations().len(), PODS);
    for (n, address) in adds.iter().enumerate() {
        let n = n.to_string();
        assert_eq!(
            node.reservations()[&address.parse().unwrap()],
            format!("c{n}\r\neth0")
        );
    }
    // And each is deleted by the other.
    let dels = at_once(|n| {
        node.run(kind(n + 1, &go, &ours), "DEL", &format!("c{n}"))
            .ok
    });
    assert!(dels.into_iter().all(|ok| ok));
    assert_eq!(node.reservations().len(), 0);
}

/// The same calls, at random, on a directory each: the same answers, and the same bytes after each.
#[test]
fn both_answer_the_same_to_whatever_is_called() {
    let Some(go) = reference("both_answer_the_same_to_whatever_is_called") else {
        return;
    };
    let ranges = json!([[{"subnet": "10.0.0.0/29"}, {"subnet": "10.0.0.16/29", "rangeStart": "10.0.0.18", "rangeEnd": "10.0.0.20", "gateway": "10.0.0.19"}]]);
    let mut random = Random(4711);
    for _ in 0..12 {
        let (theirs, mine) = (Node::new(ranges.clone()), Node::new(ranges.clone()));
        for _ in 0..25 {
            let id = format!("c{}", random.below(9));
            let verb = ["ADD", "ADD", "ADD", "DEL", "DEL", "CHECK"][random.below(6)];
            let ip = if verb == "ADD" && random.below(3) == 0 {
                format!("IP=10.0.0.{}", random.below(24))
            } else {
                String::new()
            };
            let [their, my] = [(&theirs, go.as_path()), (&mine, &ours())].map(|(node, plugin)| {
                let mut command = Command::new(plugin);
                command.env("CNI_ARGS", &ip);
                node.run_in(command, verb, &id)
            });
            let what = format!("{verb} {id} {ip}: {} and {}", their.json, my.json);
            assert_eq!(
                (their.ok, &their.json["ips"]),
                (my.ok, &my.json["ips"]),
                "{what}"
            );
            assert_eq!(their.json["msg"], my.json["msg"], "{what}");
            assert_eq!(without_lock(&theirs), without_lock(&mine), "{what}");
        }
    }
}

/// Theirs makes its lock even where there is nothing to delete.
fn without_lock(node: &Node) -> BTreeMap<String, Vec<u8>> {
    node.bytes()
        .into_iter()
        .filter(|(name, _)| name != "lock")
        .collect()
}

/// The same at each run (Knuth's constants).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

const PODS: usize = 128;
const AT_ONCE: usize = 32;

fn kind<'a>(n: usize, go: &'a Path, ours: &'a Path) -> &'a Path {
    if n.is_multiple_of(2) { go } else { ours }
}

/// Does the work for every pod, in the pods' order in the answer.
fn at_once<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let work = &work;
    let mut done: Vec<(usize, T)> = thread::scope(|scope| {
        let share = |first: usize| {
            (first..PODS)
                .step_by(AT_ONCE)
                .map(|n| (n, work(n)))
                .collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|first| scope.spawn(move || share(first)))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, answer)| answer).collect()
}
