//! One program at a time: a file of the host, locked.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use std::{fs, io, thread};

use weft_cni::{Error, Result};

/// Held until it is dropped and all programs that share it have ended.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// For those who only clean up: nobody has ever held a lock that is not there, and one that
    /// cannot be had is no reason to leave things behind.
    pub(super) fn take_if_used(path: &Path, patience: Duration) -> Option<Self> {
        path.exists().then(|| Self::take(path, patience).ok())?
    }

    pub(super) fn take(path: &Path, patience: Duration) -> Result<Self> {
        let failed = |why: io::Error| {
            Error::io(format!("cannot lock {}: {why}", path.display())).with_details(
                "it keeps parallel calls from doubling shared iptables rules: make it writable",
            )
        };
        let file = open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => return Ok(Self { file }),
            Err(TryLockError::Error(why)) => return Err(failed(why)),
            Err(TryLockError::WouldBlock) => {}
        }
        let (sender, receiver) = channel();
        // The kernel wakes those that wait in turn, which asking again and again would not; and
        // such a wait has no end of its own.
        thread::spawn(move || {
            let locked = file.lock();
            let _ = sender.send(locked.map(|()| Self { file }));
        });
        match receiver.recv_timeout(patience) {
            Ok(locked) => locked.map_err(failed),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(Error::try_again(format!(
                    "{} has been locked for {patience:?} by other calls",
                    path.display()
                ))
                .with_details("look for an iptables-restore that is stuck"))
            }
        }
    }

    /// The lock as an output of a program: when we are killed while the program changes rules,
    /// whoever comes to clean up waits for it.
    pub(super) fn share(&self) -> io::Result<Stdio> {
        self.file.try_clone().map(Stdio::from)
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            options.open(path)
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use weft_cni::Code;

    use super::*;

    fn somewhere(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("weft-lock-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_lock_that_is_never_given_up_is_waited_for_only_so_long() {
        let directory = somewhere("patience");
        let path = directory.join("deep/lock");
        let held = Lock::take(&path, Duration::ZERO).unwrap();
        let refused = Lock::take(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(refused.code, Code::TryAgain);
        drop(held);
        Lock::take(&path, Duration::from_secs(10)).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_program_that_outlives_us_keeps_the_lock() {
        let path = somewhere("outlived");
        let lock = Lock::take(&path, Duration::ZERO).unwrap();
        let mut program = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(lock.share().unwrap())
            .spawn()
            .unwrap();
        drop(lock);
        assert!(Lock::take(&path, Duration::from_millis(20)).is_err());
        drop(program.stdin.take());
        program.wait().unwrap();
        Lock::take(&path, Duration::from_secs(10)).unwrap();
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn cleaning_up_where_nobody_ever_locked_makes_no_file() {
        let path = somewhere("unused");
        assert!(Lock::take_if_used(&path, Duration::ZERO).is_none());
        assert!(!path.exists());
    }
}
