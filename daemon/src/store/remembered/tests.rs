use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::conf::{Checks, NetConf};
use crate::lease::{Attrs, Lease, Subnets};
use crate::store::{Health, Peers};

fn conf(text: &str) -> Arc<NetConf> {
    Arc::new(NetConf::parse(text, Checks::Leases).unwrap())
}

fn lease(n: u8) -> Arc<Lease> {
    let value = format!(
        r#"{{"PublicIP":"192.168.0.{n}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{n:02x}"}},"Weft":{{"Node":"n{n}","Machine":"m","Sources":["192.168.7.{n}"]}}}}"#
    );
    Arc::new(Lease {
        subnets: Subnets::from_key(&format!("10.5.{n}.0-24&fd05:0:0:{n:x}::-64")).unwrap(),
        attrs: Attrs::parse(&value).unwrap(),
    })
}

fn peers(numbers: &[u8]) -> Arc<Peers> {
    Arc::new(Peers {
        leases: numbers.iter().map(|n| lease(*n)).collect(),
        rubbish: Vec::new(),
    })
}

fn complete(numbers: &[u8]) -> View {
    View {
        conf: Some(Ok(conf(NETWORK))),
        own: Own::Held(lease(1)),
        peers: Some(peers(numbers)),
        health: Health {
            expires_in: Some(Duration::from_secs(3600)),
            ..Health::default()
        },
        ..View::default()
    }
}

const NETWORK: &str = r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#;

/// Tells what it is given, each once the one before was seen.
struct Scripted(Mutex<VecDeque<View>>);

impl Scripted {
    fn telling(views: impl IntoIterator<Item = View>) -> Box<Self> {
        Box::new(Self(Mutex::new(views.into_iter().collect())))
    }
}

impl Store for Scripted {
    fn run(
        self: Box<Self>,
        _claim: watch::Receiver<Option<Claim>>,
        view: watch::Sender<View>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let views = self.0.into_inner().unwrap();
            for told in views {
                view.send_replace(told);
                tokio::task::yield_now().await;
            }
            view.closed().await;
        })
    }
}

struct Run {
    view: watch::Receiver<View>,
    task: JoinHandle<()>,
}

impl Run {
    fn begin(dir: &Path, scope: &str, views: impl IntoIterator<Item = View>) -> Self {
        let store = Scripted::telling(views);
        let store = Box::new(Remembered::new(store, dir.into(), scope.into()));
        let (_, claim) = watch::channel(None);
        let (tell, view) = watch::channel(View::default());
        let task = tokio::spawn(store.run(claim, tell));
        Self { view, task }
    }

    async fn until(&mut self, wanted: impl Fn(&View) -> bool) -> View {
        let seen = self.view.wait_for(wanted);
        let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
        seen.expect("it comes").expect("it lives").clone()
    }

