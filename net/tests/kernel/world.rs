//! Fresh network namespaces for tests, and the programs that say what is in them.

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use weft_net::route::{NewBridge, NewVeth, VethPeer};
use weft_net::{Mac, Namespace};

/// Runs a test in a network namespace of its own, which goes when the test ends.
pub(crate) fn in_fresh_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests must be run as root");
        test();
    });
    if let Err(panic) = outcome.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Another namespace, which lives as long as it is held.
pub(crate) fn fresh_namespace() -> Namespace {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Namespace::current().unwrap()
    });
    made.join().unwrap()
}

/// What a program prints, run in the calling thread's namespace.
pub(crate) fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The objects `ip -j` or `bridge -j` prints. It leaves empty ones in place of what it filters.
pub(crate) fn json(command: &str) -> Vec<Value> {
    let text = output(command);
    if text.trim().is_empty() {
        return Vec::new();
    }
    let Value::Array(all) = serde_json::from_str(&text).unwrap() else {
        panic!("{text}")
    };
    all.into_iter()
        .filter(|v| v.as_object().is_some_and(|o| !o.is_empty()))
        .collect()
}

/// The one object it prints.
pub(crate) fn one(command: &str) -> Value {
    let mut all = json(command);
    assert_eq!(all.len(), 1, "{command}: {all:?}");
    all.remove(0)
}

pub(crate) fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

pub(crate) fn bridge(name: &str) -> NewBridge<'_> {
    NewBridge {
        name,
        mac: None,
        mtu: None,
        vlan_filtering: None,
        promisc: false,
    }
}

pub(crate) fn veth<'a>(name: &'a str, peer: &'a str) -> NewVeth<'a> {
    let peer = VethPeer {
        name: peer,
        mac: None,
        mtu: None,
        namespace: None,
    };
    NewVeth {
        name,
        mac: None,
        mtu: None,
        master: None,
        up: false,
        peer,
    }
}

/// Asks until it is so; for what the kernel does a moment later, and tells nobody of.
#[track_caller]
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "it never came to be");
        thread::yield_now();
    }
}
