//! Sending: whole batches at once, or in as many pieces as the kernel insists on.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::batches::{Batch, Batches};
use crate::peer::{Entry, PeerTable};
use crate::rungs::Footing;
use crate::stats::{Counters, Drop};
use crate::sys::{self, Message};
use crate::udp::Leaving;

#[derive(Debug, Clone, Copy)]
pub(super) struct Post<'a> {
    leaving: &'a Leaving,
    footing: &'a Footing,
    counters: &'a Counters,
}

impl<'a> Post<'a> {
    pub(super) fn new(leaving: &'a Leaving, footing: &'a Footing, counters: &'a Counters) -> Self {
        Self {
            leaving,
            footing,
            counters,
        }
    }

    /// Sends the batches on their ways, and leaves those that wait.
    pub(super) fn send(&self, batches: &mut Batches, peers: &PeerTable) {
        let mut at = 0;
        while let Some((batch, bytes)) = batches.get_mut(at) {
            if let Some(peer) = peers.entry(batch.lane.peer).filter(|_| !batch.waits()) {
                peer.transform.apply(bytes, batch.size);
            }
            at += 1;
        }
        let mut at = 0;
        while let Some((batch, bytes)) = batches.get(at) {
            at += match peers.entry(batch.lane.peer) {
                Some(peer) if !batch.waits() => self.send_from(at, batches, peers, peer, bytes),
                _ => 1,
            };
        }
        batches.clear();
    }

    /// Sends batches that leave from the same socket, from number `at` on, which goes to `peer`.
    /// Says how many.
    fn send_from(
        &self,
        at: usize,
        batches: &Batches,
        peers: &PeerTable,
        peer: &Entry,
        bytes: &[u8],
    ) -> usize {
        let Some((batch, _)) = batches.get(at) else {
            return 1;
        };
        let (v6, number) = (batch.lane.v6, batch.lane.socket);
        let Some(socket) = self.leaving.socket(v6, number) else {
            self.counters.dropped(Drop::NoSocket, batch.count);
            return 1;
        };
        let first = message(batch, bytes, peer);
        if first.segment.is_some() && !self.footing.gso.holds() {
            self.send_pieces(socket, batch, peer, &first);
            return 1;
        }
        let same = (at..).map_while(|next| batches.get(next));
        let same = same.take_while(|(next, _)| {
            !next.waits() && (next.lane.v6, next.lane.socket) == (v6, number)
        });
        let messages = same.map_while(|(next, bytes)| {
            let peer = peers.entry(next.lane.peer)?;
            Some(message(next, bytes, peer))
        });
        match self.send_messages(socket, &first, messages) {
            Ok(sent) => {
                for (batch, _) in (at..at + sent).filter_map(|next| batches.get(next)) {
                    self.counters.called(batch.count);
                    if let Some(peer) = peers.entry(batch.lane.peer) {
                        self.note(peer, batch.count, batch.length);
                    }
                }
                sent.max(1)
            }
            Err(why) => {
                self.refused(why, socket, batch, peer, &first);
                1
            }
        }
    }

    /// Sends the messages, of which `first` is the first. Says how many were sent.
    fn send_messages<'m>(
        &self,
        socket: BorrowedFd<'_>,
        first: &Message<'_>,
        messages: impl Iterator<Item = Message<'m>>,
    ) -> Result<usize, Errno> {
        if self.footing.send_many.holds() {
            match sys::send_many(socket, messages) {
                Ok(sent) => return Ok(sent),
                Err(why) if errno(&why) == Errno::NOSYS => {
                    self.footing.send_many.gives_way(&self.footing.notices);
                }
                Err(why) => return Err(errno(&why)),
            }
        }
        let sent = sys::send_one(socket, first);
        sent.map(|()| 1).map_err(|why| errno(&why))
    }

    /// A batch was refused: as a whole, or for a reason that lies in it or in its way.
    fn refused(
        &self,
        why: Errno,
        socket: BorrowedFd<'_>,
        batch: &Batch,
        peer: &Entry,
        message: &Message<'_>,
    ) {
        match why {
            Errno::IO if message.segment.is_some() => {
                self.footing.gso.gives_way(&self.footing.notices);
                self.send_pieces(socket, batch, peer, message);
            }
            // The way is narrower than the segments are, which the kernel fragments one by one.
            Errno::INVAL | Errno::MSGSIZE if message.segment.is_some() => {
                self.send_pieces(socket, batch, peer, message);
            }
            _ => self.counters.dropped(Drop::SendFailed, batch.count),
        }
    }

    /// Sends a batch packet by packet.
    fn send_pieces(
        &self,
        socket: BorrowedFd<'_>,
        batch: &Batch,
        peer: &Entry,
        whole: &Message<'_>,
    ) {
        let piece = |bytes| Message {
            bytes,
            segment: None,
            ..*whole
        };
        let (mut rest, mut packets, mut bytes) = (whole.bytes, 0, 0);
        while !rest.is_empty() {
            let first = piece(&rest[..batch.size.min(rest.len())]);
            let pieces = rest.chunks(batch.size).map(piece);
            let sent = self.send_messages(socket, &first, pieces);
            let taken = sent.unwrap_or(0).max(1);
            let (done, left) = rest.split_at((taken * batch.size).min(rest.len()));
            match sent {
                Ok(sent) => {
                    self.counters.called(sent);
                    packets += taken;
                    bytes += done.len();
                }
                Err(_) => self.counters.dropped(Drop::SendFailed, 1),
            }
            rest = left;
        }
        self.note(peer, packets, bytes);
    }

    fn note(&self, peer: &Entry, packets: usize, bytes: usize) {
        self.counters.moved(packets, bytes);
        peer.counters.sent.add(packets, bytes);
    }
}

