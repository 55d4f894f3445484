//! One whole process, from the moment its parent asks for it until it is reaped.
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Where the peers find iptables and the like.
const PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin";

#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    stdin: Vec<u8>,
}

/// What it took, and what was said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// Of the process and of all descendants it waited for.
    pub(crate) cpu: Duration,
    pub(crate) stdout: Vec<u8>,
}

impl Program {
    pub(crate) fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        Self {
            path,
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
        }
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    pub(crate) fn env(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.env.push((key, value.into()));
        self
    }

    pub(crate) fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// The same program, started by way of `wrapper args... log program`.
    pub(crate) fn wrapped(&self, wrapper: &str, args: &[&str], log: &str) -> Self {
        let itself = self.path.display().to_string();
        let mut wrapped = Self::new(wrapper).args(args).args(&[log, &itself]);
        wrapped.args.extend(self.args.iter().cloned());
        wrapped.env.clone_from(&self.env);
        wrapped.stdin.clone_from(&self.stdin);
        wrapped
    }

    /// Runs it; a program that fails ends the row. Both pipes hold all that goes through them, so
    /// nobody waits for anybody but us for the program's end.
    pub(crate) fn run(&self) -> Cost {
        let (input, mut writer) = std::io::pipe().expect("make a pipe");
        writer.write_all(&self.stdin).expect("fill a pipe");
        drop(writer);
        let (mut reader, output) = std::io::pipe().expect("make a pipe");
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", PATH)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::null());

        let before = cpu_of_reaped();
        let started = Instant::now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", self.path.display()));
        let status = child.wait().expect("reap a child");
        let wall = started.elapsed();
        let cpu = cpu_of_reaped().saturating_sub(before);

        drop(command);
        let mut stdout = Vec::new();
        reader.read_to_end(&mut stdout).expect("read a pipe");
        assert!(
            status.success(),
            "{} {:?} ended with {status}\n{}",
            self.path.display(),
            self.env,
            String::from_utf8_lossy(&stdout)
        );
        Cost { wall, cpu, stdout }
    }
}

impl Cost {
    /// The cost of doing both, one after the other; what the last one said.
    pub(crate) fn then(self, next: Self) -> Self {
        let (wall, cpu) = (self.wall + next.wall, self.cpu + next.cpu);
        Self {
            wall,
            cpu,
            stdout: next.stdout,
        }
    }
}

/// The kernel adds a child's CPU time to this account when the child is reaped.
pub(crate) fn cpu_of_reaped() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("read the children's account");
    let duration = |time: TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    duration(usage.user_time()) + duration(usage.system_time())
}
