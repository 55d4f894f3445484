//! From the pods to the peers: superpackets are cut straight into the batches that leave.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::Shared;
use super::answer::Reason;
use super::batches::{Batches, Lane};
use super::post::Post;
use super::wait::{Woken, wait};
use crate::packet::inner::Inner;
use crate::packet::segment;
use crate::packet::virtio::Header;
use crate::packet::{Malformed, hop};
use crate::peer::{PeerTable, View};
use crate::stats::{Counters, Drop};
use crate::tun::Offloads;

pub(super) struct Egress<'a> {
    shared: &'a Shared,
    tun: BorrowedFd<'a>,
    counters: &'a Counters,
    vnet_header: bool,
    view: View,
    /// What was read last: a header, if there are any, and a packet.
    read: Box<[u8]>,
    batches: Batches,
    post: Post<'a>,
}

/// What a read from the TUN came to.
enum Read {
    Packet(usize),
    Nothing,
    /// The device was deleted.
    Gone,
}

impl<'a> Egress<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        queue: usize,
        offloads: Offloads,
        counters: &'a Counters,
    ) -> Self {
        Self {
            shared,
            tun: shared.queues[queue].as_fd(),
            counters,
            vnet_header: offloads.vnet_header,
            view: shared.view(),
            read: vec![0; LONGEST_READ].into_boxed_slice(),
            batches: Batches::new(),
            post: shared.post(),
        }
    }

    pub(super) fn run(mut self) {
        while wait(&[self.tun], self.shared.stop.as_fd()) == Woken::Ready {
            if !self.drain() {
                return;
            }
        }
    }

    /// Moves packets until there are none; `false` when there will never be any more.
    fn drain(&mut self) -> bool {
        for _ in 0..READS {
            match self.read() {
                Read::Packet(length) => self.take(length),
                Read::Nothing => break,
                Read::Gone => return false,
            }
        }
        self.flush();
        true
    }

    fn read(&mut self) -> Read {
        match rustix::io::read(self.tun, &mut *self.read) {
            Ok(length) => Read::Packet(length),
            Err(Errno::BADFD | Errno::BADF) => Read::Gone,
            Err(_) => Read::Nothing,
        }
    }

    fn take(&mut self, length: usize) {
        let (header, start) = match self.vnet_header {
            true => match Header::split(&self.read[..length]) {
                Some((header, _)) => (header, Header::LENGTH),
                None => return self.drop(Drop::Malformed(Malformed::Empty)),
            },
            false => (Header::default(), 0),
        };
        let outcome = self.forward(&header, start..length);
        if let Err(why) = outcome {
            self.drop(why);
        }
    }

    fn forward(&mut self, header: &Header, at: std::ops::Range<usize>) -> Result<(), Drop> {
        let packet = &mut self.read[at];
        let inner = Inner::parse(packet).map_err(Drop::Malformed)?;
        let table = self.view.table();
        let Some(peer) = table.index().lookup(inner.dst) else {
            return Err(self.refuse(Reason::NoPeer, &inner));
        };
        if !hop::decrement(packet) {
            return Err(self.refuse(Reason::Expired, &inner));
        }
        let lane = lane(self.shared, table, peer, &inner)?;
        let plan = segment::plan_parsed(header, &inner, packet).map_err(Drop::Malformed)?;
        let mut next = 0;
        while next < plan.count {
            match self.batches.add(lane, &plan, packet, next) {
                0 if self.batches.is_empty() => return Err(Drop::TooBig),
                0 => self.post.flush(&mut self.batches, table, self.counters),
                taken => next += taken,
            }
        }
        Ok(())
    }

    fn refuse(&self, reason: Reason, inner: &Inner) -> Drop {
        let start = match self.vnet_header {
            true => Header::LENGTH,
            false => 0,
        };
        let packet = &self.read[start..start + inner.length];
        if self.shared.answers.answer(reason, inner, packet) {
            self.counters.answered();
        }
        match reason {
            Reason::Expired => Drop::Expired,
            Reason::NoPeer => Drop::NoPeer,
            Reason::TooBig(_) => Drop::TooBig,
        }
    }

    fn drop(&self, why: Drop) {
        self.counters.dropped(why, 1);
    }

    /// Only here, with nothing on its way, do the peers' numbers change.
    fn flush(&mut self) {
        let table = self.view.table();
        self.post.flush(&mut self.batches, table, self.counters);
        self.view.refresh();
    }
}

fn lane(shared: &Shared, table: &PeerTable, peer: u32, inner: &Inner) -> Result<Lane, Drop> {
    let entry = table.entry(peer).ok_or(Drop::NoPeer)?;
    let v6 = entry.address.is_ipv6();
    let socket = shared.leaving.choose(v6, inner.flow_hash());
    Ok(Lane {
        peer,
        v6,
        socket: socket.ok_or(Drop::NoSocket)?,
        tos: if entry.carries_ecn { inner.ecn() } else { 0 },
    })
}

/// A header and the longest packet there is.
const LONGEST_READ: usize = Header::LENGTH + 65_535;
/// How many reads there are at most before what they brought is sent.
const READS: usize = 64;
