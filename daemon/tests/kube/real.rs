//! A real kube-apiserver, where there is one: the variable KUBE_APISERVER names its executable.
//! Debian has it as source alone (`apt-get source kubernetes`), so nobody has to have it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use weft_daemon::store::Own;
use weft_netns::apiserver::{Fat, fat_node, flannel_node};
use weft_netns::{Cmd, Need, Running, World, in_world, skip_unless, wait_until};

use crate::access::certificates::Authority;
use crate::bench::{Bench, LONG, VXLAN, block_on, until};

const URL: &str = "https://127.0.0.1:6443";
const NODES: &str = "/api/v1/nodes";
const STATUS: &str = "/api/v1/nodes/node-2/status";

#[test]
#[ignore = "soak: it takes a kube-apiserver"]
fn soak_a_real_server_is_listed_watched_and_written_to() {
    on_a_real_one(|world, real| {
        real.register("node-1", "192.0.2.1", json!(["10.244.1.0/24"]));
        real.serve("node-2", "192.0.2.2", json!(["10.244.2.0/24"]));
        let bench = real.bench();
        block_on(async {
            let mut store = bench.start();
            assert_eq!(
                store.until_held().await.subnets.to_string(),
                "10.244.1.0/24"
            );
            store.until_peers(1).await;
            store.ready();
            until("the network is available", || {
                let node = real.ask("GET", &format!("{NODES}/node-1"), None);
                let conditions = node["status"]["conditions"].as_array().unwrap().clone();
                let said = |c: &Value| c["type"] == "NetworkUnavailable" && c["status"] == "False";
                conditions.iter().any(said)
            })
            .await;

            // One that is given its podCIDR late, one that goes, and a server that forgets.
            real.serve("node-3", "192.0.2.3", json!([]));
            store
                .until("it is told", |view| {
                    view.peers
                        .as_ref()
                        .filter(|peers| peers.rubbish.len() == 1)
                        .map(drop)
                })
                .await;
            let spec = json!({"spec": {"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24"]}});
            real.ask("PATCH", &format!("{NODES}/node-3"), Some(&spec));
            store.until_peers(2).await;
            real.ask("DELETE", &format!("{NODES}/node-2"), None);
            store.until_peers(1).await;
            assert!(matches!(store.view.borrow().own, Own::Held(_)));
            assert_eq!(store.view.borrow().health.trouble, None);

            // What a heartbeat comes to on the wire, TLS and all.
            real.ask("DELETE", &format!("{NODES}/node-3"), None);
            store.until_peers(0).await;
            real.serve("node-2", "192.0.2.2", json!(["10.244.2.0/24"]));
            store.until_peers(1).await;
            let received = || -> u64 {
                let told = world.exec("ss -Htnie state established dst 127.0.0.1:6443");
                let received = told.split("bytes_received:").skip(1);
                let digits = received.map(|rest| rest.split(' ').next().unwrap().trim());
                digits.map(|digits| digits.parse::<u64>().unwrap()).sum()
            };
            let whole = real.ask("GET", &format!("{NODES}/node-2"), None);
            let whole = whole.to_string().len();
            let before = received();
            (0..BEATS).for_each(|beat| real.beats(beat));
            // Told in an event of the same size.
            real.ask("DELETE", &format!("{NODES}/node-2"), None);
            store.until_peers(0).await;
            let each = (received() - before) / u64::from(BEATS + 1);
            let share = whole as f64 / each as f64;
            println!("a status change: {each} bytes received, of a node of {whole}: 1/{share:.1}");
        });
    });
}

#[test]
#[ignore = "soak: it takes a kube-apiserver"]
fn soak_what_a_watch_costs_a_real_server() {
    on_a_real_one(|_, real| {
        real.serve("node-2", "192.0.2.2", json!(["10.244.2.0/24"]));
        let alone = real.cost("nobody watches", "application/json", 0, 0.0);
        let json = "application/json";
        let protobuf = "application/vnd.kubernetes.protobuf";
        let metadata = ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        for (what, accept) in [
            ("whole, JSON", json.to_owned()),
            ("whole, protobuf", protobuf.to_owned()),
            ("metadata, JSON", format!("{json}{metadata}")),
            ("metadata, protobuf", format!("{protobuf}{metadata}")),
        ] {
            real.cost(what, &accept, 1, alone);
            real.cost(what, &accept, WATCHERS, alone);
        }
    });
}

