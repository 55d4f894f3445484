//! A server, or a connection, that misbehaves: nothing is lost, and nothing ends.

use std::time::Duration;

use serde_json::json;
use weft_daemon::store::Own;
use weft_netns::apiserver::{Key, Trouble};

use crate::bench::{Bench, Running, VXLAN, until};

async fn steady(bench: &Bench) -> Running {
    (2..=4).for_each(|n| bench.put_peer(n));
    let mut store = bench.start();
    store.until_held().await;
    store.until_peers(3).await;
    until("a watch stands", || {
        bench.server.seen().iter().any(|seen| seen.is_watch())
    })
    .await;
    store
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_and_for_a_while_is_waited_for() {
    let mut bench = Bench::new(VXLAN);
    (2..=4).for_each(|n| bench.put_peer(n));
    bench.server.stop();
    let mut store = bench.start();
    store.until_trouble("cannot be reached").await;
    bench.server.resume();
    store.until_held().await;
    store.until_peers(3).await;
    bench.server.stop();
    bench.put_peer(5);
    bench.server.delete(&Key::node("node-2"));
    store.until_trouble("the API server").await;
    assert_eq!(store.view.borrow().peers.as_ref().unwrap().leases.len(), 3);
    assert!(matches!(store.view.borrow().own, Own::Held(_)));
    bench.server.resume();
    let peers = store
        .until("what happened meanwhile is known", |view| {
            let peers = view.peers.clone()?;
            let subnets: Vec<_> = peers.leases.iter().map(|l| l.subnets.to_string()).collect();
            (subnets == ["10.244.3.0/24", "10.244.4.0/24", "10.244.5.0/24"]).then_some(peers)
        })
        .await;
    assert!(peers.rubbish.is_empty());
    store.until_well().await;
}

#[tokio::test]
async fn history_that_is_forgotten_is_listed_anew() {
    for at_once in [false, true] {
        let bench = Bench::new(VXLAN);
        bench.server.trouble(Trouble {
            gone_at_once: at_once,
            ..Trouble::default()
        });
        let mut store = steady(&bench).await;
        bench.server.delete(&Key::node("node-2"));
        bench.put_peer(7);
        bench.server.compact();
        bench.server.end_watches();
        bench.put_peer(8);
        store
            .until("the new ones are known and the old one is not", |view| {
                let peers = view.peers.as_ref()?;
                let subnets: Vec<_> = peers.leases.iter().map(|l| l.subnets.to_string()).collect();
                let wanted = [
                    "10.244.3.0/24",
                    "10.244.4.0/24",
                    "10.244.7.0/24",
                    "10.244.8.0/24",
                ];
                (subnets == wanted).then_some(())
            })
            .await;
        store.until_held().await;
    }
}

#[tokio::test]
async fn events_that_are_cut_in_their_middle_come_again() {
    let bench = Bench::new(VXLAN);
    let mut store = steady(&bench).await;
    bench.server.trouble(Trouble {
        cuts_events: true,
        ..Trouble::default()
    });
    bench.put_peer(5);
    store.until_trouble("broke").await;
    bench.server.trouble(Trouble::default());
    store.until_peers(4).await;
    store.until_well().await;
    // From where it was: nothing is listed anew for it.
    let seen = bench.server.seen();
    let lists = seen.iter().filter(|seen| seen.target.contains("limit="));
    assert_eq!(lists.count(), 1);
}

#[tokio::test]
async fn a_watch_that_ends_properly_is_begun_where_it_was() {
    let bench = Bench::new(VXLAN);
    let mut store = steady(&bench).await;
    for n in 5..8 {
        bench.server.end_watches();
        bench.put_peer(n);
        store.until_peers(usize::from(n) - 1).await;
    }
    let seen = bench.server.seen();
    let lists = seen.iter().filter(|seen| seen.target.contains("limit="));
    assert_eq!(lists.count(), 1);
}

#[tokio::test]
async fn lists_come_in_pages_and_pages_that_are_forgotten_are_begun_anew() {
    let bench = Bench::new(VXLAN);
    bench.server.trouble(Trouble {
        page: Some(2),
        ..Trouble::default()
    });
    let store = steady(&bench).await;
    let seen = bench.server.seen();
    let pages = seen.iter().filter(|seen| seen.target.contains("continue="));
    assert_eq!(pages.count(), 1, "4 nodes are 2 pages");
    drop(store);
    bench.server.trouble(Trouble {
        page: Some(2),
        forgets_pages: true,
        ..Trouble::default()
    });
    let mut store = bench.start();
    until("a page is refused", || {
        let seen = bench.server.seen();
        seen.iter().any(|seen| seen.code() == 410)
    })
    .await;
    bench.server.trouble(Trouble {
        page: Some(3),
        ..Trouble::default()
    });
    store.until_peers(3).await;
}

#[tokio::test]
async fn what_a_server_answers_in_trouble_is_told_and_tried_again() {
    for (code, told) in [(429, "busy"), (500, "refuses it (500)"), (503, "busy")] {
        let bench = Bench::new(VXLAN);
        bench.server.trouble(Trouble {
            refuses: Some((code, Some(1))),
            ..Trouble::default()
        });
        let mut store = bench.start();
        store.until_trouble(told).await;
        bench.server.trouble(Trouble::default());
        store.until_held().await;
        store.until_well().await;
    }
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let bench = Bench::new(VXLAN);
    bench.put_peer(2);
    bench.server.trouble(Trouble {
        slow: Duration::from_millis(400),
        page: Some(1),
        ..Trouble::default()
    });
    let mut store = bench.start();
    store.until_held().await;
    store.until_peers(1).await;
}

#[tokio::test]
async fn bookmarks_say_where_to_go_on_from() {
    let bench = Bench::new(VXLAN);
    bench.server.trouble(Trouble {
        bookmarks: Some(Duration::from_millis(20)),
        ..Trouble::default()
    });
    let mut store = steady(&bench).await;
    let version = bench.server.node("node-4").unwrap()["metadata"]["resourceVersion"].clone();
    // Things happen that are no nodes.
    for n in 0..5 {
        bench
            .server
            .put(json!({"kind": "Pod", "metadata": {"name": n.to_string(), "namespace": "x"}}));
    }
    let since = format!("resourceVersion={}", version.as_str().unwrap());
    until(
        "the watch is begun later than the last change of a node",
        || {
            bench.server.end_watches();
            let seen = bench.server.seen();
            let last = seen.iter().rev().find(|seen| seen.is_watch()).unwrap();
            !last.target.contains(&since)
        },
    )
    .await;
    bench.put_peer(5);
    store.until_peers(4).await;
}

#[tokio::test]
async fn a_server_that_knows_no_metadata_alone_is_read_in_full() {
    let bench = Bench::new(VXLAN);
    bench.server.trouble(Trouble {
        knows_no_metadata: true,
        ..Trouble::default()
    });
    let mut store = steady(&bench).await;
    bench.put_peer(5);
    store.until_peers(4).await;
}

#[tokio::test]
async fn a_server_that_has_no_protobuf_is_read_in_json() {
    let protobuf = |bench: &Bench| {
        let seen = bench.server.seen();
        let asked = seen.iter().filter(|seen| seen.accept.contains("protobuf"));
        asked.count()
    };
    for trouble in [
        Trouble {
            knows_no_protobuf: true,
            ..Trouble::default()
        },
        Trouble {
            refuses_protobuf: true,
            ..Trouble::default()
        },
        Trouble {
            knows_no_protobuf: true,
            knows_no_metadata: true,
            ..Trouble::default()
        },
    ] {
        let bench = Bench::new(VXLAN);
        let refuses = trouble.refuses_protobuf;
        bench.server.trouble(trouble);
        let mut store = steady(&bench).await;
        bench.put_peer(5);
        store.until_peers(4).await;
        bench.server.compact();
        bench.server.end_watches();
        bench.put_peer(6);
        store.until_peers(5).await;
        assert!(store.view.borrow().health.trouble.is_none());
        if refuses {
            assert_eq!(protobuf(&bench), 1, "who refuses is asked once");
        }
    }
}

#[tokio::test]
async fn a_server_that_lost_most_nodes_gets_them_back_and_pods_keep_their_ways() {
    let mut bench = Bench::new(VXLAN);
    let mut store = steady(&bench).await;
    bench.server.stop();
    for n in 2..=4 {
        bench.server.delete(&Key::node(&format!("node-{n}")));
    }
    bench.server.compact();
    bench.server.resume();
    until("it was listed anew", || {
        let seen = bench.server.seen();
        seen.iter()
            .filter(|seen| seen.target.contains("limit="))
            .count()
            > 1
    })
    .await;
    bench.put_peer(2);
    let moved = {
        let mut moved = crate::bench::peer(9);
        moved["spec"] = json!({"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24"]});
        moved
    };
    bench.server.put(moved);
    // Who stands where a missing one was is believed.
    let peers = store
        .until("the new owner is known", |view| {
            let peers = view.peers.clone()?;
            let owner = Some("192.0.2.9".parse().unwrap());
            peers
                .leases
                .iter()
                .any(|l| l.attrs.public_ip == owner)
                .then_some(peers)
        })
        .await;
    assert_eq!(peers.leases.len(), 3, "{peers:?}");
    assert!(peers.rubbish.is_empty(), "{peers:?}");
}
