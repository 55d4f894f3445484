//! Members that die, links that break, and histories that are thrown away: nothing is lost, and
//! nobody is asked without a pause.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, timeout};
use weft_daemon::store::etcd::Etcd;
use weft_daemon::store::registry::{Change, Changes, Expected, Outcome, Registry, Trouble};

use crate::basics::{absolute, brief, change, done, events, key, lease, put, put_lease};
use crate::proxy::{Link, Proxy};
use crate::server::{Cluster, LONG, etcd_is_here, unused};

#[tokio::test]
async fn etcd_may_come_later_than_we() {
    if !etcd_is_here() {
        return;
    }
    let mut cluster = Cluster::stopped(1, "http", &[]);
    let mut registry = cluster.registry();
    let trouble = registry.list().await.unwrap_err();
    let text = trouble.to_string();
    assert!(matches!(trouble, Trouble::Unreachable(_)), "{trouble:?}");
    assert!(
        text.contains(&cluster.endpoints()[0]) && text.contains("refused"),
        "{text}"
    );
    cluster.members[0].start();
    let deadline = Instant::now() + LONG;
    while let Err(trouble) = registry.list().await {
        assert!(Instant::now() < deadline, "{trouble}");
    }
}

#[tokio::test]
async fn a_restart_of_etcd_loses_no_change() {
    if !etcd_is_here() {
        return;
    }
    let mut cluster = Cluster::one().await;
    let mut registry = cluster.registry();
    registry.list().await.unwrap();
    let mut other = cluster.client().await;
    put_lease(&mut other, "subnets/10.5.1.0-24", "before").await;
    events(&mut registry, 1).await;

    // Written and not told when it dies; then written before we are back.
    put_lease(&mut other, "subnets/10.5.2.0-24", "last").await;
    cluster.members[0].kill();
    let (mut told, trouble) = until_trouble(&mut registry).await;
    assert!(matches!(trouble, Trouble::Unreachable(_)), "{trouble:?}");
    let endpoint = &cluster.endpoints()[0];
    assert!(trouble.to_string().contains(endpoint), "{trouble}");
    cluster.members[0].start();
    cluster.until_healthy().await;
    let mut other = cluster.client().await;
    put_lease(&mut other, "subnets/10.5.3.0-24", "after").await;

    told.extend(told_until(&mut registry, "subnets/10.5.3.0-24").await);
    assert_eq!(told, ["subnets/10.5.2.0-24", "subnets/10.5.3.0-24"]);
    assert!(registry.reconnects() >= 1);
}

#[tokio::test]
async fn history_thrown_away_during_an_outage_is_reported_and_listed_anew() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let proxy = Proxy::to(&cluster.members[0], Duration::ZERO);
    let mut registry = through(&cluster, vec![proxy.url()]);
    let mut other = cluster.client().await;
    registry.list().await.unwrap();
    put_lease(&mut other, "subnets/10.5.1.0-24", "one").await;
    events(&mut registry, 1).await;

    proxy.set(Link::Cut);
    until_trouble(&mut registry).await;
    put_lease(&mut other, "subnets/10.5.2.0-24", "two").await;
    let gone = other.delete(absolute("subnets/10.5.1.0-24"), None).await;
    let revision = gone.unwrap().header().unwrap().revision();
    put_lease(&mut other, "subnets/10.5.3.0-24", "three").await;
    other.compact(revision, None).await.unwrap();
    proxy.set(Link::Up);

    until_missed(&mut registry).await;
    let listing = registry.list().await.unwrap();
    let found: Vec<_> = listing.leases.iter().map(brief).collect();
    assert_eq!(
        found,
        [
            ("subnets/10.5.2.0-24", "two", false),
            ("subnets/10.5.3.0-24", "three", false)
        ]
    );
    put_lease(&mut other, "subnets/10.5.4.0-24", "four").await;
    let told = events(&mut registry, 1).await;
    assert_eq!(brief(put(&told[0])).1, "four");
}

#[tokio::test]
async fn a_cluster_begun_anew_is_not_mistaken_for_the_one_that_was() {
    if !etcd_is_here() {
        return;
    }
    let mut cluster = Cluster::one().await;
    let mut registry = cluster.registry();
    let mut other = cluster.client().await;
    for value in ["one", "two", "three"] {
        put_lease(&mut other, "subnets/10.5.1.0-24", value).await;
    }
    registry.list().await.unwrap();
    other
        .delete(absolute("subnets/10.5.1.0-24"), None)
        .await
        .unwrap();
    events(&mut registry, 1).await;

    cluster.members[0].kill();
    cluster.members[0].forget_everything();
    cluster.members[0].start();
    cluster.until_healthy().await;
    until_missed(&mut registry).await;
    assert_eq!(registry.list().await.unwrap(), Default::default());
}

