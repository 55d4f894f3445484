//! Puts files in their place whole: a reader, a runtime that starts a plugin, a kill at any moment
//! and a full disk find the old file or the new one, and nothing in between.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A directory in which files are put, by one process at a time.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    /// Locked until it is closed, however the process ends.
    handle: File,
}

/// What was being done to which file, why it failed, and what helps.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}: {why}; {}", path.display(), remedy(why))]
pub struct Error {
    doing: &'static str,
    path: PathBuf,
    why: io::Error,
}

impl Error {
    pub fn new(doing: &'static str, path: &Path, why: io::Error) -> Self {
        Self {
            doing,
            path: path.to_owned(),
            why,
        }
    }

    pub fn kind(&self) -> io::ErrorKind {
        self.why.kind()
    }
}

/// Whether a file had to be touched at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Changed,
    /// It said the same already.
    Unchanged,
}

impl Place {
    /// Waits for whoever is at work there. A directory that is not there is an error: to make it
    /// would hide that the path is wrong.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let failed = |why| Error::new("open the directory", dir, why);
        let handle = File::open(dir).map_err(failed)?;
        if !handle.metadata().map_err(failed)?.is_dir() {
            return Err(failed(Errno::NOTDIR.into()));
        }
        let patient_until = Instant::now() + PATIENCE;
        loop {
            match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
                // Whoever never ends must not stop a daemon, and a lock's wait has no limit.
                Err(Errno::WOULDBLOCK) if Instant::now() < patient_until => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::INTR) => {}
                // A file system without locks has no worse a directory for it.
                Ok(()) | Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) => break,
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        let dir = dir.to_owned();
        Ok(Self { dir, handle })
    }

    pub fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.dir.join(name.as_ref())
    }

    /// A file that says `bytes`, for all to read.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, Error> {
        let path = self.path(name);
        if fs::read(&path).is_ok_and(|present| present == bytes) {
            return Ok(Put::Unchanged);
        }
        self.replace(name, 0o644, &mut &*bytes)?;
        Ok(Put::Changed)
    }

    /// A copy of the file `from`, to be run or read as that is.
    pub fn copy(&self, from: &Path, name: &str) -> Result<(), Error> {
        let failed = |why| Error::new("read", from, why);
        let mut source = File::open(from).map_err(failed)?;
        let found = source.metadata().map_err(failed)?;
        if !found.is_file() {
            return Err(failed(Errno::ISDIR.into()));
        }
        self.replace(name, found.permissions().mode() & 0o777, &mut source)
    }

    /// A second name of the file called `of`.
    pub fn link(&self, of: &str, name: &str) -> Result<(), Error> {
        let beside = self.beside(name)?;
        let linked = match fs::hard_link(self.path(of), &beside) {
            // A file system without hard links.
            Err(error) if is_without_links(&error) => symlink(of, &beside),
            linked => linked,
        };
        linked.map_err(|why| Error::new("link", &beside, why))?;
        self.publish(&beside, name)
    }

    /// What is called `name` gets a second name, in place of whatever has that, and keeps its own.
    pub fn keep(&self, name: &str, second: &str) -> Result<(), Error> {
        let beside = self.beside(second)?;
        let path = self.path(name);
        match fs::hard_link(&path, &beside) {
            Err(error) if is_without_links(&error) => self.copy(&path, second),
            Err(why) => Err(Error::new("link", &path, why)),
            Ok(()) => self.publish(&beside, second),
        }
    }

    /// Gives a file of this file system another name, in place of whatever has it.
    pub fn rename(&self, from: &Path, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        fs::rename(from, &path).map_err(|why| Error::new("put in place", &path, why))?;
        self.settle()
    }

    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        fs::remove_file(&path).map_err(|why| Error::new("remove", &path, why))?;
        self.settle()
    }

    /// Removes what a killed run left beside a file that is as it should be.
    pub fn sweep(&self, name: &str) -> Result<(), Error> {
        self.beside(name).map(drop)
    }

    fn replace(&self, name: &str, mode: u32, from: &mut dyn Read) -> Result<(), Error> {
        let beside = self.beside(name)?;
        let written = write(&beside, mode, from);
        if written.is_err() {
            // A full disk is given back what it lent.
            let _ = fs::remove_file(&beside);
        }
        written.map_err(|why| Error::new("write", &self.path(name), why))?;
        self.publish(&beside, name)
    }

    fn publish(&self, beside: &Path, name: &str) -> Result<(), Error> {
        let published = self.rename(beside, name);
        // Still there if that failed, or if both are names of one file already.
        let _ = fs::remove_file(beside);
        published
    }

    /// Under one name always, so that what a killed run left does not stay.
    fn beside(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path(format!(".{name}.new"));
        match fs::remove_file(&path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                Err(Error::new("write", &self.path(name), why))
            }
            Ok(()) | Err(_) => Ok(path),
        }
    }

    fn settle(&self) -> Result<(), Error> {
        let synced = self.handle.sync_all();
        synced.map_err(|why| Error::new("write the directory", &self.dir, why))
    }
}

