//! What does not speak any more: a server, the way to it, and we ourselves.

use std::time::Duration;

use serde_json::Value;
use weft_daemon::options::Patience;
use weft_netns::apiserver::{ApiServer, Trouble, slim_node};
use weft_netns::in_world;

use crate::bench::{Bench, VXLAN, block_on, until};

/// ```text
///   store ── 192.0.2.1 ──────── 192.0.2.254 ── API server
/// ```
#[test]
fn a_server_that_is_cut_off_is_missed_before_it_would_have_spoken() {
    in_world(|world| {
        let far = world.netns("far");
        world.exec(&format!(
            "ip link add near type veth peer name far netns {}; \
             ip addr add 192.0.2.1/24 dev near; ip link set near up",
            far.name()
        ));
        far.exec("ip addr add 192.0.2.254/24 dev far; ip link set far up");
        let server = far.enter(|| ApiServer::start(([192, 0, 2, 254], 6443).into(), None));
        server.put(slim_node("node-1", &["10.244.1.0/24"]));
        let mut bench = Bench::on(server, VXLAN);
        bench.options.patience = Patience {
            unanswered: Duration::from_secs(2),
            ..Patience::default()
        };
        block_on(async {
            let mut store = bench.start();
            store.until_held().await;
            store.until_peers(0).await;
            // Nothing is torn down: what is sent there is heard by nobody.
            far.exec("ip addr del 192.0.2.254/24 dev far");
            store.until_trouble("the API server").await;
            far.exec("ip addr add 192.0.2.254/24 dev far");
            bench.put_peer(2);
            store.until_peers(1).await;
            store.until_well().await;
        });
    });
}

#[tokio::test]
async fn a_watch_that_does_not_even_say_where_it_stands_is_begun_anew() {
    let mut bench = Bench::new(VXLAN);
    bench.options.patience.quiet = Duration::from_millis(500);
    let bookmarks = Trouble {
        bookmarks: Some(Duration::from_millis(50)),
        ..Trouble::default()
    };
    bench.server.trouble(bookmarks.clone());
    let mut store = bench.start();
    store.until_held().await;
    bench.server.trouble(Trouble {
        silent_watches: true,
        ..bookmarks.clone()
    });
    store.until_trouble("does not answer in time").await;
    bench.put_peer(2);
    bench.server.trouble(bookmarks);
    store.until_peers(1).await;
    store.until_well().await;
}

#[tokio::test]
async fn a_node_that_is_not_ready_for_long_is_kept_free_of_pods_until_it_is() {
    let mut bench = Bench::new(VXLAN);
    bench.options.patience.unready = Duration::from_millis(300);
    let mut store = bench.start();
    store.until_held().await;
    let condition = |status: &'static str| {
        let node = bench.server.node("node-1").unwrap();
        let condition = node["status"]["conditions"][0].clone();
        (condition["status"] == status).then_some(condition)
    };
    store.ready();
    until("pods may come", || condition("False").is_some()).await;
    let why = "the port 8472 of the overlay is taken";
    store
        .report
        .send_modify(|report| report.ready = Err(why.to_owned()));
    until("pods are kept away", || condition("True").is_some()).await;
    let told = condition("True").unwrap();
    assert_eq!(told["reason"], "WeftIsNotReady");
    assert_eq!(told["message"], why);
    until("an Event tells of it", || {
        let events = bench.server.list("events");
        let is_it = |event: &Value| event["reason"] == "NotReady" && event["message"] == why;
        events.iter().any(is_it)
    })
    .await;
    store.ready();
    until("pods may come again", || condition("False").is_some()).await;
}

#[tokio::test]
async fn a_restart_is_no_outage() {
    let bench = Bench::new(VXLAN);
    let mut store = bench.start();
    store.until_held().await;
    store
        .report
        .send_modify(|report| report.ready = Err("not yet".to_owned()));
    bench.put_peer(2);
    store.until_peers(1).await;
    store.ready();
    until("pods may come", || {
        let node = bench.server.node("node-1").unwrap();
        node["status"]["conditions"][0]["status"] == "False"
    })
    .await;
    let seen = bench.server.seen();
    assert!(!seen.iter().any(|seen| seen.body.contains("WeftIsNotReady")));
}
