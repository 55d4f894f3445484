//! The plugin killed at any of its system calls, and a runtime that then cleans up.

use serde_json::{Value, json};
use weft_netns::{Outcome, Verb, ask_tcp, in_world, kill_at_syscall};

use crate::node::{Node, Pod, mapped, tcp};

/// Kills `verb` at every `step`-th system call until it is done before.
fn kill_at_each(
    node: &Node<'_>,
    pod: &Pod,
    verb: Verb,
    extra: &Value,
    step: usize,
    mut after: impl FnMut(u64),
) {
    for n in (1..).step_by(step) {
        if let Outcome::Finished(_) = kill_at_syscall(&node.command(verb, pod, extra.clone()), n) {
            return;
        }
        after(n);
    }
}

fn assert_nothing_left(node: &Node<'_>, when: &str) {
    assert_eq!(node.elements(), Vec::<String>::new(), "{when}");
    let listing = node
        .world
        .exec("nft list table inet weft_hostports 2>/dev/null || true");
    for chain in ["chain cond_", "chain dnat_"] {
        assert!(!listing.contains(chain), "{when}: {listing}");
    }
}

#[test]
fn an_add_killed_anywhere_is_cleaned_up_by_del_and_by_gc() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let _serving = pod.serve();
        let extra = mapped(tcp(8080));
        kill_at_each(&node, &pod, Verb::Add, &extra, 1, |n| {
            match n % 2 {
                0 => drop(node.del_in_ignorance(&pod)),
                _ => node.gc(&pod, json!([])),
            }
            assert_nothing_left(&node, &format!("killed at {n}"));
        });
        assert!(node.outside.enter(|| ask_tcp("10.9.0.1:8080").is_ok()));
    });
}

#[test]
fn an_add_with_conditions_killed_anywhere_is_cleaned_up_by_del() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let mut extra = mapped(tcp(8080));
        extra["conditionsV4"] = json!(["ip", "saddr", "10.9.0.0/24"]);
        // Most of them are the nft program's own.
        kill_at_each(&node, &pod, Verb::Add, &extra, 5, |n| {
            node.del_in_ignorance(&pod);
            assert_nothing_left(&node, &format!("killed at {n}"));
        });
        node.call(Verb::Check, &pod, extra).ok();
    });
}

#[test]
fn a_del_killed_anywhere_is_finished_by_the_next() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        kill_at_each(&node, &pod, Verb::Del, &json!({}), 1, |n| {
            node.del_in_ignorance(&pod);
            assert_nothing_left(&node, &format!("killed at {n}"));
            node.add(&pod, tcp(8080));
        });
        assert_nothing_left(&node, "at the end");
    });
}
