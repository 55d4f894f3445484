//! From the peers to the pods: what is let in is joined, and written to the TUN.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::Shared;
use super::answer::Reason;
use super::wait::{Woken, wait};
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
    sockets: Vec<BorrowedFd<'a>>,
    inbox: Inbox,
    gate: Gate<'a>,
}

/// What stands between the wire and the pods.
struct Gate<'a> {
    shared: &'a Shared,
    counters: &'a Counters,
    view: View,
    coalescer: Coalescer,
    tun: Tun<'a>,
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
        queue: usize,
        offloads: Offloads,
        counters: &'a Counters,
    ) -> Self {
        let accepts = Accepts {
            tcp4: offloads.tso,
            tcp6: offloads.tso,
            udp4: offloads.uso,
            udp6: offloads.uso,
        };
        let tun = Tun {
            queue: shared.queues[queue % shared.queues.len()].as_fd(),
            vnet_header: offloads.vnet_header,
            counters,
        };
        Self {
            shared,
            sockets: shared.listening[queue].iter().map(AsFd::as_fd).collect(),
            inbox: Inbox::new(RECEIVES, ROOM),
            gate: Gate {
                shared,
                counters,
                view: shared.view(),
                coalescer: Coalescer::new(FLOWS, accepts),
                tun,
            },
        }
    }

    pub(super) fn run(mut self) {
        while wait(&self.sockets, self.shared.stop.as_fd()) == Woken::Ready {
            for round in 0..ROUNDS {
                let received: usize = (0..self.sockets.len()).map(|at| self.receive(at)).sum();
                if received == 0 && round > 0 {
                    break;
                }
            }
        }
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
        self.gate.view.refresh();
        for i in 0..received {
            self.gate.pass(&mut self.inbox.datagrams(i));
        }
        let tun = self.gate.tun;
        self.gate
            .coalescer
            .flush(|header, packet| tun.write(header, packet));
        received
    }
}

impl Gate<'_> {
    fn pass(&mut self, datagrams: &mut Datagrams<'_>) {
        let size = datagrams.segment.max(1);
        let count = datagrams.bytes.len().div_ceil(size);
        self.counters.called(count);
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

/// How many receives one system call brings.
const RECEIVES: usize = 8;
/// Whatever UDP carries.
const ROOM: usize = 1 << 16;
/// How many rounds without a look at whether all is to end.
const ROUNDS: usize = 64;
