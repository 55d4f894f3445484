//! Faults as calls: a program killed between any two of its system calls.
//!
//! The program is traced from its first instruction on. It is started by a shell
//! that stops itself, so that the tracer can take hold before the program begins
//! (taking hold of oneself between fork and exec is not safe code).
use std::collections::HashSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::command::{Cmd, Done, contents, scratch_file};
use crate::namespace::inside;
use crate::syscalls::is_traceless;

/// Stops, and once it is continued becomes the program.
const LAUNCHER: [&str; 4] = ["/bin/sh", "-c", "kill -STOP $$; exec \"$@\"", "launcher"];
/// `ptrace_syscall_info.op` of a stop on the way into the kernel.
const ENTRY: u8 = 1;

/// What became of a program that was to be killed.
#[derive(Debug)]
pub enum Outcome {
    /// It was about to make its n-th system call, and never did.
    Killed {
        /// The call before that leaves no trace, so that this death leaves just what
        /// one a system call earlier leaves.
        in_vain: bool,
        /// On its standard error, until then.
        said: String,
    },
    /// It ended before that.
    Finished(Trace),
}

/// What a traced program did.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Slowed down by the tracing, and with no account of its CPU time.
    pub done: Done,
    /// System calls of the program and all its descendants.
    pub syscalls: u64,
    /// Programs executed, the first one included.
    pub execs: u64,
    /// The largest resident set of any process, in KiB. Taken by the tracer: the
    /// peak that wait4 reports begins with the parent's.
    pub peak_memory_kib: u64,
}

/// Runs `cmd` and kills it, with all its descendants, when one of them is about
/// to make the `n`-th system call since the program began (the first is 1).
///
/// [`crate::Chain::killed_at`] does it to a whole chain.
#[track_caller]
pub fn kill_at_syscall(cmd: &Cmd, n: u64) -> Outcome {
    assert!(n > 0, "system calls are counted from 1");
    match follow(cmd, Some(n)) {
        (Some(in_vain), trace) => Outcome::Killed {
            in_vain,
            said: trace.done.stderr,
        },
        (None, trace) => Outcome::Finished(trace),
    }
}

/// Runs `cmd` to its end, counting.
#[track_caller]
pub fn trace(cmd: &Cmd) -> Trace {
    follow(cmd, None).1
}

/// The tracer is a thread of its own: it may wait for "any child" without
/// taking away those of others.
#[track_caller]
fn follow(cmd: &Cmd, kill_at: Option<u64>) -> (Option<bool>, Trace) {
    let launcher = cmd.wrapped(&LAUNCHER);
    let tracer = || {
        stay_on_one_cpu();
        let (stdout, stderr) = (scratch_file(&[]), scratch_file(&[]));
        let started = Instant::now();
        let pid = launcher
            .command(&stdout, &stderr)
            .spawn()
            .map(|child| child.id())
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", cmd.line()));
        let program = Pid::from_raw(i32::try_from(pid).expect("a pid"));
        let mut tracer = Tracer::new(cmd.line(), program, kill_at);
        tracer
            .run()
            .unwrap_or_else(|e| panic!("cannot trace {}: {e}", cmd.line()));
        tracer.trace.done.stdout = contents(&stdout);
        tracer.trace.done.stderr = contents(&stderr);
        tracer.trace.done.wall = started.elapsed();
        (tracer.killed.then_some(tracer.in_vain), tracer.trace)
    };
    let in_netns = || inside(cmd.netns_path(), tracer);
    let result = std::thread::scope(|scope| scope.spawn(in_netns).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Tracer and traced take turns: on one CPU a turn costs a tenth of what it
/// costs to wake another. Descendants inherit it; a refusal costs only time.
fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    if sched_getcpu().and_then(|cpu| cpus.set(cpu)).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
    }
}

struct Tracer {
    program: Pid,
    kill_at: Option<u64>,
    /// Nothing counts before the launcher has become the program.
    begun: bool,
    killed: bool,
    in_vain: bool,
    alive: HashSet<Pid>,
    trace: Trace,
}

impl Tracer {
    fn new(line: String, program: Pid, kill_at: Option<u64>) -> Self {
        let done = Done {
            line,
            status: ExitStatus::default(),
            stdout: String::new(),
            stderr: String::new(),
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
        };
        let trace = Trace {
            done,
            syscalls: 0,
            execs: 0,
            peak_memory_kib: 0,
        };
        Self {
            program,
            kill_at,
            begun: false,
            killed: false,
            in_vain: false,
            alive: HashSet::from([program]),
            trace,
        }
    }

    fn run(&mut self) -> nix::Result<()> {
        waitpid(self.program, Some(WaitPidFlag::WUNTRACED))?;
        let options = Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEEXIT
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE;
        ptrace::seize(self.program, options)?;
        kill(self.program, Signal::SIGCONT)?;
        // Only this thread's own children and tracees, of every kind.
        let mine = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(None, Some(mine)) {
                Ok(status) => self.handle(status)?,
                Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn handle(&mut self, status: WaitStatus) -> nix::Result<()> {
        match status {
            WaitStatus::Exited(pid, code) => {
                self.alive.remove(&pid);
                if pid == self.program {
                    self.trace.done.status = ExitStatus::from_raw(code << 8);
                }
                Ok(())
            }
            WaitStatus::Signaled(pid, signal, _) => {
                self.alive.remove(&pid);
                if pid == self.program {
                    self.trace.done.status = ExitStatus::from_raw(signal as i32);
                }
                Ok(())
            }
            WaitStatus::PtraceSyscall(pid) => self.at_syscall(pid),
            WaitStatus::PtraceEvent(pid, _, event) => self.at_event(pid, event),
            WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal)),
            WaitStatus::Continued(_) | WaitStatus::StillAlive => Ok(()),
        }
    }

    fn at_syscall(&mut self, pid: Pid) -> nix::Result<()> {
        if gone_is_fine(ptrace::syscall_info(pid))?.is_some_and(|info| info.op == ENTRY) {
            self.trace.syscalls += 1;
            if self.kill_at == Some(self.trace.syscalls) {
                return self.kill_all();
            }
            if self.kill_at == Some(self.trace.syscalls + 1) {
                self.in_vain = is_traceless(pid);
            }
        }
        self.resume(pid, None)
    }

    fn at_event(&mut self, pid: Pid, event: i32) -> nix::Result<()> {
        self.alive.insert(pid);
        if event == Event::PTRACE_EVENT_EXEC as i32 {
            self.begun = true;
            self.trace.execs += 1;
        } else if event == Event::PTRACE_EVENT_EXIT as i32 {
            let peak = peak_memory_kib(pid).unwrap_or(0);
            self.trace.peak_memory_kib = self.trace.peak_memory_kib.max(peak);
        }
        self.resume(pid, None)
    }

    fn resume(&self, pid: Pid, signal: Option<Signal>) -> nix::Result<()> {
        let resumed = if self.begun {
            ptrace::syscall(pid, signal)
        } else {
            ptrace::cont(pid, signal)
        };
        gone_is_fine(resumed).map(|_| ())
    }

    fn kill_all(&mut self) -> nix::Result<()> {
        self.killed = true;
        self.kill_at = None;
        for pid in &self.alive {
            gone_is_fine(kill(*pid, Signal::SIGKILL))?;
        }
        Ok(())
    }
}

/// A tracee may be killed between its stop and our answer to it.
fn gone_is_fine<T>(result: nix::Result<T>) -> nix::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

fn peak_memory_kib(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
