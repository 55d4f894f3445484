//! The search for the highest rate at which next to nothing is lost.
use super::Outcome;

/// Of what was sent.
const TOLERATED: f64 = 0.001;
/// The search ends when it knows the rate this well.
const PRECISE_ENOUGH: f64 = 1.05;
/// A sender that falls short by more than this cannot send faster.
const KEPT_UP: f64 = 0.97;
/// Below this part of what can be sent nobody looks.
const LOWEST: f64 = 1.0 / 512.0;

/// Datagrams a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub rate: f64,
    /// Nothing was lost as fast as the sender could go.
    pub is_senders_limit: bool,
}

/// `probe` sends at the rate it is given, or without one as fast as it can.
pub fn search(mut probe: impl FnMut(Option<f64>) -> Outcome) -> Found {
    let flood = probe(None);
    if flood.loss <= TOLERATED {
        return Found {
            rate: flood.sent,
            is_senders_limit: true,
        };
    }
    let (mut good, mut bad) = (flood.sent * LOWEST, flood.sent);
    let mut found = Found {
        rate: 0.0,
        is_senders_limit: false,
    };
    while bad / good > PRECISE_ENOUGH {
        let rate = (good * bad).sqrt();
        // A moment's disturbance is not the path's fault: what is bad is bad twice.
        let outcome = (0..2)
            .map(|_| probe(Some(rate)))
            .find(|o| o.loss <= TOLERATED);
        match outcome {
            Some(outcome) => {
                let is_senders_limit = outcome.sent < rate * KEPT_UP;
                if outcome.sent > found.rate {
                    found = Found {
                        rate: outcome.sent,
                        is_senders_limit,
                    };
                }
                if is_senders_limit {
                    bad = rate;
                } else {
                    good = rate;
                }
            }
            None => bad = rate,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that carries `capacity` and a sender that manages `fastest`.
    fn path(capacity: f64, fastest: f64) -> impl FnMut(Option<f64>) -> Outcome {
        move |rate| {
            let sent = rate.unwrap_or(fastest).min(fastest);
            let received = sent.min(capacity);
            Outcome {
                sent,
                received,
                loss: 1.0 - received / sent,
            }
        }
    }

    #[test]
    fn it_finds_the_capacity() {
        let found = search(path(50_000.0, 400_000.0));
        assert!((47_000.0..=50_100.0).contains(&found.rate), "{found:?}");
        assert!(!found.is_senders_limit);
    }

    #[test]
    fn a_path_faster_than_the_sender_is_as_fast_as_the_sender() {
        let found = search(path(1e9, 90_000.0));
        assert!(found.is_senders_limit);
        assert!((found.rate - 90_000.0).abs() < 1.0);
    }

    #[test]
    fn one_disturbance_does_not_mislead_it() {
        let mut path = path(50_000.0, 400_000.0);
        let mut probes = 0;
        let found = search(|rate| {
            probes += 1;
            let outcome = path(rate);
            if probes == 6 {
                return Outcome {
                    loss: 0.5,
                    ..outcome
                };
            }
            outcome
        });
        assert!((45_000.0..=50_100.0).contains(&found.rate), "{found:?}");
    }

    #[test]
    fn a_path_that_carries_nothing_has_no_rate() {
        let found = search(path(0.0, 400_000.0));
        assert!(found.rate.abs() < 1e-9);
    }
}
