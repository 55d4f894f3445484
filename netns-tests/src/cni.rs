//! One plugin called for one verb, as a runtime calls it.
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::command::{Cmd, Done};
use crate::namespace::Netns;
use crate::world::World;

/// Where Debian's containernetworking-plugins puts the Go plugins.
const DEBIAN: &str = "/usr/lib/cni";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// A container's interface: whom a call is about.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub container_id: String,
    /// As CNI_NETNS says it; empty where a runtime knows none.
    pub netns: String,
    pub ifname: String,
    /// CNI_ARGS.
    pub args: String,
    /// What the runtime offers to plugins that declare the capability.
    pub capabilities: Map<String, Value>,
}

impl Attachment {
    pub fn new(container_id: &str, netns: &Netns) -> Self {
        Self {
            container_id: container_id.to_owned(),
            netns: netns.path().display().to_string(),
            ifname: "eth0".to_owned(),
            args: String::new(),
            capabilities: Map::new(),
        }
    }

    #[must_use]
    pub fn netns(mut self, path: &str) -> Self {
        path.clone_into(&mut self.netns);
        self
    }

    #[must_use]
    pub fn ifname(mut self, ifname: &str) -> Self {
        ifname.clone_into(&mut self.ifname);
        self
    }

    #[must_use]
    pub fn args(mut self, args: &str) -> Self {
        args.clone_into(&mut self.args);
        self
    }

    #[must_use]
    pub fn capability(mut self, name: &str, value: Value) -> Self {
        self.capabilities.insert(name.to_owned(), value);
        self
    }
}

/// A set of plugins: CNI_PATH.
#[derive(Clone, Debug)]
pub struct Cni {
    path: Vec<PathBuf>,
}

impl Cni {
    /// Ours, as `make build` leaves them in dist/bin; `WEFT_BIN` names another place.
    pub fn weft() -> Self {
        Self::in_dirs(&[Self::weft_dir()])
    }

    /// Debian's Go plugins.
    pub fn debian() -> Self {
        Self::in_dirs(&[DEBIAN])
    }

    pub fn in_dirs(dirs: &[impl AsRef<Path>]) -> Self {
        Self {
            path: dirs.iter().map(|dir| dir.as_ref().to_owned()).collect(),
        }
    }

    /// Some plugins from elsewhere: `Cni::debian().with(world, "portmap", &Cni::weft())`.
    #[must_use]
    pub fn with(&self, world: &World, plugin: &str, other: &Self) -> Self {
        let dir = world.scratch("cni-bin");
        symlink(other.find(plugin), dir.join(plugin)).expect("link a plugin");
        let mut path = vec![dir];
        path.extend(self.path.iter().cloned());
        Self { path }
    }

    pub fn weft_dir() -> PathBuf {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("dist/bin");
        std::env::var_os("WEFT_BIN").map_or(built, PathBuf::from)
    }

    /// The command a runtime would run, for those who run it in their own way.
    #[track_caller]
    pub fn command(&self, plugin: &str, verb: Verb, who: &Attachment, config: &Value) -> Cmd {
        let path: Vec<_> = self
            .path
            .iter()
            .map(|dir| dir.display().to_string())
            .collect();
        Cmd::new(self.find(plugin))
            .env("CNI_COMMAND", verb.name())
            .env("CNI_CONTAINERID", &who.container_id)
            .env("CNI_NETNS", &who.netns)
            .env("CNI_IFNAME", &who.ifname)
            .env("CNI_ARGS", &who.args)
            .env("CNI_PATH", path.join(":"))
            .stdin(config.to_string())
    }

    /// Runs one plugin.
    #[track_caller]
    pub fn call(&self, plugin: &str, verb: Verb, who: &Attachment, config: &Value) -> Call {
        let done = self.command(plugin, verb, who, config).run();
        Call {
            plugin: plugin.to_owned(),
            verb,
            done,
        }
    }

    #[track_caller]
    fn find(&self, plugin: &str) -> PathBuf {
        let candidates = self.path.iter().map(|dir| dir.join(plugin));
        candidates
            .into_iter()
            .find(|file| file.is_file())
            .unwrap_or_else(|| {
                panic!(
                    "no plugin {plugin} in {:?} (ours are made by `make build`)",
                    self.path
                )
            })
    }
}

/// A plugin's answer, and what it cost.
#[derive(Clone, Debug)]
pub struct Call {
    pub plugin: String,
    pub verb: Verb,
    pub done: Done,
}

/// What a plugin says of its failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: u64,
    pub msg: String,
    pub details: String,
}

impl Call {
    /// Itself, or a failed test that shows what was said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.done.success(), "{}", self.describe());
        self
    }

    /// The one JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.done.stdout)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.describe()))
    }

    /// The error of a call that must have failed the way the contract wants:
    /// exit code 1, and the error as JSON on stdout.
    #[track_caller]
    pub fn failure(&self) -> Failure {
        assert_eq!(self.done.code(), Some(1), "{}", self.describe());
        let error = self.json();
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        Failure {
            code: error["code"]
                .as_u64()
                .unwrap_or_else(|| panic!("no code: {}", self.describe())),
            msg: text("msg"),
            details: text("details"),
        }
    }

    pub fn describe(&self) -> String {
        let Done { stdout, stderr, .. } = &self.done;
        let (plugin, verb) = (&self.plugin, self.verb.name());
        format!(
            "{plugin} {verb} ended with {}\n{stdout}{stderr}",
            self.done.how()
        )
    }
}
