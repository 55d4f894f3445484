//! Waits until something happens in directories.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::Error;

/// What became of the directories since they were last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewed {
    Same,
    /// One is another than before: what happened there until it was watched, nobody has seen.
    Other,
    /// One is not there, and cannot tell when it is.
    Missing,
}

pub(super) struct Watch {
    events: OwnedFd,
    dirs: Vec<PathBuf>,
    /// What each is watched as. Who is made anew is another than before.
    watched: Vec<Option<i32>>,
}

impl Watch {
    pub(super) fn of(dirs: &[&Path]) -> Result<Self, Error> {
        let events = inotify::init(CreateFlags::CLOEXEC);
        Ok(Self {
            events: events.map_err(|errno| failed(dirs[0], errno))?,
            dirs: dirs.iter().map(|dir| (*dir).to_owned()).collect(),
            watched: vec![None; dirs.len()],
        })
    }

    pub(super) fn renew(&mut self) -> Result<Renewed, Error> {
        let before = self.watched.clone();
        for (dir, watched) in self.dirs.iter().zip(&mut self.watched) {
            *watched = match inotify::add_watch(&self.events, dir, CHANGES) {
                Ok(watch) => Some(watch),
                Err(Errno::NOENT) => None,
                Err(errno) => return Err(failed(dir, errno)),
            };
        }
        Ok(match self.watched.contains(&None) {
            true => Renewed::Missing,
            false if self.watched == before => Renewed::Same,
            false => Renewed::Other,
        })
    }

    pub(super) fn wait(&mut self) -> Result<(), Error> {
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.events, &mut room);
        loop {
            match reader.next() {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(&self.dirs[0], errno)),
            }
        }
    }
}

fn failed(path: &Path, errno: Errno) -> Error {
    Error::Watch {
        path: path.to_owned(),
        why: io::Error::from(errno),
    }
}

/// What a file's change, coming and going look like; a ConfigMap's are a rename.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF);
