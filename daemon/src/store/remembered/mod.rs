//! What a store knew is kept on disk, and handed on at the next start until the store answers:
//! a daemon that starts while its store is away, or slow, serves what it served before.
//!
//! Memory only adds. A view that is partly remembered says so, and nothing is removed from the
//! kernel for its sake: what came since the memory was written is not in it.

mod page;

use std::future::{Future, pending};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::{Claim, Own, Store, View};
use page::{Memory, Page};

pub use page::{BESIDE, FILE, identity};

/// A store with a memory.
#[expect(missing_debug_implementations, reason = "a store has nothing to show")]
pub struct Remembered {
    store: Box<dyn Store>,
    page: Page,
}

impl Remembered {
    /// `scope` names the store and this node: what was remembered of another counts for nothing.
    pub fn new(store: Box<dyn Store>, state_dir: PathBuf, scope: String) -> Self {
        Self {
            store,
            page: Page::new(state_dir, scope),
        }
    }
}

impl Store for Remembered {
    fn run(
        self: Box<Self>,
        claim: watch::Receiver<Option<Claim>>,
        view: watch::Sender<View>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let Self { store, page } = *self;
            let memory = page.read(SystemTime::now());
            if let Some(memory) = &memory {
                view.send_replace(merged(View::default(), memory));
            }
            let (tell, told) = watch::channel(View::default());
            let mut between = Between {
                scribe: Scribe::new(page, memory.clone()),
                memory,
                told,
                view,
            };
            tokio::select! {
                () = store.run(claim, tell) => {}
                () = between.run() => {}
            }
        })
    }
}

/// Stands between the store and those who follow it.
struct Between {
    /// Until the store has answered.
    memory: Option<Memory>,
    scribe: Scribe,
    told: watch::Receiver<View>,
    view: watch::Sender<View>,
}

impl Between {
    async fn run(&mut self) {
        loop {
            tokio::select! {
                changed = self.told.changed() => match changed {
                    Ok(()) => self.pass_on(),
                    Err(_) => return,
                },
                () = self.scribe.due() => self.scribe.write(),
                () = self.view.closed() => return,
            }
        }
    }

    fn pass_on(&mut self) {
        let told = self.told.borrow_and_update().clone();
        let view = match &self.memory {
            Some(memory) => merged(told, memory),
            None => told,
        };
        if view.remembered.is_none() {
            self.memory = None;
            self.scribe.take(&view);
        }
        self.view.send_replace(view);
    }
}

/// What the store has answered counts; the rest is as it was remembered.
fn merged(told: View, memory: &Memory) -> View {
    let mut view = told;
    let mut trouble = None;
    let conf_waits = match &view.conf {
        Some(Ok(_)) => false,
        Some(Err(wrong)) => {
            trouble = Some(wrong.clone());
            true
        }
        None => true,
    };
    let own_waits = view.own == Own::Unclaimed;
    // Before our own lease is known for ours, it is among the others.
    let peers_wait = own_waits || view.peers.is_none();
    // Equal values are handed on as the very same: then nothing is planned anew for them.
    if conf_waits || view.conf.as_ref() == Some(&Ok(Arc::clone(&memory.conf))) {
        view.conf = Some(Ok(Arc::clone(&memory.conf)));
    }
    if own_waits && let Some(own) = &memory.own {
        view.own = Own::Held(Arc::clone(own));
    }
    if peers_wait || view.peers.as_ref() == Some(&memory.peers) {
        view.peers = Some(Arc::clone(&memory.peers));
    }
    if conf_waits || own_waits || peers_wait {
        view.remembered = Some(memory.written);
        view.health.trouble = trouble.or(view.health.trouble);
    }
    view
}

/// Writes what is new, not at once and not too often: a storm is one page.
struct Scribe {
    page: Arc<Page>,
    kept: Option<Memory>,
    waiting: Option<Memory>,
    due: Option<Instant>,
    last: Option<Instant>,
    writing: Option<JoinHandle<Result<(), String>>>,
    has_failed: bool,
}

impl Scribe {
    /// `kept` is what the page says.
    fn new(page: Page, kept: Option<Memory>) -> Self {
        Self {
            page: Arc::new(page),
            kept,
            waiting: None,
            due: None,
            last: None,
            writing: None,
            has_failed: false,
        }
    }

    fn take(&mut self, view: &View) {
        let Some(memory) = Memory::of(view, SystemTime::now()) else {
            return;
        };
        let newest = self.waiting.as_ref().or(self.kept.as_ref());
        if newest.is_some_and(|known| known.says_the_same(&memory)) {
            return;
        }
        self.waiting = Some(memory);
        let soon = Instant::now() + SOON;
        let apart = self.last.map(|last| last + APART);
        self.due = self.due.or_else(|| apart.max(Some(soon)));
    }

    /// When there is something to do: a page to write, or one that was written.
    async fn due(&mut self) {
        if let Some(writing) = &mut self.writing {
            let written = writing.await;
            self.writing = None;
            self.judge(written.unwrap_or_else(|why| Err(why.to_string())));
        }
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// On a thread of its own: a disk that is slow keeps nobody waiting.
    fn write(&mut self) {
        self.due = None;
        self.last = Some(Instant::now());
        let Some(memory) = self.waiting.take() else {
            return;
        };
        let (page, copy) = (Arc::clone(&self.page), memory.clone());
        self.writing = Some(tokio::task::spawn_blocking(move || page.write(&copy)));
        self.kept = Some(memory);
    }

    fn judge(&mut self, written: Result<(), String>) {
        match written {
            Ok(()) => self.has_failed = false,
            Err(_) if self.has_failed => {}
            Err(why) => {
                self.has_failed = true;
                tracing::warn!(
                    "{why}; a start while the store is away will not know the other nodes"
                );
            }
        }
    }
}

/// What comes together is written together.
const SOON: Duration = Duration::from_millis(200);
/// The most that may have changed unwritten when the daemon is killed.
const APART: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
