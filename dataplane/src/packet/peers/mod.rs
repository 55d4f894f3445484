//! Whose packets are whose: which peer an inner address belongs to, and who may send from it.
//! Built whole, then only read.

mod prefixes;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

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
    /// IPv6 prefixes of up to 64 bits: all that clusters have, as a rule.
    v6: Prefixes<u64>,
    v6_longer: Prefixes<u128>,
    senders: HashMap<IpAddr, Sender>,
    /// For each peer where its senders lie in `sender_list`.
    peers: Vec<(u32, u32)>,
    sender_list: Vec<Sender>,
    own: Vec<Own>,
}

/// One of our own subnets, as a mask and what it leaves. IPv4's bits are the upper ones.
#[derive(Debug, Clone, Copy)]
struct Own {
    v6: bool,
    mask: u128,
    prefix: u128,
}

/// An address on the underlay from which peers may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender(u32);

impl Table {
    pub fn new(parts: Parts<'_>) -> Self {
        let mut table = Self {
            own: parts.own.iter().copied().map(Own::of).collect(),
            ..Self::default()
        };
        let (mut v4, mut v6, mut v6_longer) = (Vec::new(), Vec::new(), Vec::new());
        for (subnet, peer) in parts.subnets {
            match subnet {
                IpNetwork::V4(net) => v4.push((net.ip().to_bits(), net.prefix(), *peer)),
                IpNetwork::V6(net) if net.prefix() <= 64 => {
                    v6.push((upper(net.ip()), net.prefix(), *peer));
                }
                IpNetwork::V6(net) => v6_longer.push((net.ip().to_bits(), net.prefix(), *peer)),
            }
        }
        table.v4 = Prefixes::new(&v4);
        table.v6 = Prefixes::new(&v6);
        table.v6_longer = Prefixes::new(&v6_longer);
        table.set_senders(parts.addresses);
        table
    }

