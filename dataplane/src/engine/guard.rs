//! What keeps a flood from taking the place of peers' packets in a socket's queue.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::peer::PeerTable;
use crate::rungs::{Notice, Notices};
use crate::{sieve, sys, udp};

/// Watches how much of what arrives is refused. When it is most, the kernel is told to look at
/// more than at the sender, for some time.
#[derive(Debug, Default)]
pub(super) struct Guard {
    seen: usize,
    refused: usize,
    strict_since: Option<Instant>,
}

/// What the guard asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Strict,
    Lenient,
}

/// How much is looked at before a judgement.
const SAMPLE: usize = 1024;
/// How long it takes until a look is taken whether the flood is over.
const STRICT: Duration = Duration::from_secs(10);

impl Guard {
    pub(super) fn note(
        &mut self,
        seen: usize,
        refused: usize,
        now: impl FnOnce() -> Instant,
    ) -> Option<Ask> {
        self.seen += seen;
        self.refused += refused;
        if self.seen < SAMPLE {
            return None;
        }
        let flooded = self.refused > self.seen / 2;
        (self.seen, self.refused) = (0, 0);
        match self.strict_since {
            None if flooded => {
                self.strict_since = Some(now());
                Some(Ask::Strict)
            }
            Some(since) if now().duration_since(since) >= STRICT => {
                self.strict_since = None;
                Some(Ask::Lenient)
            }
            _ => None,
        }
    }

    /// Somebody else has told the kernel anew.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Has the kernel drop what comes from none of the peers, or more.
pub(super) fn sieve(sockets: &[OwnedFd], table: &PeerTable, ask: Ask, notices: &Notices) {
    for socket in sockets {
        let (v6, senders) = (udp::is_v6(socket), table.senders().iter().copied());
        let program = match ask {
            Ask::Lenient => sieve::program(v6, senders),
            Ask::Strict => sieve::strict_program(v6, senders, table.own()),
        };
        if sys::attach_filter(socket.as_fd(), &program).is_err() {
            notices.give(Notice::FilterRefused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_makes_it_strict_for_some_time() {
        let start = Instant::now();
        let mut guard = Guard::default();
        assert_eq!(guard.note(1000, 1000, || start), None);
        assert_eq!(guard.note(24, 24, || start), Some(Ask::Strict));
        assert_eq!(guard.note(2000, 0, || start + STRICT / 2), None);
        assert_eq!(guard.note(2000, 0, || start + STRICT), Some(Ask::Lenient));
        assert_eq!(guard.note(2000, 2000, || start + STRICT), Some(Ask::Strict));
    }

    #[test]
    fn ordinary_traffic_leaves_it_alone() {
        let mut guard = Guard::default();
        for _ in 0..100 {
            assert_eq!(guard.note(1000, 400, || panic!("asked for the time")), None);
        }
    }
}
