//! What the engine knows of the other nodes: a table that is swapped whole.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnetwork::IpNetwork;
use socket2::SockAddr;

use crate::packet::peers::{Parts, Table};

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The pods behind it.
    pub subnets: Vec<IpNetwork>,
    /// Where its datagrams go to, and may come from.
    pub address: IpAddr,
    /// Where else they may come from.
    pub also_from: Vec<IpAddr>,
    /// It brings the congestion marks of the underlay to its pods (RFC 6040). A flannel does not:
    /// towards it the outer packets do not take part in ECN, so that they are dropped and not
    /// marked in vain.
    pub carries_ecn: bool,
}

/// All peers, ready to be looked up.
#[derive(Debug, Default)]
pub struct PeerTable {
    index: Table,
    entries: Vec<Entry>,
    /// Where datagrams may come from.
    senders: Vec<IpAddr>,
    own: Vec<IpNetwork>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) address: IpAddr,
    pub(crate) to: SockAddr,
    pub(crate) carries_ecn: bool,
    pub(crate) transform: Transform,
    pub(crate) path: Path,
    pub(crate) counters: Arc<PeerCounters>,
}

/// What is done to a batch of finished packets before it leaves for a peer. This is the place of
/// encryption.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Transform {
    #[default]
    None,
}

impl Transform {
    /// Works on packets of `size` bytes each but the last, in place.
    #[inline]
    pub(crate) fn apply(self, _packets: &mut [u8], _size: usize) {
        match self {
            Self::None => (),
        }
    }
}

/// How much the way to a peer takes at a time, as far as the kernel knows.
#[derive(Debug, Default)]
pub(crate) struct Path {
    /// Without the outer headers; 0 if it was never asked.
    longest: AtomicU16,
    asked: AtomicU16,
}

impl Path {
    /// The length of the longest packet. The kernel is asked once in a while only: it learns of a
    /// narrower way from its routers, and forgets that after some minutes.
    pub(crate) fn longest(&self, ask: impl FnOnce() -> u16) -> u16 {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked.is_multiple_of(OFTEN) {
            self.longest.store(ask(), Ordering::Relaxed);
        }
        self.longest.load(Ordering::Relaxed)
    }
}

const OFTEN: u16 = 256;

/// Kept over swaps, for a peer that keeps its address.
#[derive(Debug, Default)]
pub(crate) struct PeerCounters {
    pub(crate) sent: Traffic,
    pub(crate) received: Traffic,
}

#[derive(Debug, Default)]
pub(crate) struct Traffic {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl PeerTable {
    /// `own` are this node's subnets, `port` is the one that all nodes listen on.
    pub fn new(own: &[IpNetwork], port: u16, peers: &[Peer]) -> Self {
        let (mut subnets, mut addresses) = (Vec::new(), Vec::new());
        for (peer, number) in peers.iter().zip(0_u32..) {
            subnets.extend(peer.subnets.iter().map(|subnet| (*subnet, number)));
            let from = peer.also_from.iter().chain([&peer.address]);
            addresses.extend(from.map(|address| (*address, number)));
        }
        Self {
            index: Table::new(Parts {
                subnets: &subnets,
                addresses: &addresses,
                own,
            }),
            entries: peers.iter().map(|peer| Entry::new(peer, port)).collect(),
            senders: addresses.iter().map(|(address, _)| *address).collect(),
            own: own.to_vec(),
        }
    }

    pub(crate) fn index(&self) -> &Table {
        &self.index
    }

    /// The peer that has the destination, and its number.
    pub(crate) fn find(&self, destination: IpAddr) -> Option<(u32, &Entry)> {
        let peer = self.index.lookup(destination)?;
        Some((peer, self.entry(peer)?))
    }

    pub(crate) fn entry(&self, peer: u32) -> Option<&Entry> {
        self.entries.get(peer as usize)
    }

    pub(crate) fn own(&self) -> &[IpNetwork] {
        &self.own
    }

