//! The configuration's file, which the kubelet changes by turning a link: seen at once by the
//! kernel's word, and after a while without.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

pub(super) struct ConfFile {
    path: PathBuf,
    eye: Option<AsyncFd<std::os::fd::OwnedFd>>,
    /// As it was last read; the error is for the operator.
    pub(super) text: Result<String, String>,
}

impl ConfFile {
    pub(super) fn open(path: &Path) -> Self {
        Self {
            eye: eye(path),
            text: read(path),
            path: path.to_owned(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns when the text is another.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::select! {
                () = seen(self.eye.as_ref()) => {}
                () = sleep(LOOK_AGAIN) => {
                    // Its directory may not have been there.
                    if self.eye.is_none() {
                        self.eye = eye(&self.path);
                    }
                }
            }
            let text = read(&self.path);
            if text != self.text {
                self.text = text;
                return;
            }
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|why| {
        format!(
            "read the network configuration {}: {why}; it is the file net-conf.json of the \
             ConfigMap, mounted there, or another that --net-config-path names",
            path.display()
        )
    })
}

/// On the directory: the file itself is a link to a link.
fn eye(path: &Path) -> Option<AsyncFd<std::os::fd::OwnedFd>> {
    let dir = path.parent()?;
    let eye = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    let what =
        WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::CLOSE_WRITE;
    inotify::add_watch(&eye, dir, what).ok()?;
    #[expect(
        deprecated,
        reason = "its heir is unsafe; an owned descriptor is what it wants"
    )]
    AsyncFd::new(eye).ok()
}

async fn seen(eye: Option<&AsyncFd<std::os::fd::OwnedFd>>) {
    let Some(eye) = eye else {
        return std::future::pending().await;
    };
    let Ok(mut ready) = eye.readable().await else {
        return std::future::pending().await;
    };
    let mut events = [0; 4096];
    while rustix::io::read(eye.get_ref(), &mut events).is_ok_and(|read| read > 0) {}
    ready.clear_ready();
}

const LOOK_AGAIN: Duration = Duration::from_secs(30);