#[tokio::test]
async fn with_one_of_two_endpoints_dead_every_call_succeeds() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let (host, port) = unused();
    let dead = format!("http://{host}:{port}");
    for endpoints in [
        [dead.clone(), cluster.endpoints()[0].clone()],
        [cluster.endpoints()[0].clone(), dead],
    ] {
        let mut registry = through(&cluster, endpoints.to_vec());
        for i in 0..50 {
            registry.list().await.unwrap();
            let key = format!("subnets/10.5.{i}.0-24");
            let found = registry
                .commit(change(&key, Expected::Absent, lease("x")))
                .await;
            found.unwrap();
        }
        assert_eq!(registry.reconnects(), 0);
    }
}

#[tokio::test]
async fn an_endpoint_that_swallows_everything_delays_nobody() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let proxy = Proxy::to(&cluster.members[0], Duration::ZERO);
    proxy.set(Link::Silent);
    let mut registry = through(&cluster, vec![proxy.url(), cluster.endpoints()[0].clone()]);
    let begun = Instant::now();
    registry.list().await.unwrap();
    println!("found the member that answers in {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_connection_whose_peer_vanished_without_a_word_is_noticed() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let proxy = Proxy::to(&cluster.members[0], Duration::ZERO);
    let mut registry = through(&cluster, vec![proxy.url(), cluster.endpoints()[0].clone()]);
    let mut other = cluster.client().await;
    registry.list().await.unwrap();
    put_lease(&mut other, "subnets/10.5.1.0-24", "one").await;
    events(&mut registry, 1).await;
    assert!(proxy.accepted() >= 1);

    proxy.set(Link::Silent);
    put_lease(&mut other, "subnets/10.5.2.0-24", "two").await;
    let begun = Instant::now();
    let told = events(&mut registry, 1).await;
    println!("noticed after {:?}", begun.elapsed());
    assert_eq!(brief(put(&told[0])).1, "two");
}

#[tokio::test]
async fn a_dead_etcd_is_asked_ever_less_often_however_often_we_are() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let proxy = Proxy::to(&cluster.members[0], Duration::ZERO);
    let mut registry = through(&cluster, vec![proxy.url()]);
    registry.list().await.unwrap();
    proxy.set(Link::Cut);
    let before = proxy.accepted();
    let asking = async {
        loop {
            let _ = registry.changes().await;
        }
    };
    let _ = timeout(Duration::from_secs(4), asking).await;
    let asked = proxy.accepted() - before;
    assert!((2..=20).contains(&asked), "asked {asked} times in 4 s");
}

#[tokio::test]
async fn who_waits_for_changes_in_vain_spends_no_time() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut registry = cluster.registry();
    registry.list().await.unwrap();
    // The stream stands.
    let mut other = cluster.client().await;
    put_lease(&mut other, "subnets/10.5.1.0-24", "one").await;
    events(&mut registry, 1).await;
    drop(other);

    // Everything of ours runs on this thread.
    let spent = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(
            time.tv_sec.unsigned_abs(),
            u32::try_from(time.tv_nsec).unwrap(),
        )
    };
    let before = spent();
    let idle = timeout(Duration::from_secs(12), registry.changes()).await;
    let spent = spent() - before;
    println!("an idle 12 s cost {spent:?}");
    assert!(idle.is_err(), "{idle:?}");
    assert!(spent < Duration::from_millis(20), "{spent:?}");
}

#[tokio::test]
async fn an_etcd_that_is_full_is_called_so_and_goes_on_being_read() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::of(1, &["--quota-backend-bytes=65536"]).await;
    let mut registry = cluster.registry();
    let mut client = cluster.client().await;
    let mut more = 0;
    while client
        .put(format!("ballast/{more}"), vec![b'x'; 20_000], None)
        .await
        .is_ok()
    {
        more += 1;
        assert!(more < 1000, "there is no end to it");
    }
    registry.list().await.unwrap();
    let claim = change("subnets/10.5.7.0-24", Expected::Absent, lease("x"));
    let trouble = registry.commit(claim).await.unwrap_err();
    assert!(matches!(trouble, Trouble::Refused(_)), "{trouble:?}");
    assert!(
        trouble.to_string().contains("etcdctl alarm disarm"),
        "{trouble}"
    );
    registry.list().await.unwrap();
}