    pub(crate) fn senders(&self) -> &[IpAddr] {
        &self.senders
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn keep_counters_of(&mut self, former: &Self) {
        let former: HashMap<IpAddr, &Arc<PeerCounters>> = former
            .entries
            .iter()
            .map(|entry| (entry.address, &entry.counters))
            .collect();
        for entry in &mut self.entries {
            if let Some(counters) = former.get(&entry.address) {
                entry.counters = Arc::clone(counters);
            }
        }
    }
}

impl Entry {
    fn new(peer: &Peer, port: u16) -> Self {
        Self {
            address: peer.address,
            to: SocketAddr::new(peer.address, port).into(),
            carries_ecn: peer.carries_ecn,
            transform: Transform::default(),
            path: Path::default(),
            counters: Arc::default(),
        }
    }
}

impl Traffic {
    /// Once for each batch: other threads add to the same numbers.
    pub(crate) fn add(&self, packets: usize, bytes: usize) {
        self.packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> (u64, u64) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (read(&self.packets), read(&self.bytes))
    }
}

/// The place where a table is swapped.
#[derive(Debug)]
pub(crate) struct Place {
    generation: AtomicU64,
    table: Mutex<Arc<PeerTable>>,
}

impl Place {
    pub(crate) fn new(table: PeerTable) -> Self {
        Self {
            generation: AtomicU64::new(0),
            table: Mutex::new(Arc::new(table)),
        }
    }

    pub(crate) fn swap(&self, mut table: PeerTable) {
        let mut place = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.keep_counters_of(&place);
        *place = Arc::new(table);
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn current(&self) -> Arc<PeerTable> {
        Arc::clone(&self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A thread's own view of the table: a look at one number tells that it is still the current one.
#[derive(Debug)]
pub(crate) struct View {
    place: Arc<Place>,
    generation: u64,
    table: Arc<PeerTable>,
}

impl View {
    pub(crate) fn new(place: Arc<Place>) -> Self {
        // A swap between the two only means that the table is fetched once more.
        let generation = place.generation.load(Ordering::Acquire);
        let table = place.current();
        Self {
            place,
            generation,
            table,
        }
    }

    /// Says whether there is another table.
    #[inline]
    pub(crate) fn refresh(&mut self) -> bool {
        let generation = self.place.generation.load(Ordering::Acquire);
        let changed = generation != self.generation;
        if changed {
            self.generation = generation;
            self.table = self.place.current();
        }
        changed
    }

    pub(crate) fn table(&self) -> &PeerTable {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(subnet: &str, address: &str) -> Peer {
        Peer {
            subnets: vec![subnet.parse().unwrap()],
            address: address.parse().unwrap(),
            also_from: vec![],
            carries_ecn: false,
        }
    }

    fn table(peers: &[Peer]) -> PeerTable {
        PeerTable::new(&[], 8285, peers)
    }

    #[test]
    fn a_view_sees_a_swap_when_it_looks() {
        let place = Arc::new(Place::new(table(&[])));
        let mut view = View::new(Arc::clone(&place));
        place.swap(table(&[peer("10.1.2.0/24", "192.0.2.2")]));
        assert_eq!(view.table().entries().len(), 0);
        view.refresh();
        assert_eq!(view.table().entries().len(), 1);
    }

    #[test]
    fn a_peer_that_stays_keeps_its_counters() {
        let (one, two) = (
            peer("10.1.1.0/24", "192.0.2.1"),
            peer("10.1.2.0/24", "192.0.2.2"),
        );
        let place = Place::new(table(&[one.clone(), two.clone()]));
        place.current().entries()[1].counters.sent.add(3, 300);
        place.swap(table(&[two, one]));
        let read = |at: usize| place.current().entries()[at].counters.sent.read();
        assert_eq!((read(0), read(1)), ((3, 300), (0, 0)));
    }
}
