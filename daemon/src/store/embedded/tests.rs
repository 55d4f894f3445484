use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::timeout;

use super::*;

/// A directory of its own, removed in the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weft-embedded-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const KEY: &str = "subnets/10.5.63.0-24";

fn put(key: &str, expected: Expected, value: &str, seconds: Option<u64>) -> Change {
    let write = Write::Put {
        value: value.to_owned(),
        expires: seconds.map(Duration::from_secs),
    };
    Change {
        key: key.to_owned(),
        expected,
        write,
    }
}

async fn done(registry: &mut Embedded, change: Change) -> i64 {
    match registry.commit(change).await.unwrap() {
        Outcome::Done(version) => version,
        other => panic!("{other:?}"),
    }
}

async fn events(registry: &mut Embedded) -> Vec<Event> {
    match timeout(Duration::from_secs(5), registry.changes())
        .await
        .expect("a change")
        .unwrap()
    {
        Changes::Events(events) => events,
        other => panic!("{other:?}"),
    }
}

/// Seconds that a test moves on, and a boot that it can end.
fn hand_clock() -> (Arc<AtomicU64>, Clock) {
    let seconds = Arc::new(AtomicU64::new(1000));
    let read = seconds.clone();
    let now = move || Moment {
        boot: "b".into(),
        elapsed: Duration::from_secs(read.load(Ordering::Relaxed)),
    };
    (seconds, Clock::new(now))
}

#[tokio::test]
async fn a_key_is_written_once_compared_and_deleted() {
    let scratch = Scratch::new();
    let mut registry = Embedded::open(&scratch.0);
    let first = done(
        &mut registry,
        put(KEY, Expected::Absent, "{\"a\":1}", Some(60)),
    )
    .await;
    let entry = Entry {
        key: KEY.into(),
        value: "{\"a\":1}".into(),
        version: first,
        lasts: false,
    };
    let again = registry
        .commit(put(KEY, Expected::Absent, "{}", None))
        .await;
    assert_eq!(again, Ok(Outcome::Otherwise(Some(entry.clone()))));
    assert_eq!(registry.list().await.unwrap().leases, [entry]);
    let second = done(
        &mut registry,
        put(KEY, Expected::Version(first), "{\"a\":2}", None),
    )
    .await;
    assert!(second > first);
    assert!(registry.list().await.unwrap().leases[0].lasts);
    let delete = |version| Change {
        key: KEY.into(),
        expected: Expected::Version(version),
        write: Write::Delete,
    };
    assert!(matches!(
        registry.commit(delete(first)).await,
        Ok(Outcome::Otherwise(Some(_)))
    ));
    assert!(done(&mut registry, delete(second)).await > second);
    assert_eq!(
        registry.commit(delete(second)).await,
        Ok(Outcome::Otherwise(None))
    );
    assert_eq!(registry.list().await.unwrap(), Listing::default());
}

#[tokio::test]
async fn an_operator_can_read_a_lease_and_write_a_reservation_and_the_configuration() {
    let scratch = Scratch::new();
    let mut registry = Embedded::open(&scratch.0);
    done(
        &mut registry,
        put(KEY, Expected::Absent, "{\"a\":1}", Some(60)),
    )
    .await;
    assert!(
        fs::read_to_string(scratch.file(KEY))
            .unwrap()
            .starts_with("{\"a\":1}\n# weft: version=")
    );
    fs::write(scratch.file("subnets/10.5.64.0-24"), "{\"b\":1}\n").unwrap();
    fs::write(scratch.file("config"), "{\"Network\": \"10.5.0.0/16\"}\n").unwrap();
    fs::write(scratch.file("subnets/.10.5.65.0-24.swp"), "rubbish").unwrap();
    fs::write(scratch.file("subnets/10.5.66.0-24"), "").unwrap();
    let listing = registry.list().await.unwrap();
    assert_eq!(
        listing.config.unwrap().value,
        "{\"Network\": \"10.5.0.0/16\"}"
    );
    let leases: Vec<_> = listing
        .leases
        .iter()
        .map(|e| (e.key.as_str(), e.value.as_str(), e.lasts))
        .collect();
    assert_eq!(
        leases,
        [
            (KEY, "{\"a\":1}", false),
            ("subnets/10.5.64.0-24", "{\"b\":1}", true)
        ]
    );
}

#[tokio::test]
async fn an_edit_changes_the_version_and_keeps_the_end() {
    let scratch = Scratch::new();
    let mut registry = Embedded::open(&scratch.0);
    let version = done(
        &mut registry,
        put(KEY, Expected::Absent, "{\"a\":1}", Some(60)),
    )
    .await;
    let text = fs::read_to_string(scratch.file(KEY))
        .unwrap()
        .replace("1}", "2}");
    fs::write(scratch.file(KEY), text).unwrap();
    let listed = registry.list().await.unwrap().leases.remove(0);
    assert!(listed.version > version && !listed.lasts);
    let ours = done(
        &mut registry,
        put(KEY, Expected::Version(listed.version), "{}", None),
    )
    .await;
    assert!(ours > listed.version);
}

#[tokio::test]
async fn a_lease_ends_when_its_time_is_over_and_is_cleared_away() {
    let scratch = Scratch::new();
    let (seconds, clock) = hand_clock();
    let mut registry = Embedded::with_clock(&scratch.0, clock);
    done(&mut registry, put(KEY, Expected::Absent, "{}", Some(60))).await;
    seconds.fetch_add(59, Ordering::Relaxed);
    assert_eq!(registry.list().await.unwrap().leases.len(), 1);
    seconds.fetch_add(1, Ordering::Relaxed);
    assert_eq!(
        events(&mut registry).await,
        [Event::Gone { key: KEY.into() }]
    );
    assert!(!scratch.file(KEY).exists());
    done(&mut registry, put(KEY, Expected::Absent, "{}", Some(60))).await;
}