#[tokio::test]
async fn three_members_lose_their_leader_then_their_majority_then_recover() {
    if !etcd_is_here() {
        return;
    }
    let mut cluster = Cluster::of(3, &[]).await;
    let mut registry = cluster.registry();
    registry.list().await.unwrap();
    let subnet = |i: u32| format!("subnets/10.5.{i}.0-24");
    let claim = |i: u32| change(&subnet(i), Expected::Absent, lease("x"));
    done(registry.commit(claim(1)).await);
    events(&mut registry, 1).await;

    let leader = leader(&cluster).await;
    cluster.members[leader].kill();
    let begun = Instant::now();
    done(until_committed(&mut registry, || claim(2)).await);
    println!("another leads, and we wrote, after {:?}", begun.elapsed());
    let told = told_until(&mut registry, &subnet(2)).await;
    assert_eq!(told, [subnet(2)]);

    let other = (leader + 1) % 3;
    cluster.members[other].kill();
    let begun = Instant::now();
    let trouble = registry.commit(claim(3)).await.unwrap_err();
    println!("no majority after {:?}: {trouble}", begun.elapsed());
    assert!(matches!(trouble, Trouble::Unreachable(_)), "{trouble:?}");
    assert!(begun.elapsed() < LONG / 2);

    cluster.members[other].start();
    cluster.until_healthy().await;
    let begun = Instant::now();
    done(until_committed(&mut registry, || claim(4)).await);
    println!("wrote again {:?} after the majority stood", begun.elapsed());
    let told = told_until(&mut registry, &subnet(4)).await;
    // What was asked without a majority may have been done with it: told once, or never.
    let (last, early) = told.split_last().unwrap();
    assert_eq!(*last, subnet(4));
    assert!(early.is_empty() || early == [subnet(3)], "{told:?}");
}

// --- helpers -------------------------------------------------------------------

pub(crate) fn through(cluster: &Cluster, endpoints: Vec<String>) -> Etcd {
    let mut settings = cluster.settings();
    settings.endpoints = endpoints;
    Etcd::new(settings).unwrap()
}

/// With the keys told before.
async fn until_trouble(registry: &mut Etcd) -> (Vec<String>, Trouble) {
    let mut told = Vec::new();
    let waiting = async {
        loop {
            match registry.changes().await {
                Ok(changes) => told.extend(keys(changes)),
                Err(trouble) => return trouble,
            }
        }
    };
    let trouble = timeout(LONG, waiting).await.expect("trouble is told");
    (told, trouble)
}

async fn until_missed(registry: &mut Etcd) {
    let waiting = async { while registry.changes().await != Ok(Changes::Missed) {} };
    timeout(LONG, waiting)
        .await
        .expect("what was missed is told");
}

/// The keys that are told up to `last`.
async fn told_until(registry: &mut Etcd, last: &str) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    let waiting = async {
        while told.last().is_none_or(|told| told != last) {
            match registry.changes().await {
                Ok(changes) => told.extend(keys(changes)),
                Err(trouble) => eprintln!("trouble: {trouble}"),
            }
        }
    };
    timeout(LONG, waiting).await.expect("the last is told");
    told
}

fn keys(changes: Changes) -> Vec<String> {
    match changes {
        Changes::Events(events) => events.iter().map(|it| key(it).to_owned()).collect(),
        Changes::Missed => panic!("some were missed"),
    }
}

async fn until_committed(
    registry: &mut Etcd,
    claim: impl Fn() -> Change,
) -> Result<Outcome, Trouble> {
    let deadline = Instant::now() + LONG;
    loop {
        let outcome = registry.commit(claim()).await;
        if outcome.is_ok() || Instant::now() > deadline {
            return outcome;
        }
        eprintln!("not committed: {outcome:?}");
    }
}

async fn leader(cluster: &Cluster) -> usize {
    for (i, member) in cluster.members.iter().enumerate() {
        let client = etcd_client::Client::connect([member.url()], None).await;
        let status = client.unwrap().status().await.unwrap();
        if status.header().unwrap().member_id() == status.leader() {
            return i;
        }
    }
    panic!("nobody leads");
}
