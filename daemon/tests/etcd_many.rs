//! The largest listing, in a process of its own, so that what it costs can be told apart.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

#[allow(dead_code, reason = "one harness serves several tests")]
#[path = "etcd/server.rs"]
mod server;

use std::fs;
use std::time::Instant;

use weft_daemon::store::registry::Registry;

use self::server::{Cluster, etcd_is_here, fill, lease};

const MANY: u32 = 30_000;

#[tokio::test]
async fn thirty_thousand_leases_are_listed_and_cost_little_more_than_themselves() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut client = cluster.client().await;
    fill(&mut client, 0..MANY).await;
    let mut registry = cluster.registry();

    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let begun = Instant::now();
    let listing = registry.list().await.unwrap();
    let took = begun.elapsed();
    let peak = memory("VmHWM") - before;

    assert_eq!(listing.leases.len(), MANY as usize);
    assert!(listing.leases.is_sorted_by(|a, b| a.key < b.key));
    let (key, value) = lease(MANY - 1);
    let last = listing.leases.iter().find(|it| key.ends_with(&it.key));
    assert_eq!(last.unwrap().value, value);
    let content: usize = listing
        .leases
        .iter()
        .map(|it| it.key.len() + it.value.len())
        .sum();
    println!("{MANY} leases, {content} bytes: {took:?}, at most {peak} KiB more");
    assert!(peak < 32 << 10, "{peak} KiB");
}

/// In KiB.
fn memory(what: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
