//! From the peers to the pods: what is let in is joined, and written to the TUN.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::io::Errno;

use super::answer::Reason;
use super::guard::{self, Ask, Guard};
use super::linger::{Linger, Way};
use super::wait::{Woken, wait};
use super::{Queue, Shared};
use crate::packet::coalesce::{Accepts, Coalescer, FLOWS};
use crate::packet::inner::Inner;
use crate::packet::peers::Sender;
use crate::packet::virtio::Header;
use crate::packet::{ecn, hop};
use crate::peer::View;
use crate::stats::{Counters, Drop};
use crate::sys::{Datagrams, Inbox};
use crate::tun::Offloads;

pub(super) struct Ingress<'a> {
    shared: &'a Shared,
    queue: &'a Queue,
    sockets: Vec<BorrowedFd<'a>>,
    inbox: Inbox,
    gate: Gate<'a>,
    guard: Guard,
}

/// What stands between the wire and the pods.
struct Gate<'a> {
    shared: &'a Shared,
    counters: &'a Counters,
    view: View,
    coalescer: Coalescer,
    tun: Tun<'a>,
    /// How many receives brought nothing that was let in, since that was last asked for.
    refused: usize,
}

/// The TUN's queue that packets are written to.
#[derive(Clone, Copy)]
struct Tun<'a> {
    queue: BorrowedFd<'a>,
    vnet_header: bool,
    counters: &'a Counters,
}

impl<'a> Ingress<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        queue: &'a Queue,
        offloads: Offloads,
        counters: &'a Counters,
    ) -> Self {
        let accepts = Accepts {
            tcp4: offloads.tso,
            tcp6: offloads.tso,
            udp4: offloads.uso,
            udp6: offloads.uso,
            any_id: true,
        };
        let tun = Tun {
            queue: queue.tun.as_fd(),
            vnet_header: offloads.vnet_header,
            counters,
        };
        Self {
            shared,
            queue,
            sockets: queue.listening.iter().map(AsFd::as_fd).collect(),
            inbox: Inbox::new(RECEIVES, ROOM),
            gate: Gate {
                shared,
                counters,
                view: shared.view(),
                coalescer: Coalescer::new(FLOWS, accepts),
                tun,
                refused: 0,
            },
            guard: Guard::default(),
        }
    }

    pub(super) fn run(mut self) {
        let mut linger = Linger::new(self.shared.linger);
        while wait(&self.sockets, self.shared.stop.as_fd()) == Woken::Ready {
            linger.woken();
            for _ in 0..ROUNDS {
                if !self.drain() {
                    break;
                }
            }
            linger.stay(&self.queue.pace, || self.drain());
        }
    }

    /// Takes what lies ready in the sockets, some receives of it, and writes it to the TUN. Says
    /// whether there was anything.
    fn drain(&mut self) -> bool {
        let before = self.gate.counters.packets();
        let mut any = false;
        for _ in 0..JOINED {
            let sockets = 0..self.sockets.len();
            let received: usize = sockets.map(|at| self.receive(at)).sum();
            if received == 0 {
                break;
            }
            any = true;
        }
        if any {
            self.gate.flush();
            let packets = self.gate.counters.packets().wrapping_sub(before);
            self.queue.pace.note(Way::In, packets);
        }
        any
    }

    /// Takes what lies ready in a socket, as far as one system call brings it.
    fn receive(&mut self, at: usize) -> usize {
        let footing = &self.shared.footing;
        let many = footing.receive_many.holds();
        let received = match self.inbox.receive(self.sockets[at], many) {
            Ok(received) => received,
            Err(why) => {
                if many && Errno::from_io_error(&why) == Some(Errno::NOSYS) {
                    footing.receive_many.gives_way(&footing.notices);
                }
                return 0;
            }
        };
        self.refresh();
        for i in 0..received {
            self.gate.pass(&mut self.inbox.datagrams(i));
        }
        self.watch(received);
        received
    }

    fn watch(&mut self, received: usize) {
        let refused = std::mem::take(&mut self.gate.refused);
        if let Some(ask) = self.guard.note(received, refused, Instant::now) {
            let notices = &self.shared.footing.notices;
            let table = self.gate.view.table();
            guard::sieve(&self.queue.listening, table, ask, notices);
            // A swap in between has told the kernel of its peers too early.
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        if self.gate.view.refresh() {
            self.guard.forget();
            let notices = &self.shared.footing.notices;
            let table = self.gate.view.table();
            guard::sieve(&self.queue.listening, table, Ask::Lenient, notices);
        }
    }
}

