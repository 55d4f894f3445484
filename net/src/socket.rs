//! One netlink socket type for every family: requests out in one system call, answers matched
//! to them by sequence number. It moves bytes and knows no message but netlink's own.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_sys::SocketAddr;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::batch::{Batch, Ends};
use crate::error::{Error, Result, Why};
use crate::message::{
    HEADER, Header, Messages, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, finish,
};

/// Which part of the kernel a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Route,
    Netfilter,
    Generic,
}

pub struct Socket {
    inner: netlink_sys::Socket,
    next_sequence: u32,
    buffer: Vec<u8>,
    /// Has an address, by which the kernel tells us from itself when it spreads news.
    bound: bool,
    listening: bool,
}

impl Socket {
    pub fn open(protocol: Protocol) -> Result<Self> {
        Self::open_raw(protocol)
            .map_err(|why| Error::new(format!("open a {protocol:?} socket"), why))
    }

    fn open_raw(protocol: Protocol) -> Result<Self, Why> {
        let number = match protocol {
            Protocol::Route => NETLINK_ROUTE,
            Protocol::Netfilter => NETLINK_NETFILTER,
            Protocol::Generic => NETLINK_GENERIC,
        };
        let inner = netlink_sys::Socket::new(number)?;
        inner.set_ext_ack(true)?;
        inner.set_cap_ack(true)?;
        if protocol == Protocol::Route {
            // Without it the kernel ignores a dump's filter and sends the whole table.
            inner.set_netlink_get_strict_chk(true)?;
        }
        Ok(Self {
            inner,
            next_sequence: 1,
            buffer: Vec::new(),
            bound: false,
            listening: false,
        })
    }

    /// Sends every request of the batch and reads what comes back: one result a request, in the
    /// order they were added; a change that succeeded answers with no bytes.
    ///
    /// Only the last request asks for an acknowledgement. The kernel works through a datagram
    /// in order and reports failures unasked, so when the last is answered all are: a batch of
    /// successes costs one send and one receive.
    ///
    /// The outer error is one of the exchange itself, after which what happened is unknown.
    pub fn run(&mut self, batch: &mut Batch) -> Result<Vec<Result<Vec<u8>>>> {
        let mut results = Vec::with_capacity(batch.len());
        for chunk in batch.chunks() {
            self.run_chunk(batch, chunk, &mut results)?;
        }
        Ok(results)
    }

    /// One request, one result.
    pub fn run_one(&mut self, batch: &mut Batch) -> Result<Vec<u8>> {
        self.run(batch)?.pop().unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Asks for a table. `each` is given the payload of every entry and appends what it finds
    /// in it, or nothing; None means the entry makes no sense. Starts over when the kernel says
    /// the table changed while it was being read.
    pub fn dump<T>(
        &mut self,
        message_type: u16,
        doing: &str,
        payload: &[u8],
        mut each: impl FnMut(&[u8], &mut Vec<T>) -> Option<()>,
    ) -> Result<Vec<T>> {
        let mut entries = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            let outcome = self.dump_once(message_type, payload, |entry| each(entry, &mut entries));
            match outcome {
                Ok(Consistency::Whole) => return Ok(entries),
                Ok(Consistency::Torn) => entries.clear(),
                Err(why) => return Err(Error::new(doing, why)),
            }
        }
        Err(Error::new(
            doing,
            Why::Garbled("the table changes faster than it can be read"),
        ))
    }

    /// Joins a multicast group (numbered RTNLGRP_*, NFNLGRP_*); its messages then come from
    /// [`Socket::receive`]. Requests can still be made, but events that come before their answer
    /// are lost, so look at the state once more afterwards.
    pub fn subscribe(&mut self, group: u32) -> Result<()> {
        self.bind()
            .and_then(|()| self.inner.add_membership(group))
            .map_err(|e| Error::new(format!("subscribe to netlink group {group}"), e))?;
        self.listening = true;
        Ok(())
    }

