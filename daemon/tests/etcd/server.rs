//! Members of etcd: each on an address and ports of its own, in a directory that goes with it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, PutOptions, Txn, TxnOp};
use tokio::time::{Instant, sleep, timeout};
use weft_daemon::store::etcd::{Etcd, Settings};

/// A busy machine is slow, not wrong.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
}

pub(crate) struct Member {
    name: String,
    pub(crate) dir: PathBuf,
    pub(crate) host: Ipv4Addr,
    pub(crate) port: u16,
    scheme: &'static str,
    args: Vec<String>,
    running: Option<Child>,
}

impl Cluster {
    pub(crate) async fn one() -> Self {
        Self::of(1, &[]).await
    }

    pub(crate) async fn of(count: usize, args: &[&str]) -> Self {
        let mut cluster = Self::stopped(count, "http", args);
        for member in &mut cluster.members {
            member.start();
        }
        cluster.until_healthy().await;
        cluster
    }

    /// Made up, and not started: certificates need to know the addresses.
    pub(crate) fn stopped(count: usize, scheme: &'static str, args: &[&str]) -> Self {
        let mut members: Vec<_> = (0..count).map(|_| Member::new(scheme, args)).collect();
        let peers = members
            .iter()
            .map(|member| format!("{}={}", member.name, member.peer_url()))
            .collect::<Vec<_>>()
            .join(",");
        for member in &mut members {
            member.args.push(format!("--initial-cluster={peers}"));
        }
        Self { members }
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::url).collect()
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            endpoints: self.endpoints(),
            prefix: "/coreos.com/network".to_owned(),
            ..Settings::default()
        }
    }

    pub(crate) fn registry(&self) -> Etcd {
        Etcd::new(self.settings()).unwrap()
    }

    /// What an operator or another node would use.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.endpoints(), None).await.unwrap()
    }

    /// Until every running member answers a read that needs the majority.
    pub(crate) async fn until_healthy(&self) {
        for member in self.members.iter().filter(|m| m.running.is_some()) {
            member.until_healthy(None).await;
        }
    }
}

impl Member {
    fn new(scheme: &'static str, args: &[&str]) -> Self {
        let (host, port) = unused();
        let name = format!("m{port}");
        let dir = std::env::temp_dir().join(format!("weft-etcd-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self {
            name,
            dir,
            host,
            port,
            scheme,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            running: None,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }

    pub(crate) fn add(&mut self, arg: String) {
        self.args.push(arg);
    }

    fn peer_url(&self) -> String {
        format!("http://{}:{}", self.host, self.port + 1)
    }

    pub(crate) fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .unwrap();
        // It does not outlive a test that is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig=KILL", "etcd"])
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls={}", self.url()))
            .arg(format!("--advertise-client-urls={}", self.url()))
            .arg(format!("--listen-peer-urls={}", self.peer_url()))
            .arg(format!("--initial-advertise-peer-urls={}", self.peer_url()))
            .args(["--logger=zap", "--log-level=warn"])
            .args(&self.args)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.running = Some(child.expect("etcd starts"));
    }

    /// As a machine that loses its power, but for what the kernel has in hand.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn forget_everything(&mut self) {
        std::fs::remove_dir_all(self.data()).unwrap();
    }

    pub(crate) async fn until_healthy(&self, options: Option<ConnectOptions>) {
        let deadline = Instant::now() + LONG;
        loop {
            if let Ok(mut client) = Client::connect([self.url()], options.clone()).await {
                let get = timeout(Duration::from_secs(2), client.get("health", None));
                if matches!(get.await, Ok(Ok(_))) {
                    return;
                }
            }
            assert!(
                Instant::now() < deadline,
                "etcd does not become healthy:\n{}",
                std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// As flanneld writes it.
pub(crate) fn lease(i: u32) -> (String, String) {
    let (b, c) = (i / 256, i % 256);
    let key = format!("/coreos.com/network/subnets/10.{b}.{c}.0-24");
    let value = format!(
        r#"{{"PublicIP":"192.168.{b}.{c}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"fa:83:f7:ef:{b:02x}:{c:02x}"}}}}"#
    );
    (key, value)
}

/// As many as fit into a transaction at once.
pub(crate) async fn fill(client: &mut Client, leases: std::ops::Range<u32>) {
    let id = client.lease_grant(86_400, None).await.unwrap().id();
    for chunk in leases.collect::<Vec<_>>().chunks(128) {
        let puts = chunk.iter().map(|&i| {
            let (key, value) = lease(i);
            TxnOp::put(key, value, Some(PutOptions::new().with_lease(id)))
        });
        let all = Txn::new().and_then(puts.collect::<Vec<_>>());
        client.txn(all).await.unwrap();
    }
}

/// All of 127/8 is this machine: an address by process and a port by count are nobody else's,
/// and stay so while a member is down.
pub(crate) fn unused() -> (Ipv4Addr, u16) {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = 20_000 + 2 * COUNT.fetch_add(1, Ordering::Relaxed);
    (Ipv4Addr::new(127, 64 + high % 64, middle, low.max(1)), port)
}

/// True when etcd is here; otherwise the test is skipped, loudly.
#[track_caller]
pub(crate) fn etcd_is_here() -> bool {
    weft_netns::skip_unless(&[weft_netns::Need::Tool("etcd")])
}
