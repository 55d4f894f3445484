//! Both plugins as programs, on one directory.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};

/// A data directory that goes with the value.
pub(crate) struct Node {
    dir: PathBuf,
    ranges: Value,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) json: Value,
}

impl Node {
    pub(crate) fn new(ranges: Value) -> Self {
        Self::under(&env::temp_dir(), ranges)
    }

    pub(crate) fn under(parent: &Path, ranges: Value) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("weft-ipam-test-{}-{number}", process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self { dir, ranges }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn network(&self) -> PathBuf {
        self.dir.join("net")
    }

    pub(crate) fn conf(&self) -> Value {
        json!({"cniVersion": "1.0.0", "name": "net",
            "ipam": {"type": "host-local", "dataDir": self.dir, "ranges": self.ranges}})
    }

    pub(crate) fn run(&self, plugin: &Path, verb: &str, id: &str) -> Answer {
        self.run_in(Command::new(plugin), verb, id)
    }

    /// The plugin as `command` starts it.
    pub(crate) fn run_in(&self, mut command: Command, verb: &str, id: &str) -> Answer {
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", "/var/run/netns/none")
            .env("CNI_PATH", "/nowhere")
            // Cargo's, which has the loader search where no node would.
            .env_remove("LD_LIBRARY_PATH");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // One that is killed at once does not read.
        let _ = child
            .stdin
            .take()
            .unwrap()
            .write_all(self.conf().to_string().as_bytes());
        let output = child.wait_with_output().unwrap();
        Answer {
            ok: output.status.success(),
            json: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        }
    }

    /// What each address's file says.
    pub(crate) fn reservations(&self) -> BTreeMap<IpAddr, String> {
        let entries = fs::read_dir(self.network()).unwrap();
        let reservation = |entry: fs::DirEntry| {
            let address = entry.file_name().to_str()?.parse().ok()?;
            Some((address, fs::read_to_string(entry.path()).unwrap()))
        };
        entries
            .filter_map(|entry| reservation(entry.unwrap()))
            .collect()
    }

    /// All that lies in the network's directory: names and contents. (Not modes: older reference
    /// plugins make files of mode 0644, newer ones and ours of 0600.)
    pub(crate) fn bytes(&self) -> BTreeMap<String, Vec<u8>> {
        let Ok(entries) = fs::read_dir(self.network()) else {
            return BTreeMap::new();
        };
        let entries = entries.map(Result::unwrap);
        let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
        entries
            .map(|entry| (name(&entry), fs::read(entry.path()).unwrap()))
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Answer {
    pub(crate) fn address(&self) -> String {
        assert!(self.ok, "{}", self.json);
        let address = self.json["ips"][0]["address"].as_str().unwrap();
        address.split('/').next().unwrap().to_owned()
    }

    pub(crate) fn code(&self) -> u64 {
        self.json["code"]
            .as_u64()
            .unwrap_or_else(|| panic!("no error: {}", self.json))
    }
}

pub(crate) fn ours() -> PathBuf {
    let tests = env::current_exe().unwrap();
    let path = tests
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/host-local");
    assert!(
        path.exists(),
        "first: cargo build -p weft-ipam --example host-local"
    );
    path
}

/// The reference plugin, where there is one.
pub(crate) fn reference(test: &str) -> Option<PathBuf> {
    let path = PathBuf::from("/usr/lib/cni/host-local");
    if !path.exists() {
        skip(
            test,
            "the reference host-local in /usr/lib/cni (Debian: containernetworking-plugins)",
        );
        return None;
    }
    Some(path)
}

pub(crate) fn has_program(test: &str, program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let there = env::split_paths(&path).any(|dir| dir.join(program).exists());
    if !there {
        skip(test, program);
    }
    there
}

#[allow(clippy::print_stdout, reason = "a test that is skipped says so")]
pub(crate) fn skip(test: &str, needs: &str) {
    println!("SKIP {test}: needs {needs}");
}

pub(crate) fn one_range(subnet: &str) -> Value {
    json!([[{"subnet": subnet}]])
}
