//! The store as the daemon runs it, between a server and a loop that is the test itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weft_daemon::lease::{Identity, Lease};
use weft_daemon::options;
use weft_daemon::reconcile::Report;
use weft_daemon::store::kube::Kube;
use weft_daemon::store::{Claim, Offer, Own, Peers, Store, View};
use weft_netns::apiserver::{ApiServer, Key, flannel_node, slim_node};

/// A busy machine is slow, not wrong.
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const VXLAN: &str = r#"{
  "Network": "10.244.0.0/16",
  "Backend": {"Type": "vxlan"}
}
"#;
pub(crate) const MAC: &str = "02:00:00:00:00:01";

pub(crate) struct Bench {
    pub(crate) server: ApiServer,
    pub(crate) dir: PathBuf,
    pub(crate) options: options::Kube,
    pub(crate) node: Option<String>,
}

/// A store that runs.
pub(crate) struct Running {
    pub(crate) view: watch::Receiver<View>,
    pub(crate) claim: watch::Sender<Option<Claim>>,
    pub(crate) report: watch::Sender<Report>,
    task: JoinHandle<()>,
}

impl Bench {
    /// With a node of our own, node-1, and this configuration.
    pub(crate) fn new(conf: &str) -> Self {
        let server = ApiServer::start(([127, 0, 0, 1], 0).into(), None);
        server.put(slim_node("node-1", &["10.244.1.0/24"]));
        Self::on(server, conf)
    }

    pub(crate) fn on(server: ApiServer, conf: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("kube-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("net-conf.json"), conf).unwrap();
        let options = options::Kube {
            api_url: Some(server.url()),
            kubeconfig: None,
            annotation_prefix: "flannel.alpha.coreos.com/".to_owned(),
            net_conf: dir.join("net-conf.json"),
            set_node_network_unavailable: true,
            pod: None,
            patience: options::Patience::default(),
        };
        Self {
            server,
            dir,
            options,
            node: Some("node-1".to_owned()),
        }
    }

    pub(crate) fn start(&self) -> Running {
        self.run(Some(claim()))
    }

    pub(crate) fn start_unclaimed(&self) -> Running {
        self.run(None)
    }

    fn run(&self, claim: Option<Claim>) -> Running {
        let (claim, claims) = watch::channel(claim);
        let (views, view) = watch::channel(View::default());
        let (report, reports) = watch::channel(Report::default());
        let store = Box::new(Kube::new(
            self.options.clone(),
            self.node.clone(),
            reports,
            7,
        ));
        Running {
            view,
            claim,
            report,
            task: tokio::spawn(store.run(claims, views)),
        }
    }

    pub(crate) fn put_peer(&self, n: u8) {
        self.server.put(peer(n));
    }

    pub(crate) fn annotate(&self, node: &str, key: &str, value: &Value) {
        let key = format!("flannel.alpha.coreos.com/{key}");
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.server.merge(&Key::node(node), &patch);
    }

    pub(crate) fn annotations(&self, node: &str) -> Value {
        self.server.node(node).unwrap()["metadata"]["annotations"].clone()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub(crate) fn peer(n: u8) -> Value {
    let cidr = format!("10.244.{n}.0/24");
    flannel_node(
        slim_node(&format!("node-{n}"), &[&cidr]),
        &format!("192.0.2.{n}"),
        &format!("02:00:00:00:00:{n:02x}"),
    )
}

pub(crate) fn claim() -> Claim {
    Claim {
        identity: Identity {
            machine: "machine-1".to_owned(),
            node: "node-1".to_owned(),
        },
        public_ip: Some("192.0.2.1".parse().unwrap()),
        public_ipv6: None,
        sources: vec!["192.0.2.1".parse().unwrap()],
        overwritten: false,
        previous: None,
        formerly: None,
        offer: Offer::Vxlan {
            vni: 1,
            v4: Some(MAC.parse().unwrap()),
            v6: None,
        },
    }
}

impl Running {
    /// Until a view holds what is looked for.
    #[track_caller]
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        look: impl Fn(&View) -> Option<T>,
    ) -> impl Future<Output = T> {
        let what = what.to_owned();
        async move {
            let found = timeout(LONG, async {
                loop {
                    if let Some(found) = look(&self.view.borrow_and_update()) {
                        return found;
                    }
                    self.view.changed().await.expect("a store that runs");
                }
            });
            match found.await {
                Ok(found) => found,
                Err(_) => panic!("in vain until {what}: {:?}", self.view.borrow()),
            }
        }
    }

    pub(crate) async fn until_held(&mut self) -> Arc<Lease> {
        self.until("a subnet is held", |view| match &view.own {
            Own::Held(lease) => Some(Arc::clone(lease)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn until_peers(&mut self, count: usize) -> Arc<Peers> {
        self.until(&format!("{count} peers are there"), |view| {
            view.peers
                .clone()
                .filter(|peers| peers.leases.len() == count)
        })
        .await
    }

    pub(crate) async fn until_noted(&mut self, part: &str) -> String {
        self.until(&format!("{part:?} is told"), |view| {
            view.notes.iter().find(|note| note.contains(part)).cloned()
        })
        .await
    }

    pub(crate) async fn until_trouble(&mut self, part: &str) -> String {
        self.until(&format!("trouble with {part:?}"), |view| {
            let trouble = view.health.trouble.clone();
            trouble.filter(|trouble| trouble.contains(part))
        })
        .await
    }

    pub(crate) async fn until_well(&mut self) {
        self.until("all is well", |view| {
            view.health.trouble.is_none().then_some(())
        })
        .await;
    }

    /// What the loop says when all is programmed.
    pub(crate) fn ready(&self) {
        self.report.send_modify(|report| report.ready = Ok(()));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until the server's side holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(LONG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("in vain until {what}"));
}

/// In the thread of the test, where its world is.
pub(crate) fn block_on(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(test);
}
