//! How the rest of the daemon reaches the loop: the newest view, and the word to stop.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::View;

/// Holds the newest view until the loop takes it; one that was not taken is forgotten.
#[derive(Debug, Default)]
pub struct Inbox {
    view: Mutex<Option<View>>,
    stopped: AtomicBool,
}

/// The sender's end.
#[derive(Debug)]
pub struct Post {
    inbox: Arc<Inbox>,
    nudge: OwnedFd,
}

impl Inbox {
    pub(super) fn take(&self) -> Option<View> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.take()
    }

    pub(super) fn has_news(&self) -> bool {
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.is_some()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Post {
    pub(super) fn new(inbox: Arc<Inbox>, nudge: OwnedFd) -> Self {
        Self { inbox, nudge }
    }

    pub fn send(&self, view: View) {
        let mut newest = self
            .inbox
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *newest = Some(view);
        drop(newest);
        self.wake();
    }

    pub fn stop(&self) {
        self.inbox.stopped.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // It fails only when it is full, and then the loop is awake.
        let _ = rustix::io::write(&self.nudge, &1u64.to_ne_bytes());
    }
}
