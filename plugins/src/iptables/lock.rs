//! One program at a time: a file of the host, locked.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use std::{fs, io, thread};

use weft_cni::{Error, Result};

/// Held until dropped, or until the process dies. Programs that are started do not inherit it.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(path: &Path, patience: Duration) -> Result<Self> {
        let failed = |why: io::Error| {
            Error::io(format!("cannot lock {}: {why}", path.display())).with_details(
                "it keeps parallel calls from doubling shared iptables rules: make it writable",
            )
        };
        let file = open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => return Ok(Self { _file: file }),
            Err(TryLockError::Error(why)) => return Err(failed(why)),
            Err(TryLockError::WouldBlock) => {}
        }
        let (sender, receiver) = channel();
        // The kernel wakes those that wait in turn, which asking again and again would not; and
        // such a wait has no end of its own.
        thread::spawn(move || {
            let locked = file.lock();
            let _ = sender.send(locked.map(|()| Self { _file: file }));
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
    use weft_cni::Code;

    use super::*;

    #[test]
    fn a_lock_that_is_never_given_up_is_waited_for_only_so_long() {
        let directory = std::env::temp_dir().join(format!("weft-lock-{}", std::process::id()));
        let path = directory.join("deep/lock");
        let held = Lock::take(&path, Duration::ZERO).unwrap();
        let refused = Lock::take(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(refused.code, Code::TryAgain);
        drop(held);
        Lock::take(&path, Duration::from_secs(10)).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }
}
