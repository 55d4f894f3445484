//! How soon to try again after a failure: at once the first time, ever later while it lasts.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

#[derive(Debug, Default)]
pub(super) struct Pace {
    delay: Duration,
    until: Option<Instant>,
}

impl Pace {
    pub(super) fn failed(&mut self) {
        self.delay = (self.delay * 2).clamp(SHORTEST, LONGEST);
        self.until = Some(Instant::now() + spread(self.delay, super::random()));
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// May be dropped and called again: the end of the wait stands fixed.
    pub(super) async fn wait(&self) {
        if let Some(until) = self.until {
            sleep_until(until).await;
        }
    }
}

/// Between three quarters and the whole: what thousands of nodes lost at one moment, they do not
/// ask for at one moment.
fn spread(delay: Duration, random: u64) -> Duration {
    let quarter = delay / 4;
    let share = u32::try_from(random % 1024).unwrap_or_default();
    delay - quarter * share / 1024
}

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_from_a_tenth_of_a_second_to_five_and_ends_with_success() {
        let mut pace = Pace::default();
        let mut delays = Vec::new();
        for _ in 0..8 {
            pace.failed();
            delays.push(pace.delay.as_millis());
        }
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        pace.succeeded();
        assert_eq!(pace.until, None);
    }

    #[test]
    fn nodes_that_fail_together_come_back_apart() {
        let second = Duration::from_secs(1);
        assert_eq!(spread(second, 0), second);
        assert!(spread(second, 1023) >= second * 3 / 4);
        assert!(spread(second, 1023) < second * 4 / 5);
    }
}
