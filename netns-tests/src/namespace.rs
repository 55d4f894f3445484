//! Network namespaces with a name, and work done inside them.
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::gettid;

use crate::command::{Cmd, Running};

/// Where iproute2 and container runtimes keep theirs. Private to the world.
const DIR: &str = "/run/netns";

/// A network namespace of this world, removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
}

impl Netns {
    /// A thread takes a fresh namespace and pins it to a file, as `ip netns add` does.
    #[track_caller]
    pub(crate) fn create(name: &str) -> Self {
        let path = Path::new(DIR).join(name);
        fs::create_dir_all(DIR).expect("create the directory of namespaces");
        File::create_new(&path).unwrap_or_else(|e| panic!("cannot name a namespace {name}: {e}"));
        let pin = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let mine = format!("/proc/self/task/{}/ns/net", gettid());
            mount(
                Some(&*mine),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
        };
        std::thread::scope(|scope| scope.spawn(pin).join().expect("the pinning thread"))
            .unwrap_or_else(|e| panic!("cannot create network namespace {name}: {e}"));
        Self {
            name: name.to_owned(),
            path,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file a runtime would pass as CNI_NETNS.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn command(&self, program: &str) -> Cmd {
        Cmd::new(program).inside(self)
    }

    /// Runs a line of shell inside; what it printed. Its failure fails the test.
    #[track_caller]
    pub fn exec(&self, line: &str) -> String {
        Cmd::shell(line).inside(self).run().ok().stdout
    }

    /// A line of shell in the background, killed when dropped.
    pub fn spawn(&self, line: &str) -> Running {
        // `exec` makes the killed process the program itself, not its shell.
        Cmd::shell(&format!("exec {line}")).inside(self).spawn()
    }

    /// Does `work` on a thread inside. Sockets it opens stay inside for ever.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(Some(&self.path), work)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

/// Does `work` in the namespace at `path`, or here if there is none. Only a
/// thread made for it ever enters, so that no thread is left in the wrong place.
pub(crate) fn inside<T: Send>(path: Option<&Path>, work: impl FnOnce() -> T + Send) -> T {
    let Some(path) = path else { return work() };
    let enter = || {
        let file = File::open(path)
            .unwrap_or_else(|e| panic!("cannot open namespace {}: {e}", path.display()));
        setns(&file, CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|e| panic!("cannot enter namespace {}: {e}", path.display()));
        work()
    };
    let result = std::thread::scope(|scope| scope.spawn(enter).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
