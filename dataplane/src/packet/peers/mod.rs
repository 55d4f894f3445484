//! Whose packets are whose: which peer an inner address belongs to, and who may send from it.
//! Built whole, then only read.

mod prefixes;

use std::collections::HashMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use prefixes::Prefixes;

/// What a table is made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts<'a> {
    /// Each peer's subnets. Of two that are the same the last one counts.
    pub subnets: &'a [(IpNetwork, u32)],
    /// Each peer's addresses on the underlay; two peers may share one.
    pub addresses: &'a [(IpAddr, u32)],
    /// Our own subnets.
    pub own: &'a [IpNetwork],
}

/// Peers are numbers, which the caller has given them; small ones, since they are indices here.
#[derive(Debug, Clone, Default)]
pub struct Table {
    v4: Prefixes<u32>,
    v6: Prefixes<u128>,
    senders: HashMap<IpAddr, Sender>,
    /// For each peer where its senders lie in `sender_list`.
    peers: Vec<(u32, u32)>,
    sender_list: Vec<Sender>,
    own: Vec<IpNetwork>,
}

/// An address on the underlay from which peers may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender(u32);

impl Table {
    pub fn new(parts: Parts<'_>) -> Self {
        let mut table = Self {
            own: parts.own.to_vec(),
            ..Self::default()
        };
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (subnet, peer) in parts.subnets {
            match subnet {
                IpNetwork::V4(net) => v4.push((net.ip().to_bits(), net.prefix(), *peer)),
                IpNetwork::V6(net) => v6.push((net.ip().to_bits(), net.prefix(), *peer)),
            }
        }
        (table.v4, table.v6) = (Prefixes::new(&v4), Prefixes::new(&v6));
        table.set_senders(parts.addresses);
        table
    }

    /// The peer whose subnet holds `address`, the longest prefix first.
    pub fn lookup(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.v6.lookup(address.to_bits()),
        }
    }

    pub fn holds(&self, peer: u32, address: IpAddr) -> bool {
        self.lookup(address) == Some(peer)
    }

    /// Who sends from `outer`: asked once for each batch of datagrams.
    pub fn sender(&self, outer: IpAddr) -> Option<Sender> {
        self.senders.get(&outer.to_canonical()).copied()
    }

    /// The peer that holds the inner source address, if it sends from there.
    pub fn accept(&self, sender: Sender, source: IpAddr) -> Option<u32> {
        let peer = self.lookup(source)?;
        self.senders_of(peer).contains(&sender).then_some(peer)
    }

    /// Whether one of our own subnets holds `address`.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.iter().any(|subnet| subnet.contains(address))
    }

    fn senders_of(&self, peer: u32) -> &[Sender] {
        let place = usize::try_from(peer).ok().and_then(|at| self.peers.get(at));
        let (from, to) = place.copied().unwrap_or_default();
        &self.sender_list[from as usize..to as usize]
    }

    fn set_senders(&mut self, addresses: &[(IpAddr, u32)]) {
        let mut by_peer = Vec::with_capacity(addresses.len());
        for (address, peer) in addresses {
            let next = Sender(number(self.senders.len()));
            let sender = *self.senders.entry(address.to_canonical()).or_insert(next);
            by_peer.push((*peer as usize, sender));
        }
        by_peer.sort_by_key(|(peer, _)| *peer);
        let count = by_peer.last().map_or(0, |(peer, _)| peer + 1);
        self.peers = vec![(0, 0); count];
        self.sender_list = by_peer.iter().map(|(_, sender)| *sender).collect();
        for (at, (peer, _)) in by_peer.iter().enumerate() {
            let place = &mut self.peers[*peer];
            if place.0 == place.1 {
                place.0 = number(at);
            }
            place.1 = number(at + 1);
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
