//! How the rest of the daemon reaches the loop: the newest view, who wants to follow, and the word
//! to stop.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::handover::Successor;
use crate::store::View;

/// Holds the newest view until the loop takes it; one that was not taken is forgotten.
#[derive(Debug, Default)]
pub struct Inbox {
    view: Mutex<Option<View>>,
    successor: Mutex<Option<Successor>>,
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

    pub(super) fn successor(&self) -> Option<Successor> {
        let successor = self.successor.lock();
        successor.unwrap_or_else(PoisonError::into_inner).take()
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

    /// The loop ends if it comes to serve, and goes on if not.
    pub fn step_aside(&self, successor: Successor) {
        let waiting = self.inbox.successor.lock();
        *waiting.unwrap_or_else(PoisonError::into_inner) = Some(successor);
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
