//! Listing, committing and watching, with nothing in the way.

use std::time::Duration;

use etcd_client::{Client, PutOptions};
use tokio::time::timeout;
use weft_daemon::store::etcd::Etcd;
use weft_daemon::store::registry::{
    Change, Changes, Entry, Event, Expected, Outcome, Registry, Write,
};

use crate::server::{Cluster, LONG, etcd_is_here};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
const CONFIG: &str = r#"{"Network": "10.5.0.0/16"}"#;

#[tokio::test]
async fn what_stands_there_is_listed_and_what_changes_is_told_from_there_on() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut other = cluster.client().await;
    let mut registry = cluster.registry();

    assert_eq!(registry.list().await.unwrap(), Default::default());
    other.put(absolute("config"), CONFIG, None).await.unwrap();
    put_lease(&mut other, "subnets/10.5.2.0-24", "two").await;
    other
        .put(absolute("subnets/10.5.1.0-24"), "one", None)
        .await
        .unwrap();
    other
        .put("/coreos.com/networks/config", "a neighbour's", None)
        .await
        .unwrap();

    let listing = registry.list().await.unwrap();
    assert_eq!(listing.config.unwrap().value, CONFIG);
    let leases: Vec<_> = listing.leases.iter().map(brief).collect();
    assert_eq!(
        leases,
        [
            ("subnets/10.5.1.0-24", "one", true),
            ("subnets/10.5.2.0-24", "two", false)
        ]
    );

    other.put(absolute("config"), "{}", None).await.unwrap();
    put_lease(&mut other, "subnets/10.5.3.0-24", "three").await;
    other
        .delete(absolute("subnets/10.5.1.0-24"), None)
        .await
        .unwrap();
    let mut told = events(&mut registry, 3).await;
    // The configuration and the leases come by watchers of their own.
    told.sort_by_key(|event| key(event).to_owned());
    assert_eq!(brief(put(&told[0])), ("config", "{}", true));
    assert_eq!(
        told[1],
        Event::Gone {
            key: "subnets/10.5.1.0-24".to_owned()
        }
    );
    assert_eq!(
        brief(put(&told[2])),
        ("subnets/10.5.3.0-24", "three", false)
    );
}

#[tokio::test]
async fn of_two_that_want_one_key_the_second_is_told_who_was_first() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut other = cluster.client().await;
    let mut ours = cluster.registry();
    let mut theirs = cluster.registry();
    let claim = |value| change("subnets/10.5.7.0-24", Expected::Absent, lease(value));

    let Outcome::Done(version) = ours.commit(claim("ours")).await.unwrap() else {
        panic!("nobody was there");
    };
    let Outcome::Otherwise(Some(found)) = theirs.commit(claim("theirs")).await.unwrap() else {
        panic!("we were there");
    };
    assert_eq!(brief(&found), ("subnets/10.5.7.0-24", "ours", false));
    assert_eq!(found.version, version);

    // The lease granted in vain serves the next put, and nothing is left in the end.
    let elsewhere = change("subnets/10.5.8.0-24", Expected::Absent, lease("theirs"));
    assert!(matches!(
        theirs.commit(elsewhere).await.unwrap(),
        Outcome::Done(_)
    ));
    assert_eq!(leases_in_etcd(&mut other).await, 2);
    theirs.commit(claim("theirs")).await.unwrap();
    assert_eq!(leases_in_etcd(&mut other).await, 3);
    theirs.list().await.unwrap();
    let _ = timeout(Duration::from_millis(1), theirs.changes()).await;
    put_lease(&mut other, "subnets/10.5.9.0-24", "nine").await;
    events(&mut theirs, 1).await;
    assert_eq!(
        leases_in_etcd(&mut other).await,
        3,
        "ours, theirs, and nine"
    );
}

#[tokio::test]
async fn a_renewal_and_a_deletion_meet_what_they_expect_or_do_nothing() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut registry = cluster.registry();
    let key = "subnets/10.5.7.0-24";
    let first = done(
        registry
            .commit(change(key, Expected::Absent, lease("a")))
            .await,
    );
    let second = done(
        registry
            .commit(change(key, Expected::Version(first), lease("b")))
            .await,
    );
    assert!(second > first);

    let stale = change(key, Expected::Version(first), lease("c"));
    let found = otherwise(registry.commit(stale).await).unwrap();
    assert_eq!((found.value.as_str(), found.version), ("b", second));
    let stale = change(key, Expected::Version(first), Write::Delete);
    assert_eq!(otherwise(registry.commit(stale).await).unwrap().value, "b");
    done(
        registry
            .commit(change(key, Expected::Version(second), Write::Delete))
            .await,
    );
    let gone = change(key, Expected::Version(second), lease("d"));
    assert_eq!(otherwise(registry.commit(gone).await), None);
}

