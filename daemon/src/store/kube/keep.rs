//! Waits for all that happens, lets the state make up its mind, and hands on what follows: the
//! view, what is to be written, and what the operator is told.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::api::Tally;
use super::condition;
use super::conf_file::ConfFile;
use super::errands::{Done, Wanted};
use super::events::{self, Teller, Telling};
use super::follow::News;
use super::state::State;
use crate::reconcile::Report;
use crate::store::{Claim, Health, Peers, View};

pub(super) struct Keeper {
    pub(super) state: State,
    pub(super) file: ConfFile,
    pub(super) sets_condition: bool,
    /// After so long it counts that the node is not ready.
    pub(super) unready_for: Duration,
    pub(super) tally: Tally,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) done: mpsc::Receiver<Done>,
    /// None when nobody is left who could change it; so the next.
    pub(super) claim: Option<watch::Receiver<Option<Claim>>>,
    pub(super) report: Option<watch::Receiver<Report>>,
    pub(super) view: watch::Sender<View>,
    pub(super) want: watch::Sender<Wanted>,
    pub(super) tell: mpsc::Sender<Telling>,
    pub(super) name: watch::Sender<String>,
    pub(super) teller: Teller,
    pub(super) timing: Timing,
}

/// What there is to know of time.
pub(super) struct Timing {
    start: Instant,
    published: Option<Instant>,
    /// Something is different from the last view.
    differs: bool,
    unready_since: Option<Instant>,
    was_ready: bool,
}

impl Timing {
    pub(super) fn begin() -> Self {
        Self {
            start: Instant::now(),
            published: None,
            differs: true,
            unready_since: None,
            was_ready: false,
        }
    }

    /// At once after a quiet time, and within a storm whenever [`PAUSE`] has passed.
    fn due_at(&self) -> Option<Instant> {
        self.differs.then(|| {
            self.published
                .map_or_else(Instant::now, |last| last + PAUSE)
        })
    }
}

impl Keeper {
    pub(super) async fn run(mut self) {
        if let Some(claim) = &mut self.claim {
            self.state.claimed(claim.borrow_and_update().clone());
        }
        loop {
            if self.timing.due_at().is_some_and(|at| at <= Instant::now()) {
                self.publish();
            }
            self.attend_to_report();
            if !self.wait().await {
                return;
            }
        }
    }

    /// False when nobody wants views any more.
    async fn wait(&mut self) -> bool {
        let now = self.timing.start.elapsed();
        let times = [
            self.timing.due_at(),
            self.state.next().map(|at| self.timing.start + at),
            // Grace, and Events that had to wait.
            Some(Instant::now() + LOOK_AGAIN),
            self.timing
                .unready_since
                .map(|since| since + self.unready_for)
                .filter(|at| *at > Instant::now()),
        ];
        let at = times.into_iter().flatten().min();
        let time = async {
            match at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some(news) = self.news.recv() => {
                self.timing.differs |= self.state.take(news, now);
                self.take_what_waits(now);
            }
            Some(done) = self.done.recv() => {
                self.state.done(done);
                self.timing.differs = true;
            }
            claim = changed(&mut self.claim) => {
                if let Some(claim) = claim {
                    self.state.claimed(claim);
                    self.timing.differs = true;
                }
            }
            _ = changed(&mut self.report) => {}
            () = self.file.changed() => {
                self.state.config.read(self.file.text.clone());
                self.timing.differs = true;
            }
            () = time => {
                let due = self.state.next();
                if due.is_some_and(|at| at <= self.timing.start.elapsed()) {
                    self.state.pass(self.timing.start.elapsed());
                    self.timing.differs = true;
                }
            }
            () = self.view.closed() => return false,
        }
        true
    }

    /// So that a burst of changes is one view.
    fn take_what_waits(&mut self, now: Duration) {
        for _ in 0..AT_ONCE {
            match self.news.try_recv() {
                Ok(news) => self.timing.differs |= self.state.take(news, now),
                Err(_) => return,
            }
        }
    }