fn write(path: &Path, mode: u32, from: &mut dyn Read) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    io::copy(from, &mut file)?;
    file.flush()?;
    // Whatever the umask: runtimes may run as somebody else.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

fn is_without_links(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::PERM | Errno::NOTSUP | Errno::MLINK))
}

const PATIENCE: Duration = Duration::from_secs(10);

fn remedy(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "what was there before is as it was: make room on that file system and run it again"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "what was there before is as it was: name a directory that can be written, or mount \
             this one so"
        }
        io::ErrorKind::PermissionDenied => {
            "what was there before is as it was: run it as root (under SELinux, as spc_t)"
        }
        io::ErrorKind::WouldBlock => {
            "another process has been at work there for long: end it (fuser names it)"
        }
        io::ErrorKind::NotFound => "make it, or name the one that is there",
        io::ErrorKind::NotADirectory => "a directory is wanted there",
        io::ErrorKind::IsADirectory => "a file is wanted there",
        _ => "what was there before is as it was",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn a_file_is_put_for_all_to_read_and_only_when_it_differs() {
        let scratch = Scratch::new("place");
        let place = Place::open(&scratch.0).unwrap();
        assert_eq!(place.put("a", b"one").unwrap(), Put::Changed);
        let first = fs::metadata(place.path("a")).unwrap();
        assert_eq!(first.mode() & 0o7777, 0o644);
        assert_eq!(place.put("a", b"one").unwrap(), Put::Unchanged);
        assert_eq!(fs::metadata(place.path("a")).unwrap().ino(), first.ino());
        assert_eq!(place.put("a", b"two").unwrap(), Put::Changed);
        assert_eq!(fs::read(place.path("a")).unwrap(), b"two");
        assert_eq!(scratch.names(), ["a"]);
    }

    #[test]
    fn what_a_killed_run_left_beside_does_not_stay() {
        let scratch = Scratch::new("place-killed");
        let place = Place::open(&scratch.0).unwrap();
        fs::write(place.path(".a.new"), "half").unwrap();
        place.put("a", b"whole").unwrap();
        fs::write(place.path(".b.new"), "half").unwrap();
        place.link("a", "b").unwrap();
        assert_eq!(scratch.names(), ["a", "b"]);
        assert_eq!(fs::read(place.path("b")).unwrap(), b"whole");
    }

    #[test]
    fn a_copy_runs_as_its_source_does_and_follows_links() {
        let scratch = Scratch::new("place-copy");
        let source = scratch.0.join("source");
        fs::write(&source, "program").unwrap();
        fs::set_permissions(&source, Permissions::from_mode(0o755)).unwrap();
        symlink("source", scratch.0.join("link")).unwrap();
        let place = Place::open(&scratch.0).unwrap();
        place.copy(&scratch.0.join("link"), "copy").unwrap();
        let copy = fs::symlink_metadata(place.path("copy")).unwrap();
        assert!(copy.is_file() && copy.mode() & 0o7777 == 0o755);
    }

    #[test]
    fn one_process_at_a_time() {
        let scratch = Scratch::new("place-lock");
        let place = Place::open(&scratch.0).unwrap();
        let again = File::open(&scratch.0).unwrap();
        let held = flock(&again, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(held, Err(Errno::WOULDBLOCK));
        drop(place);
        Place::open(&scratch.0).unwrap();
    }

    #[test]
    fn a_wrong_place_is_named_with_what_helps() {
        let scratch = Scratch::new("place-wrong");
        let told = |path: &Path| Place::open(path).unwrap_err().to_string();
        let missing = scratch.0.join("missing");
        let text = told(&missing);
        assert!(
            text.contains("missing") && text.contains("make it"),
            "{text}"
        );
        fs::write(scratch.0.join("file"), "").unwrap();
        let text = told(&scratch.0.join("file"));
        assert!(text.contains("a directory is wanted there"), "{text}");
        let place = Place::open(&scratch.0).unwrap();
        let text = place.copy(&scratch.0, "copy").unwrap_err().to_string();
        assert!(text.contains("a file is wanted there"), "{text}");
        fs::create_dir(place.path("taken")).unwrap();
        let text = place.put("taken", b"x").unwrap_err().to_string();
        assert!(text.starts_with("put in place"), "{text}");
        assert_eq!(scratch.names(), ["file", "taken"]);
    }
}
