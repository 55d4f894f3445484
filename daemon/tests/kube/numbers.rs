//! What following the nodes costs.

use serde_json::json;
use weft_netns::apiserver::{Fat, Key, Seen, fat_node, flannel_node};

use crate::bench::{Bench, VXLAN, until};

/// A kubelet tells how its node does: one condition's time is another.
fn heartbeat(bench: &Bench, name: &str, n: u32) {
    let key = Key::node(name);
    let mut node = bench.server.get(&key).unwrap();
    node["status"]["conditions"][0]["lastHeartbeatTime"] =
        json!(format!("2026-01-15T11:00:{n:02}Z"));
    bench.server.put(node);
}

#[tokio::test]
async fn an_unrelated_status_change_costs_a_fraction_of_a_full_watch() {
    let bench = Bench::new(VXLAN);
    let node = fat_node(
        "worker-2",
        "192.0.2.2",
        &["10.244.2.0/24"],
        Fat { images: 50 },
    );
    let node = flannel_node(node, "192.0.2.2", "02:00:00:00:00:02");
    bench.server.put(node);
    let mut store = bench.start();
    store.until_held().await;
    store.until_peers(1).await;
    let watch = |seen: &Seen| seen.is_watch();
    until("the watch has told of our own write", || {
        let version = bench.server.node("node-1").unwrap()["metadata"]["resourceVersion"].clone();
        bench.server.sent(watch) > 0 && version.is_string()
    })
    .await;
    let calls = || bench.server.seen().len();
    let (before, calls_before) = (bench.server.sent(|_| true), calls());
    const CHANGES: u32 = 50;
    for n in 0..CHANGES {
        heartbeat(&bench, "worker-2", n);
    }
    let whole = bench.server.node("worker-2").unwrap().to_string().len();
    bench.put_peer(3);
    store.until_peers(2).await;
    let peer = bench.server.node("node-3").unwrap().to_string().len() as u64;
    let sent = bench.server.sent(|_| true) - before - 2 * peer;
    let each = sent / u64::from(CHANGES);
    let full = whole as u64 + 40;
    println!(
        "a status change: {each} bytes read, {full} of a full watch, 1/{:.1}",
        full as f64 / each as f64
    );
    // What is left is mostly managedFields, which no server leaves out.
    assert!(each * 5 <= full, "{each} of {full}");
    assert!(
        calls() - calls_before <= 1,
        "the new peer is read once, the others never"
    );
}
