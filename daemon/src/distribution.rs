//! Where this node's container runtime looks for plugins and for its network's configuration,
//! which each distribution of Kubernetes has decided for itself.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    pub name: &'static str,
    pub bin_dir: PathBuf,
    pub conf_dir: PathBuf,
}

impl Distribution {
    /// Of the node whose root file system is at `root`.
    pub fn find(root: &Path) -> Self {
        let known = KNOWN.iter().find_map(|known| known.at(root));
        known.unwrap_or_else(|| PLAIN.placed(root, PLAIN.bin_dirs[0]))
    }

    pub fn here() -> Self {
        Self::find(Path::new("/"))
    }
}

struct Known {
    name: &'static str,
    /// Of its versions, the newest first. One that is there tells that this is the distribution.
    bin_dirs: &'static [&'static str],
    conf_dir: &'static str,
}

impl Known {
    fn at(&self, root: &Path) -> Option<Distribution> {
        let mut dirs = self.bin_dirs.iter();
        let bin_dir = dirs.find(|dir| root.join(dir).is_dir())?;
        Some(self.placed(root, bin_dir))
    }

    fn placed(&self, root: &Path, bin_dir: &str) -> Distribution {
        Distribution {
            name: self.name,
            bin_dir: root.join(bin_dir),
            conf_dir: root.join(self.conf_dir),
        }
    }
}

/// Those that have places of their own. RKE2 keeps to the usual ones, as kubeadm does.
const KNOWN: [Known; 2] = [
    Known {
        name: "k3s",
        bin_dirs: &[
            "var/lib/rancher/k3s/data/cni",
            "var/lib/rancher/k3s/data/current/bin",
        ],
        conf_dir: "var/lib/rancher/k3s/agent/etc/cni/net.d",
    },
    Known {
        name: "MicroK8s",
        bin_dirs: &["var/snap/microk8s/current/opt/cni/bin"],
        conf_dir: "var/snap/microk8s/current/args/cni-network",
    },
];

const PLAIN: Known = Known {
    name: "kubeadm, RKE2 and others",
    bin_dirs: &["opt/cni/bin"],
    conf_dir: "etc/cni/net.d",
};

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::Scratch;

    /// What is found on a node with this directory.
    fn found(dir: &str) -> [String; 3] {
        let root = Scratch::new("distribution");
        fs::create_dir_all(root.0.join(dir)).unwrap();
        let found = Distribution::find(&root.0);
        let inside = |path: PathBuf| path.strip_prefix(&root.0).unwrap().display().to_string();
        [
            found.name.to_owned(),
            inside(found.bin_dir),
            inside(found.conf_dir),
        ]
    }

    #[test]
    fn each_distribution_is_known_by_where_its_plugins_are() {
        const K3S_CONF: &str = "var/lib/rancher/k3s/agent/etc/cni/net.d";
        for dir in [
            "var/lib/rancher/k3s/data/cni",
            "var/lib/rancher/k3s/data/current/bin",
        ] {
            assert_eq!(found(dir), ["k3s", dir, K3S_CONF]);
        }
        let dir = "var/snap/microk8s/current/opt/cni/bin";
        assert_eq!(
            found(dir),
            [
                "MicroK8s",
                dir,
                "var/snap/microk8s/current/args/cni-network"
            ]
        );
        // As RKE2 has it: its data is beside, its plugins are where kubeadm's are.
        for dir in [
            "",
            "opt/cni/bin",
            "var/lib/rancher/rke2/data",
            "var/lib/rancher/k3s/data",
        ] {
            assert_eq!(found(dir)[1..], ["opt/cni/bin", "etc/cni/net.d"]);
        }
    }
}
