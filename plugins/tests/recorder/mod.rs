//! A node in a directory: the plugin, `subnet.env`, and a delegate `bridge` that records its calls.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a room of a test: it panics to fail, and only its test reaches it"
)]

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

pub struct World {
    dir: PathBuf,
}

pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("flannel-{}-{number}", process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let world = Self { dir };
        fs::create_dir_all(world.path("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_weft-cni"), world.path("bin/flannel")).unwrap();
        world.write("bin/bridge", DELEGATE);
        fs::set_permissions(world.path("bin/bridge"), PermissionsExt::from_mode(0o755)).unwrap();
        world.write("subnet.env", SUBNET_ENV);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn lose(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Puts a file where a plugin keeps what its delegate was told.
    pub fn save(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path("data")).unwrap();
        self.write(&format!("data/{name}"), text);
    }

    /// The files of the data directory and what they hold.
    pub fn scratch(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(self.path("data")).into_iter().flatten();
        let file = |path: PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        };
        let mut files: Vec<_> = entries.map(|entry| file(entry.unwrap().path())).collect();
        files.sort();
        files
    }

    /// From now on the delegate fails `verb`, with code 123.
    pub fn fail(&self, verb: &str) {
        self.write(&format!("fail-{verb}"), "");
    }

    pub fn mend(&self, verb: &str) {
        self.lose(&format!("fail-{verb}"));
    }

    /// The delegate's calls: verb, container, interface.
    pub fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// What stood on the delegate's standard input when it was last called for `verb`.
    pub fn told(&self, verb: &str) -> Value {
        let text = fs::read(self.path(&format!("told-{verb}"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Runs the plugin as a runtime does, with this world's files in its configuration.
    pub fn call(&self, verb: &str, container: &str, ifname: &str, conf: &Value) -> Answer {
        let mut conf = conf.clone();
        if let Some(conf) = conf.as_object_mut() {
            conf.insert("subnetFile".into(), self.path("subnet.env").to_str().into());
            conf.insert("dataDir".into(), self.path("data").to_str().into());
        }
        let mut child = Command::new(self.path("bin/flannel"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_IFNAME", ifname)
            .env("CNI_NETNS", "/proc/nowhere/ns/net")
            .env("CNI_PATH", self.path("bin"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // VERSION answers without reading.
        let _ = child
            .stdin
            .take()
            .unwrap()
            .write_all(conf.to_string().as_bytes());
        let output = child.wait_with_output().unwrap();
        Answer {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Answer {
    /// The result of a call that succeeds and has one.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }

    pub fn succeeds(&self) {
        assert_eq!((self.code, self.stdout.as_str()), (0, ""));
    }

    /// The error of a call that fails, as it was printed, after a look at its code.
    pub fn fails(&self, code: u32) -> String {
        assert_eq!(self.code, 1, "{}", self.stdout);
        let error: Value = serde_json::from_str(&self.stdout).unwrap();
        assert_eq!(error["code"], code, "{}", self.stdout);
        self.stdout.clone()
    }
}

const SUBNET_ENV: &str = "FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.1.1/24\n\
    FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

/// Answers ADD in the form of the version that it is asked in, of which there are three.
const DELEGATE: &str = r#"#!/bin/sh
dir=${0%/bin/*}
conf=$(cat)
printf '%s' "$conf" > "$dir/told-$CNI_COMMAND"
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> "$dir/calls"
if [ -e "$dir/fail-$CNI_COMMAND" ]; then
    echo '{"code": 123, "msg": "no luck"}'
    exit 1
fi
[ "$CNI_COMMAND" = ADD ] || exit 0
ip=172.20.1.5/24
case $conf in
*'"cniVersion":"0.1.0"'*) echo '{"cniVersion":"0.1.0","ip4":{"ip":"'$ip'"},"dns":{}}' ;;
*'"cniVersion":"0.2.0"'*) echo '{"cniVersion":"0.2.0","ip4":{"ip":"'$ip'"},"dns":{}}' ;;
*'"cniVersion":"0'*) echo '{"cniVersion":"0.4.0","ips":[{"version":"4","address":"'$ip'"}],"dns":{}}' ;;
*'"cniVersion":'*) echo '{"cniVersion":"1.0.0","ips":[{"address":"'$ip'"}]}' ;;
*) echo '{"ip4":{"ip":"'$ip'"},"dns":{}}' ;;
esac
"#;
