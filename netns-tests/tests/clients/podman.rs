//! podman with its CNI back-end, and storage of a test's own.
use std::fs;
use std::path::PathBuf;

use weft_netns::{Cmd, Need};

use crate::image;
use crate::node::{Node, remove_cgroup, unique_cgroup};

pub(crate) const TOOLS: [Need; 6] = [
    Need::Tool("podman"),
    Need::Tool("runc"),
    Need::Tool("ip"),
    Need::Tool("nft"),
    Need::Tool("conntrack"),
    Need::File("/usr/lib/cni/bridge"),
];

pub(crate) struct Podman {
    dir: PathBuf,
    cgroup: String,
}

impl Podman {
    pub(crate) fn new(node: &Node<'_>) -> Self {
        let dir = node.world.scratch("podman");
        node.world.private_dir("/etc/cni/net.d");
        fs::write(dir.join("containers.conf"), config(&node.plugins()))
            .expect("write containers.conf");
        let podman = Self {
            dir,
            cgroup: unique_cgroup(),
        };
        let archive = image::archive(node.world).display().to_string();
        podman.run(&["load", "--input", &archive]);
        podman
    }

    /// Runs podman; what it printed. Its failure fails the test.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.command(args).run().ok().stdout
    }

    /// Runs a container in the background; its identifier.
    #[track_caller]
    pub(crate) fn start(&self, options: &[&str], args: &[&str]) -> String {
        let mut line = vec!["run", "--detach", "--cgroup-parent", &self.cgroup];
        line.extend(options);
        line.push(image::IMAGE);
        line.extend(args);
        self.run(&line).trim().to_owned()
    }

    fn command(&self, args: &[&str]) -> Cmd {
        let place = |name: &str| self.dir.join(name).display().to_string();
        Cmd::new("podman")
            .env("CONTAINERS_CONF", place("containers.conf"))
            .args([
                "--root",
                &place("root"),
                "--runroot",
                &place("runroot"),
                "--tmpdir",
                &place("tmp"),
            ])
            .args(args)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        remove_cgroup(&self.cgroup);
    }
}

fn config(plugins: &str) -> String {
    // The usual limits are above what a container in which tests run may allow.
    format!(
        r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins}"]
network_config_dir = "/etc/cni/net.d"
"#
    )
}