const BEATS: u32 = 100;
const WATCHERS: u32 = 50;

struct Real {
    dir: PathBuf,
    authority: PathBuf,
    api: Running,
    _etcd: Running,
}

fn on_a_real_one(test: impl FnOnce(&World, &Real)) {
    let named = std::env::var_os("KUBE_APISERVER");
    let needs = [
        Need::Other("a kube-apiserver, named by KUBE_APISERVER", named.is_some()),
        Need::Tool("etcd"),
        Need::Tool("openssl"),
        Need::Tool("curl"),
    ];
    if !skip_unless(&needs) {
        return;
    }
    let executable = PathBuf::from(named.unwrap());
    in_world(|world| test(world, &Real::start(world, &executable)));
}

impl Real {
    fn start(world: &World, executable: &Path) -> Self {
        let dir = world.scratch("real");
        let authority = Authority::new(&dir, "authority");
        let signed = authority.sign("apiserver", Some([127, 0, 0, 1].into()), 2);
        fs::write(dir.join("tokens"), "token,admin,admin,system:masters\n").unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let etcd = Cmd::new("etcd").args(["--data-dir", &at("etcd")]).spawn();
        let api = Cmd::new(executable)
            .args([
                "--etcd-servers=http://127.0.0.1:2379".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                format!("--tls-cert-file={}", signed.cert.display()),
                format!("--tls-private-key-file={}", signed.key.display()),
                format!("--service-account-key-file={}", signed.cert.display()),
                format!(
                    "--service-account-signing-key-file={}",
                    signed.key.display()
                ),
                "--service-account-issuer=https://127.0.0.1".to_owned(),
                "--authorization-mode=RBAC".to_owned(),
                format!("--token-auth-file={}", at("tokens")),
                format!("--cert-dir={}", at("certs")),
            ])
            .spawn();
        let real = Self {
            authority: authority.certificate(),
            dir,
            api,
            _etcd: etcd,
        };
        wait_until("the server is ready", LONG, || {
            let done = real.curl(&["/readyz".to_owned()]).output();
            done.unwrap().stdout == b"ok"
        });
        real
    }

    fn bench(&self) -> Bench {
        let mut bench = Bench::new(VXLAN);
        bench.options.api_url = None;
        bench.options.kubeconfig = Some(self.dir.join("kubeconfig"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: \"{URL}\", certificate-authority: \"{}\"}}}}]\n\
             users: [{{name: u, user: {{token: token}}}}]\n",
            self.authority.display()
        );
        fs::write(self.dir.join("kubeconfig"), text).unwrap();
        bench
    }

    /// As a kubelet and the controllers do.
    fn register(&self, name: &str, address: &str, cidrs: Value) {
        self.create(fat_node(name, address, &[], Fat { images: 50 }), cidrs);
    }

    /// With a flanneld.
    fn serve(&self, name: &str, address: &str, cidrs: Value) {
        let node = fat_node(name, address, &[], Fat { images: 50 });
        let node = flannel_node(node, address, "02:00:00:00:00:02");
        self.create(node, cidrs);
    }

    fn create(&self, mut node: Value, cidrs: Value) {
        node["metadata"]["managedFields"] = Value::Null;
        if let Some(first) = cidrs.get(0) {
            node["spec"] = json!({"podCIDR": first, "podCIDRs": cidrs});
        }
        let made = self.ask("POST", NODES, Some(&node));
        assert_eq!(made["kind"], "Node", "{made}");
    }

    /// The kubelet of node-2 tells how it does.
    fn beats(&self, beat: u32) {
        let looked = format!("2026-01-15T11:{:02}:{:02}Z", beat / 60, beat % 60);
        let ready = json!({"type": "Ready", "lastHeartbeatTime": looked});
        let patch = json!({"status": {"conditions": [ready]}});
        let patched = self.ask("PATCH", STATUS, Some(&patch));
        assert_eq!(patched["kind"], "Node", "{patched}");
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let mut args = vec!["-X".to_owned(), method.to_owned(), path.to_owned()];
        if let Some(body) = body {
            let kind = match method {
                "PATCH" => "strategic-merge-patch+json",
                _ => "json",
            };
            let file = self.dir.join("body");
            fs::write(&file, body.to_string()).unwrap();
            args.push(format!("-HContent-Type: application/{kind}"));
            args.push(format!("-d@{}", file.display()));
        }
        let done = self.curl(&args).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|_| panic!("{method} {path}: {said} {}", self.api.said_so_far()))
    }

