//! Where a cluster's leases are, seen by an operator's hand: a directory, etcd, or Kubernetes,
//! which has nodes: each that is served is read as a lease, and written as the object it is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::etcd::Etcd;
use crate::kube::Kubernetes;

/// Keys are relative, as `subnets/10.5.63.0-24`.
pub(crate) enum Store {
    Directory(PathBuf),
    Etcd(Etcd),
    Kube(Kubernetes),
}

impl Store {
    pub(crate) fn put(&self, key: &str, value: &str) {
        match self {
            Self::Directory(dir) => {
                let path = dir.join(key);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let beside = dir.join("by-hand");
                fs::write(&beside, value).unwrap();
                fs::rename(&beside, &path).unwrap();
            }
            Self::Etcd(etcd) => etcd.put(key, value),
            Self::Kube(kube) => kube.put(key, value),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        match self {
            Self::Directory(dir) => fs::read_to_string(dir.join(key))
                .ok()
                .map(|text| without_stamp(&text)),
            Self::Etcd(etcd) => etcd.get(key),
            Self::Kube(kube) => kube.get(key),
        }
    }

    pub(crate) fn delete(&self, key: &str) {
        match self {
            Self::Directory(dir) => fs::remove_file(dir.join(key)).unwrap(),
            Self::Etcd(etcd) => etcd.delete(key),
            Self::Kube(_) => panic!("{NO_KEYS}"),
        }
    }

    /// Whether it would stay if its owner never came back.
    pub(crate) fn lasts(&self, key: &str) -> bool {
        match self {
            Self::Directory(dir) => {
                let text = fs::read_to_string(dir.join(key)).unwrap();
                !text.contains(" ends=")
            }
            Self::Etcd(etcd) => etcd.lasts(key),
            Self::Kube(_) => panic!("{NO_KEYS}"),
        }
    }

    /// Keys under `subnets/`, sorted.
    pub(crate) fn leases(&self) -> Vec<String> {
        match self {
            Self::Directory(dir) => keys_in(&dir.join("subnets")),
            Self::Etcd(etcd) => etcd.keys("subnets/"),
            Self::Kube(kube) => kube.leases(),
        }
    }

    /// What weftd is told of it.
    pub(crate) fn flags(&self) -> Vec<String> {
        match self {
            Self::Directory(dir) => vec![format!("--embedded-dir={}", dir.display())],
            Self::Etcd(etcd) => vec![format!("--etcd-endpoints={}", etcd.endpoints())],
            Self::Kube(kube) => kube.flags(),
        }
    }
}

const NO_KEYS: &str = "a cluster of Kubernetes has nodes, which are no keys to write";

fn keys_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut keys: Vec<_> = entries
        .map(|entry| format!("subnets/{}", entry.file_name().to_string_lossy()))
        .collect();
    keys.sort();
    keys
}

fn without_stamp(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("# weft: "));
    lines.collect::<Vec<_>>().join("\n")
}
