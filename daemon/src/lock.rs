//! One daemon a node: a lock that ends with its process, however that ends, and a look for
//! flanneld, which knows no lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Held for as long as it lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "another weftd runs on this node: {} holds {path}; to take over, end it first ({}): what \
         it has programmed stays in place meanwhile, and pods' traffic flows on. A node in a \
         network namespace of its own needs a -run-dir of its own",
        holder(*pid), remedy(*pid)
    )]
    Held { path: PathBuf, pid: Option<u32> },
    #[error(
        "flanneld runs on this node (process {pid}): the two would undo each other's work. To \
         take over, stop flanneld for good (systemctl disable --now flanneld, or remove its \
         DaemonSet) and start weftd at once: pods' traffic flows on"
    )]
    Flanneld { pid: u32 },
    #[error("take over the lock {path}: what was handed over is not it")]
    NotIt { path: PathBuf },
    #[error("lock {path}: {why}; choose a directory that can be written with -run-dir")]
    Io { path: PathBuf, why: io::Error },
}

impl Lock {
    pub fn take(run_dir: &Path) -> Result<Self, Error> {
        let path = run_dir.join("weftd.lock");
        let failed = |why| Error::Io {
            path: path.clone(),
            why,
        };
        fs::create_dir_all(run_dir).map_err(failed)?;
        loop {
            let mut file = open(&path).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::Held {
                        pid: pid_in(&mut file),
                        path,
                    });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
            // A cleanup may have removed the file before we had it: then it locks nobody out.
            if is_at(&file, &path).map_err(failed)? {
                note_pid(&mut file).map_err(failed)?;
                return Ok(Self { file, path });
            }
        }
    }

    /// It is held for as long as one of those lives who have its file open.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// From a predecessor, who has it open, and is named in it.
    pub fn taken_over(file: OwnedFd, run_dir: &Path) -> Result<Self, Error> {
        let path = run_dir.join("weftd.lock");
        let file = File::from(file);
        match is_at(&file, &path) {
            Ok(true) => Ok(Self { file, path }),
            Ok(false) => Err(Error::NotIt { path }),
            Err(why) => Err(Error::Io { path, why }),
        }
    }

    /// From here on it is this process that others are told of.
    pub fn note_holder(mut self) -> Result<Self, Error> {
        match note_pid(&mut self.file) {
            Ok(()) => Ok(self),
            Err(why) => Err(Error::Io {
                path: self.path,
                why,
            }),
        }
    }

    /// Before the lock is let go: nobody can have it in between.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// The flanneld that works in our network namespace.
pub fn refuse_beside_flanneld() -> Result<(), Error> {
    match living_flanneld() {
        Some(pid) => Err(Error::Flanneld { pid }),
        None => Ok(()),
    }
}

/// As far as our /proc shows processes: from a container with process numbers of its own, one on
/// the host is not seen.
pub fn living_flanneld() -> Option<u32> {
    let ours = namespace("thread-self")?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        let is_it = comm.trim_end() == "flanneld" && namespace(&pid.to_string()) == Some(ours);
        is_it.then_some(pid)
    })
}

/// None for a process that has ended, too.
fn namespace(process: &str) -> Option<(u64, u64)> {
    let namespace = fs::metadata(format!("/proc/{process}/ns/net")).ok()?;
    Some((namespace.dev(), namespace.ino()))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn note_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

/// None while the holder has not come to tell.
fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "a process".into(), |pid| format!("process {pid}"))
}

fn remedy(pid: Option<u32>) -> String {
    let kill = pid.map(|pid| format!(", or kill {pid}"));
    format!("systemctl stop weftd{}", kill.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("weft-lock-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn the_second_is_told_who_holds_it_and_how_to_take_over() {
        let dir = scratch("second");
        let first = Lock::take(&dir).unwrap();
        let why = Lock::take(&dir).unwrap_err().to_string();
        let pid = std::process::id();
        for part in [
            &format!("process {pid} holds"),
            "weftd.lock",
            &format!("kill {pid}"),
            "flows on",
        ] {
            assert!(why.contains(part), "{why:?} does not say {part:?}");
        }
        drop(first);
        drop(Lock::take(&dir).unwrap());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lock_that_is_handed_over_stays_locked() {
        let dir = scratch("handed");
        let first = Lock::take(&dir).unwrap();
        let file = first.file().try_clone_to_owned().unwrap();
        let second = Lock::taken_over(file, &dir).unwrap();
        drop(first);
        assert!(matches!(Lock::take(&dir), Err(Error::Held { .. })));
        drop(second);
        drop(Lock::take(&dir).unwrap());
        let other = File::create(dir.join("other")).unwrap();
        let why = Lock::taken_over(other.into(), &dir).unwrap_err();
        assert!(matches!(why, Error::NotIt { .. }), "{why}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_longer_pid_of_an_earlier_run_leaves_no_digits_behind() {
        let dir = scratch("digits");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("weftd.lock"), "99999999999\n").unwrap();
        let _lock = Lock::take(&dir).unwrap();
        let text = fs::read_to_string(dir.join("weftd.lock")).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lock_whose_file_was_removed_locks_nobody_out() {
        let dir = scratch("removed");
        Lock::take(&dir).unwrap().remove().unwrap();
        let _again = Lock::take(&dir).unwrap();
        assert!(matches!(Lock::take(&dir), Err(Error::Held { .. })));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told_with_the_flag() {
        let dir = scratch("blocked");
        fs::write(&dir, "a file").unwrap();
        let why = Lock::take(&dir).unwrap_err().to_string();
        assert!(why.contains("-run-dir"), "{why}");
        fs::remove_file(dir).unwrap();
    }
}
