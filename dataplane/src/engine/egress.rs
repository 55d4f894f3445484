//! From the pods to the peers: superpackets are cut straight into the batches that leave.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::answer::Reason;
use super::batches::{Batches, Lane};
use super::linger::{Linger, Way};
use super::post::Post;
use super::wait::{Woken, wait};
use super::{Queue, Shared};
use crate::packet::inner::Inner;
use crate::packet::segment;
use crate::packet::virtio::Header;
use crate::packet::{Malformed, hop};
use crate::peer::{Entry, View};
use crate::rungs::Notice;
use crate::stats::{Counters, Drop};
use crate::tun::Offloads;

pub(super) struct Egress<'a> {
    shared: &'a Shared,
    queue: &'a Queue,
    counters: &'a Counters,
    vnet_header: bool,
    view: View,
    /// What was read last: a header, if there are any, and a packet.
    read: Box<[u8]>,
    batches: Batches,
    post: Post<'a>,
}

/// What a look at the TUN came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Moved,
    Nothing,
    /// The device was deleted.
    Gone,
}

impl<'a> Egress<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        queue: &'a Queue,
        offloads: Offloads,
        counters: &'a Counters,
    ) -> Self {
        Self {
            shared,
            queue,
            counters,
            vnet_header: offloads.vnet_header,
            view: shared.view(),
            read: vec![0; LONGEST_READ].into_boxed_slice(),
            batches: Batches::new(),
            post: Post::new(&shared.leaving, &shared.footing, counters),
        }
    }

    pub(super) fn run(mut self) {
        let mut linger = Linger::new(self.shared.linger);
        while wait(&[self.tun()], self.shared.stop.as_fd()) == Woken::Ready {
            linger.woken();
            for _ in 0..ROUNDS {
                match self.drain() {
                    // Whoever has packets for us may have waited for this processor.
                    Look::Moved => rustix::thread::sched_yield(),
                    Look::Nothing => break,
                    Look::Gone => return self.shared.footing.notices.give(Notice::DeviceGone),
                }
            }
            linger.stay(&self.queue.pace, || self.drain() == Look::Moved);
        }
    }

    /// Moves packets until there are none. What was left of a superpacket stays until then, and
    /// is sent by the look that finds nothing.
    fn drain(&mut self) -> Look {
        let before = self.counters.packets();
        let mut look = Look::Nothing;
        for _ in 0..READS {
            match rustix::io::read(self.queue.tun.as_fd(), &mut *self.read) {
                Ok(length) => self.take(length),
                Err(Errno::BADFD | Errno::BADF) => return Look::Gone,
                Err(_) => break,
            }
            look = Look::Moved;
        }
        if look == Look::Nothing {
            self.batches.close();
        }
        self.post.send(&mut self.batches, self.view.table());
        let packets = self.counters.packets().wrapping_sub(before);
        if look == Look::Moved {
            self.queue.pace.note(Way::Out, packets);
        }
        // Peers' numbers may change only while no packet is on its way.
        if self.batches.is_empty() {
            self.view.refresh();
        }
        look
    }

    fn take(&mut self, length: usize) {
        let (header, start) = match self.vnet_header {
            true => match Header::split(&self.read[..length]) {
                Some((header, _)) => (header, Header::LENGTH),
                None => return self.drop(Drop::Malformed(Malformed::Empty)),
            },
            false => (Header::default(), 0),
        };
        if let Err(why) = self.forward(&header, start..length) {
            self.drop(why);
        }
    }

    fn forward(&mut self, header: &Header, at: Range<usize>) -> Result<(), Drop> {
        let packet = &mut self.read[at];
        let inner = Inner::parse(packet).map_err(Drop::Malformed)?;
        let table = self.view.table();
        let (number, peer) = table
            .find(inner.dst)
            .ok_or_else(|| refuse(self.shared, self.counters, Reason::NoPeer, &inner, packet))?;
        if inner.ttl <= 1 || !hop::decrement(packet) {
            let reason = Reason::Expired;
            return Err(refuse(self.shared, self.counters, reason, &inner, packet));
        }
        let plan = segment::plan_parsed(header, &inner, packet).map_err(Drop::Malformed)?;
        let most = self.shared.leaving.longest_to(peer, plan.size);
        if plan.size > usize::from(most) && !inner.may_fragment {
            let reason = Reason::TooBig(most);
            return Err(refuse(self.shared, self.counters, reason, &inner, packet));
        }
        let lane = lane(self.shared, number, peer, &inner)?;
        let mut next = 0;
        while next < plan.count {
            match self.batches.add(lane, &plan, packet, next) {
                0 if self.batches.is_empty() => return Err(Drop::TooBig),
                0 => {
                    self.batches.close();
                    self.post.send(&mut self.batches, table);
                }
                taken => next += taken,
            }
        }
        Ok(())
    }

    fn drop(&self, why: Drop) {
        self.counters.dropped(why, 1);
    }

    fn tun(&self) -> BorrowedFd<'a> {
        self.queue.tun.as_fd()
    }
}

fn refuse(
    shared: &Shared,
    counters: &Counters,
    reason: Reason,
    inner: &Inner,
    packet: &[u8],
) -> Drop {
    if shared.answers.answer(reason, inner, packet) {
        counters.answered();
    }
    match reason {
        Reason::Expired => Drop::Expired,
        Reason::NoPeer => Drop::NoPeer,
        Reason::TooBig(_) => Drop::TooBig,
    }
}

fn lane(shared: &Shared, number: u32, peer: &Entry, inner: &Inner) -> Result<Lane, Drop> {
    let v6 = peer.address.is_ipv6();
    let socket = shared.leaving.choose(v6, inner.flow_hash());
    Ok(Lane {
        peer: number,
        v6,
        socket: socket.ok_or(Drop::NoSocket)?,
        // A mark that the other end would lose is none.
        tos: if peer.carries_ecn { inner.ecn() } else { 0 },
    })
}

/// A header and the longest packet there is.
const LONGEST_READ: usize = Header::LENGTH + 65_535;
/// How many reads there are at most before what they brought is sent: as many small packets as
/// one send takes.
const READS: usize = 64;
/// How many times that goes on without a look at whether all is to end.
const ROUNDS: usize = 64;
