//! A store made of a table of keys: lists them, gets this node its lease, follows what changes,
//! and hands on views. All decisions are [`Leasing`]'s; here are the clock and the waiting.

mod config;
mod counted;
mod missing;
mod publisher;

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::leasing::backoff::Backoff;
use super::leasing::dice::Dice;
use super::leasing::table::Table;
use super::leasing::{Leasing, Step, Terms};
use super::registry::{Change, Changes, Event, Registry, Trouble};
use super::{Claim, Store, View};
use config::Config;
use counted::Counted;
use missing::Missing;
use publisher::Publisher;

#[derive(Debug)]
pub struct Leased<R> {
    registry: R,
    terms: Terms,
    seed: u64,
}

impl<R: Registry> Leased<R> {
    /// `margin` is how long before its end a lease is renewed; `seed` should differ from node to
    /// node, since nodes that start at once choose by it.
    pub fn new(registry: R, margin: Duration, seed: u64) -> Self {
        let terms = Terms {
            lasts: LEASE_LASTS,
            margin,
        };
        Self {
            registry,
            terms,
            seed,
        }
    }
}

impl<R: Registry + 'static> Store for Leased<R> {
    fn run(
        self: Box<Self>,
        claim: watch::Receiver<Option<Claim>>,
        view: watch::Sender<View>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let Self {
                registry,
                terms,
                seed,
            } = *self;
            let mut running = Running {
                config: Config::new(registry.how_to_configure()),
                registry: Counted::new(registry),
                leasing: Leasing::new(terms, seed),
                table: Table::default(),
                missing: Missing::default(),
                listed: false,
                claim: Some(claim),
                start: Instant::now(),
                changes_at: None,
                failing: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
                dice: Dice::new(!seed),
                publisher: Publisher::new(view),
            };
            running.run().await;
        })
    }
}

struct Running<R> {
    registry: Counted<R>,
    config: Config,
    leasing: Leasing,
    table: Table,
    missing: Missing,
    /// The table was filled once.
    listed: bool,
    /// None when nobody is left who could change it.
    claim: Option<watch::Receiver<Option<Claim>>>,
    start: Instant,
    /// Changes are not asked for until then: the last attempt failed.
    changes_at: Option<Instant>,
    failing: Backoff,
    dice: Dice,
    publisher: Publisher,
}

enum Woken {
    Time,
    Claim(bool),
    Changes(Result<Changes, Trouble>),
}

impl<R: Registry> Running<R> {
    async fn run(&mut self) {
        if let Some(claim) = &mut self.claim {
            self.leasing.claimed(claim.borrow_and_update().clone());
        }
        while !self.publisher.is_closed() {
            if let Some(Ok(conf)) = self.config.known() {
                self.leasing.configured(conf.clone());
            }
            let step = self.leasing.next(&self.table, self.start.elapsed());
            self.publisher.notice(&self.leasing, self.start.elapsed());
            match step {
                Step::List => self.list().await,
                Step::Commit(change) => self.commit(change).await,
                Step::Wait(until) => {
                    let until = until.map(|until| self.start + until);
                    self.wait(until).await;
                }
            }
        }
    }

    async fn list(&mut self) {
        self.publish();
        match self.registry.list().await {
            Ok(listing) => {
                self.config.read(listing.config.as_ref());
                let before = self.missing.is_after_outage().then(|| self.table.clone());
                let changed = self.table.replace(listing.leases);
                if let Some(before) = before {
                    self.missing.listed(before, &self.table);
                }
                self.publisher.peers_differ |= changed | !self.listed;
                self.listed = true;
                self.changes_at = None;
                self.leasing.listed();
            }
            Err(_) => {
                self.missing.outage();
                self.leasing.list_failed(self.start.elapsed());
            }
        }
        self.publisher.differs = true;
    }

    async fn commit(&mut self, change: Change) {
        self.publish();
        let asked_at = self.start.elapsed();
        let answer = self.registry.commit(change).await;
        let now = self.start.elapsed();
        self.leasing
            .answered(&mut self.table, answer, asked_at, now);
        // An answer may tell of somebody else's key.
        self.publisher.peers_differ = true;
    }