fn message<'a>(batch: &Batch, bytes: &'a [u8], peer: &'a Entry) -> Message<'a> {
    let segment = (batch.count > 1).then(|| u16::try_from(batch.size).ok());
    Message {
        to: &peer.to,
        bytes,
        segment: segment.flatten(),
        tos: batch.lane.tos,
    }
}

fn errno(why: &io::Error) -> Errno {
    Errno::from_io_error(why).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use super::*;
    use crate::engine::batches::Lane;
    use crate::packet::segment;
    use crate::packet::virtio::Header;
    use crate::peer::Peer;
    use crate::rungs::{Notice, Notices, Rungs};

    const SIZE: u16 = 100;

    /// Five packets of a batch on their way over loopback.
    struct Case {
        leaving: Leaving,
        peers: PeerTable,
        batches: Batches,
        receiver: UdpSocket,
    }

    fn case() -> Case {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let limit = Some(Duration::from_secs(10));
        receiver.set_read_timeout(limit).unwrap();
        let address = receiver.local_addr().unwrap();
        let peer = Peer {
            subnets: vec![],
            address: address.ip(),
            also_from: vec![],
            carries_ecn: false,
        };
        let sender = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut leaving = Leaving::default();
        leaving.v4.push(sender);
        let mut batches = Batches::new();
        for number in 0..5 {
            let mut packet = vec![number; usize::from(SIZE)];
            packet[..4].copy_from_slice(&[0x45, 0, 0, 100]);
            packet[6..8].fill(0);
            let plan = segment::plan(&Header::default(), &packet).unwrap();
            let lane = Lane {
                peer: 0,
                v6: false,
                socket: 0,
                tos: 0,
            };
            assert_eq!(batches.add(lane, &plan, &packet, 0), 1);
        }
        Case {
            leaving,
            peers: PeerTable::new(&[], address.port(), &[peer]),
            batches,
            receiver,
        }
    }

    fn expect_all(case: &Case, counters: &Counters) {
        for number in 0..5 {
            let mut buffer = [0; 2048];
            assert_eq!(case.receiver.recv(&mut buffer).unwrap(), 100);
            assert_eq!(buffer[99], number);
        }
        assert_eq!(counters.packets(), 5);
        let sent = case.peers.entry(0).unwrap().counters.sent.read();
        assert_eq!(sent, (5, 500));
    }

    #[test]
    fn every_rung_sends_the_same() {
        for (gso, send_many) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut case = case();
            let counters = Counters::default();
            let rungs = Rungs {
                gso,
                send_many,
                ..Rungs::FAST
            };
            let footing = Footing::new(rungs, Notices::default());
            let post = Post::new(&case.leaving, &footing, &counters);
            post.send(&mut case.batches, &case.peers);
            assert!(case.batches.is_empty());
            expect_all(&case, &counters);
        }
    }

    /// Which answers cost UDP_SEGMENT for good, and which only this once.
    #[test]
    fn a_batch_that_is_refused_goes_in_pieces() {
        for (why, given) in [
            (Errno::IO, vec![Notice::GsoRefused]),
            (Errno::INVAL, vec![]),
            (Errno::MSGSIZE, vec![]),
        ] {
            let case = case();
            let counters = Counters::default();
            let footing = Footing::new(Rungs::FAST, Notices::default());
            let post = Post::new(&case.leaving, &footing, &counters);
            let (batch, bytes) = case.batches.get(0).unwrap();
            let peer = case.peers.entry(0).unwrap();
            let whole = message(batch, bytes, peer);
            let socket = case.leaving.v4[0].as_fd();
            post.refused(why, socket, batch, peer, &whole);
            expect_all(&case, &counters);
            assert_eq!(footing.notices.given().collect::<Vec<_>>(), given);
        }
    }
}