#[tokio::test]
async fn a_lease_whose_time_is_over_can_be_taken_though_nobody_listed() {
    let scratch = Scratch::new();
    let (seconds, clock) = hand_clock();
    let mut registry = Embedded::with_clock(&scratch.0, clock);
    done(&mut registry, put(KEY, Expected::Absent, "{}", Some(60))).await;
    seconds.fetch_add(61, Ordering::Relaxed);
    done(&mut registry, put(KEY, Expected::Absent, "{}", Some(60))).await;
}

async fn hears_of_what_others_do(watch: Watch) {
    let scratch = Scratch::new();
    let (mut one, mut two) = (Embedded::open(&scratch.0), Embedded::open(&scratch.0));
    two.watch = watch;
    two.list().await.unwrap();
    let version = done(&mut one, put(KEY, Expected::Absent, "{}", Some(60))).await;
    let entry = Entry {
        key: KEY.into(),
        value: "{}".into(),
        version,
        lasts: false,
    };
    assert_eq!(events(&mut two).await, [Event::Put(entry)]);
    let delete = Change {
        key: KEY.into(),
        expected: Expected::Version(version),
        write: Write::Delete,
    };
    done(&mut one, delete).await;
    assert_eq!(events(&mut two).await, [Event::Gone { key: KEY.into() }]);
    fs::write(scratch.file("config"), "{}").unwrap();
    assert!(matches!(&events(&mut two).await[..], [Event::Put(entry)] if entry.key == "config"));
}

#[tokio::test]
async fn changes_are_heard_by_inotify() {
    hears_of_what_others_do(Watch::None).await;
}

#[tokio::test]
async fn changes_are_seen_where_there_is_no_inotify() {
    hears_of_what_others_do(Watch::looking()).await;
}

#[tokio::test]
async fn nothing_is_lost_by_who_stops_waiting_and_waits_again() {
    let scratch = Scratch::new();
    let (mut one, mut two) = (Embedded::open(&scratch.0), Embedded::open(&scratch.0));
    two.list().await.unwrap();
    done(&mut one, put(KEY, Expected::Absent, "{}", Some(60))).await;
    // What is over is cleared away under the lock, which it has to wait for.
    let over = put("subnets/10.5.9.0-24", Expected::Absent, "{}", Some(0));
    done(&mut one, over).await;
    two.news = Some(News::Anything);
    let locked = one.directory.lock().await.unwrap();
    timeout(Duration::from_millis(50), two.changes())
        .await
        .unwrap_err();
    drop(locked);
    assert_eq!(events(&mut two).await.len(), 1);
}

#[tokio::test]
async fn a_directory_that_is_removed_is_made_again() {
    let scratch = Scratch::new();
    let mut registry = Embedded::open(&scratch.0);
    done(&mut registry, put(KEY, Expected::Absent, "{}", Some(60))).await;
    registry.list().await.unwrap();
    fs::remove_dir_all(&scratch.0).unwrap();
    let mut seen = Vec::new();
    loop {
        match registry.changes().await.unwrap() {
            Changes::Missed => break,
            Changes::Events(events) => seen.extend(events),
        }
        assert!(seen.len() < 3);
    }
    assert_eq!(registry.list().await.unwrap(), Listing::default());
    done(&mut registry, put(KEY, Expected::Absent, "{}", Some(60))).await;
    assert_eq!(events(&mut registry).await.len(), 1);
}

#[tokio::test]
async fn what_stands_in_the_way_is_told() {
    let scratch = Scratch::new();
    fs::write(&scratch.0, "").unwrap();
    let told = Embedded::open(scratch.0.join("leases"))
        .list()
        .await
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("cannot make") && told.contains("no directory is in the way"),
        "{told}"
    );
    fs::remove_file(&scratch.0).unwrap();
    fs::create_dir(&scratch.0).unwrap();
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o500)).unwrap();
    if rustix::process::geteuid().is_root() {
        // Nothing is forbidden to root; a read-only file system is.
        let told = Embedded::open("/proc/weft")
            .list()
            .await
            .unwrap_err()
            .to_string();
        assert!(told.contains("cannot make /proc/weft"), "{told}");
        return;
    }
    let told = Embedded::open(scratch.0.join("leases"))
        .list()
        .await
        .unwrap_err()
        .to_string();
    assert!(told.contains("give this user the right"), "{told}");
}

/// A file of an operator's has a version far above our count, and whoever looks only after it
/// was deleted and a lease made in its place must not take the lease for old news.
#[tokio::test]
async fn a_lease_in_the_place_of_an_operators_file_is_news() {
    let scratch = Scratch::new();
    let mut registry = Embedded::open(&scratch.0);
    registry.list().await.unwrap();
    fs::write(scratch.file(KEY), "{\"theirs\":1}").unwrap();
    assert!(matches!(&events(&mut registry).await[..], [Event::Put(_)]));
    fs::remove_file(scratch.file(KEY)).unwrap();
    let mut other = Embedded::open(&scratch.0);
    done(
        &mut other,
        put(KEY, Expected::Absent, "{\"ours\":1}", Some(60)),
    )
    .await;
    let told = events(&mut registry).await;
    assert!(
        matches!(&told[..], [Event::Gone { .. }, Event::Put(entry)] if entry.value == "{\"ours\":1}"),
        "{told:?}"
    );
}
