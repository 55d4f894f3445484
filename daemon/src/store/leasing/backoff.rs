//! How long to wait before the next attempt.

use std::time::Duration;

use super::dice::Dice;

/// Doubles from `first` to `longest` with every failure in a row.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Anything up to the present step: many that collided part.
    pub fn scattered(&mut self, dice: &mut Dice) -> Duration {
        let step = self.step();
        dice.within(step)
    }

    /// At least half of the present step.
    pub fn patient(&mut self, dice: &mut Dice) -> Duration {
        let step = self.step();
        step / 2 + dice.within(step / 2)
    }

    fn step(&mut self) -> Duration {
        let step = self.first.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        step.min(self.longest)
    }
}
