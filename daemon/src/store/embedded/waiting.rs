//! Waiting for the directory to change: by inotify, or by looking now and then where the user has
//! no watches left (128 instances are usual).

use std::collections::BTreeSet;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::files::{Directory, key_of_file};
use super::{CONFIG, Trouble};

#[derive(Debug, Default)]
pub(super) enum Watch {
    #[default]
    None,
    Inotify {
        queue: AsyncFd<OwnedFd>,
        subnets: i32,
    },
    /// Looking is all that is left. An operator's edit of a lease in place is noticed when the
    /// next key comes or goes.
    Look { seen: Option<Seen> },
}

/// When the directory of leases and the configuration were last written.
pub(super) type Seen = (Option<SystemTime>, Option<SystemTime>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// These may have changed.
    Keys(Vec<String>),
    Anything,
    /// The directory itself is another.
    Lost,
}

impl Watch {
    pub(super) fn begin(&mut self, directory: &Directory) {
        if let Self::None = self {
            *self = Self::inotify(directory).unwrap_or(Self::Look { seen: None });
        }
    }

    /// As it is where there is no inotify to be had.
    #[cfg(test)]
    pub(super) fn looking() -> Self {
        Self::Look { seen: None }
    }

    /// At most `longest`.
    pub(super) async fn wait(
        &mut self,
        directory: &Directory,
        longest: Option<Duration>,
    ) -> Result<News, Trouble> {
        let end = async {
            match longest {
                Some(longest) => sleep(longest.max(SHORTEST)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = self.news(directory) => news,
            () = end => Ok(News::Anything),
        }
    }

    async fn news(&mut self, directory: &Directory) -> Result<News, Trouble> {
        let news = match self {
            Self::None => Ok(News::Lost),
            Self::Look { seen } => Ok(look(directory, seen).await),
            Self::Inotify { queue, subnets } => read(queue, *subnets).await,
        };
        if matches!(news, Ok(News::Lost)) {
            *self = Self::None;
        }
        news
    }

    fn inotify(directory: &Directory) -> Result<Self, Errno> {
        let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let written = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE;
        let removed = WatchFlags::MOVED_FROM | WatchFlags::DELETE;
        let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        let all = written | removed | itself;
        inotify::add_watch(&queue, directory.path(), all)?;
        let subnets = inotify::add_watch(&queue, directory.subnets(), all)?;
        #[expect(
            deprecated,
            reason = "what takes its place is unsafe; an OwnedFd is never swapped"
        )]
        let queue = AsyncFd::new(queue).map_err(|_| Errno::IO)?;
        Ok(Self::Inotify { queue, subnets })
    }
}

async fn look(directory: &Directory, seen: &mut Option<Seen>) -> News {
    loop {
        sleep(PAUSE).await;
        let written = |path| fs::metadata(path).and_then(|about| about.modified()).ok();
        let found = (
            written(directory.subnets()),
            written(directory.path().join(CONFIG)),
        );
        if found.0.is_none() {
            return News::Lost;
        }
        if *seen != Some(found) {
            // Another write may follow within what the file system tells apart.
            let latest = found.0.max(found.1);
            let age = latest.and_then(|at| SystemTime::now().duration_since(at).ok());
            *seen = age.filter(|age| *age > PAUSE).map(|_| found);
            return News::Anything;
        }
    }
}

async fn read(queue: &AsyncFd<OwnedFd>, subnets: i32) -> Result<News, Trouble> {
    loop {
        let ready = queue.readable().await;
        let mut ready = ready.map_err(|why| garbled(&why.to_string()))?;
        match drain(queue.get_ref(), subnets)? {
            Some(news) => return Ok(news),
            None => ready.clear_ready(),
        }
    }
}

/// All that the kernel has to tell; None if none of it matters.
fn drain(queue: &OwnedFd, subnets: i32) -> Result<Option<News>, Trouble> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(queue, &mut buffer);
    let mut keys = BTreeSet::new();
    let mut overflow = false;
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => continue,
            Err(why) => return Err(garbled(&why.to_string())),
        };
        let flags = event.events();
        if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED) {
            return Ok(Some(News::Lost));
        }
        overflow |= flags.contains(ReadFlags::QUEUE_OVERFLOW);
        let name = event.file_name().and_then(|name| name.to_str().ok());
        match name {
            Some(name) if event.wd() == subnets => keys.extend(key_of_file(name)),
            Some(CONFIG) => drop(keys.insert(CONFIG.to_owned())),
            _ => {}
        }
    }
    Ok(match (overflow, keys.is_empty()) {
        (true, _) => Some(News::Anything),
        (false, true) => None,
        (false, false) => Some(News::Keys(keys.into_iter().collect())),
    })
}

fn garbled(why: &str) -> Trouble {
    Trouble::Garbled(format!("cannot read what changed in the directory: {why}"))
}

const PAUSE: Duration = Duration::from_millis(100);
/// A lease that just ended is cleared away by somebody; nobody hurries.
const SHORTEST: Duration = Duration::from_millis(10);