    /// The peer whose subnet holds `address`, the longest prefix first.
    pub fn lookup(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => match self.v6_longer.lookup(address.to_bits()) {
                None => self.v6.lookup(upper(address)),
                found => found,
            },
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
        let (v6, bits) = (address.is_ipv6(), bits(address));
        let mut own = self.own.iter();
        own.any(|own| own.v6 == v6 && bits & own.mask == own.prefix)
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

impl Own {
    fn of(subnet: IpNetwork) -> Self {
        let shift = 128 - u32::from(subnet.prefix());
        let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
        Self {
            v6: subnet.is_ipv6(),
            mask,
            prefix: bits(subnet.ip()) & mask,
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn upper(address: Ipv6Addr) -> u64 {
    u64::try_from(address.to_bits() >> 64).unwrap_or(u64::MAX)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn of(subnets: &[(IpNetwork, u32)]) -> Table {
        Table::new(Parts {
            subnets,
            ..Parts::default()
        })
    }

    /// Each subnet in turn, the longest that fits, and the last of equals.
    fn reference(subnets: &[(IpNetwork, u32)], address: IpAddr) -> Option<u32> {
        let fitting = subnets
            .iter()
            .filter(|(subnet, _)| subnet.contains(address));
        fitting
            .max_by_key(|(subnet, _)| subnet.prefix())
            .map(|(_, peer)| *peer)
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table = of(&[
            (net("10.0.0.0/8"), 1),
            (net("10.1.2.0/24"), 2),
            (net("10.1.0.0/16"), 3),
            (net("10.1.2.3/32"), 4),
            (net("fd00::/8"), 5),
            (net("fd00:0:0:7::/64"), 6),
        ]);
        for (address, peer) in [
            ("10.1.2.3", Some(4)),
            ("10.1.2.4", Some(2)),
            ("10.1.3.1", Some(3)),
            ("10.255.255.255", Some(1)),
            ("11.0.0.0", None),
            ("fd00:0:0:7::1", Some(6)),
            ("fd00:0:0:8::1", Some(5)),
            ("fe00::", None),
            ("::ffff:10.1.2.3", None),
        ] {
            assert_eq!(table.lookup(ip(address)), peer, "{address}");
        }
        assert!(table.holds(4, ip("10.1.2.3")) && !table.holds(1, ip("10.1.2.3")));
    }

    #[test]
    fn a_default_route_holds_everything_of_its_family() {
        let table = of(&[(net("0.0.0.0/0"), 1), (net("::/0"), 2)]);
        assert_eq!(table.lookup(ip("255.255.255.255")), Some(1));
        assert_eq!(table.lookup(ip("::")), Some(2));
        assert_eq!(Table::default().lookup(ip("::")), None);
    }

    #[test]
    fn a_subnet_may_be_named_by_any_address_in_it() {
        let table = of(&[(net("10.1.2.77/24"), 1), (net("fd00::9/64"), 2)]);
        assert_eq!(table.lookup(ip("10.1.2.1")), Some(1));
        assert_eq!(table.lookup(ip("fd00::1")), Some(2));
    }

    #[test]
    fn a_source_is_accepted_from_its_peers_address_alone() {
        let table = Table::new(Parts {
            subnets: &[
                (net("10.1.1.0/24"), 0),
                (net("10.1.2.0/24"), 1),
                (net("fd00:0:0:1::/64"), 0),
                (net("10.1.9.0/24"), 9),
            ],
            addresses: &[
                (ip("192.0.2.1"), 0),
                (ip("2001:db8::1"), 0),
                (ip("192.0.2.2"), 1),
                (ip("192.0.2.1"), 3),
            ],
            own: &[net("10.1.7.0/24"), net("fd00:0:0:7::/64")],
        });
        let accepts = |outer: &str, source: &str| {
            let sender = table.sender(ip(outer)).unwrap();
            table.accept(sender, ip(source))
        };
        assert_eq!(accepts("192.0.2.1", "10.1.1.5"), Some(0));
        assert_eq!(accepts("::ffff:192.0.2.1", "10.1.1.5"), Some(0));
        assert_eq!(accepts("2001:db8::1", "fd00:0:0:1::5"), Some(0));
        assert_eq!(accepts("192.0.2.2", "10.1.2.5"), Some(1));
        assert_eq!(accepts("192.0.2.2", "10.1.1.5"), None);
        assert_eq!(accepts("192.0.2.1", "10.1.2.5"), None);
        assert_eq!(accepts("192.0.2.1", "10.1.3.5"), None);
        assert_eq!(
            accepts("192.0.2.1", "10.1.9.5"),
            None,
            "a peer without an address"
        );
        assert_eq!(table.sender(ip("192.0.2.3")), None);
        assert!(table.is_own(ip("10.1.7.255")) && table.is_own(ip("fd00:0:0:7::1")));
        assert!(!table.is_own(ip("10.1.8.0")) && !table.is_own(ip("fd00:0:0:8::")));
    }

    fn subnets() -> impl Strategy<Value = Vec<(IpNetwork, u32)>> {
        // Few distinct bits, so that prefixes nest, repeat and meet.
        let v4 = (0_u32..64, 0_u8..=32).prop_map(|(bits, prefix)| {
            let address = std::net::Ipv4Addr::from_bits(bits << 27 | bits);
            IpNetwork::new(address.into(), prefix).unwrap()
        });
        let v6 = (0_u128..64, 0_u8..=128).prop_map(|(bits, prefix)| {
            let address = Ipv6Addr::from_bits(bits << 123 | bits << 62 | bits);
            IpNetwork::new(address.into(), prefix).unwrap()
        });
        prop::collection::vec((prop_oneof![v4, v6], 0_u32..50), 0..60)
    }

    proptest! {
        #[test]
        fn what_is_ours_is_what_one_of_our_subnets_contains(
            subnets in subnets(), near in subnets(),
        ) {
            let own: Vec<_> = subnets.iter().map(|(subnet, _)| *subnet).take(3).collect();
            let table = Table::new(Parts { own: &own, ..Parts::default() });
            for (near, _) in near {
                let ours = own.iter().any(|subnet| subnet.contains(near.ip()));
                prop_assert_eq!(table.is_own(near.ip()), ours);
            }
        }

        #[test]
        fn a_look_up_is_what_a_search_through_all_finds(
            subnets in subnets(), near in prop::collection::vec(0_u32..64, 0..50),
        ) {
            let table = of(&subnets);
            for bits in near {
                let wide = u128::from(bits);
                for address in [
                    IpAddr::V4((bits << 27 | bits).into()),
                    IpAddr::V4((bits << 27 | bits ^ 1).into()),
                    IpAddr::V6((wide << 123 | wide << 62 | wide).into()),
                    IpAddr::V6((wide << 123 | wide << 62 | wide ^ 1).into()),
                ] {
                    prop_assert_eq!(table.lookup(address), reference(&subnets, address));
                }
            }
        }
    }
}
