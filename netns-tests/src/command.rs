//! A program run to its end, with what it said and what it cost.
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use crate::namespace::{Netns, inside};

/// Nothing a plugin or a tool does in these tests takes this long.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A program to run: what, where, with which input.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    netns: Option<PathBuf>,
    time_limit: Duration,
}

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            netns: None,
            time_limit: TIME_LIMIT,
        }
    }

    /// A line of shell.
    pub fn shell(line: &str) -> Self {
        Self::new("/bin/sh").args(["-ec", line])
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// Run in this network namespace instead of the world's own.
    #[must_use]
    pub fn inside(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.path().to_owned());
        self
    }

    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Runs it to its end. A program that outlives its time limit is killed
    /// and fails the test.
    #[track_caller]
    pub fn run(&self) -> Done {
        let running = self.spawn();
        assert!(
            running.ends_within(self.time_limit),
            "{} was still running after {:?}; it said\n{}",
            self.line(),
            self.time_limit,
            running.said_so_far(),
        );
        running.finish()
    }

    /// Starts it in the background; it is killed when dropped.
    #[track_caller]
    pub fn spawn(&self) -> Running {
        let (stdout, stderr) = (scratch_file(&[]), scratch_file(&[]));
        let started = Instant::now();
        let child = inside(self.netns.as_deref(), || {
            self.command(&stdout, &stderr).spawn()
        })
        .unwrap_or_else(|e| panic!("cannot start {}: {e}", self.line()));
        Running {
            child: Some(child),
            line: self.line(),
            started,
            stdout,
            stderr,
        }
    }

    /// The same program, started by way of `wrapper program args...`.
    pub(crate) fn wrapped(&self, wrapper: &[&str]) -> Self {
        let mut wrapped = Self {
            program: wrapper[0].into(),
            args: Vec::new(),
            ..self.clone()
        };
        wrapped.args.extend(wrapper[1..].iter().map(OsString::from));
        wrapped.args.push(self.program.clone());
        wrapped.args.extend(self.args.iter().cloned());
        wrapped
    }

    pub(crate) fn netns_path(&self) -> Option<&Path> {
        self.netns.as_deref()
    }

    pub(crate) fn line(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Output goes to files in memory: there is no pipe to fill up, and a
    /// daemon that keeps them open holds nobody up.
    pub(crate) fn command(&self, stdout: &File, stderr: &File) -> Command {
        let clone = |file: &File| file.try_clone().expect("duplicate a descriptor");
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(scratch_file(&self.stdin))
            .stdout(Stdio::from(clone(stdout)))
            .stderr(Stdio::from(clone(stderr)));
        command
    }
}

/// A program in the background. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    line: String,
    started: Instant,
    stdout: File,
    stderr: File,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// What it has written until now, both streams.
    pub fn said_so_far(&self) -> String {
        format!("{}{}", contents(&self.stdout), contents(&self.stderr))
    }

    /// Whether it ends by itself within `limit`.
    pub fn ends_within(&self, limit: Duration) -> bool {
        let Some(child) = &self.child else {
            return true;
        };
        let pid = rustix::process::Pid::from_child(child);
        let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .expect("open a handle on a child");
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut ready = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, timeout) {
                Ok(0) if left.is_zero() => return false,
                Ok(n) if n > 0 => return true,
                _ => {}
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        // A program that has ended by itself has nothing to be told.
        let _ = kill(self.raw_pid(), signal);
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Done {
        // The handle tells the end without reaping: the cost is read at the reaping.
        while !self.ends_within(TIME_LIMIT) {}
        let wall = self.started.elapsed();
        let (status, cpu) = reap(self.child.take().expect("a running program has its child"));
        Done {
            line: std::mem::take(&mut self.line),
            status,
            stdout: contents(&self.stdout),
            stderr: contents(&self.stderr),
            wall,
            cpu,
        }
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid()).expect("a pid"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            reap(child);
        }
    }
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Done {
    pub line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub wall: Duration,
    /// Its own CPU time and that of the descendants it waited for.
    pub cpu: Duration,
}

impl Done {
    pub fn success(&self) -> bool {
        self.status.success()
    }

    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Itself, or a failed test that shows what was said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(
            self.success(),
            "`{}` ended with {}\n{}{}",
            self.line,
            self.how(),
            self.stdout,
            self.stderr
        );
        self
    }

    pub fn how(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => "an unknown status".to_owned(),
        }
    }
}

/// A file in memory, positioned at its start.
pub(crate) fn scratch_file(content: &[u8]) -> File {
    let fd = memfd_create("weft-test", MFdFlags::MFD_CLOEXEC).expect("create a file in memory");
    let mut file = File::from(fd);
    file.write_all(content).expect("write a file in memory");
    file.rewind().expect("rewind a file in memory");
    file
}

/// Everything in it. Reading goes through a fresh descriptor, because the
/// writer shares this one's position.
pub(crate) fn contents(file: &File) -> String {
    use std::os::fd::AsRawFd;
    let mut reader =
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("reopen a file in memory");
    let mut bytes = Vec::new();
    reader
        .seek(SeekFrom::Start(0))
        .expect("seek in a file in memory");
    reader
        .read_to_end(&mut bytes)
        .expect("read a file in memory");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The kernel adds a child's CPU time to its parent's account when the child is
/// reaped, so what one reaping adds is what that child cost.
fn reap(mut child: Child) -> (ExitStatus, Duration) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = cpu_of_reaped_children();
    let status = child.wait().expect("reap a child");
    (status, cpu_of_reaped_children().saturating_sub(before))
}

fn cpu_of_reaped_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("read the children's account");
    let duration = |time: TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    duration(usage.user_time()) + duration(usage.system_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_its_input_and_both_outputs_are_kept() {
        let done = Cmd::shell("cat; echo oops >&2; exit 3")
            .stdin("hello")
            .run();
        assert_eq!(
            (done.code(), &*done.stdout, &*done.stderr),
            (Some(3), "hello", "oops\n")
        );
    }

    #[test]
    fn input_larger_than_a_pipe_does_not_block() {
        let big = vec![b'x'; 1 << 20];
        assert_eq!(
            Cmd::new("wc").arg("-c").stdin(big).run().ok().stdout.trim(),
            "1048576"
        );
    }

    #[test]
    fn cpu_time_counts_what_was_burnt_and_not_what_was_slept() {
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(Cmd::shell(busy).run().cpu > Duration::from_millis(10));
        let asleep = Cmd::shell("sleep 0.1").run();
        assert!(asleep.wall >= Duration::from_millis(100));
        assert!(asleep.cpu < Duration::from_millis(50), "{asleep:?}");
    }

    #[test]
    fn a_dropped_program_is_killed() {
        let running = Cmd::new("sleep").arg("600").spawn();
        let process = format!("/proc/{}", running.pid());
        assert!(Path::new(&process).exists());
        drop(running);
        assert!(!Path::new(&process).exists());
    }

    #[test]
    #[should_panic(expected = "was still running")]
    fn a_program_that_hangs_fails_the_test() {
        Cmd::new("sleep")
            .arg("600")
            .time_limit(Duration::from_millis(20))
            .run();
    }
}
