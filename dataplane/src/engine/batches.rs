//! Finished packets on their way out, side by side: those of one size to one peer from one socket
//! lie back to back, as one system call takes them.

use crate::buffer::Buffer;
use crate::packet::segment::Plan;

/// What packets must have in common to leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) peer: u32,
    pub(super) v6: bool,
    pub(super) socket: u16,
    /// The outer TOS.
    pub(super) tos: u8,
}

/// Packets of one size, of which only the last may be shorter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub(super) lane: Lane,
    pub(super) size: usize,
    pub(super) length: usize,
    pub(super) count: usize,
    /// The last one was shorter.
    ended: bool,
    /// It begins with what was left of a superpacket, so that more of the kind is about to come.
    waits: bool,
}

pub(super) struct Batches {
    bytes: Buffer,
    batches: [Batch; BATCHES],
    open: usize,
}

/// How many batches wait at a time: 1 MB of buffers, of which a page is touched when a packet
/// comes to lie there.
pub(super) const BATCHES: usize = 16;
/// The longest payload of a UDP datagram over IPv4, and so of one send.
const LONGEST: usize = 65_507;
const ROOM: usize = 1 << 16;
/// As many as one send takes on every kernel.
const SEGMENTS: usize = 64;
/// What holds as many is worth a send of its own.
const FULL_ENOUGH: usize = 16;

impl Batches {
    pub(super) fn new() -> Self {
        Self {
            bytes: Buffer::new(BATCHES * ROOM),
            batches: [Batch::NONE; BATCHES],
            open: 0,
        }
    }

