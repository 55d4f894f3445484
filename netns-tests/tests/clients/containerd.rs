//! A containerd of a test's own, with `ctr` and the CRI.
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use weft_netns::{Cmd, Need, Running, World, wait_until};

use crate::cri::Cri;
use crate::image::{self, IMAGE};
use crate::node::{Node, remove_cgroup, unique_cgroup};

pub(crate) const TOOLS: [Need; 6] = [
    Need::Tool("containerd"),
    Need::Tool("ctr"),
    Need::Tool("runc"),
    Need::Tool("ip"),
    Need::Tool("nft"),
    Need::Tool("conntrack"),
];
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Containerd {
    dir: PathBuf,
    cgroup: String,
    daemon: Running,
}

impl Containerd {
    /// Runs containerd on `node`, with the image in `namespace`.
    pub(crate) fn start(node: &Node<'_>, namespace: &str) -> Self {
        let dir = node.world.scratch("containerd");
        let config = config(&dir, &node.plugins());
        fs::write(dir.join("config.toml"), config).expect("write containerd's configuration");
        let daemon = Cmd::new("containerd")
            .args(["--log-level", "debug", "--config"])
            .arg(dir.join("config.toml"))
            .spawn();
        let containerd = Self {
            dir,
            cgroup: unique_cgroup(),
            daemon,
        };
        wait_until("containerd answers", PATIENCE, || {
            containerd.ctr(&["version"]).run().success()
        });
        containerd.import(node.world, namespace);
        containerd
    }

    pub(crate) fn ctr(&self, args: &[&str]) -> Cmd {
        Cmd::new("ctr")
            .arg("--address")
            .arg(self.socket())
            .args(args)
    }

    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The CRI, when it says that it is ready.
    pub(crate) fn cri(&self) -> Cri {
        let cri = Cri {
            socket: self.socket(),
            cgroup: self.cgroup.clone(),
        };
        wait_until("the CRI knows the image", PATIENCE, || {
            let list = self
                .ctr(&["-n", "k8s.io", "image", "list"])
                .run()
                .ok()
                .stdout;
            list.contains("io.cri-containerd.image=managed")
        });
        wait_until("the CRI is ready", PATIENCE, || {
            cri.unready() == Ok(Vec::new())
        });
        cri
    }

    /// The lines of the log that tell of failures.
    pub(crate) fn complaints(&self) -> String {
        let log = self.daemon.said_so_far();
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains("level=error"))
            .collect();
        lines.join("\n")
    }

    fn import(&self, world: &World, namespace: &str) {
        let archive = image::archive(world).display().to_string();
        self.ctr(&["-n", namespace, "image", "import", &archive])
            .run()
            .ok();
        let images = self
            .ctr(&["-n", namespace, "image", "list", "-q"])
            .run()
            .ok();
        assert!(images.stdout.contains(IMAGE), "{}", images.stdout);
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        remove_cgroup(&self.cgroup);
    }
}

fn config(dir: &std::path::Path, plugins: &str) -> String {
    let dir = dir.display();
    // Raising a process's priority with the OOM killer takes a capability that a
    // container in which tests run often lacks.
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "/etc/cni/net.d"
"#
    )
}
