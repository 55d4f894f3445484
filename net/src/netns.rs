//! Network namespaces: told apart, entered, and surely left again.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Error, Result, Why};

#[derive(Debug)]
pub struct Namespace {
    file: File,
    identity: Identity,
}

/// A namespace is the same whatever path leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Namespace {
    /// `is_not_found()` if there is no such path; [`Why::NotANamespace`] if there is something
    /// else behind it, such as the plain file that a reboot leaves of a bind mount.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::open_raw(path)
            .map_err(|why| Error::new(format!("open network namespace {}", path.display()), why))
    }

    /// The one the calling thread is in.
    pub fn current() -> Result<Self> {
        Self::open(CURRENT)
    }

    pub fn same_as(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Runs `work` with the calling thread in this namespace. The thread is back where it was
    /// when this returns or unwinds; should the kernel refuse the way back, the process aborts,
    /// for to go on would mean to change the wrong namespace.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let home = Self::current()?;
        if self.same_as(&home) {
            return Ok(work());
        }
        self.move_thread()
            .map_err(|why| Error::new("enter a network namespace", why))?;
        let outcome = catch_unwind(AssertUnwindSafe(work));
        if home.move_thread().is_err() {
            std::process::abort();
        }
        outcome.map_or_else(|panic| resume_unwind(panic), Ok)
    }

    fn open_raw(path: &Path) -> Result<Self, Why> {
        // Opening a named pipe would wait for somebody who writes.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let descriptor = open(path, flags, Mode::empty())?;
        if fstatfs(&descriptor)?.f_type.cast_unsigned() != NSFS_MAGIC {
            return Err(Why::NotANamespace);
        }
        let status = fstat(&descriptor)?;
        let identity = Identity {
            device: status.st_dev,
            inode: status.st_ino,
        };
        Ok(Self {
            file: descriptor.into(),
            identity,
        })
    }

    fn move_thread(&self) -> Result<(), Why> {
        let network = Some(LinkNameSpaceType::Network);
        match move_into_link_name_space(self.file.as_fd(), network) {
            // Namespaces of all kinds are in one file system; only entering tells them apart.
            Err(Errno::INVAL) => Err(Why::NotANamespace),
            moved => moved.map_err(Why::from),
        }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

const CURRENT: &str = "/proc/thread-self/ns/net";
const NSFS_MAGIC: u64 = 0x6e73_6673;
