//! A node whose iptables is of one variant, and which counts how often it is run.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_netns::{Cmd, Need, World, skip_unless};
use weft_plugins::iptables::Host;

pub(crate) struct Node<'a> {
    pub(crate) world: &'a World,
    pub(crate) host: Host,
    directory: PathBuf,
    variant: &'static str,
}

/// Runs each test in a world of its own, on a node of each variant.
macro_rules! on_both_variants {
    ($($test:ident)+) => {
        mod nft {
            $(#[test] fn $test() { crate::node::on_variant!("nft", super::$test) })+
        }
        mod legacy {
            $(#[test] fn $test() { crate::node::on_variant!("legacy", super::$test) })+
        }
    };
}
pub(crate) use on_both_variants;

macro_rules! on_variant {
    ($variant:literal, $test:path) => {
        if crate::node::is_possible() {
            weft_netns::in_world(|world| $test(&crate::node::Node::new(world, $variant)));
        }
    };
}
pub(crate) use on_variant;

#[track_caller]
pub(crate) fn is_possible() -> bool {
    skip_unless(&[
        Need::Tool("nft"),
        Need::Tool("iptables-legacy"),
        Need::File("/usr/lib/cni/portmap"),
    ])
}

impl<'a> Node<'a> {
    pub(crate) fn new(world: &'a World, variant: &'static str) -> Self {
        let directory = world.scratch("iptables");
        let log = directory.join("log");
        for family in ["iptables", "ip6tables"] {
            for tool in ["", "-save", "-restore"] {
                let real = format!("/usr/sbin/{family}-{variant}{tool}");
                script(&directory.join(format!("{family}{tool}")), &log, &real);
                for other in ["-nft", "-legacy"] {
                    let real = format!("/usr/sbin/{family}{other}{tool}");
                    script(
                        &directory.join(format!("{family}{other}{tool}")),
                        &log,
                        &real,
                    );
                }
            }
        }
        fs::write(&log, "").unwrap();
        let host = Host {
            directories: vec![directory.clone()],
            patience: Duration::from_secs(60),
            ..Host::here()
        };
        Self {
            world,
            host,
            directory,
            variant,
        }
    }

    /// Runs a Go plugin, or a shell, with this node's iptables.
    pub(crate) fn command(&self, program: &str) -> Cmd {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.directory.display());
        Cmd::new(program).env("PATH", path)
    }

    pub(crate) fn exec(&self, line: &str) -> String {
        self.command("/bin/sh")
            .args(["-ec", line])
            .run()
            .ok()
            .stdout
    }

    pub(crate) fn is_legacy(&self) -> bool {
        self.variant == "legacy"
    }

    /// The nat tables of both families, without what differs from run to run.
    pub(crate) fn rules(&self) -> String {
        self.saved("iptables") + &self.saved("ip6tables")
    }

    pub(crate) fn saved(&self, family: &str) -> String {
        let saved = Cmd::new(format!("/usr/sbin/{family}-{}-save", self.variant));
        let saved = saved.args(["-t", "nat"]).run().ok().stdout;
        let lines = saved.lines().filter(|line| !line.starts_with('#'));
        let without_counters = lines.map(|line| line.split(" [").next().unwrap_or(line));
        without_counters.fold(String::new(), |all, line| all + line + "\n")
    }

    /// What is not built in.
    pub(crate) fn our_rules(&self) -> Vec<String> {
        let rules = self.rules();
        let ours = rules.lines().filter(|line| line.contains("CNI-"));
        ours.map(str::to_owned).collect()
    }

    /// How often the rule or chain declaration stands.
    pub(crate) fn count(&self, part: &str) -> usize {
        let rules = self.rules();
        rules.lines().filter(|line| line.contains(part)).count()
    }

    /// The programs that `work` ran.
    pub(crate) fn runs_of(&self, work: impl FnOnce()) -> Vec<String> {
        let log = self.directory.join("log");
        fs::write(&log, "").unwrap();
        work();
        let log = fs::read_to_string(&log).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    /// The host as a distribution sets it up: plain names are links to a program of one variant.
    pub(crate) fn without_counting(&self) -> Host {
        let directory = self.world.scratch("alternatives");
        for family in ["iptables", "ip6tables"] {
            for tool in ["-save", "-restore"] {
                let real = format!("/usr/sbin/{family}-{}{tool}", self.variant);
                symlink(real, directory.join(format!("{family}{tool}"))).unwrap();
            }
        }
        Host {
            directories: vec![directory],
            ..self.host.clone()
        }
    }

    /// A host on which nobody installed iptables.
    pub(crate) fn without_iptables(&self) -> Host {
        Host {
            directories: vec![self.world.scratch("nothing")],
            ..self.host.clone()
        }
    }
}

fn script(path: &Path, log: &Path, real: &str) {
    let name = path.file_name().unwrap().to_string_lossy();
    let text = format!(
        "#!/bin/sh\necho {name} >>{}\nexec {real} \"$@\"\n",
        log.display()
    );
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
