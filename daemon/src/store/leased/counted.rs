//! A registry whose calls are counted and timed.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::Health;
use crate::store::registry::{Change, Changes, Listing, Outcome, Registry, Trouble};

pub(super) struct Counted<R> {
    registry: R,
    health: Health,
}

impl<R: Registry> Counted<R> {
    pub(super) fn new(registry: R) -> Self {
        Self {
            registry,
            health: Health::default(),
        }
    }

    pub(super) fn health(&self) -> Health {
        Health {
            reconnects: self.registry.reconnects(),
            ..self.health.clone()
        }
    }

    pub(super) async fn list(&mut self) -> Result<Listing, Trouble> {
        let begun = Instant::now();
        let answer = self.registry.list().await;
        self.count(begun.elapsed(), &answer);
        answer
    }

    pub(super) async fn commit(&mut self, change: Change) -> Result<Outcome, Trouble> {
        let begun = Instant::now();
        let answer = self.registry.commit(change).await;
        self.count(begun.elapsed(), &answer);
        answer
    }

    /// Waiting is no call; what it meets counts all the same.
    pub(super) fn changes(&mut self) -> impl Future<Output = Result<Changes, Trouble>> {
        let Self { registry, health } = self;
        async {
            let changes = registry.changes().await;
            if let Err(trouble) = &changes {
                health.failures += 1;
                tell(health, trouble);
            }
            changes
        }
    }

    fn count<T>(&mut self, spent: Duration, answer: &Result<T, Trouble>) {
        let health = &mut self.health;
        health.calls += 1;
        health.spent += spent;
        health.slowest = health.slowest.max(spent);
        match answer {
            Ok(_) => {
                if health.trouble.take().is_some() {
                    tracing::info!("the store answers again");
                }
            }
            Err(trouble) => {
                health.failures += 1;
                tell(health, trouble);
            }
        }
    }
}

/// Once, however often it is met in a row.
fn tell(health: &mut Health, trouble: &Trouble) {
    let text = trouble.to_string();
    if health.trouble.as_ref() != Some(&text) {
        tracing::warn!("the store is in trouble: {text}");
        health.trouble = Some(text);
    }
}
