//! Answers that get lost: what was done is known as done, and done once.

use std::time::Duration;

use weft_daemon::store::registry::{Expected, Registry, Write};

use crate::basics::{absolute, brief, change, done, lease, leases_in_etcd, otherwise};
use crate::outages::through;
use crate::proxy::{Link, Proxy};
use crate::server::{Cluster, etcd_is_here};

#[tokio::test]
async fn what_is_done_and_whose_answer_got_lost_is_known_as_done_and_done_once() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let proxy = Proxy::to(&cluster.members[0], Duration::ZERO);
    let mut registry = through(&cluster, vec![proxy.url()]);
    let mut other = cluster.client().await;
    registry.list().await.unwrap();
    let (taken, free) = ("subnets/10.5.1.0-24", "subnets/10.5.2.0-24");

    // The grant's answer is lost.
    proxy.set(Link::LosesAnswer);
    let first = done(
        registry
            .commit(change(taken, Expected::Absent, lease("a")))
            .await,
    );
    assert!(proxy.is(Link::Up), "an answer was lost");
    assert_eq!(leases_in_etcd(&mut other).await, 1, "granted once");

    // The put's: a conflict before it leaves a lease in hand, so that the put is asked first.
    otherwise(
        registry
            .commit(change(taken, Expected::Absent, lease("b")))
            .await,
    );
    proxy.set(Link::LosesAnswer);
    let second = done(
        registry
            .commit(change(free, Expected::Absent, lease("b")))
            .await,
    );
    assert!(proxy.is(Link::Up), "an answer was lost");
    assert_eq!(leases_in_etcd(&mut other).await, 2);
    let stays = Write::Put {
        value: "c".to_owned(),
        expires: None,
    };
    proxy.set(Link::LosesAnswer);
    let third = done(
        registry
            .commit(change(free, Expected::Version(second), stays))
            .await,
    );
    assert!(proxy.is(Link::Up), "an answer was lost");
    proxy.set(Link::LosesAnswer);
    done(
        registry
            .commit(change(taken, Expected::Version(first), Write::Delete))
            .await,
    );
    assert!(proxy.is(Link::Up), "an answer was lost");

    let found = registry.list().await.unwrap().leases;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (brief(&found[0]), found[0].version),
        ((free, "c", true), third)
    );
}

#[tokio::test]
async fn who_lost_the_race_and_the_answer_is_told_so() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let proxy = Proxy::to(&cluster.members[0], Duration::ZERO);
    let mut registry = through(&cluster, vec![proxy.url()]);
    let mut other = cluster.client().await;
    registry.list().await.unwrap();
    other
        .put(absolute("subnets/10.5.1.0-24"), "theirs", None)
        .await
        .unwrap();
    let ours = Write::Put {
        value: "ours".to_owned(),
        expires: None,
    };
    proxy.set(Link::LosesAnswer);
    let outcome = registry
        .commit(change("subnets/10.5.1.0-24", Expected::Absent, ours))
        .await;
    assert!(proxy.is(Link::Up), "an answer was lost");
    assert_eq!(otherwise(outcome).unwrap().value, "theirs");
}
