//! The directory: locked, read, written, with errors that say what to do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use super::stamp::{self, Term};
use super::{CONFIG, Entry, Moment, SUBNETS, Trouble};

#[derive(Debug)]
pub(super) struct Directory(PathBuf);

/// A key, and when it ends on the clock of this boot.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) ends: Option<Duration>,
}

/// Held until it is dropped, or its process ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "it is open for as long as it is held")] File);

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn subnets(&self) -> PathBuf {
        self.0.join(SUBNETS)
    }

    pub(super) fn make(&self) -> Result<(), Trouble> {
        for path in [self.subnets(), self.0.join(STAGING)] {
            if !path.is_dir() {
                fs::create_dir_all(&path).map_err(|why| trouble("make", &path, &why))?;
            }
        }
        Ok(())
    }

    /// A lock is held for moments; whoever holds it longer was stopped.
    pub(super) async fn lock(&self) -> Result<Lock, Trouble> {
        let path = self.0.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(|why| trouble("open", &path, &why))?;
        let patience = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(200);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(file)),
                Err(Errno::AGAIN | Errno::INTR) if Instant::now() < patience => {
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(Errno::AGAIN) => {
                    return Err(Trouble::Unreachable(format!(
                        "{} has been locked for {} s: is a process stopped that uses it?",
                        path.display(),
                        PATIENCE.as_secs()
                    )));
                }
                Err(why) => return Err(trouble("lock", &path, &why.into())),
            }
        }
    }

    pub(super) fn read_all(&self, now: &Moment) -> Result<Vec<Found>, Trouble> {
        let path = self.subnets();
        let failed = |why: io::Error| trouble("list", &path, &why);
        let mut keys = vec![CONFIG.to_owned()];
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            keys.extend(name.to_str().and_then(key_of_file));
        }
        keys.sort_unstable();
        let found = keys.iter().map(|key| self.read(key, now));
        found.filter_map(Result::transpose).collect()
    }

    pub(super) fn read(&self, key: &str, now: &Moment) -> Result<Option<Found>, Trouble> {
        let path = self.0.join(key);
        let failed = |why: io::Error| trouble("read", &path, &why);
        let mut file = match File::open(&path) {
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() {
            return Ok(None);
        }
        let mut content = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0) + 1);
        file.read_to_end(&mut content).map_err(failed)?;
        let content = String::from_utf8_lossy(&content);
        let (value, stamp) = stamp::split(&content);
        if value.is_empty() {
            return Ok(None);
        }
        let version = match &stamp {
            Some(stamp) if !stamp.edited => stamp.version,
            _ => written_at(&about),
        };
        let term = stamp.and_then(|stamp| stamp.term);
        Ok(Some(Found {
            entry: Entry {
                key: key.to_owned(),
                value: value.to_owned(),
                version,
                lasts: term.is_none(),
            },
            ends: term.map(|term| term.ends(now)),
        }))
    }

    /// One that nothing had before, and greater than `least`.
    pub(super) fn next_version(&self, least: i64) -> Result<i64, Trouble> {
        let path = self.0.join(VERSION);
        let last = match fs::read_to_string(&path) {
            Err(why) if why.kind() == ErrorKind::NotFound => 0,
            Err(why) => return Err(trouble("read", &path, &why)),
            Ok(text) => text.trim().parse().unwrap_or(0),
        };
        let version = least.max(last).saturating_add(1);
        self.replace(VERSION, &format!("{version}\n"))?;
        Ok(version)
    }

    pub(super) fn write(
        &self,
        key: &str,
        value: &str,
        version: i64,
        expires: Option<Duration>,
        now: &Moment,
    ) -> Result<(), Trouble> {
        let term = expires.map(|lasts| Term::from(now, lasts));
        self.replace(key, &stamp::join(value, version, term.as_ref()))
    }

    pub(super) fn remove(&self, key: &str) -> Result<(), Trouble> {
        let path = self.0.join(key);
        match fs::remove_file(&path) {
            Err(why) if why.kind() != ErrorKind::NotFound => Err(trouble("remove", &path, &why)),
            _ => Ok(()),
        }
    }

    /// The lock is held, so one name will do for whatever is being written.
    fn replace(&self, name: &str, content: &str) -> Result<(), Trouble> {
        let staged = self.0.join(STAGING).join("next");
        let failed = |why: io::Error| trouble("write", &staged, &why);
        let mut file = File::create(&staged).map_err(failed)?;
        file.write_all(content.as_bytes()).map_err(failed)?;
        let path = self.0.join(name);
        fs::rename(&staged, &path).map_err(|why| trouble("write", &path, &why))
    }
}

/// The key of a file in `subnets/`, unless it is an editor's or hidden.
pub(super) fn key_of_file(name: &str) -> Option<String> {
    let passed_over = name.starts_with('.') || name.ends_with('~');
    (!passed_over).then(|| format!("{SUBNETS}/{name}"))
}

/// A version for what others write: it grows as time goes by, and is far above our own count.
fn written_at(about: &fs::Metadata) -> i64 {
    about
        .mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(about.mtime_nsec())
}

fn trouble(verb: &str, path: &Path, why: &io::Error) -> Trouble {
    let path = path.display();
    let remedy = match why.kind() {
        ErrorKind::PermissionDenied => {
            "give this user the right to write there, or choose another directory"
        }
        ErrorKind::ReadOnlyFilesystem => "choose a directory that can be written to",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room there",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "something that is no directory is in the way: move it, or choose another"
        }
        _ => return Trouble::Unreachable(format!("cannot {verb} {path}: {why}")),
    };
    Trouble::Refused(format!("cannot {verb} {path}: {why}; {remedy}"))
}

const STAGING: &str = "staging";
const VERSION: &str = "version";
const PATIENCE: Duration = Duration::from_secs(5);
