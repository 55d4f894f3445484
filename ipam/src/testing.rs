//! What tests share.

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use weft_cni::{Call, Conf, Environment, Verb};

use crate::{
    boot::{Boot, Started},
    conf::Place,
    store::World,
};

/// A directory that goes with the value.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("weft-ipam-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of the network that `call` is for.
    pub(crate) fn network(&self) -> PathBuf {
        self.0.join("net")
    }

    pub(crate) fn place(&self) -> Place {
        Place::under(&self.0, "net")
    }

    /// What some other plugin, or a person, does.
    pub(crate) fn write(&self, address: &str, content: &str) {
        fs::create_dir_all(self.network()).unwrap();
        fs::write(self.network().join(address), content).unwrap();
    }

    /// Every address and what its file says, in order.
    pub(crate) fn reservations(&self) -> Vec<(IpAddr, String)> {
        let Ok(entries) = fs::read_dir(self.network()) else {
            return Vec::new();
        };
        let mut all: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.unwrap();
                let address = entry.file_name().to_str()?.parse().ok()?;
                Some((address, fs::read_to_string(entry.path()).unwrap()))
            })
            .collect();
        all.sort();
        all
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.reservations()
            .into_iter()
            .map(|(address, _)| address.to_string())
            .collect()
    }

    /// A call for `container_id`'s eth0; `more` are further fields of the configuration, and those
    /// of its `ipam` add to what is there.
    pub(crate) fn call(&self, container_id: &str, more: Value) -> Call {
        let mut conf = json!({
            "cniVersion": "1.1.0", "name": "net",
            "ipam": {"type": "host-local", "dataDir": self.0, "ranges": [[{"subnet": "10.0.0.0/29"}]]},
        });
        for (key, value) in more.as_object().unwrap() {
            match (conf[key].as_object_mut(), value.as_object()) {
                (Some(old), Some(new)) => old.extend(new.clone()),
                _ => conf[key] = value.clone(),
            }
        }
        let Value::Object(fields) = conf else {
            panic!("an object")
        };
        Call {
            env: Environment {
                verb: Verb::Add,
                container_id: container_id.into(),
                netns: "/run/netns/x".into(),
                ifname: "eth0".into(),
                args: String::new(),
                path: Vec::new(),
                netns_override: false,
            },
            conf: Conf::new(fields).unwrap(),
            suite: &[],
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The world in the boot with this number, which began at the beginning of time.
pub(crate) fn boot(number: u8) -> World {
    boot_at(number, 0)
}

pub(crate) fn boot_at(number: u8, started: i64) -> World {
    World {
        boot: Boot {
            id: Some([number; 16]),
            started: Started::At(started),
        },
        lock_wait: Duration::from_secs(20),
    }
}
