//! What a mapping costs when there are many others: the same.

use serde_json::{Value, json};
use weft_netns::{Verb, in_world};

use crate::node::{Node, Pod, mapped, tcp};

/// How many messages go to the kernel and come back, and how many bytes they have.
fn traffic(calls: &[String]) -> (usize, usize) {
    let messages = calls
        .iter()
        .filter(|call| call.contains("send") || call.contains("recv"));
    let bytes = messages
        .clone()
        .filter_map(|call| call.rsplit_once("= ")?.1.parse::<usize>().ok());
    (messages.count(), bytes.sum())
}

/// Answers differ by some hundred bytes from one time to the next; five thousand mappings would be
/// hundreds of kilobytes.
const A_FEW_ANSWERS: usize = 4096;

/// The least processor time of several, since other work on the machine only ever adds.
fn cheapest(node: &Node<'_>, pod: &Pod) -> [f64; 2] {
    let mut best = [f64::MAX; 2];
    for _ in 0..15 {
        for (time, verb) in best.iter_mut().zip([Verb::Add, Verb::Del]) {
            let done = node.call(verb, pod, mapped(tcp(8080))).ok().done;
            *time = time.min(done.cpu.as_secs_f64());
        }
    }
    best
}

fn many(count: u16) -> Value {
    let mapping = |i| json!({"hostPort": 10000 + i, "containerPort": 80, "protocol": "tcp", "hostIP": "0.0.0.0"});
    (0..count).map(mapping).collect()
}

#[test]
fn five_thousand_mappings_make_none_dearer() {
    in_world(|world| {
        let node = Node::new(world);
        let (crowd, pod) = (node.pod(2), node.pod(3));
        let traced = || {
            let verbs = [Verb::Add, Verb::Del];
            verbs.map(|verb| traffic(&node.socket_calls(verb, &pod, mapped(tcp(8080)))))
        };
        node.add(&crowd, many(1));
        let (alone, alone_traced) = (cheapest(&node, &pod), traced());
        node.add(&crowd, many(5000));
        let (crowded, crowded_traced) = (cheapest(&node, &pod), traced());

        for (alone, crowded) in alone_traced.into_iter().zip(crowded_traced) {
            assert!(
                crowded.0 <= alone.0 + 2 && crowded.1 <= alone.1 + A_FEW_ANSWERS,
                "messages and bytes: alone {alone:?}, crowded {crowded:?}"
            );
        }
        println!(
            "ADD, DEL alone {alone:?} s, crowded {crowded:?} s; messages and bytes {crowded_traced:?}"
        );
        for (alone, crowded) in alone.into_iter().zip(crowded) {
            assert!(
                crowded < alone * 1.5 + 0.001,
                "alone {alone} s, crowded {crowded} s"
            );
        }
        node.del_in_ignorance(&crowd);
        assert_eq!(node.elements(), Vec::<String>::new());
    });
}
