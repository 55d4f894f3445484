//! How a daemon comes by its node, which has a place for one: it takes the lock and begins, or it
//! prepares everything behind the one that runs, and begins when that one has stepped aside.

use std::sync::Arc;

use tokio::sync::oneshot;
use weft_dataplane::Fds;

use crate::handover::Predecessor;
use crate::lock::{self, Lock};
use crate::notify::Notifier;
use crate::options::Options;
use crate::reconcile::Begin;

#[derive(Debug)]
pub enum Seat {
    Taken(Lock),
    Behind(Predecessor),
}

impl Seat {
    pub fn find(options: &Options) -> Result<Self, lock::Error> {
        match Lock::take(&options.run_dir) {
            Ok(lock) => Ok(Self::Taken(lock)),
            Err(lock::Error::Held { .. }) if options.take_over => {
                Ok(Self::Behind(Predecessor::in_dir(&options.run_dir)))
            }
            Err(error) => Err(error),
        }
    }

    /// What the loop asks before it programs anything, and where the lock is to be had from then
    /// on. `left` is what an earlier run has left to go on with.
    pub fn begin(
        self,
        notifier: Arc<Notifier>,
        left: Option<Fds>,
    ) -> (Begin, oneshot::Receiver<Lock>) {
        let (seat, seated) = oneshot::channel();
        let mut seat = Some(seat);
        let mut sit = move |lock| {
            let seat = seat.take();
            // Who does not wait for it any more is about to end.
            drop(seat.map(|seat| seat.send(lock)));
        };
        let begin: Begin = match self {
            Self::Taken(lock) => {
                sit(lock);
                let mut left = left;
                Box::new(move || Ok(left.take()))
            }
            Self::Behind(predecessor) => Box::new(move || {
                let settle = || {
                    if let Err(error) = notifier.main_process() {
                        tracing::warn!("tell the service manager: {error}");
                    }
                };
                let (lock, fds) = predecessor.step_aside(settle)?;
                tracing::info!("the weftd that ran here has stepped aside");
                sit(lock);
                Ok(fds)
            }),
        };
        (begin, seated)
    }
}
