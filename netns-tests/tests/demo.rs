//! What `make demo` shows is true, for root and for everybody.
use std::time::Duration;

use nix::sys::signal::Signal;
use weft_netns::{Cmd, Need, skip_unless, wait_until};

/// On a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

fn demo(backend: &str) -> Cmd {
    Cmd::new(env!("CARGO_BIN_EXE_demo"))
        .env("BACKEND", backend)
        .time_limit(PATIENCE)
}

fn shows(cmd: &Cmd, wanted: &[&str]) {
    let shown = cmd.run().ok().stdout;
    for line in wanted {
        assert!(shown.contains(line), "{line} is missing from\n{shown}");
    }
    for line in [
        "every pod reaches every pod",
        "FLANNEL_NETWORK=10.244.0.0/16",
        "kill -9 of both daemons         0 of ",
        "addresses and scratch files are gone",
        "tunnel devices and routes to other nodes are gone",
        "your machine            untouched",
    ] {
        assert!(shown.contains(line), "{line} is missing from\n{shown}");
    }
    names_the_culprit(&shown);
}

/// Each deed is followed by weftd's own line that tells who did it.
fn names_the_culprit(shown: &str) {
    let told: Vec<_> = shown
        .lines()
        .filter(|line| line.contains("weftd: "))
        .collect();
    assert_eq!(told.len(), 2, "two deeds are told in\n{shown}");
    for line in told {
        assert!(line.contains("deleted or changed by pid "), "{line}");
        assert!(line.contains(" (ip)"), "{line}");
    }
}

#[test]
fn the_demo_shows_vxlan_and_leaves_nothing() {
    if skip_unless(&[Need::Tool("ip"), Need::UserNamespaces]) {
        let tunnel = [
            "wraps it: VXLAN",
            "FLANNEL_MTU=1450",
            "ip link del flannel.1",
        ];
        shows(&demo("vxlan"), &tunnel);
    }
}

#[test]
fn the_demo_shows_host_gw_and_leaves_nothing() {
    if skip_unless(&[Need::Tool("ip"), Need::UserNamespaces]) {
        shows(
            &demo("host-gw"),
            &["No packet is wrapped", "FLANNEL_MTU=1500"],
        );
    }
}

#[test]
fn the_demo_needs_no_root() {
    if skip_unless(&[Need::Tool("ip"), Need::UserNamespaces]) {
        shows(
            &demo("vxlan").env("WEFT_ROOTLESS", "1"),
            &["wraps it: VXLAN"],
        );
    }
}

#[test]
fn a_kept_cluster_ends_when_it_is_told_to() {
    if !skip_unless(&[Need::Tool("ip"), Need::UserNamespaces]) {
        return;
    }
    let kept = demo("vxlan").env("KEEP", "1").spawn();
    wait_until("the cluster is kept", PATIENCE, || {
        kept.said_so_far().contains("Ctrl-C ends the cluster") || kept.ends_within(Duration::ZERO)
    });
    let shown = kept.said_so_far();
    assert_eq!(shown.matches("nsenter -t ").count(), 3, "{shown}");
    let node = last_node(&shown);
    let device = Cmd::shell(&format!("{node} ip -d link show flannel.1"))
        .run()
        .ok();
    assert!(device.stdout.contains("vxlan id 1 "), "{}", device.stdout);
    kept.signal(Signal::SIGINT);
    let done = kept.finish().ok();
    assert!(
        done.stdout.contains("your machine            untouched"),
        "{}",
        done.stdout
    );
}

/// How the demo says that its node is entered.
fn last_node(shown: &str) -> &str {
    let line = shown.lines().rfind(|line| line.contains("nsenter -t "));
    let line = line.expect("a line that enters the node");
    line.split(" cat ").next().unwrap_or(line).trim()
}

#[test]
fn an_unknown_backend_is_told_what_there_is() {
    let done = demo("carrier-pigeon").run();
    assert_eq!(done.code(), Some(1));
    assert!(
        done.stdout.contains("vxlan (the default), host-gw and udp"),
        "{}",
        done.stdout
    );
}
