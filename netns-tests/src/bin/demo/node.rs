//! A node: a network and a file system of its own, so that every path on it is the real one.
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use weft_netns::{Cmd, Netns, wait_for};

use crate::weftd::PATIENCE;

pub(crate) const SUBNET_FILE: &str = "/run/flannel/subnet.env";
/// What each node has for itself.
const OWN_DIRS: [&str; 3] = ["/run/flannel", "/run/weft", "/var/lib/cni"];

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    netns: Netns,
    mounts: File,
}

impl Node {
    /// Namespaces that are made later are not seen from it.
    pub(crate) fn new(netns: Netns, address: Ipv4Addr) -> Self {
        for dir in OWN_DIRS {
            fs::create_dir_all(dir).unwrap_or_else(|e| panic!("cannot make {dir}: {e}"));
        }
        let mounts = netns.enter(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("give a node its mounts");
            for dir in OWN_DIRS {
                let flags = MsFlags::empty();
                mount(Some("node"), dir, Some("tmpfs"), flags, Some("mode=0755"))
                    .unwrap_or_else(|e| panic!("cannot give a node its own {dir}: {e}"));
            }
            File::open("/proc/thread-self/ns/mnt").expect("keep a node's mounts")
        });
        Self {
            name: netns.name().to_owned(),
            address,
            netns,
            mounts,
        }
    }

    /// Does `work` on a thread inside.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.enter(|| {
            // A thread that shares its working directory cannot change its mounts.
            unshare(CloneFlags::CLONE_FS).expect("a working directory of one's own");
            setns(&self.mounts, CloneFlags::CLONE_NEWNS).expect("enter a node's mounts");
            work()
        })
    }

    /// A line of shell on the node; what it printed.
    pub(crate) fn exec(&self, line: &str) -> String {
        self.enter(|| Cmd::shell(line).run().ok().stdout)
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        self.enter(|| fs::read_to_string(path).ok())
    }

    /// Of the subnet file: what stands behind `KEY=`.
    pub(crate) fn told(&self, key: &str) -> String {
        let look = || {
            let text = self.read(SUBNET_FILE)?;
            let mut values = text.lines().filter_map(|line| line.split_once('='));
            values
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.to_owned())
        };
        wait_for(
            &format!("{} has {key} in {SUBNET_FILE}", self.name),
            PATIENCE,
            look,
        )
    }

    /// The node's subnet, as a route names it: 10.244.7.0/24.
    pub(crate) fn subnet(&self) -> String {
        let gateway = self.told("FLANNEL_SUBNET");
        gateway.replacen(".1/", ".0/", 1)
    }

    /// The plugins' names for files differ by container: the one file in `dir`.
    pub(crate) fn file_named(&self, dir: &str, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(dir).join(name);
        self.enter(|| path.is_file()).then_some(path)
    }
}
