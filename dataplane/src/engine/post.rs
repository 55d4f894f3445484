//! Sending: whole batches at once, or in as many pieces as the kernel insists on.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::batches::{Batch, Batches};
use crate::peer::PeerTable;
use crate::rungs::Footing;
use crate::stats::{Counters, Drop};
use crate::sys::{self, Message};
use crate::udp::Leaving;

#[derive(Debug, Clone, Copy)]
pub(super) struct Post<'a> {
    leaving: &'a Leaving,
    footing: &'a Footing,
}

impl<'a> Post<'a> {
    pub(super) fn new(leaving: &'a Leaving, footing: &'a Footing) -> Self {
        Self { leaving, footing }
    }

    /// Sends all batches on their ways, which are empty then.
    pub(super) fn flush(&self, batches: &mut Batches, peers: &PeerTable, counters: &Counters) {
        for (batch, bytes) in batches.all() {
            if let Some(peer) = peers.entry(batch.lane.peer) {
                peer.transform.apply(bytes, batch.size);
            }
        }
        let mut at = 0;
        while batches.get(at).is_some() {
            at += self.send_from(at, batches, peers, counters);
        }
        batches.clear();
    }

    /// Sends batches that leave from the same socket, from number `at` on. Says how many.
    fn send_from(
        &self,
        at: usize,
        batches: &Batches,
        peers: &PeerTable,
        counters: &Counters,
    ) -> usize {
        let Some((batch, bytes)) = batches.get(at) else {
            return 1;
        };
        let lane = batch.lane;
        let socket = self.leaving.socket(lane.v6, lane.socket);
        let (Some(socket), Some(message)) = (socket, message(batch, bytes, peers)) else {
            counters.dropped(Drop::NoSocket, batch.count);
            return 1;
        };
        if message.segment.is_some() && !self.footing.gso.holds() {
            self.send_pieces(socket, batch, &message, counters);
            note(batch, peers, counters);
            return 1;
        }
        let same = (at..).map_while(|next| batches.get(next));
        let same =
            same.take_while(|(next, _)| (next.lane.v6, next.lane.socket) == (lane.v6, lane.socket));
        let messages = same.map_while(|(next, bytes)| message_of(next, bytes, peers));
        match self.send(socket, &message, messages) {
            Ok(sent) => {
                for next in at..at + sent {
                    if let Some((batch, _)) = batches.get(next) {
                        counters.called(batch.count);
                        note(batch, peers, counters);
                    }
                }
                sent.max(1)
            }
            Err(why) => {
                self.refused(socket, &why, batch, &message, counters);
                note(batch, peers, counters);
                1
            }
        }
    }

    /// Sends the messages, of which `first` is the first. Says how many were sent.
    fn send<'m>(
        &self,
        socket: BorrowedFd<'_>,
        first: &Message<'_>,
        messages: impl Iterator<Item = Message<'m>>,
    ) -> Result<usize, Errno> {
        let mut messages = messages.peekable();
        if self.footing.send_many.holds() {
            match sys::send_many(socket, &mut messages) {
                Ok(sent) => return Ok(sent),
                Err(why) if errno(&why) == Errno::NOSYS => {
                    self.footing.send_many.gives_way(&self.footing.notices);
                }
                Err(why) => return Err(errno(&why)),
            }
        }
        sys::send_one(socket, first)
            .map(|()| 1)
            .map_err(|why| errno(&why))
    }

    /// A batch was refused: as a whole, or for a reason that lies in it or in the way.
    fn refused(
        &self,
        socket: BorrowedFd<'_>,
        why: &Errno,
        batch: &Batch,
        message: &Message<'_>,
        counters: &Counters,
    ) {
        match *why {
            Errno::IO if message.segment.is_some() => {
                self.footing.gso.gives_way(&self.footing.notices);
                self.send_pieces(socket, batch, message, counters);
            }
            // The way is narrower than the segments are, which the kernel fragments one by one.
            Errno::INVAL | Errno::MSGSIZE if message.segment.is_some() => {
                self.send_pieces(socket, batch, message, counters);
            }
            _ => counters.dropped(Drop::SendFailed, batch.count),
        }
    }

    /// Sends a batch packet by packet.
    fn send_pieces(
        &self,
        socket: BorrowedFd<'_>,
        batch: &Batch,
        whole: &Message<'_>,
        counters: &Counters,
    ) {
        let mut rest = whole.bytes;
        let piece = |bytes| Message {
            bytes,
            segment: None,
            ..*whole
        };
        while !rest.is_empty() {
            let first = piece(&rest[..batch.size.min(rest.len())]);
            let pieces = rest.chunks(batch.size).map(piece);
            let sent = match self.send(socket, &first, pieces) {
                Ok(sent) => {
                    counters.called(sent);
                    sent.max(1)
                }
                Err(_) => {
                    counters.dropped(Drop::SendFailed, 1);
                    1
                }
            };
            rest = rest.get(sent * batch.size..).unwrap_or_default();
        }
    }
}

fn message<'a>(batch: &Batch, bytes: &'a [u8], peers: &'a PeerTable) -> Option<Message<'a>> {
    message_of(batch, bytes, peers)
}

fn message_of<'a>(batch: &Batch, bytes: &'a [u8], peers: &'a PeerTable) -> Option<Message<'a>> {
    let peer = peers.entry(batch.lane.peer)?;
    let segment = (batch.count > 1).then(|| u16::try_from(batch.size).ok());
    Some(Message {
        to: &peer.to,
        bytes,
        segment: segment.flatten(),
        tos: batch.lane.tos,
    })
}

fn note(batch: &Batch, peers: &PeerTable, counters: &Counters) {
    counters.moved(batch.count, batch.length);
    if let Some(peer) = peers.entry(batch.lane.peer) {
        peer.counters.sent.add(batch.count, batch.length);
    }
}

fn errno(why: &io::Error) -> Errno {
    Errno::from_io_error(why).unwrap_or(Errno::IO)
}
