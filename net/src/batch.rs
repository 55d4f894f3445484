//! Requests waiting to go out together.

use std::ops::Range;

use crate::message::{HEADER, Header, NLM_F_ACK, NLM_F_REQUEST, finish};

/// Requests in the order they shall be carried out. It can be filled, run by
/// [`Socket::run`](crate::socket::Socket::run), cleared and filled again.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    requests: Vec<Request>,
    /// Has an envelope, so it means something only as a whole.
    whole: bool,
}

#[derive(Debug)]
struct Request {
    start: usize,
    ends: Ends,
    doing: Doing,
}

/// What an error will say was attempted.
#[derive(Debug, Clone)]
pub enum Doing {
    Told(String),
    /// Read from the request's payload if it comes to that: of a thousand requests hardly one is
    /// refused, and telling of all would take longer than writing them.
    OfPayload(fn(&[u8]) -> String),
}

impl From<String> for Doing {
    fn from(text: String) -> Self {
        Self::Told(text)
    }
}

impl From<&str> for Doing {
    fn from(text: &str) -> Self {
        Self::Told(text.to_owned())
    }
}

/// What tells that a request has been dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// An acknowledgement, or a refusal.
    Verdict,
    /// The one message that was asked for, or a refusal.
    Reply,
    /// Nothing: it is a transaction's envelope.
    Unanswered,
}

impl Ends {
    /// How many refusals' worth of memory the answer may take.
    fn weight(self) -> usize {
        match self {
            Self::Verdict => 1,
            Self::Reply => 8,
            Self::Unanswered => 0,
        }
    }
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request that changes something; `flags` besides NLM_F_REQUEST and NLM_F_ACK.
    /// `write` appends the payload, `doing` is what an error will say was attempted.
    pub fn change(
        &mut self,
        message_type: u16,
        flags: u16,
        doing: impl Into<Doing>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.add(Ends::Verdict, message_type, flags, doing.into(), write);
    }

    /// Adds a request for exactly one message.
    pub fn get(&mut self, message_type: u16, doing: String, write: impl FnOnce(&mut Vec<u8>)) {
        self.add(Ends::Reply, message_type, 0, doing.into(), write);
    }

    /// Adds one end of a transaction's envelope, which is not answered unless it is refused.
    /// A batch with an envelope goes out undivided.
    pub fn envelope(&mut self, message_type: u16, doing: String, write: impl FnOnce(&mut Vec<u8>)) {
        self.add(Ends::Unanswered, message_type, 0, doing.into(), write);
        self.whole = true;
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Forgets the requests and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.requests.clear();
        self.whole = false;
    }

    fn add(
        &mut self,
        ends: Ends,
        message_type: u16,
        flags: u16,
        doing: Doing,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        Header {
            message_type,
            flags: flags | NLM_F_REQUEST,
            sequence: 0,
        }
        .write(&mut self.bytes);
        write(&mut self.bytes);
        finish(&mut self.bytes, start);
        self.requests.push(Request { start, ends, doing });
    }

    /// What may go out in one datagram: a socket's send buffer bounds the bytes, and its receive
    /// buffer the number of refusals that may wait in it.
    pub(crate) fn chunks(&self) -> Vec<Range<usize>> {
        if self.whole {
            return std::iter::once(0..self.len()).collect();
        }
        let mut chunks = Vec::new();
        let (mut from, mut room) = (0, ANSWERS_IN_FLIGHT);
        for (index, request) in self.requests.iter().enumerate() {
            let bytes = self.end(index + 1) - self.end(from);
            if index > from && (request.ends.weight() > room || bytes > CHUNK_BYTES) {
                chunks.push(from..index);
                (from, room) = (index, ANSWERS_IN_FLIGHT);
            }
            room = room.saturating_sub(request.ends.weight());
        }
        chunks.push(from..self.len());
        chunks
    }

    /// The request whose answer comes after all others'.
    pub(crate) fn last_answered(&self, chunk: &Range<usize>) -> Option<usize> {
        chunk
            .clone()
            .rev()
            .find(|&i| self.requests[i].ends != Ends::Unanswered)
    }

    /// Numbers the chunk's requests from `first`, has `last` acknowledged, and returns the bytes.
    pub(crate) fn prepare(&mut self, chunk: &Range<usize>, first: u32, last: usize) -> &[u8] {
        for (index, sequence) in chunk.clone().zip(first..) {
            let start = self.requests[index].start;
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
        if self.requests[last].ends == Ends::Verdict {
            let low_flags = &mut self.bytes[self.requests[last].start + FLAGS_LOW_BYTE];
            *low_flags |= NLM_F_ACK.to_ne_bytes()[FLAGS_LOW_BYTE - FLAGS];
        }
        &self.bytes[self.end(chunk.start)..self.end(chunk.end)]
    }

    pub(crate) fn doing(&self, index: usize) -> String {
        match &self.requests[index].doing {
            Doing::Told(text) => text.clone(),
            Doing::OfPayload(tell) => {
                tell(&self.bytes[self.requests[index].start + HEADER..self.end(index + 1)])
            }
        }
    }

    pub(crate) fn ends(&self, index: usize) -> Ends {
        self.requests[index].ends
    }

    /// Where request `index` starts, or where the last one ends.
    fn end(&self, index: usize) -> usize {
        self.requests
            .get(index)
            .map_or(self.bytes.len(), |r| r.start)
    }
}

/// Refusals (about 1 KiB of kernel memory each) that fit into a receive buffer of the default
/// 208 KiB with room to spare.
const ANSWERS_IN_FLIGHT: usize = 128;
const CHUNK_BYTES: usize = 64 * 1024;

const FLAGS: usize = 6;
const FLAGS_LOW_BYTE: usize = if cfg!(target_endian = "little") {
    FLAGS
} else {
    FLAGS + 1
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Messages;

    fn batch_of(count: usize, size: usize) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..count {
            batch.change(16, 0, String::new(), |out| out.resize(out.len() + size, 0));
        }
        batch
    }

    #[test]
    fn every_request_is_in_exactly_one_chunk() {
        for (count, size) in [(0, 0), (1, 0), (128, 4), (129, 4), (1000, 1), (300, 3000)] {
            let covered: Vec<usize> = batch_of(count, size)
                .chunks()
                .into_iter()
                .flatten()
                .collect();
            assert_eq!(covered, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn only_the_last_request_asks_for_an_acknowledgement() {
        let mut batch = batch_of(3, 5);
        let bytes = batch.prepare(&(0..3), 10, 2);
        let flags: Vec<(u32, u16)> = Messages::of(bytes).map(|m| (m.sequence, m.flags)).collect();
        assert_eq!(flags, [(10, 1), (11, 1), (12, 5)]);
    }

    #[test]
    fn a_transaction_is_never_divided_and_its_end_is_not_waited_for() {
        let mut batch = Batch::new();
        batch.envelope(16, "begin".into(), |_| ());
        for _ in 0..500 {
            batch.change(1, 0, String::new(), |_| ());
        }
        batch.envelope(17, "end".into(), |_| ());
        assert_eq!(batch.chunks().len(), 1);
        assert_eq!(batch.last_answered(&(0..502)), Some(500));
    }
}