    async fn wait(&mut self, until: Option<Instant>) {
        if self
            .publisher
            .due_at()
            .is_some_and(|at| at <= Instant::now())
        {
            self.publish();
        }
        let look_again = self
            .config
            .is_unusable()
            .then(|| Instant::now() + LOOK_AGAIN);
        let times = [
            until,
            self.publisher.due_at(),
            look_again,
            self.changes_at,
            self.missing.until(),
        ];
        let at = times.into_iter().flatten().min();
        match self.wake(at).await {
            Woken::Time => {
                self.publisher.peers_differ |= self.missing.give_up(Instant::now());
                self.changes_at = self.changes_at.filter(|at| *at > Instant::now());
                if look_again.is_some_and(|at| at <= Instant::now()) {
                    self.leasing.missed();
                }
            }
            Woken::Claim(true) => {
                if let Some(claim) = &mut self.claim {
                    self.leasing.claimed(claim.borrow_and_update().clone());
                    self.publisher.peers_differ = true;
                }
            }
            Woken::Claim(false) => self.claim = None,
            Woken::Changes(changes) => self.take(changes),
        }
        self.take_what_waits().await;
    }

    async fn wake(&mut self, at: Option<Instant>) -> Woken {
        let follows = self.listed && self.changes_at.is_none();
        let Self {
            registry, claim, ..
        } = self;
        let time = async {
            match at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        let claim = async {
            match claim {
                Some(claim) => claim.changed().await.is_ok(),
                None => pending().await,
            }
        };
        let changes = async {
            match follows {
                true => registry.changes().await,
                false => pending().await,
            }
        };
        tokio::select! {
            changes = changes => Woken::Changes(changes),
            claim = claim => Woken::Claim(claim),
            () = time => Woken::Time,
            () = self.publisher.view.closed() => Woken::Time,
        }
    }

    /// So that a burst of changes is one view.
    async fn take_what_waits(&mut self) {
        for _ in 0..AT_ONCE {
            if !self.listed || self.changes_at.is_some() {
                return;
            }
            let changes = {
                let mut next = pin!(self.registry.changes());
                poll_fn(|context| match next.as_mut().poll(context) {
                    Poll::Ready(changes) => Poll::Ready(Some(changes)),
                    Poll::Pending => Poll::Ready(None),
                })
                .await
            };
            match changes {
                Some(changes) => self.take(changes),
                None => return,
            }
        }
    }

    fn publish(&mut self) {
        let health = self.registry.health();
        let now = self.start.elapsed();
        let listed = self.listed.then_some(&self.table);
        self.publisher.publish(
            &self.config,
            &self.leasing,
            listed,
            &self.missing,
            health,
            now,
        );
    }

    fn take(&mut self, changes: Result<Changes, Trouble>) {
        match changes {
            Ok(Changes::Events(events)) => {
                self.failing.reset();
                for event in events {
                    self.take_event(event);
                }
            }
            Ok(Changes::Missed) => {
                self.failing.reset();
                self.leasing.missed();
            }
            // Once it answers again, a listing says so soonest.
            Err(_) => {
                self.missing.outage();
                self.changes_at = Some(Instant::now() + self.failing.patient(&mut self.dice));
                self.leasing.missed();
                self.publisher.differs = true;
            }
        }
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Put(entry) if entry.key == CONFIG => self.config.read(Some(&entry)),
            Event::Gone { key } if key == CONFIG => self.config.read(None),
            event => {
                if let Event::Gone { key } = &event {
                    self.missing.deleted(key);
                }
                self.publisher.peers_differ |= self.table.apply(event);
                return;
            }
        }
        self.publisher.differs = true;
    }
}

const CONFIG: &str = "config";
/// As flanneld's: a day.
const LEASE_LASTS: Duration = Duration::from_secs(86_400);
/// How often a configuration that is missing or wrong is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Changes taken without a view between them.
const AT_ONCE: usize = 1000;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod troubled;