#[tokio::test]
async fn a_reservation_stays_without_a_lease() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut other = cluster.client().await;
    let mut registry = cluster.registry();
    let key = "subnets/10.5.7.0-24";
    other.put(absolute(key), "reserved", None).await.unwrap();
    let found = registry.list().await.unwrap().leases.remove(0);
    assert!(found.lasts);

    let stays = Write::Put {
        value: "taken".to_owned(),
        expires: None,
    };
    done(
        registry
            .commit(change(key, Expected::Version(found.version), stays))
            .await,
    );
    let told = events(&mut registry, 1).await;
    assert_eq!(brief(put(&told[0])), (key, "taken", true));
    assert_eq!(leases_in_etcd(&mut other).await, 0);
}

#[tokio::test]
async fn what_is_not_renewed_expires_and_is_told_as_gone() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut registry = cluster.registry();
    registry.list().await.unwrap();
    let soon = Write::Put {
        value: "x".to_owned(),
        expires: Some(Duration::from_secs(1)),
    };
    let version = done(
        registry
            .commit(change("subnets/10.5.7.0-24", Expected::Absent, soon))
            .await,
    );
    let told = events(&mut registry, 2).await;
    assert_eq!(
        (put(&told[0]).version, put(&told[0]).lasts),
        (version, false)
    );
    let key = "subnets/10.5.7.0-24".to_owned();
    assert_eq!(told[1], Event::Gone { key });
}

#[tokio::test]
async fn who_finds_no_configuration_is_told_the_command_that_writes_it() {
    let registry = Etcd::new(weft_daemon::store::etcd::Settings {
        endpoints: vec!["http://10.0.0.1:2379".into(), "http://10.0.0.2:2379".into()],
        prefix: "/coreos.com/network".to_owned(),
        username: Some("flannel".to_owned()),
        password: Some("geheim".to_owned()),
        ..Default::default()
    });
    assert_eq!(
        registry.unwrap().how_to_configure(),
        "ETCDCTL_API=3 etcdctl --endpoints=http://10.0.0.1:2379,http://10.0.0.2:2379 \
         --user=flannel put /coreos.com/network/config \
         '{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"vxlan\"}}'"
    );
}

// --- what the other files tell their stories with ----------------------------

pub(crate) fn absolute(key: &str) -> String {
    format!("/coreos.com/network/{key}")
}

pub(crate) fn change(key: &str, expected: Expected, write: Write) -> Change {
    Change {
        key: key.to_owned(),
        expected,
        write,
    }
}

pub(crate) fn lease(value: &str) -> Write {
    Write::Put {
        value: value.to_owned(),
        expires: Some(DAY),
    }
}

pub(crate) async fn put_lease(client: &mut Client, key: &str, value: &str) {
    let id = client.lease_grant(86_400, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(id);
    client
        .put(absolute(key), value, Some(options))
        .await
        .unwrap();
}

pub(crate) async fn leases_in_etcd(client: &mut Client) -> usize {
    client.leases().await.unwrap().leases().len()
}

/// Until so many were told, however they are packed.
pub(crate) async fn events(registry: &mut Etcd, count: usize) -> Vec<Event> {
    let mut told = Vec::new();
    let telling = async {
        while told.len() < count {
            match registry.changes().await {
                Ok(Changes::Events(events)) => told.extend(events),
                Ok(Changes::Missed) => panic!("missed some after {told:?}"),
                Err(trouble) => eprintln!("trouble: {trouble}"),
            }
        }
    };
    timeout(LONG, telling).await.expect("all of them are told");
    assert_eq!(told.len(), count, "{told:?}");
    told
}

pub(crate) fn put(event: &Event) -> &Entry {
    match event {
        Event::Put(entry) => entry,
        Event::Gone { key } => panic!("{key} is gone"),
    }
}

pub(crate) fn key(event: &Event) -> &str {
    match event {
        Event::Put(entry) => &entry.key,
        Event::Gone { key } => key,
    }
}

pub(crate) fn brief(entry: &Entry) -> (&str, &str, bool) {
    (&entry.key, &entry.value, entry.lasts)
}

#[track_caller]
pub(crate) fn done<E: std::fmt::Debug>(outcome: Result<Outcome, E>) -> i64 {
    match outcome.unwrap() {
        Outcome::Done(version) => version,
        Outcome::Otherwise(found) => panic!("found {found:?}"),
    }
}

#[track_caller]
pub(crate) fn otherwise<E: std::fmt::Debug>(outcome: Result<Outcome, E>) -> Option<Entry> {
    match outcome.unwrap() {
        Outcome::Otherwise(found) => found,
        Outcome::Done(version) => panic!("done, version {version}"),
    }
}