impl Gate<'_> {
    fn pass(&mut self, datagrams: &mut Datagrams<'_>) {
        let size = datagrams.segment.max(1);
        let count = datagrams.bytes.len().div_ceil(size);
        self.counters.called(count);
        self.refused += 1;
        if datagrams.cut_off {
            return self.counters.dropped(Drop::CutOff, count.max(1));
        }
        let sender = self.view.table().index().sender(datagrams.from);
        let Some(sender) = sender else {
            return self.counters.dropped(Drop::UnknownSender, count.max(1));
        };
        // Most of what arrives at once comes from one peer.
        let (mut peer, mut packets, mut bytes) = (None, 0, 0);
        for packet in datagrams.bytes.chunks_mut(size) {
            match self.admit(sender, datagrams.tos, packet) {
                Ok(from) => {
                    if peer != Some(from) {
                        self.note(peer, packets, bytes);
                        (peer, packets, bytes) = (Some(from), 0, 0);
                    }
                    packets += 1;
                    bytes += packet.len();
                }
                Err(why) => self.counters.dropped(why, 1),
            }
        }
        self.note(peer, packets, bytes);
        self.refused -= usize::from(peer.is_some());
    }

    /// Lets a packet in, and says whose it was.
    fn admit(&mut self, sender: Sender, tos: u8, packet: &mut [u8]) -> Result<u32, Drop> {
        let inner = Inner::parse(packet).map_err(Drop::Malformed)?;
        let packet = &mut packet[..inner.length];
        let index = self.view.table().index();
        let peer = index.accept(sender, inner.src);
        let peer = peer.ok_or(Drop::ForeignSource)?;
        if !index.is_own(inner.dst) {
            return Err(Drop::ForeignDestination);
        }
        if !hop::decrement(packet) {
            if self.shared.answers.answer(Reason::Expired, &inner, packet) {
                self.counters.answered();
            }
            return Err(Drop::Expired);
        }
        if !ecn::bring_in(packet, tos) {
            return Err(Drop::EcnViolation);
        }
        let tun = self.tun;
        self.coalescer
            .push(&inner, packet, |header, packet| tun.write(header, packet));
        Ok(peer)
    }

    /// Nothing waits for a continuation any longer.
    fn flush(&mut self) {
        let tun = self.tun;
        self.coalescer
            .flush(|header, packet| tun.write(header, packet));
    }

    fn note(&self, peer: Option<u32>, packets: usize, bytes: usize) {
        let entry = peer.and_then(|peer| self.view.table().entry(peer));
        if let Some(entry) = entry {
            self.counters.moved(packets, bytes);
            entry.counters.received.add(packets, bytes);
        }
    }
}

impl Tun<'_> {
    fn write(self, header: Header, packet: &[u8]) {
        let written = match self.vnet_header {
            true => {
                let header = header.to_bytes();
                rustix::io::writev(self.queue, &[IoSlice::new(&header), IoSlice::new(packet)])
            }
            false => rustix::io::write(self.queue, packet),
        };
        if written.is_err() {
            self.counters.dropped(Drop::TunFailed, 1);
        }
    }
}

/// How many receives one system call brings. More buffers only spread over more of the cache.
const RECEIVES: usize = 4;
/// Whatever UDP carries.
const ROOM: usize = 1 << 16;
/// How many rounds of receives a packet waits at most for its continuation.
const JOINED: usize = 8;
/// How many times that goes on without a look at whether all is to end.
const ROUNDS: usize = 64;
