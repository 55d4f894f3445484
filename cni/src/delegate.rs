//! Calling another plugin: in this process when it is this very executable, else as a program.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{Call, Error, Outcome, Plugin, Result, Verb};

/// The plugin that a configuration names, found.
#[derive(Clone, Debug)]
pub enum Delegate {
    Ours(&'static dyn Plugin),
    Program(PathBuf),
}

impl Delegate {
    /// Looks for `name` in the directories of `CNI_PATH`, as the runtime itself does.
    ///
    /// The first file of that name is the one: only if it is this executable is the process
    /// spared, so that whoever puts another plugin there gets that one.
    pub fn find(call: &Call, name: &str) -> Result<Self> {
        if name.contains('/') {
            return Err(Error::config(format!("invalid plugin name: {name}"))
                .with_details("a plugin's type is a file name, not a path"));
        }
        let candidates = call.env.path.iter().map(|dir| dir.join(name));
        let found = candidates
            .into_iter()
            .find(|path| path.metadata().is_ok_and(|f| f.is_file()));
        let Some(program) = found else {
            return Err(Error::config(format!(
                "failed to find plugin {name:?} in path {:?}",
                call.env.path
            ))
            .with_details("install it there, or correct the \"type\" in the configuration"));
        };
        let ours = call
            .suite
            .iter()
            .copied()
            .find(|plugin| plugin.name() == name);
        match ours.filter(|_| is_this_executable(&program)) {
            Some(plugin) => Ok(Self::Ours(plugin)),
            None => Ok(Self::Program(program)),
        }
    }

    /// Whether the plugin's own files and rules are ours to reason about.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }

    pub fn add(&self, call: &Call) -> Result<Outcome> {
        let answer = match self {
            Self::Ours(plugin) => {
                call.conf.require_version(plugin.versions())?;
                return plugin.add(call);
            }
            Self::Program(program) => execute(program, Verb::Add, call)?,
        };
        let value: Value = serde_json::from_slice(&answer).map_err(|why| {
            Error::decode(format!("{self} answered ADD with what is no JSON: {why}"))
        })?;
        Outcome::from_json_of_any_version(&value, call.version())
            .map_err(|error| error.within(format_args!("{self} answered ADD wrongly")))
    }

    /// ADD, and should it fail, DEL: a delegate that failed may have left half of its work.
    pub fn add_or_undo(&self, call: &Call) -> Result<Outcome> {
        let added = self.add(call);
        if added.is_err() {
            // What ADD said is what the operator needs; that DEL could not mend it adds nothing.
            let _ = self.del(call);
        }
        added
    }

    pub fn del(&self, call: &Call) -> Result<()> {
        match self {
            Self::Ours(plugin) => plugin.del(call),
            Self::Program(program) => execute(program, Verb::Del, call).map(drop),
        }
    }

    pub fn check(&self, call: &Call) -> Result<()> {
        match self {
            Self::Ours(plugin) => plugin.check(call),
            Self::Program(program) => execute(program, Verb::Check, call).map(drop),
        }
    }

    pub fn gc(&self, call: &Call) -> Result<()> {
        match self {
            Self::Ours(plugin) => plugin.gc(call),
            Self::Program(program) => execute(program, Verb::Gc, call).map(drop),
        }
    }

    pub fn status(&self, call: &Call) -> Result<()> {
        match self {
            Self::Ours(plugin) => plugin.status(call),
            Self::Program(program) => execute(program, Verb::Status, call).map(drop),
        }
    }
}

impl std::fmt::Display for Delegate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ours(plugin) => write!(f, "plugin {}", plugin.name()),
            Self::Program(program) => write!(f, "plugin {}", program.display()),
        }
    }
}

fn is_this_executable(program: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let this = identity(Path::new("/proc/self/exe"));
    this.is_some() && this == identity(program)
}

fn execute(program: &Path, verb: Verb, call: &Call) -> Result<Vec<u8>> {
    let failed = |why: io::Error| {
        Error::internal(format!(
            "could not run plugin {} for {}: {why}",
            program.display(),
            verb.name()
        ))
    };
    let mut child = start(program, verb, call).map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that does not read its input closes the pipe; its answer tells what became of it.
        let _ = stdin.write_all(
            Value::from(call.conf.fields().clone())
                .to_string()
                .as_bytes(),
        );
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(told(program, verb, &output))
}

fn start(program: &Path, verb: Verb, call: &Call) -> io::Result<Child> {
    let path = env::join_paths(&call.env.path).unwrap_or_default();
    for _ in 0..ATTEMPTS_WHILE_WRITTEN {
        let child = Command::new(program)
            .env("CNI_COMMAND", verb.name())
            .env("CNI_CONTAINERID", &call.env.container_id)
            .env("CNI_NETNS", &call.env.netns)
            .env("CNI_IFNAME", &call.env.ifname)
            .env("CNI_ARGS", &call.env.args)
            .env("CNI_PATH", &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        match child {
            Err(why) if why.kind() == io::ErrorKind::ExecutableFileBusy => {
                thread::sleep(WAIT_WHILE_WRITTEN);
            }
            done => return done,
        }
    }
    Err(io::ErrorKind::ExecutableFileBusy.into())
}

fn told(program: &Path, verb: Verb, output: &Output) -> Error {
    let told = serde_json::from_slice(&output.stdout).ok();
    let error = told.as_ref().and_then(Error::from_json).unwrap_or_else(|| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        Error::internal(
            format!("{} {}", stdout.trim(), stderr.trim())
                .trim()
                .to_owned(),
        )
        .with_details(output.status.to_string())
    });
    error.within(format_args!(
        "plugin {} failed {}",
        program.display(),
        verb.name()
    ))
}

/// Somebody who installs plugins by writing over them makes them busy for a moment.
const ATTEMPTS_WHILE_WRITTEN: u32 = 50;
const WAIT_WHILE_WRITTEN: Duration = Duration::from_millis(20);