    /// The number under which others are told what this socket changes; mostly, but not always,
    /// the process's own.
    pub fn port(&mut self) -> Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.bind()
            .and_then(|()| self.inner.get_address(&mut address))
            .map_err(|e| Error::new("learn the port of a netlink socket", e))?;
        Ok(address.port_number())
    }

    /// Has room for `bytes` of waiting messages, or for as many as an unprivileged process may.
    pub fn enlarge_receive_buffer(&mut self, bytes: usize) -> Result<()> {
        sockopt::set_socket_recv_buffer_size_force(&self.inner, bytes)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&self.inner, bytes))
            .map_err(|e| Error::new("enlarge a netlink socket's receive buffer", e))
    }

    /// Leaves a multicast group. Messages of it may still be waiting; requests pass them over.
    pub fn unsubscribe(&mut self, group: u32) -> Result<()> {
        self.inner
            .drop_membership(group)
            .map_err(|e| Error::new(format!("unsubscribe from netlink group {group}"), e))
    }

    /// Waits until something can be received; false when the deadline came first.
    pub fn wait(&self, deadline: Instant) -> Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(
                &mut [PollFd::new(self, PollFlags::IN)],
                Some(&timespec(left)),
            ) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::new("wait on a netlink socket", errno)),
            }
        }
    }

    /// Sends bytes as they are: one or more whole messages, sequence numbers included.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.send_raw(bytes)
            .map_err(|why| Error::new("send to the kernel", why))
    }

    /// The messages of the next datagram, waiting for it.
    pub fn receive(&mut self) -> Result<Messages<'_>> {
        match self.receive_raw(Awaiting::Anything, Patience::Waits) {
            Ok(()) => Ok(Messages::of(&self.buffer)),
            Err(why) => Err(Error::new("receive from the kernel", why)),
        }
    }

    /// The messages of the next datagram if there is one. ENOBUFS once after some did not fit.
    pub fn receive_waiting(&mut self) -> Result<Option<Messages<'_>>> {
        match self.receive_raw(Awaiting::Anything, Patience::Returns) {
            Ok(()) => Ok(Some(Messages::of(&self.buffer))),
            Err(Why::Refused {
                errno: Errno::AGAIN,
                ..
            }) => Ok(None),
            Err(why) => Err(Error::new("receive from the kernel", why)),
        }
    }

    /// Reserves `count` sequence numbers and returns the first.
    pub fn reserve_sequence(&mut self, count: u32) -> u32 {
        // Zero is what the kernel's own notifications carry.
        if self.next_sequence.checked_add(count).is_none() {
            self.next_sequence = 1;
        }
        let first = self.next_sequence;
        self.next_sequence += count;
        first
    }

    fn run_chunk(
        &mut self,
        batch: &mut Batch,
        chunk: Range<usize>,
        results: &mut Vec<Result<Vec<u8>>>,
    ) -> Result<()> {
        let base = results.len();
        let Some(last) = batch.last_answered(&chunk) else {
            return Ok(());
        };
        let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let first = self.reserve_sequence(count);
        self.send(batch.prepare(&chunk, first, last))?;
        results.extend(chunk.clone().map(|_| Ok(Vec::new())));

        let mut open = true;
        while open {
            self.receive_raw(Awaiting::Answer, Patience::Waits)
                .map_err(|why| Error::new(batch.doing(last), why))?;
            for message in Messages::of(&self.buffer) {
                let offset = message.sequence.wrapping_sub(first);
                if offset >= count {
                    continue;
                }
                let index = chunk.start + offset as usize;
                let slot = &mut results[base + offset as usize];
                match message.verdict() {
                    Some(Err(why)) => {
                        let error = Error::new(batch.doing(index), why);
                        if batch.ends(index) == Ends::Unanswered {
                            // The envelope of a transaction was refused: nothing was done.
                            return Err(error);
                        }
                        *slot = Err(error);
                    }
                    Some(Ok(())) => {}
                    None => {
                        if let Ok(reply) = slot {
                            reply.extend_from_slice(message.payload);
                        }
                        if batch.ends(index) != Ends::Reply {
                            continue;
                        }
                    }
                }
                open &= index != last;
            }
        }
        Ok(())
    }

    fn dump_once(
        &mut self,
        message_type: u16,
        payload: &[u8],
        mut each: impl FnMut(&[u8]) -> Option<()>,
    ) -> Result<Consistency, Why> {
        let sequence = self.reserve_sequence(1);
        let mut request = Vec::with_capacity(HEADER + payload.len());
        Header {
            message_type,
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            sequence,
        }
        .write(&mut request);
        request.extend_from_slice(payload);
        finish(&mut request, 0);
        self.buffer.clear();
        self.send_raw(&request)?;

        let mut consistency = Consistency::Whole;
        let mut sense = Some(());
        loop {
            self.receive_raw(Awaiting::Answer, Patience::Waits)?;
            for message in Messages::of(&self.buffer).filter(|m| m.sequence == sequence) {
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    consistency = Consistency::Torn;
                }
                match message.verdict() {
                    Some(verdict) => {
                        verdict?;
                        return sense.map(|()| consistency).ok_or(Why::Garbled("an entry"));
                    }
                    // What makes no sense ends the dump, but the rest is read all the same, or it
                    // would be met by the next request.
                    None => sense = sense.and_then(|()| each(message.payload)),
                }
            }
        }
    }

    fn bind(&mut self) -> io::Result<()> {
        if !self.bound {
            self.inner.bind(&SocketAddr::new(0, 0))?;
            self.bound = true;
        }
        Ok(())
    }

    fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Why> {
        loop {
            match self.inner.send(bytes, 0).map_err(Why::from) {
                Ok(_) => {
                    // The first message gives a socket its address.
                    self.bound = true;
                    return Ok(());
                }
                Err(Why::Refused {
                    errno: Errno::INTR, ..
                }) => {}
                Err(why) => return Err(why),
            }
        }
    }

    /// Fills the buffer with the next datagram of the awaited sort that the kernel itself sent.
    fn receive_raw(&mut self, awaiting: Awaiting, patience: Patience) -> Result<(), Why> {
        let flags = match patience {
            Patience::Waits => MSG_TRUNC,
            Patience::Returns => MSG_TRUNC | MSG_DONTWAIT,
        };
        loop {
            self.buffer.clear();
            self.buffer.reserve(LONGEST_DATAGRAM);
            let received = self.inner.recv_from(&mut self.buffer, flags);
            match received.map_err(Why::from) {
                // Any process may send to a netlink socket; only the kernel has port 0.
                Ok((_, from)) if from.port_number() != 0 => {}
                // What we change is announced to us too, under the number of our own request.
                Ok((_, from)) if awaiting != Awaiting::Anything && from.multicast_groups() != 0 => {
                }
                Ok((length, _)) if length > self.buffer.len() => {
                    return Err(Why::Garbled("a longer datagram than it promises to send"));
                }
                Ok(_) => return Ok(()),
                Err(Why::Refused {
                    errno: Errno::INTR, ..
                }) => {}
                Err(why) => return Err(why),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaiting {
    /// Verdicts and entries.
    Answer,
    /// Answers and events.
    Anything,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Waits,
    Returns,
}

enum Consistency {
    Whole,
    Torn,
}

/// The kernel fills the datagrams of a dump up to 32 KiB, and no single entry that we ask for comes
/// near that: links are asked for without their virtual functions. Asking for each datagram's length
/// first would be a system call more for every answer.
const LONGEST_DATAGRAM: usize = 64 * 1024;

/// A busy table is torn now and then, not eight times in a row.
const DUMP_ATTEMPTS: usize = 8;

/// Has the kernel tell a datagram's true length even if it did not fit.
const MSG_TRUNC: i32 = 0x20;
const MSG_DONTWAIT: i32 = 0x40;

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
