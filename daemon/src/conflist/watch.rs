//! Waits until something happens in directories.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::Error;

pub(super) struct Watch {
    events: OwnedFd,
    path: PathBuf,
}

impl Watch {
    pub(super) fn of(dirs: &[&Path]) -> Result<Self, Error> {
        let failed = |path: &Path, errno: Errno| Error::Watch {
            path: path.to_owned(),
            why: errno.into(),
        };
        let path = dirs.first().copied().unwrap_or_else(|| Path::new("."));
        let events = inotify::init(CreateFlags::CLOEXEC).map_err(|errno| failed(path, errno))?;
        for dir in dirs {
            inotify::add_watch(&events, *dir, CHANGES).map_err(|errno| failed(dir, errno))?;
        }
        let path = path.to_owned();
        Ok(Self { events, path })
    }

    pub(super) fn wait(&mut self) -> Result<(), Error> {
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.events, &mut room);
        loop {
            match reader.next() {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::Watch {
                        path: self.path.clone(),
                        why: io::Error::from(errno),
                    });
                }
            }
        }
    }
}

/// What a file's change, coming and going look like; a ConfigMap's are a rename.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE);
