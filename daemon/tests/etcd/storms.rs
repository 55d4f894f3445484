//! Many leases: listed over a slow link, arriving live, changed while we were away.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use weft_daemon::store::registry::{Changes, Registry};

use crate::basics::{key, put_lease};
use crate::outages::through;
use crate::proxy::Proxy;
use crate::server::{Cluster, LONG, etcd_is_here, fill};

#[tokio::test]
async fn five_thousand_leases_are_listed_in_one_round_trip_of_a_slow_link() {
    if !etcd_is_here() {
        return;
    }
    let round_trip = Duration::from_millis(4);
    let cluster = Cluster::one().await;
    let mut client = cluster.client().await;
    fill(&mut client, 0..5000).await;
    let proxy = Proxy::to(&cluster.members[0], round_trip);

    let mut took = Vec::new();
    let mut direct = Vec::new();
    for _ in 0..5 {
        for (url, times) in [
            (proxy.url(), &mut took),
            (cluster.endpoints()[0].clone(), &mut direct),
        ] {
            let mut registry = through(&cluster, vec![url]);
            let begun = Instant::now();
            let listing = registry.list().await.unwrap();
            times.push(begun.elapsed());
            assert_eq!(listing.leases.len(), 5000);
        }
    }
    took.sort();
    direct.sort();
    println!("5,000 leases, 4 ms a call: {took:?}; no delay: {direct:?}");
    // Connecting costs one round trip and a half, the listing one; the rest is handling.
    let waited = took[0].saturating_sub(direct[0]);
    assert!(
        waited < 8 * round_trip,
        "{waited:?} more than without the delay"
    );
}

#[tokio::test]
async fn a_thousand_live_arrivals_come_in_few_batches() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut registry = cluster.registry();
    registry.list().await.unwrap();
    let mut client = cluster.client().await;
    let writing = tokio::spawn(async move {
        let id = client.lease_grant(86_400, None).await.unwrap().id();
        let options = etcd_client::PutOptions::new().with_lease(id);
        for i in 0..1000 {
            let (key, value) = crate::server::lease(i);
            client.put(key, value, Some(options.clone())).await.unwrap();
        }
        Instant::now()
    });
    let mut told = Vec::new();
    let mut batches = 0;
    let begun = Instant::now();
    let telling = async {
        while told.len() < 1000 {
            let Changes::Events(events) = registry.changes().await.unwrap() else {
                panic!("some were missed");
            };
            batches += 1;
            told.extend(events.iter().map(|event| key(event).to_owned()));
        }
    };
    timeout(LONG, telling).await.expect("all of them are told");
    let end = Instant::now();
    let written = writing.await.unwrap();
    println!(
        "1,000 written in {:?}, told in {batches} batches, the last {:?} after it was written",
        written - begun,
        end.saturating_duration_since(written)
    );
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 1000);
    // Each batch but the first waits for what follows on its heels.
    let most = 2 + u32::try_from((end - begun).as_millis() / 20).unwrap();
    assert!(batches <= most, "{batches} batches");
}

#[tokio::test]
async fn waiting_may_be_given_up_at_any_moment_and_nothing_is_lost() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut registry = cluster.registry();
    registry.list().await.unwrap();
    let mut other = cluster.client().await;
    put_lease(&mut other, "subnets/10.5.1.0-24", "one").await;
    crate::basics::events(&mut registry, 1).await;
    // Dropped and called again, as a loop with other things to wait for does it.
    let writing = tokio::spawn(async move {
        for i in 2..100 {
            put_lease(&mut other, &format!("subnets/10.5.{i}.0-24"), "more").await;
        }
    });
    let mut told = Vec::new();
    let deadline = Instant::now() + LONG;
    let mut given_up = 0;
    while told.len() < 98 {
        assert!(Instant::now() < deadline, "{told:?}");
        match timeout(Duration::from_millis(1), registry.changes()).await {
            Ok(Ok(Changes::Events(events))) => {
                told.extend(events.iter().map(|event| key(event).to_owned()));
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => given_up += 1,
        }
    }
    writing.await.unwrap();
    let in_order: Vec<_> = (2..100).map(|i| format!("subnets/10.5.{i}.0-24")).collect();
    assert_eq!(told, in_order);
    assert!(given_up > 10);
}
