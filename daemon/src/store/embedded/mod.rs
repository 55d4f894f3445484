//! A registry without a server: a directory that the nodes of one machine share.
//!
//! ```text
//! config                 the network's configuration, written by an operator
//! subnets/10.5.63.0-24   a lease: its value, and a line of ours with version and end
//! lock                   held while anything is read or written
//! version                the last version given
//! staging/               what is being written, before it is renamed into place
//! ```
//!
//! A file without our line is an operator's: in `subnets/`, a reservation. A file is written
//! beside and renamed under a lock that dies with its process, so a kill at any point leaves the
//! old or the new. An empty file is as good as none: a machine that lost power may leave one.

mod clock;
mod files;
mod stamp;
mod waiting;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::registry::{
    Change, Changes, Entry, Event, Expected, Listing, Outcome, Registry, Trouble, Write,
};
pub use clock::{Clock, Moment};
use files::{Directory, Found};
use waiting::{News, Watch};

#[derive(Debug)]
pub struct Embedded {
    directory: Directory,
    clock: Clock,
    watch: Watch,
    /// What was told of each key: its version, and when it ends by the clock.
    told: BTreeMap<String, Told>,
    /// What was heard and not yet looked at: whoever waits for changes may stop in between.
    news: Option<News>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    version: i64,
    ends: Option<Duration>,
}

impl Embedded {
    /// Nothing is touched yet: what stands in the way is told by every call, and may be put
    /// right while the daemon runs.
    pub fn open(directory: impl Into<PathBuf>) -> Self {
        Self::with_clock(directory, Clock::real())
    }

