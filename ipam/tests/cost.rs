//! What a call costs does not depend on how many addresses are taken.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use common::{Node, has_program, one_range, ours};

/// Counted, not timed: the calls, by kind, that ADD and DEL make once the index is there.
#[test]
fn a_call_does_as_much_with_60000_addresses_taken_as_with_none() {
    if !has_program(
        "a_call_does_as_much_with_60000_addresses_taken_as_with_none",
        "strace",
    ) {
        return;
    }
    let [none, many] = [0, 60_000].map(|taken| {
        let node = with_taken(taken);
        // This one builds the index.
        assert!(node.run(&ours(), "ADD", "first").ok);
        ["ADD", "DEL"].map(|verb| calls(&node, verb))
    });
    assert_eq!(many, none);
    for calls in many {
        assert_eq!(calls.get("getdents64"), None, "no listing");
        assert!(calls.values().sum::<u32>() < 120, "{calls:?}");
        assert!(
            calls.get("pread64").is_some_and(|reads| *reads < 20),
            "each reads 1 KiB at most: {calls:?}"
        );
    }
}

/// A search through what is taken is one look at 256 addresses, of either family.
#[test]
fn the_only_free_address_of_60000_is_found_by_few_looks() {
    if !has_program(
        "the_only_free_address_of_60000_is_found_by_few_looks",
        "strace",
    ) {
        return;
    }
    let node = with_taken(60_000);
    fs::write(node.network().join("last_reserved_ip.0"), "10.0.0.2").unwrap();
    assert!(node.run(&ours(), "ADD", "first").ok);
    fs::write(node.network().join("last_reserved_ip.0"), "10.0.0.2").unwrap();
    let calls = calls(&node, "ADD");
    assert!(calls["pread64"] < 60_000 / 256 + 20, "{calls:?}");
}

fn with_taken(taken: u32) -> Node {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let node = Node::under(&parent, one_range("10.0.0.0/8"));
    fs::create_dir_all(node.network()).unwrap();
    for n in 0..taken {
        let address = std::net::Ipv4Addr::from(0x0a00_0002 + n);
        fs::write(
            node.network().join(address.to_string()),
            format!("c{n:063}\r\neth0"),
        )
        .unwrap();
    }
    node
}

fn calls(node: &Node, verb: &str) -> BTreeMap<String, u32> {
    let log = node.dir().join("log");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-o"]).arg(&log).arg(ours());
    assert!(node.run_in(traced, verb, "second").ok);
    let mut calls = BTreeMap::new();
    for line in fs::read_to_string(&log).unwrap().lines() {
        // 4711  read(0, ...
        let call = line
            .split_whitespace()
            .nth(1)
            .and_then(|call| call.split_once('('));
        // The allocator's and the loader's own are as they come.
        let own = call.filter(|(name, _)| !["brk", "mmap", "munmap", "mprotect"].contains(name));
        if let Some((name, _)) = own {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}
