//! How the loop begins and ends where one daemon follows another.

use weft_dataplane::Fds;

use super::Reconciler;
use super::watch::Dirty;
use crate::handover::Successor;

/// Asked once, when there is something to program. The error says why we have to wait.
pub type Begin = Box<dyn FnMut() -> Result<Beginning, String> + Send>;

/// What is gone on with.
#[expect(missing_debug_implementations, reason = "it holds a closure")]
pub struct Beginning {
    /// The packet path, if it was handed over.
    pub path: Option<Fds>,
    /// Where somebody has stepped aside: told how the first programming went. The error is why
    /// that one goes on, and then this loop must not.
    pub conclude: Option<Conclude>,
}

pub type Conclude = Box<dyn FnOnce(&Result<(), String>) -> Result<(), String> + Send>;

impl Beginning {
    pub fn with(path: Option<Fds>) -> Self {
        Self {
            path,
            conclude: None,
        }
    }
}

/// Why the loop has ended. What it has programmed stays.
#[derive(Debug)]
pub enum Ended {
    Stopped,
    /// It serves, and waits for this process's end.
    Followed(Successor),
    /// Whoever was to be followed goes on.
    Superfluous(String),
}

impl Reconciler {
    pub(super) fn begin(&mut self) -> Result<(), String> {
        if self.has_begun {
            return Ok(());
        }
        let beginning = (self.outbox.begin)()?;
        if let Some(fds) = beginning.path {
            self.path.inherit(fds);
        }
        self.conclude = beginning.conclude;
        self.has_begun = true;
        Ok(())
    }

    /// Nobody is to have two daemons move packets: what we hold rests before another goes on.
    pub(super) fn conclude(&mut self, programmed: &Result<(), String>) -> Result<(), String> {
        let Some(conclude) = self.conclude.take() else {
            return Ok(());
        };
        let held = programmed.is_err().then(|| self.path.pause()).flatten();
        let concluded = conclude(programmed);
        match (&concluded, held) {
            (Ok(()), Some(fds)) => self.path.resume(fds),
            (Ok(()), None) => {}
            (Err(why), _) => {
                drop(self.path.pause());
                self.superfluous = Some(why.clone());
            }
        }
        concluded
    }

    /// None if it does not come to serve, and this loop goes on: packets first, since they wait.
    pub(super) fn step_aside(&mut self, mut successor: Successor) -> Option<Successor> {
        tracing::info!("a successor was started: packets wait for it");
        let fds = self.path.pause();
        match successor.give(fds.as_ref()) {
            Ok(()) => {
                tracing::info!("the successor serves; what is programmed stays");
                return Some(successor);
            }
            Err(why) => tracing::warn!("the successor {why}; this weftd goes on"),
        }
        if let Some(fds) = fds {
            self.path.resume(fds);
        }
        // It may have changed anything.
        self.dirty.merge(Dirty::ALL);
        self.knows = false;
        self.served = None;
        None
    }
}
