//! What is counted: each thread adds to its own numbers, and a reader sums them up.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::packet::Malformed;
use crate::rungs::Notice;

/// Everything since the engine's start (a peer's since it was first heard of).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// From the pods to the peers.
    pub sent: Direction,
    /// From the peers to the pods.
    pub received: Direction,
    /// Datagrams that the kernel kept from the sockets: a stranger's, or one too many.
    pub unheard: u64,
    pub peers: Vec<PeerStats>,
    /// What had to be done without.
    pub notices: Vec<Notice>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Direction {
    pub packets: u64,
    pub bytes: u64,
    /// ICMP errors that were sent because of its packets.
    pub answers: u64,
    /// How many system calls moved 1, 2 to 3, 4 to 7 ... packets; the last one counts the rest.
    pub batches: [u64; BATCH_SIZES],
    drops: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStats {
    pub address: IpAddr,
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
}

pub const BATCH_SIZES: usize = 9;

/// Why a packet went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Drop {
    /// A datagram longer than any packet.
    CutOff,
    /// Marked as congested on the underlay, while its flow does not know such marks.
    EcnViolation,
    /// Its last hop was used up.
    Expired,
    /// The destination is none of ours.
    ForeignDestination,
    /// The inner source does not belong to the peer that sent it.
    ForeignSource,
    Malformed(Malformed),
    /// No peer has the destination.
    NoPeer,
    /// The peer's address is of a family that we have no address of.
    NoSocket,
    /// The kernel did not take the datagram.
    SendFailed,
    /// Longer than the way to the peer takes, and not to be fragmented.
    TooBig,
    /// The TUN did not take the packet.
    TunFailed,
    /// The datagram comes from an address of no peer.
    UnknownSender,
}

impl Drop {
    pub fn all() -> impl Iterator<Item = Self> {
        let malformed = Malformed::ALL.into_iter().map(Self::Malformed);
        SIMPLE.into_iter().chain(malformed)
    }

    fn index(self) -> usize {
        match self {
            Self::CutOff => 0,
            Self::EcnViolation => 1,
            Self::Expired => 2,
            Self::ForeignDestination => 3,
            Self::ForeignSource => 4,
            Self::NoPeer => 5,
            Self::NoSocket => 6,
            Self::SendFailed => 7,
            Self::TooBig => 8,
            Self::TunFailed => 9,
            Self::UnknownSender => 10,
            Self::Malformed(why) => SIMPLE.len() + why as usize,
        }
    }

    /// A label for a metric.
    pub fn name(self) -> &'static str {
        match self {
            Self::CutOff => "cut_off",
            Self::EcnViolation => "ecn_violation",
            Self::Expired => "expired",
            Self::ForeignDestination => "foreign_destination",
            Self::ForeignSource => "foreign_source",
            Self::Malformed(_) => "malformed",
            Self::NoPeer => "no_peer",
            Self::NoSocket => "no_socket",
            Self::SendFailed => "send_failed",
            Self::TooBig => "too_big",
            Self::TunFailed => "tun_failed",
            Self::UnknownSender => "unknown_sender",
        }
    }
}

impl Direction {
    pub fn dropped(&self, why: Drop) -> u64 {
        self.drops.get(why.index()).copied().unwrap_or(0)
    }

    /// The reasons that there were.
    pub fn drops(&self) -> impl Iterator<Item = (Drop, u64)> + '_ {
        let all = Drop::all().map(|why| (why, self.dropped(why)));
        all.filter(|(_, count)| *count > 0)
    }

    pub(crate) fn add(&mut self, counters: &Counters) {
        self.packets += counters.packets.read();
        self.bytes += counters.bytes.read();
        self.answers += counters.answers.read();
        for (sum, counter) in self.batches.iter_mut().zip(&counters.batches) {
            *sum += counter.read();
        }
        self.drops.resize(REASONS, 0);
        for (sum, counter) in self.drops.iter_mut().zip(&counters.drops) {
            *sum += counter.read();
        }
    }
}

/// One thread's numbers.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    packets: Counter,
    bytes: Counter,
    answers: Counter,
    batches: [Counter; BATCH_SIZES],
    drops: [Counter; REASONS],
}

impl Counters {
    pub(crate) fn moved(&self, packets: usize, bytes: usize) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }

    pub(crate) fn packets(&self) -> u64 {
        self.packets.read()
    }

    pub(crate) fn called(&self, packets: usize) {
        let magnitude = packets.checked_ilog2().unwrap_or(0) as usize;
        self.batches[magnitude.min(BATCH_SIZES - 1)].add(1);
    }

    pub(crate) fn dropped(&self, why: Drop, packets: usize) {
        self.drops[why.index()].add(packets);
    }

    pub(crate) fn answered(&self) {
        self.answers.add(1);
    }
}

/// A number with a single writer, which therefore needs no locked instruction.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, count: usize) {
        let sum = self.read().wrapping_add(count as u64);
        self.0.store(sum, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const SIMPLE: [Drop; 11] = [
    Drop::CutOff,
    Drop::EcnViolation,
    Drop::Expired,
    Drop::ForeignDestination,
    Drop::ForeignSource,
    Drop::NoPeer,
    Drop::NoSocket,
    Drop::SendFailed,
    Drop::TooBig,
    Drop::TunFailed,
    Drop::UnknownSender,
];
const REASONS: usize = SIMPLE.len() + Malformed::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_number() {
        let numbers: Vec<_> = Drop::all().map(Drop::index).collect();
        assert_eq!(numbers, (0..REASONS).collect::<Vec<_>>());
    }

    #[test]
    fn threads_are_summed_up() {
        let threads = [Counters::default(), Counters::default()];
        for counters in &threads {
            counters.moved(3, 300);
            counters.called(3);
            counters.called(100_000);
            counters.dropped(Drop::Malformed(Malformed::Version), 2);
        }
        let mut sum = Direction::default();
        threads.iter().for_each(|counters| sum.add(counters));
        assert_eq!((sum.packets, sum.bytes), (6, 600));
        assert_eq!((sum.batches[1], sum.batches[8]), (2, 2));
        assert_eq!(
            sum.drops().collect::<Vec<_>>(),
            [(Drop::Malformed(Malformed::Version), 4)]
        );
    }
}
