//! The plugin killed at each of its system calls, one after the other.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use common::{Node, has_program, one_range, ours};

#[test]
fn an_add_killed_anywhere_leaves_nothing_after_a_del_and_can_be_done_again() {
    if !has_program("an_add_killed_anywhere", "strace") {
        return;
    }
    for kill in kills("ADD") {
        let node = prepared();
        let was = node.reservations();
        killed(&node, "ADD", &kill);
        let torn = node
            .reservations()
            .into_values()
            .find(|content| content.is_empty());
        assert_eq!(torn, None, "a reservation is whole, killed at {kill:?}");
        assert!(node.run(&ours(), "DEL", "victim").ok, "{kill:?}");
        assert_eq!(node.reservations(), was, "{kill:?}");
        assert!(node.run(&ours(), "ADD", "victim").ok, "{kill:?}");
        assert_eq!(node.reservations().len(), was.len() + 1, "{kill:?}");
        assert_eq!(strange(&node), Vec::<String>::new(), "{kill:?}");
    }
}

#[test]
fn a_del_killed_anywhere_is_done_by_the_next() {
    if !has_program("a_del_killed_anywhere", "strace") {
        return;
    }
    for kill in kills("DEL") {
        let node = prepared();
        let was = node.reservations();
        assert!(node.run(&ours(), "ADD", "victim").ok);
        killed(&node, "DEL", &kill);
        assert!(node.run(&ours(), "DEL", "victim").ok, "{kill:?}");
        assert_eq!(node.reservations(), was, "{kill:?}");
        assert!(node.run(&ours(), "ADD", "victim").ok, "{kill:?}");
        assert_eq!(strange(&node), Vec::<String>::new(), "{kill:?}");
    }
}

/// The n-th call of some kind.
#[derive(Debug)]
struct Kill {
    syscall: String,
    nth: usize,
}

fn prepared() -> Node {
    let node = Node::new(one_range("10.0.0.0/29"));
    for id in ["a", "b"] {
        assert!(node.run(&ours(), "ADD", id).ok);
    }
    node
}

/// Every call that the plugin makes from where it first looks at the system.
fn kills(verb: &str) -> Vec<Kill> {
    let node = prepared();
    if verb == "DEL" {
        assert!(node.run(&ours(), "ADD", "victim").ok);
    }
    let log = node.dir().join("log");
    assert!(
        node.run_in(traced(&["-o", log.to_str().unwrap()]), verb, "victim")
            .ok
    );
    let log = fs::read_to_string(&log).unwrap();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut kills = Vec::new();
    for line in log.lines() {
        let Some((syscall, _)) = line.split_once('(') else {
            continue;
        };
        let nth = counts.entry(syscall.to_owned()).or_default();
        *nth += 1;
        if line.contains("boot_id") || !kills.is_empty() {
            kills.push(Kill {
                syscall: syscall.to_owned(),
                nth: *nth,
            });
        }
    }
    assert!(kills.len() > 20, "{log}");
    kills
}

fn killed(node: &Node, verb: &str, kill: &Kill) {
    let inject = format!("inject={}:signal=KILL:when={}", kill.syscall, kill.nth);
    let command = traced(&["-o", "/dev/null", "-e", &inject]);
    assert!(
        !node.run_in(command, verb, "victim").ok,
        "{kill:?} never came"
    );
}

fn traced(arguments: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(arguments).arg(ours());
    command
}

/// What should not lie around.
fn strange(node: &Node) -> Vec<String> {
    let names = |dir: &Path| {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>()
    };
    let known = |name: &String| {
        name.parse::<std::net::IpAddr>().is_ok()
            || ["lock", "last_reserved_ip.0", "net.index"].contains(&name.as_str())
    };
    let all = names(&node.network())
        .into_iter()
        .chain(names(&node.dir().join(".weft")));
    all.filter(|name| !known(name)).collect()
}