    pub fn with_clock(directory: impl Into<PathBuf>, clock: Clock) -> Self {
        Self {
            directory: Directory::new(directory.into()),
            clock,
            watch: Watch::default(),
            told: BTreeMap::new(),
            news: None,
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Registry for Embedded {
    async fn list(&mut self) -> Result<Listing, Trouble> {
        self.directory.make()?;
        self.watch.begin(&self.directory);
        self.news = None;
        let found = self.read_all().await?;
        self.told = found
            .iter()
            .map(|found| (found.entry.key.clone(), found.told()))
            .collect();
        let mut listing = Listing::default();
        for Found { entry, .. } in found {
            match entry.key == CONFIG {
                true => listing.config = Some(entry),
                false => listing.leases.push(entry),
            }
        }
        Ok(listing)
    }

    async fn commit(&mut self, change: Change) -> Result<Outcome, Trouble> {
        self.directory.make()?;
        let _lock = self.directory.lock().await?;
        let now = self.clock.now();
        let found = self
            .directory
            .read(&change.key, &now)?
            .filter(|found| !found.is_over(&now));
        let as_expected = match (&found, change.expected) {
            (None, Expected::Absent) => true,
            (Some(found), Expected::Version(version)) => found.entry.version == version,
            _ => false,
        };
        if !as_expected {
            return Ok(Outcome::Otherwise(found.map(|found| found.entry)));
        }
        let least = found.map_or(0, |found| found.entry.version);
        let version = self.directory.next_version(least)?;
        match change.write {
            Write::Put { value, expires } => {
                self.directory
                    .write(&change.key, &value, version, expires, &now)?;
            }
            Write::Delete => self.directory.remove(&change.key)?,
        }
        Ok(Outcome::Done(version))
    }

    async fn changes(&mut self) -> Result<Changes, Trouble> {
        loop {
            let news = match self.news.clone() {
                Some(news) => news,
                None => {
                    let longest = self.until_next_end();
                    self.watch.wait(&self.directory, longest).await?
                }
            };
            self.news = Some(news.clone());
            let events = match news {
                News::Lost => Ok(None),
                News::Anything => self.compare_all().await.map(Some),
                News::Keys(keys) => self.compare(keys).map(Some),
            };
            self.news = None;
            let Some(events) = events? else {
                return Ok(Changes::Missed);
            };
            if !events.is_empty() {
                return Ok(Changes::Events(events));
            }
        }
    }

    fn how_to_configure(&self) -> String {
        format!(
            "echo '{{\"Network\": \"10.244.0.0/16\", \"Backend\": {{\"Type\": \"vxlan\"}}}}' > {}",
            self.path().join(CONFIG).display()
        )
    }
}

impl Embedded {
    /// What is there and not over. What is over is cleared away by the way.
    ///
    /// Without the lock, which those need who write: a file is the old one or the new, and of
    /// what is written meanwhile there will be news.
    async fn read_all(&self) -> Result<Vec<Found>, Trouble> {
        let now = self.clock.now();
        let (over, found): (Vec<_>, Vec<_>) = self
            .directory
            .read_all(&now)?
            .into_iter()
            .partition(|found| found.is_over(&now));
        if !over.is_empty() {
            self.clear_away(&over).await?;
        }
        Ok(found)
    }

    async fn clear_away(&self, over: &[Found]) -> Result<(), Trouble> {
        let _lock = self.directory.lock().await?;
        let now = self.clock.now();
        for Found { entry, .. } in over {
            // Its node may have renewed it, or another one taken it.
            let held = self.directory.read(&entry.key, &now)?;
            if held.is_some_and(|held| held.is_over(&now)) {
                self.directory.remove(&entry.key)?;
            }
        }
        Ok(())
    }

    async fn compare_all(&mut self) -> Result<Vec<Event>, Trouble> {
        let found = self.read_all().await?;
        let mut gone = std::mem::take(&mut self.told);
        let mut events = Vec::new();
        for found in found {
            let key = found.entry.key.clone();
            let known = gone.remove(&key);
            self.told.insert(key, found.told());
            events.extend(news(known.map(|known| known.version), found.entry));
        }
        events.extend(gone.into_keys().map(|key| Event::Gone { key }));
        Ok(events)
    }

    /// Without the lock: a file is the old one or the new, and of a newer one there is news.
    fn compare(&mut self, keys: Vec<String>) -> Result<Vec<Event>, Trouble> {
        let now = self.clock.now();
        let mut events = Vec::new();
        for key in keys {
            let found = self
                .directory
                .read(&key, &now)?
                .filter(|found| !found.is_over(&now));
            let known = self.told.get(&key).map(|told| told.version);
            match found {
                Some(found) => {
                    self.told.insert(key, found.told());
                    events.extend(news(known, found.entry));
                }
                None if self.told.remove(&key).is_some() => events.push(Event::Gone { key }),
                _ => {}
            }
        }
        Ok(events)
    }

    fn until_next_end(&self) -> Option<Duration> {
        let next = self.told.values().filter_map(|told| told.ends).min()?;
        Some(next.saturating_sub(self.clock.now().elapsed))
    }
}

/// A version grows with each write, so one that fell tells that the key was gone in between:
/// somebody's own file, whose version is far above our count, was deleted and a lease made anew.
fn news(known: Option<i64>, entry: Entry) -> Vec<Event> {
    match known {
        Some(known) if known == entry.version => Vec::new(),
        Some(known) if known > entry.version => {
            let key = entry.key.clone();
            vec![Event::Gone { key }, Event::Put(entry)]
        }
        Some(_) | None => vec![Event::Put(entry)],
    }
}

impl Found {
    fn told(&self) -> Told {
        Told {
            version: self.entry.version,
            ends: self.ends,
        }
    }

    fn is_over(&self, now: &Moment) -> bool {
        self.ends.is_some_and(|ends| ends <= now.elapsed)
    }
}

/// A file's content, for fuzzing: its value is part of it.
pub(crate) fn read_anything(content: &str) {
    let (value, _) = stamp::split(content);
    assert!(content.contains(value));
}

const CONFIG: &str = "config";
const SUBNETS: &str = "subnets";

#[cfg(test)]
pub(crate) mod tests;