    /// Writes packets of the plan from number `from` on into a batch of the lane, and says how
    /// many they are: none if all batches are in use.
    pub(super) fn add(&mut self, lane: Lane, plan: &Plan, packet: &[u8], from: usize) -> usize {
        let first = plan.bytes(from..from + 1);
        let open = self.batches[..self.open].iter();
        let last = open.rev().position(|batch| batch.lane == lane);
        let at = match last.map(|back| self.open - 1 - back) {
            Some(at) if self.batches[at].takes(first) => at,
            _ if self.open == BATCHES || first > LONGEST => return 0,
            _ => {
                self.batches[self.open] = Batch {
                    lane,
                    size: first,
                    ..Batch::NONE
                };
                self.open += 1;
                self.open - 1
            }
        };
        let batch = &mut self.batches[at];
        let count = match first < batch.size {
            true => 1,
            false => batch.room().min(plan.count - from),
        };
        let start = at * ROOM + batch.length;
        let written = plan.write(
            packet,
            from..from + count,
            &mut self.bytes[start..(at + 1) * ROOM],
        );
        batch.length += written;
        batch.count += count;
        batch.ended = written < count * batch.size;
        batch.waits = !batch.ended && plan.count > 1 && batch.count < FULL_ENOUGH;
        count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Lets no batch wait any longer.
    pub(super) fn close(&mut self) {
        for batch in &mut self.batches[..self.open] {
            batch.waits = false;
        }
    }

    pub(super) fn get(&self, at: usize) -> Option<(&Batch, &[u8])> {
        let batch = self.batches[..self.open].get(at)?;
        Some((batch, &self.bytes[at * ROOM..at * ROOM + batch.length]))
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<(&Batch, &mut [u8])> {
        let batch = self.batches[..self.open].get(at)?;
        let bytes = at * ROOM..at * ROOM + batch.length;
        Some((batch, &mut self.bytes[bytes]))
    }

    /// Forgets the batches but those that wait.
    pub(super) fn clear(&mut self) {
        let mut kept = 0;
        for at in 0..self.open {
            let batch = self.batches[at];
            if batch.waits {
                let bytes = at * ROOM..at * ROOM + batch.length;
                self.bytes.copy_within(bytes, kept * ROOM);
                self.batches[kept] = batch;
                kept += 1;
            }
        }
        self.open = kept;
    }
}

impl Batch {
    const NONE: Self = Self {
        lane: Lane {
            peer: 0,
            v6: false,
            socket: 0,
            tos: 0,
        },
        size: 0,
        length: 0,
        count: 0,
        ended: false,
        waits: false,
    };

    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    fn takes(&self, size: usize) -> bool {
        !self.ended && size <= self.size && self.count < SEGMENTS && self.length + size <= LONGEST
    }

    /// How many more packets of the batch's size fit.
    fn room(&self) -> usize {
        let by_length = (LONGEST - self.length) / self.size.max(1);
        by_length.min(SEGMENTS - self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::segment;
    use crate::packet::virtio::{self, Header};

    const LANE: Lane = Lane {
        peer: 1,
        v6: false,
        socket: 2,
        tos: 0,
    };

    fn packet(length: u16) -> Vec<u8> {
        let mut packet = vec![0; usize::from(length)];
        packet[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17]);
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet
    }

    fn add(batches: &mut Batches, lane: Lane, length: u16) -> usize {
        let packet = packet(length);
        let plan = segment::plan(&Header::default(), &packet).unwrap();
        batches.add(lane, &plan, &packet, 0)
    }

    fn shape(batches: &Batches) -> Vec<(usize, usize, usize)> {
        let shape = |(batch, bytes): (&Batch, &[u8])| {
            assert_eq!(batch.length, bytes.len());
            (batch.size, batch.count, batch.length)
        };
        let all = (0..).map_while(|at| batches.get(at).map(shape));
        all.collect()
    }

    #[test]
    fn packets_of_one_size_share_a_batch_and_a_shorter_one_ends_it() {
        let mut batches = Batches::new();
        for length in [100, 100, 60, 60, 100] {
            assert_eq!(add(&mut batches, LANE, length), 1);
        }
        assert_eq!(shape(&batches), [(100, 3, 260), (60, 1, 60), (100, 1, 100)]);
    }

    #[test]
    fn lanes_are_kept_apart() {
        let mut batches = Batches::new();
        let other = Lane { socket: 3, ..LANE };
        for lane in [LANE, other, LANE, other] {
            add(&mut batches, lane, 100);
        }
        assert_eq!(shape(&batches), [(100, 2, 200), (100, 2, 200)]);
    }

    #[test]
    fn a_batch_holds_as_much_as_one_send_takes() {
        let mut batches = Batches::new();
        for _ in 0..65 {
            add(&mut batches, LANE, 100);
        }
        assert_eq!(shape(&batches), [(100, 64, 6400), (100, 1, 100)]);
        batches.clear();
        for _ in 0..45 {
            add(&mut batches, LANE, 1472);
        }
        assert_eq!(shape(&batches), [(1472, 44, 44 * 1472), (1472, 1, 1472)]);
    }

    #[test]
    fn a_full_house_takes_no_more() {
        let mut batches = Batches::new();
        for socket in (0..).take(BATCHES) {
            assert_eq!(add(&mut batches, Lane { socket, ..LANE }, 100), 1);
        }
        let new = Lane { socket: 99, ..LANE };
        assert_eq!(add(&mut batches, new, 100), 0);
        assert_eq!(add(&mut batches, Lane { socket: 0, ..LANE }, 100), 1);
    }

    /// A TCP superpacket of full segments.
    fn superpacket(segments: u16) -> (Header, Vec<u8>) {
        let mut packet = packet(40 + segments * 1000);
        packet[9] = 6;
        packet[32] = 5 << 4;
        let header = Header {
            gso_type: virtio::GSO_TCPV4,
            gso_size: 1000,
            ..Header::default()
        };
        (header, packet)
    }

    #[test]
    fn the_rest_of_a_superpacket_waits_for_the_next_one() {
        let mut batches = Batches::new();
        let (header, bytes) = superpacket(65);
        let plan = segment::plan(&header, &bytes).unwrap();
        assert_eq!(batches.add(LANE, &plan, &bytes, 0), 62);
        assert_eq!(batches.add(LANE, &plan, &bytes, 62), 3);
        let waits = |batches: &Batches, at| batches.get(at).unwrap().0.waits();
        assert!(!waits(&batches, 0) && waits(&batches, 1));
        let rest = batches.get(1).unwrap().1.to_vec();
        batches.clear();
        assert_eq!(shape(&batches), [(1040, 3, 3120)]);
        assert_eq!(batches.get(0).unwrap().1, rest);
        batches.close();
        batches.clear();
        assert!(batches.is_empty());
    }

    #[test]
    fn what_ends_in_a_short_packet_does_not_wait() {
        let mut batches = Batches::new();
        let (header, mut bytes) = superpacket(3);
        bytes.truncate(2540);
        let length = 2540_u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        let plan = segment::plan(&header, &bytes).unwrap();
        assert_eq!(batches.add(LANE, &plan, &bytes, 0), 3);
        add(&mut batches, Lane { socket: 9, ..LANE }, 100);
        batches.clear();
        assert!(batches.is_empty());
    }
}
