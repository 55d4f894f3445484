//! etcd in the world: members on addresses of the underlay, reachable from every node.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use weft_netns::{Cmd, Need, Running, World, skip_unless, wait_until};

use crate::harness::LIMIT;

const PREFIX: &str = "/coreos.com/network/";

pub(crate) struct Etcd {
    members: Vec<Member>,
    /// For etcdctl.
    pub(crate) access: Vec<String>,
}

struct Member {
    dir: PathBuf,
    host: String,
    scheme: &'static str,
    args: Vec<String>,
    running: Mutex<Option<Running>>,
}

/// True when etcd is here; otherwise the test is skipped, loudly.
#[track_caller]
pub(crate) fn etcd_is_here() -> bool {
    skip_unless(&[Need::Tool("etcd"), Need::Tool("etcdctl")])
}

impl Etcd {
    pub(crate) fn of(world: &World, count: usize) -> Self {
        let etcd = Self::stopped(world, count, "http", &[]);
        etcd.start();
        etcd
    }

    /// `args` of the members, and how etcdctl gets in. The wire of the underlay has to exist.
    pub(crate) fn stopped(
        world: &World,
        count: usize,
        scheme: &'static str,
        args: &[String],
    ) -> Self {
        let hosts: Vec<_> = (0..count)
            .map(|i| format!("192.168.9.{}", 240 + i))
            .collect();
        let initial: Vec<_> = hosts
            .iter()
            .map(|host| format!("m{host}=http://{host}:2380"))
            .collect();
        let members = hosts.iter().map(|host| {
            world.exec(&format!("ip addr add {host}/24 dev wire-0"));
            let mut args = args.to_vec();
            args.push(format!("--initial-cluster={}", initial.join(",")));
            Member {
                dir: world.scratch("etcd"),
                host: host.clone(),
                scheme,
                args,
                running: Mutex::new(None),
            }
        });
        Self {
            members: members.collect(),
            access: Vec::new(),
        }
    }

    pub(crate) fn start(&self) {
        for member in &self.members {
            member.start();
        }
        self.until_healthy();
    }

    /// Until every running member answers a read that needs the majority.
    pub(crate) fn until_healthy(&self) {
        for member in self.members.iter().filter(|member| member.runs()) {
            wait_until("etcd is healthy", LIMIT, || {
                self.ctl_at(&member.url(), &["get", "health"]).is_some()
            });
        }
    }

    pub(crate) fn endpoints(&self) -> String {
        let urls: Vec<_> = self.members.iter().map(Member::url).collect();
        urls.join(",")
    }

    pub(crate) fn kill(&self, member: usize) {
        drop(self.members[member].running.lock().unwrap().take());
    }

    pub(crate) fn kill_all(&self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }

    pub(crate) fn revive(&self, member: usize) {
        self.members[member].start();
    }

    pub(crate) fn forget_everything(&self) {
        for member in &self.members {
            fs::remove_dir_all(member.dir.join("data")).unwrap();
        }
    }

    /// Which member leads.
    pub(crate) fn leader(&self) -> usize {
        let leads = |member: &Member| {
            let said = self.ctl_at(&member.url(), &["endpoint", "status"])?;
            let leads = said.split(", ").nth(4)?.trim() == "true";
            leads.then_some(())
        };
        let mut found = None;
        wait_until("a member leads", LIMIT, || {
            found = self
                .members
                .iter()
                .position(|member| leads(member).is_some());
            found.is_some()
        });
        found.unwrap()
    }

    /// Changes that no daemon sees happen: etcd, which is down and has one member, is served on
    /// another address while they are made.
    pub(crate) fn behind_their_backs(&self, change: impl FnOnce(&dyn Fn(&[&str]) -> String)) {
        let member = &self.members[0];
        let hidden = "http://127.0.0.1:32379";
        let running = member.spawn(hidden);
        wait_until("the hidden etcd is healthy", LIMIT, || {
            self.ctl_at(hidden, &["get", "health"]).is_some()
        });
        change(&|args| self.ctl_at(hidden, args).expect("etcdctl succeeds"));
        drop(running);
    }

    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        self.ctl_at(&self.endpoints(), args)
            .unwrap_or_else(|| panic!("etcdctl {args:?} fails"))
    }

    fn ctl_at(&self, endpoints: &str, args: &[&str]) -> Option<String> {
        let done = Cmd::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--command-timeout=5s", "--endpoints", endpoints])
            .args(&self.access)
            .args(args)
            .run();
        done.success().then_some(done.stdout)
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", &absolute(key), "--", value]);
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let said = self.ctl(&["get", "--print-value-only", &absolute(key)]);
        let value = said.trim_end();
        (!value.is_empty()).then(|| value.to_owned())
    }

    pub(crate) fn delete(&self, key: &str) {
        self.ctl(&["del", &absolute(key)]);
    }

    pub(crate) fn lasts(&self, key: &str) -> bool {
        let said = self.ctl(&["get", "-w", "json", &absolute(key)]);
        assert!(said.contains("\"kvs\""), "{key} is not there: {said}");
        !said.contains("\"lease\"")
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let said = self.ctl(&["get", "--prefix", "--keys-only", &absolute(prefix)]);
        let keys = said.lines().filter_map(|line| line.strip_prefix(PREFIX));
        keys.map(str::to_owned).collect()
    }
}

impl Member {
    fn url(&self) -> String {
        format!("{}://{}:2379", self.scheme, self.host)
    }

    fn runs(&self) -> bool {
        self.running.lock().unwrap().is_some()
    }

    fn start(&self) {
        *self.running.lock().unwrap() = Some(self.spawn(&self.url()));
    }

    fn spawn(&self, url: &str) -> Running {
        Cmd::new("etcd")
            .arg(format!("--name=m{}", self.host))
            .arg(format!("--data-dir={}", self.dir.join("data").display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls=http://{}:2380", self.host))
            .arg(format!(
                "--initial-advertise-peer-urls=http://{}:2380",
                self.host
            ))
            .args(["--logger=zap", "--log-level=warn"])
            .args(&self.args)
            .spawn()
    }
}

pub(crate) fn absolute(key: &str) -> String {
    format!("{PREFIX}{key}")
}
