//! The network's lock, which the other plugins take too, waited for with a bound.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use crate::error::{Error, Result};

/// Held until it is dropped, or the process ends however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    pub(crate) fn acquire(file: File, path: &Path, wait: Duration) -> Result<Self> {
        let failed = |source| Error::file("lock", path, source);
        match file.try_lock() {
            Ok(()) => return Ok(Self { file }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // Those that wait are served in turn, and trying again and again is no way to wait: with
        // many waiting for good, one that only tries would starve. So a thread waits for good.
        let waiting = file.try_clone().map_err(failed)?;
        let (tell, told) = sync_channel(1);
        thread::Builder::new()
            .stack_size(SMALL_STACK)
            // A lock that comes too late is let go here, at the latest with the process.
            .spawn(move || drop(tell.send(waiting.lock())))
            .map_err(failed)?;
        match told.recv_timeout(wait) {
            Ok(Ok(())) => Ok(Self { file }),
            Ok(Err(source)) => Err(failed(source)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(Error::Busy {
                path: path.to_owned(),
                holder: holder(&file).unwrap_or_else(|| "another process".to_owned()),
                waited: wait,
            }),
        }
    }

    /// Whether the file still has a name: a lock on one that has none keeps nobody out.
    pub(crate) fn is_there(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() > 0)
    }
}

/// `process 123 (host-local)`, as far as the kernel's list of locks says.
fn holder(file: &File) -> Option<String> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // 1: FLOCK  ADVISORY  WRITE 123 fe:00:4711 0 EOF, and with an arrow for those that wait.
    let held = locks
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut held = held.filter(|words| words.get(1) == Some(&"FLOCK"));
    let pid = held.find(|words| words.get(5).is_some_and(|id| id.ends_with(&inode)))?[4].to_owned();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

const SMALL_STACK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::testing::Scratch;

    fn open(path: &Path) -> File {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap()
    }

    #[test]
    fn p18_plugins_561_a_lock_that_never_comes_is_waited_for_with_a_bound() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let held = Lock::acquire(open(&path), &path, Duration::ZERO).unwrap();
        let since = Instant::now();
        let error = Lock::acquire(open(&path), &path, Duration::from_millis(50)).unwrap_err();
        assert!(since.elapsed() < Duration::from_secs(1));
        let told = weft_cni::Error::from(error);
        assert_eq!(told.code.number(), 11);
        let me = format!("locked by process {} (", std::process::id());
        assert!(told.msg.contains(&me), "{told}");
        drop(held);
    }

    #[test]
    fn who_waits_is_served_when_the_lock_is_let_go() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let held = Lock::acquire(open(&path), &path, Duration::ZERO).unwrap();
        let file = open(&path);
        let waiting = thread::spawn({
            let path = path.clone();
            move || Lock::acquire(file, &path, Duration::from_secs(20))
        });
        let kernel_sees_it_wait = || {
            fs::read_to_string("/proc/locks")
                .unwrap()
                .contains(&format!(":{} ", held.file.metadata().unwrap().ino()))
        };
        while !kernel_sees_it_wait() {
            thread::yield_now();
        }
        drop(held);
        assert!(waiting.join().unwrap().is_ok());
    }

    #[test]
    fn a_lock_that_came_too_late_is_let_go_again() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let held = Lock::acquire(open(&path), &path, Duration::ZERO).unwrap();
        assert!(Lock::acquire(open(&path), &path, Duration::from_millis(1)).is_err());
        drop(held);
        assert!(Lock::acquire(open(&path), &path, Duration::from_secs(20)).is_ok());
    }
}