    /// Of what begins with a slash the server's URL is made.
    fn curl(&self, args: &[String]) -> Command {
        let mut command = Command::new("curl");
        command.args([
            "-sSN",
            "--http1.1",
            "-HAuthorization: Bearer token",
            "--cacert",
        ]);
        command.arg(&self.authority);
        command.args(args.iter().map(|arg| match arg.starts_with('/') {
            true => format!("{URL}{arg}"),
            false => arg.clone(),
        }));
        command
    }

    /// Of the server's processor time, per heartbeat and, beyond what it takes `alone`, per watch.
    fn cost(&self, what: &str, accept: &str, watchers: u32, alone: f64) -> f64 {
        let version = self.ask("GET", &format!("{NODES}/node-2"), None);
        let version = version["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .to_owned();
        let files: Vec<_> = (0..watchers)
            .map(|n| self.dir.join(format!("watch-{n}")))
            .collect();
        let mut running: Vec<_> = files
            .iter()
            .map(|file| {
                let _ = fs::remove_file(file);
                let args = [
                    format!("{NODES}?watch=1&resourceVersion={version}"),
                    format!("-HAccept: {accept}"),
                    format!("-o{}", file.display()),
                ];
                self.curl(&args).spawn().unwrap()
            })
            .collect();
        let told = |marker: &str| {
            files.iter().all(|file| {
                let bytes = fs::read(file).unwrap_or_default();
                bytes
                    .windows(marker.len())
                    .any(|part| part == marker.as_bytes())
            })
        };
        let mark = |marker: &str| {
            self.create(
                json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": marker}}),
                json!([]),
            );
            wait_until("all have heard", LONG, || told(marker));
            self.ask("DELETE", &format!("{NODES}/{marker}"), None);
        };
        mark("the-first");
        let sizes = || -> u64 {
            let sizes = files.iter().map(|file| fs::metadata(file).unwrap().len());
            sizes.sum()
        };
        let (before, bytes) = (self.spent(), sizes());
        (0..BEATS).for_each(|beat| self.beats(beat));
        mark("the-last");
        let spent = (self.spent() - before).as_secs_f64() * 1e6 / f64::from(BEATS);
        let each = (sizes() - bytes) / u64::from(BEATS * watchers.max(1));
        let beyond = (spent - alone) / f64::from(watchers.max(1));
        println!(
            "{what}, {watchers} watches: {each} bytes a heartbeat; {spent:.0} µs of the server, \
             {beyond:.0} a watch"
        );
        for watcher in &mut running {
            watcher.kill().unwrap();
            watcher.wait().unwrap();
        }
        spent
    }

    /// By all its threads.
    fn spent(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.api.pid())).unwrap();
        let spent = threads.map(|thread| {
            let told = fs::read_to_string(thread.unwrap().path().join("schedstat"));
            let told = told.unwrap_or_default();
            told.split(' ')
                .next()
                .unwrap_or("")
                .parse::<u64>()
                .unwrap_or(0)
        });
        Duration::from_nanos(spent.sum())
    }
}
