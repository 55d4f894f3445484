//! Others at our key.

use std::time::Duration;

use super::backoff::Backoff;
use super::dice::Dice;

/// Somebody else writes or deletes our key. The first time it is put right at once; then with
/// growing patience, so that two who disagree do not write in turns as fast as they can.
#[derive(Debug)]
pub(in crate::store) struct Disturbed {
    backoff: Backoff,
    last: Option<Duration>,
    repeatedly: bool,
    told: Option<String>,
}

impl Disturbed {
    pub(in crate::store) fn new() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(60)),
            last: None,
            repeatedly: false,
            told: None,
        }
    }

    /// What to tell: until it is put right, and for a while if it happened more than once.
    pub(in crate::store) fn told(&self, put_right: bool, now: Duration) -> Option<&str> {
        let recent = self
            .last
            .is_some_and(|last| now.saturating_sub(last) < TOLD_FOR);
        let over = !recent || (put_right && !self.repeatedly);
        self.told.as_deref().filter(|_| !over)
    }

    /// When to put it right.
    pub(in crate::store) fn until(
        &mut self,
        told: String,
        now: Duration,
        dice: &mut Dice,
    ) -> Duration {
        let quiet = self
            .last
            .is_none_or(|last| now.saturating_sub(last) > QUIET);
        self.last = Some(now);
        self.repeatedly = !quiet;
        self.told = Some(told);
        if quiet {
            self.backoff.reset();
            return now;
        }
        now + self.backoff.patient(dice)
    }
}
/// After so long without a disturbance the next one is the first.
const QUIET: Duration = Duration::from_secs(60);
pub(in crate::store) const TOLD_FOR: Duration = Duration::from_secs(600);
