//! When to sleep. A wake-up of an idle processor costs more than all else that a packet meets on
//! its way, so a thread that will be needed again at once stays awake for a while.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a thread looks for more before it sleeps: nothing at first, longer when sleeps turn
/// out short, nothing again when they turn out long.
#[derive(Debug)]
pub(super) struct Linger {
    longest: Duration,
    window: Duration,
    asleep_since: Option<Instant>,
}

/// Then it is time to see whether all is to end.
const TRIES: usize = 10_000;
const SHORTEST: Duration = Duration::from_micros(10);

impl Linger {
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            window: Duration::ZERO,
            asleep_since: None,
        }
    }

    /// A sleep has ended.
    pub(super) fn woken(&mut self) {
        if let Some(since) = self.asleep_since.take() {
            self.learn(since.elapsed());
        }
    }

    /// Repeats `work` (which says whether there was any) until there is none. With few packets
    /// under way, as between those that wait for one another's answers, it is tried for some
    /// time; with many, another processor's work is never far, and trying would hold it up.
    pub(super) fn stay(&mut self, pace: &Pace, mut work: impl FnMut() -> bool) {
        if self.longest.is_zero() {
            return;
        }
        let mut now = Instant::now();
        if pace.is_slow() && !self.window.is_zero() {
            let mut until = now + self.window;
            for _ in 0..TRIES {
                if now >= until {
                    break;
                }
                rustix::thread::sched_yield();
                let worked = work();
                now = Instant::now();
                if worked {
                    until = now + self.window;
                }
            }
        }
        self.asleep_since = Some(now);
    }

    fn learn(&mut self, slept: Duration) {
        self.window = match slept < self.longest {
            true => (self.window * 2).clamp(SHORTEST.min(self.longest), self.longest),
            false => Duration::ZERO,
        };
    }
}

/// How many packets each direction of a queue moves at a time, on average.
#[derive(Debug, Default)]
pub(super) struct Pace {
    out: AtomicU32,
    into: AtomicU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    In,
}

/// A sixteenth of a packet.
const UNIT: u32 = 16;
const FEW: u32 = 4 * UNIT;

impl Pace {
    pub(super) fn note(&self, way: Way, packets: u64) {
        let average = match way {
            Way::Out => &self.out,
            Way::In => &self.into,
        };
        let packets = u32::try_from(packets).unwrap_or(0).min(MANY);
        let was = average.load(Ordering::Relaxed);
        average.store((was * 7 + packets * UNIT) / 8, Ordering::Relaxed);
    }

    fn is_slow(&self) -> bool {
        let few = |average: &AtomicU32| average.load(Ordering::Relaxed) < FEW;
        few(&self.out) && few(&self.into)
    }
}

/// More does not count for more, and the sum above stays within its bits.
const MANY: u32 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(100);

    #[test]
    fn short_sleeps_lengthen_the_window_and_a_long_one_closes_it() {
        let mut linger = Linger::new(LONGEST);
        let mut windows = Vec::new();
        for slept in [50, 50, 50, 50, 50, 50, 150] {
            linger.learn(Duration::from_micros(slept));
            windows.push(linger.window.as_micros());
        }
        assert_eq!(windows, [10, 20, 40, 80, 100, 100, 0]);
    }

    #[test]
    fn with_many_packets_under_way_nobody_stays() {
        let pace = Pace::default();
        let mut linger = Linger::new(LONGEST);
        linger.learn(Duration::ZERO);
        let mut tries = 0;
        linger.stay(&pace, || {
            tries += 1;
            tries < 5
        });
        assert!(tries >= 5);
        for way in [Way::Out, Way::In] {
            pace.note(way, 1000);
            assert!(!pace.is_slow());
            linger.stay(&pace, || panic!("stayed"));
            (0..64).for_each(|_| pace.note(way, 1));
            assert!(pace.is_slow());
        }
    }

    #[test]
    fn who_may_not_stay_does_not() {
        let mut linger = Linger::new(Duration::ZERO);
        linger.learn(Duration::ZERO);
        linger.stay(&Pace::default(), || panic!("stayed"));
        linger.woken();
        assert!(linger.window.is_zero());
    }
}
