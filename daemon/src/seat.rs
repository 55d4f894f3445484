//! How a daemon comes by its node, which has a place for one: it takes the lock and begins, or it
//! prepares everything behind the one that runs, begins when that one has stepped aside, and is
//! seated when it serves.

use tokio::sync::oneshot;
use weft_dataplane::Fds;

use crate::handover::{Aside, Predecessor, Turn};
use crate::lock::{self, Lock};
use crate::options::Options;
use crate::reconcile::{Begin, Beginning};

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
    pub fn begin(self, left: Option<Fds>) -> (Begin, oneshot::Receiver<Lock>) {
        let (seat, seated) = oneshot::channel();
        // Who does not wait for it any more is about to end.
        let sit = move |lock| drop(seat.send(lock));
        let begin: Begin = match self {
            Self::Taken(lock) => {
                sit(lock);
                let mut left = left;
                Box::new(move || Ok(Beginning::with(left.take())))
            }
            Self::Behind(predecessor) => {
                let mut sit = Some(sit);
                Box::new(move || {
                    let aside = predecessor.step_aside()?;
                    let sit = sit.take();
                    let sit = move |lock| {
                        if let Some(sit) = sit {
                            sit(lock);
                        }
                    };
                    match aside {
                        Aside::Gone(lock) => {
                            sit(lock);
                            Ok(Beginning::with(None))
                        }
                        Aside::Waits(turn) => Ok(take_turn(turn, sit)),
                    }
                })
            }
        };
        (begin, seated)
    }
}

fn take_turn(mut turn: Turn, sit: impl FnOnce(Lock) + Send + 'static) -> Beginning {
    tracing::info!("the weftd that runs here has stepped aside");
    let path = turn.take_path();
    let conclude = move |programmed: &Result<(), String>| turn.conclude(programmed).map(sit);
    Beginning {
        conclude: Some(Box::new(conclude)),
        ..Beginning::with(path)
    }
}