    fn publish(&mut self) {
        let now = self.timing.start.elapsed();
        self.timing.differs = false;
        self.timing.published = Some(Instant::now());
        if let Some(name) = &self.state.name {
            self.name.send_if_modified(|known| {
                let differs = known != name;
                known.clone_from(name);
                differs
            });
        }
        self.state.settle_config();
        let (own, annotations, mut notes) = self.state.own(now);
        notes.extend(self.state.config.note.clone());
        let before = self.view.borrow().clone();
        let view = View {
            conf: self.state.config.known.clone(),
            conf_changed: self.state.config.changed.clone(),
            own,
            peers: self.state.peers().map(|peers| same(&before, peers)),
            health: Health {
                trouble: self.state.trouble.clone(),
                ..self.tally.health()
            },
            notes,
            chosen: self.state.chosen(),
            ..View::default()
        };
        tell_new(&before, &view);
        self.view.send_replace(view);
        self.want(|wanted| wanted.annotations = annotations);
    }

    /// What the loop's report is to the cluster: a condition, and Events.
    fn attend_to_report(&mut self) {
        // Who claims nothing only looks.
        let Some(report) = self.report.as_ref().filter(|_| self.state.is_claimed()) else {
            return;
        };
        let report = report.borrow().clone();
        let now = Instant::now();
        match &report.ready {
            Ok(()) => (self.timing.unready_since, self.timing.was_ready) = (None, true),
            Err(_) => {
                self.timing.unready_since.get_or_insert(now);
            }
        }
        let since = self.timing.unready_since;
        let lasts = since.is_some_and(|since| now - since >= self.unready_for);
        let stands = self
            .state
            .unavailable
            .clone()
            .filter(|_| self.sets_condition);
        let condition = stands.and_then(|stands| {
            let ready = match &report.ready {
                Ok(()) => Ok(()),
                Err(why) => Err((why.as_str(), lasts)),
            };
            condition::patch(ready, stands.as_deref(), SystemTime::now())
        });
        self.want(|wanted| {
            // The moment it is said at is no reason to say it anew.
            if wanted.condition.is_some() != condition.is_some() || says_else(wanted, &condition) {
                wanted.condition = condition;
            }
        });
        let matters = events::matters(&self.view.borrow(), &report, lasts);
        let since = self.timing.start.elapsed();
        for telling in self.teller.due(matters, since, SystemTime::now()) {
            // Of a storm that cannot be told in time, the latest are left out.
            let _ = self.tell.try_send(telling);
        }
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        let node = self.state.name.clone().unwrap_or_default();
        let networks = self.state.config.asks;
        self.want.send_if_modified(|wanted| {
            let before = wanted.clone();
            change(wanted);
            wanted.networks = networks;
            let is_idle = wanted.annotations.is_none() && wanted.condition.is_none() && !networks;
            wanted.node = if is_idle { String::new() } else { node };
            *wanted != before
        });
    }
}

fn says_else(wanted: &Wanted, condition: &Option<serde_json::Value>) -> bool {
    let status = |patch: &serde_json::Value| patch["status"]["conditions"][0]["status"].clone();
    wanted.condition.as_ref().map(status) != condition.as_ref().map(status)
}

/// The very same, where it is the same: then nothing is planned anew.
fn same(before: &View, peers: Peers) -> Arc<Peers> {
    match &before.peers {
        Some(known) if **known == peers => Arc::clone(known),
        _ => Arc::new(peers),
    }
}

/// In the log, once each time that it comes up.
fn tell_new(before: &View, view: &View) {
    for note in view
        .notes
        .iter()
        .filter(|note| !before.notes.contains(note))
    {
        tracing::warn!("{note}");
    }
    if let Some(changed) = &view.conf_changed
        && before.conf_changed.as_ref() != Some(changed)
    {
        tracing::warn!("{changed}");
    }
}

/// The new value; None when there is nobody left who could send one.
async fn changed<T: Clone>(receiver: &mut Option<watch::Receiver<T>>) -> Option<T> {
    let Some(open) = receiver else {
        return pending().await;
    };
    if open.changed().await.is_err() {
        *receiver = None;
        return None;
    }
    Some(open.borrow_and_update().clone())
}

/// The most that coalescing delays a view.
const PAUSE: Duration = Duration::from_millis(5);
/// Changes taken without a view between them.
const AT_ONCE: usize = 1000;
const LOOK_AGAIN: Duration = Duration::from_secs(30);
