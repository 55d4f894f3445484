//! What this node's own annotations say, and what becomes of them.

use serde_json::{Value, json};
use weft_daemon::store::Own;

use crate::bench::{Bench, VXLAN, claim, until};

#[tokio::test]
async fn annotations_that_somebody_takes_away_are_put_back() {
    let bench = Bench::new(VXLAN);
    let mut store = bench.start();
    store.until_held().await;
    bench.annotate("node-1", "public-ip", &Value::Null);
    until("it is there again", || {
        bench.annotations("node-1")["flannel.alpha.coreos.com/public-ip"] == "192.0.2.1"
    })
    .await;
    bench.annotate("node-1", "backend-data", &json!("{\"VNI\":9}"));
    store.until_noted("somebody takes away or changes").await;
    until("it is as it was", || {
        let data = bench.annotations("node-1")["flannel.alpha.coreos.com/backend-data"].clone();
        data.as_str()
            .is_some_and(|data| data.contains("02:00:00:00:00:01"))
    })
    .await;
    assert!(matches!(store.view.borrow().own, Own::Held(_)));
}

#[tokio::test]
async fn the_mac_that_peers_know_is_kept() {
    let bench = Bench::new(VXLAN);
    let known = r#"{"VNI":1,"VtepMAC":"0a:0b:0c:0d:0e:0f"}"#;
    bench.annotate("node-1", "backend-type", &json!("vxlan"));
    bench.annotate("node-1", "backend-data", &json!(known));
    bench.annotate("node-1", "public-ip", &json!("192.0.2.77"));
    let mut store = bench.start();
    store.until_held().await;
    let annotations = bench.annotations("node-1");
    assert_eq!(annotations["flannel.alpha.coreos.com/backend-data"], known);
    assert_eq!(
        annotations["flannel.alpha.coreos.com/public-ip"],
        "192.0.2.1"
    );
}

#[tokio::test]
async fn operators_annotations_overwrite_what_is_published_and_what_is_chosen() {
    let bench = Bench::new(VXLAN);
    bench.annotate("node-1", "public-ip-overwrite", &json!("203.0.113.1"));
    bench.annotate("node-1", "node-public-ip", &json!("192.0.2.111"));
    bench.annotate("node-1", "node-public-ipv6", &json!("rubbish"));
    let mut store = bench.start();
    let held = store.until_held().await;
    assert_eq!(held.attrs.public_ip, Some("203.0.113.1".parse().unwrap()));
    assert!(held.attrs.extra.as_ref().unwrap().overwritten);
    assert_eq!(
        store.view.borrow().chosen.v4,
        Some("192.0.2.111".parse().unwrap())
    );
    store.until_noted("node-public-ipv6 is \"rubbish\"").await;
    assert_eq!(
        bench.annotations("node-1")["flannel.alpha.coreos.com/public-ip"],
        "203.0.113.1"
    );
}

#[tokio::test]
async fn an_address_that_changes_is_published_anew() {
    let bench = Bench::new(VXLAN);
    let mut store = bench.start();
    store.until_held().await;
    let mut moved = claim();
    moved.public_ip = Some("192.0.2.99".parse().unwrap());
    store.claim.send_replace(Some(moved));
    until("peers are told", || {
        bench.annotations("node-1")["flannel.alpha.coreos.com/public-ip"] == "192.0.2.99"
    })
    .await;
}

#[tokio::test]
async fn an_annotation_of_rubbish_harms_one_node_alone_and_is_told() {
    let bench = Bench::new(VXLAN);
    (2..=4).for_each(|n| bench.put_peer(n));
    bench.annotate("node-3", "backend-data", &json!("{\"VtepMAC\":"));
    let mut store = bench.start();
    let peers = store.until_peers(2).await;
    assert_eq!(peers.rubbish[0].name, "node-3");
    assert!(
        peers.rubbish[0].why.contains("backend-data"),
        "{:?}",
        peers.rubbish
    );
    store.until_held().await;
    until("an Event tells", || {
        let events = bench.server.list("events");
        events.iter().any(|event| {
            event["reason"] == "PeerUnreadable"
                && event["message"].as_str().unwrap().contains("node-3")
                && event["involvedObject"]["name"] == "node-1"
        })
    })
    .await;
}

#[tokio::test]
async fn a_node_that_goes_while_we_serve_is_a_lease_lost_and_pods_keep_it() {
    let bench = Bench::new(VXLAN);
    let mut store = bench.start();
    let held = store.until_held().await;
    let key = weft_netns::apiserver::Key::node("node-1");
    bench.server.delete(&key);
    let was = store
        .until("it is lost", |view| match &view.own {
            Own::Lost { was, why } => {
                assert!(why.contains("knows no node \"node-1\""), "{why}");
                Some(was.clone())
            }
            _ => None,
        })
        .await;
    assert_eq!(was, held);
    until("an Event tells", || {
        let events = bench.server.list("events");
        events.iter().any(|event| event["reason"] == "LeaseLost")
    })
    .await;
    bench.server.put(weft_netns::apiserver::slim_node(
        "node-1",
        &["10.244.8.0/24"],
    ));
    let held = store.until_held().await;
    assert_eq!(held.subnets.to_string(), "10.244.8.0/24");
}

#[tokio::test]
async fn who_claims_nothing_sees_what_is_held_and_writes_nothing() {
    let bench = Bench::new(VXLAN);
    bench.server.put(crate::bench::peer(1));
    bench.annotate("node-1", "public-ip", &json!("192.0.2.77"));
    let before = bench.server.node("node-1");
    let mut store = bench.start_unclaimed();
    let held = store.until_held().await;
    assert_eq!(held.attrs.public_ip, Some("192.0.2.77".parse().unwrap()));
    bench.put_peer(2);
    store.until_peers(1).await;
    assert_eq!(bench.server.node("node-1"), before);
    let seen = bench.server.seen();
    assert!(seen.iter().all(|seen| seen.method == "GET"));
}