    async fn end_once_written(self, dir: &Path, what: &str) {
        for _ in 0..2000 {
            let page = std::fs::read_to_string(dir.join(FILE)).unwrap_or_default();
            if page.contains(what) {
                self.task.abort();
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{what} was never written");
    }
}

/// Removed when it goes out of scope.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("weft-remembered-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn the_next_run_knows_what_the_last_one_did_before_its_store_answers() {
    let dir = Scratch::new("next");
    let mut run = Run::begin(&dir.0, "here", [complete(&[2, 3])]);
    let told = run.until(|view| view.peers.is_some()).await;
    assert_eq!(told.remembered, None);
    run.end_once_written(&dir.0, "10.5.3.0/24").await;

    let mut run = Run::begin(&dir.0, "here", []);
    let known = run.until(|view| view.peers.is_some()).await;
    assert!(known.remembered.is_some());
    let before = complete(&[2, 3]);
    assert_eq!(known.conf, before.conf);
    assert_eq!(known.own, before.own);
    assert_eq!(known.peers, before.peers);
    run.task.abort();

    for scope in ["elsewhere", ""] {
        let run = Run::begin(&dir.0, scope, []);
        tokio::task::yield_now().await;
        assert!(run.view.borrow().conf.is_none(), "it is of another node");
        run.task.abort();
    }
}

#[tokio::test]
async fn what_the_store_answers_counts_and_equal_answers_are_the_very_same() {
    let dir = Scratch::new("counts");
    let run = Run::begin(&dir.0, "here", [complete(&[2, 3])]);
    run.end_once_written(&dir.0, "10.5.3.0/24").await;

    let half = View {
        own: Own::Unclaimed,
        ..complete(&[2])
    };
    let mut run = Run::begin(&dir.0, "here", [half, complete(&[2])]);
    let whole = run
        .until(|view| view.remembered.is_none() && view.peers.is_some())
        .await;
    assert_eq!(whole.peers, Some(peers(&[2])));
    run.end_once_written(&dir.0, "\"Peers\":1").await;

    let wrong = View {
        conf: Some(Err("the configuration lacks a comma".into())),
        ..View::default()
    };
    let mut run = Run::begin(&dir.0, "here", [wrong]);
    let kept = run.until(|view| view.health.trouble.is_some()).await;
    assert_eq!(kept.conf, Some(Ok(conf(NETWORK))));
    assert!(kept.remembered.is_some());
    run.task.abort();
}

#[test]
fn our_own_lease_is_no_peer_before_it_is_known_for_ours() {
    let memory = Memory::of(&complete(&[2]), SystemTime::now()).unwrap();
    let listed = View {
        own: Own::Unclaimed,
        ..complete(&[1, 2])
    };
    let view = merged(listed, &memory);
    assert_eq!(view.peers, Some(peers(&[2])));
    assert!(view.remembered.is_some());
}

#[test]
fn equal_values_are_handed_on_as_one() {
    let memory = Memory::of(&complete(&[2, 3]), SystemTime::now()).unwrap();
    let view = merged(complete(&[2, 3]), &memory);
    assert!(Arc::ptr_eq(view.peers.as_ref().unwrap(), &memory.peers));
    assert_eq!(view.remembered, None);
}

#[test]
fn a_lease_that_has_run_out_is_not_remembered_and_peers_are() {
    let dir = Scratch::new("out");
    let page = Page::new(dir.0.clone(), "here".into());
    let now = SystemTime::now();
    page.write(&Memory::of(&complete(&[2]), now).unwrap())
        .unwrap();
    let later = page.read(now + Duration::from_secs(3599)).unwrap();
    assert!(later.own.is_some());
    let late = page.read(now + Duration::from_secs(3601)).unwrap();
    assert!(late.own.is_none());
    assert_eq!(late.peers, peers(&[2]));
}

/// Under whatever name and store the node runs today.
#[test]
fn a_node_knows_who_it_was() {
    let dir = Scratch::new("was");
    assert_eq!(identity(&dir.0), None);
    let page = Page::new(dir.0.clone(), "elsewhere".into());
    page.write(&Memory::of(&complete(&[2]), SystemTime::now()).unwrap())
        .unwrap();
    let was = lease(1).attrs.extra.as_ref().unwrap().identity.clone();
    assert!(was.is_some());
    assert_eq!(identity(&dir.0), was);
}

#[test]
fn what_another_node_holds_is_not_remembered_as_ours() {
    let lost = View {
        own: Own::Lost {
            was: lease(1),
            why: "another holds it".into(),
        },
        ..complete(&[2])
    };
    assert!(Memory::of(&lost, SystemTime::now()).unwrap().own.is_none());
}

#[test]
fn half_a_page_counts_for_nothing() {
    let dir = Scratch::new("half");
    let page = Page::new(dir.0.clone(), "here".into());
    let now = SystemTime::now();
    page.write(&Memory::of(&complete(&[2, 3]), now).unwrap())
        .unwrap();
    let path = dir.0.join(FILE);
    let whole = std::fs::read(&path).unwrap();
    let last_line = whole.len() - 2;
    for cut in (0..last_line).step_by(7) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(page.read(now).is_none(), "{cut} bytes of {}", whole.len());
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_told() {
    let dir = Scratch::new("told");
    std::fs::write(&dir.0, "a file").unwrap();
    let page = Page::new(dir.0.clone(), "here".into());
    let told = page.write(&Memory::of(&complete(&[]), SystemTime::now()).unwrap());
    assert!(told.unwrap_err().contains("weft-remembered-told"));
    std::fs::remove_file(&dir.0).unwrap();
}

proptest! {
    #[test]
    fn a_configuration_is_read_as_it_was_written(
        len in 8u8..=20, backend in 0usize..5, port in 1u16.., vni in 0u32..1 << 24, flags: [bool; 4],
        mtu in prop::option::of(1280u32..=9000),
    ) {
        let [dual, gbp, learning, direct] = flags;
        let mtu = mtu.unwrap_or(0);
        let backend = [
            format!(r#"{{"Type": "vxlan", "VNI": {vni}, "Port": {port}, "MTU": {mtu}, "GBP": {gbp}, "Learning": {learning}, "DirectRouting": {direct}}}"#),
            r#"{"Type": "host-gw"}"#.into(),
            format!(r#"{{"Type": "udp", "Port": {port}}}"#),
            r#"{"Type": "alloc"}"#.into(),
            r#"{"Type": "vxlan"}"#.into(),
        ][backend].clone();
        let text = format!(
            r#"{{"Network": "10.64.0.0/{len}", "EnableIPv6": {dual}, "IPv6Network": "fd05::/48", "Backend": {backend}}}"#
        );
        let Ok(conf) = NetConf::parse(&text, Checks::Leases) else { return Ok(()) };
        let again = conf.to_json().to_string();
        let anything = Checks::Assigned { found: &[] };
        prop_assert_eq!(NetConf::parse(&again, anything).unwrap(), conf);
    }

    #[test]
    fn no_page_panics(text in ".{0,400}") {
        let dir = Scratch::new("any");
        std::fs::create_dir_all(&dir.0).unwrap();
        std::fs::write(dir.0.join(FILE), text).unwrap();
        prop_assert!(Page::new(dir.0.clone(), "here".into()).read(SystemTime::now()).is_none());
    }
}
