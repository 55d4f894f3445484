//! Many leases: listed over a slow link, arriving live, changed while we were away.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use weft_daemon::store::registry::{Changes, Entry, Event, Listing, Registry};

use crate::basics::{absolute, key, put_lease};
use crate::outages::through;
use crate::proxy::{Link, Proxy};
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
async fn a_listing_of_many_pages_survives_compaction_between_them() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut client = cluster.client().await;
    fill(&mut client, 0..11_000).await;
    let proxy = Proxy::to(&cluster.members[0], Duration::from_millis(40));
    let mut registry = through(&cluster, vec![proxy.url()]);
    let compacting = tokio::spawn(async move {
        for _ in 0..20 {
            let put = client.put("elsewhere", "x", None).await.unwrap();
            let revision = put.header().unwrap().revision();
            client.compact(revision, None).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    });
    let listing = registry.list().await.unwrap();
    assert_eq!(listing.leases.len(), 11_000);
    compacting.await.unwrap();
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

/// ours ── proxy 0 (cut, lossy, up by turns) ──┐
///    └─── proxy 1 (likewise, out of step) ────┴── one member ── the others, who write
#[tokio::test]
async fn whatever_links_do_what_is_told_adds_up_to_what_stands_there() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let proxies = [(); 2].map(|()| Proxy::to(&cluster.members[0], Duration::ZERO));
    let mut registry = through(&cluster, proxies.iter().map(Proxy::url).collect());
    let mut known: BTreeMap<String, Entry> = BTreeMap::new();
    assert_eq!(registry.list().await.unwrap(), Listing::default());

    let mut other = cluster.client().await;
    let writing = tokio::spawn(async move {
        for i in 0..2000_u32 {
            // Few keys, so that each is written, deleted and written again.
            let key = format!("subnets/10.5.{}.0-24", i * 7 % 11);
            if i % 3 == 2 {
                other.delete(absolute(&key), None).await.unwrap();
            } else {
                other
                    .put(absolute(&key), i.to_string(), None)
                    .await
                    .unwrap();
            }
            let unsteady = [Link::Up, Link::Cut, Link::Up, Link::LosesAnswer, Link::Up];
            for (proxy, out_of_step) in proxies.iter().zip([0, 1]) {
                proxy.set(unsteady[(i / 100 + out_of_step) as usize % unsteady.len()]);
            }
        }
        for proxy in &proxies {
            proxy.set(Link::Up);
        }
        other.put(absolute(LAST), "", None).await.unwrap();
        proxies
    });
    let adding_up = async {
        while !known.contains_key(LAST) {
            match registry.changes().await {
                Ok(Changes::Events(events)) => {
                    for event in events {
                        match event {
                            Event::Put(entry) => known.insert(entry.key.clone(), entry),
                            Event::Gone { key } => known.remove(&key),
                        };
                    }
                }
                Ok(Changes::Missed) => panic!("nothing was compacted"),
                Err(_) => {}
            }
        }
    };
    timeout(LONG, adding_up).await.expect("the last is told");
    let _proxies = writing.await.unwrap();
    println!("{} connections were replaced", registry.reconnects());
    let stands: Vec<_> = known.into_values().collect();
    assert_eq!(stands, cluster.registry().list().await.unwrap().leases);
}

/// Behind all others.
const LAST: &str = "subnets/last";
