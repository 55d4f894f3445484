//! Whose turn it is: the round robin through a range set. Pure.
//!
//! The addresses of a set are taken in turn, so that a container that crashes and comes back is
//! not given the address that its neighbours still think somebody else's.

use std::net::IpAddr;

use crate::range::{Range, RangeSet, address, number};

/// A stretch of one range whose addresses are offered one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) range: &'a Range,
    from: u128,
    to: u128,
}

/// An address that nobody has, and the range it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate<'a> {
    pub(crate) address: IpAddr,
    pub(crate) range: &'a Range,
}

/// 256 neighbouring addresses: a /24, or a /120.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Block {
    pub(crate) v4: bool,
    pub(crate) prefix: u128,
}

/// Which addresses of a block are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bitmap(pub(crate) [u64; 4]);

/// Every address of the set once, beginning after `last` where that is of the set.
pub(crate) fn turns(set: &RangeSet, last: Option<IpAddr>) -> Vec<Turn<'_>> {
    let ranges = set.ranges();
    let whole = |range| Turn {
        range,
        from: number(range.start),
        to: number(range.end),
    };
    let found = last.and_then(|last| {
        let at = ranges.iter().position(|range| range.contains(last))?;
        Some((at, number(last)))
    });
    let Some((at, last)) = found else {
        return ranges.iter().map(whole).collect();
    };
    let (before, rest) = ranges.split_at(at);
    let (own, after) = (whole(&rest[0]), &rest[1..]);
    let mut turns = Vec::with_capacity(ranges.len() + 1);
    if last < own.to {
        turns.push(Turn {
            from: last + 1,
            ..own
        });
    }
    turns.extend(after.iter().chain(before).map(whole));
    turns.push(Turn { to: last, ..own });
    turns
}

/// The first address that is neither taken nor its range's gateway.
pub(crate) fn first_free<'a, E>(
    turns: &[Turn<'a>],
    mut taken: impl FnMut(Block) -> Result<Bitmap, E>,
) -> Result<Option<Candidate<'a>>, E> {
    for turn in turns {
        let v4 = turn.range.is_v4();
        let gateway = number(turn.range.gateway);
        let mut from = turn.from;
        loop {
            let block = Block {
                v4,
                prefix: from >> BLOCK_BITS,
            };
            let to = turn.to.min(from | LAST_OF_BLOCK);
            let taken = taken(block)?;
            let free = |n: &u128| *n != gateway && !taken.has(offset(*n));
            if !taken.is_full()
                && let Some(found) = (from..=to).find(free)
            {
                return Ok(Some(Candidate {
                    address: address(v4, found),
                    range: turn.range,
                }));
            }
            if to == turn.to {
                break;
            }
            from = to + 1;
        }
    }
    Ok(None)
}

impl Block {
    pub(crate) fn of(ip: IpAddr) -> Self {
        Self {
            v4: ip.is_ipv4(),
            prefix: number(ip) >> BLOCK_BITS,
        }
    }
}

impl Bitmap {
    pub(crate) fn has(&self, offset: u8) -> bool {
        self.0[usize::from(offset >> 6)] & Self::bit(offset) != 0
    }

    pub(crate) fn set(&mut self, offset: u8) {
        self.0[usize::from(offset >> 6)] |= Self::bit(offset);
    }

    pub(crate) fn clear(&mut self, offset: u8) {
        self.0[usize::from(offset >> 6)] &= !Self::bit(offset);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    fn is_full(&self) -> bool {
        self.0 == [u64::MAX; 4]
    }

    fn bit(offset: u8) -> u64 {
        1 << (offset & 63)
    }
}

/// Where in its block the address with this number stands.
pub(crate) fn offset(number: u128) -> u8 {
    number.to_le_bytes()[0]
}

const BLOCK_BITS: u32 = 8;
const LAST_OF_BLOCK: u128 = (1 << BLOCK_BITS) - 1;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, convert::Infallible};

    use proptest::prelude::*;

    use super::*;
    use crate::range::Draft;

    fn set(ranges: &[(&str, &str, &str)]) -> RangeSet {
        let draft = |(subnet, start, end): &(&str, &str, &str)| Draft {
            subnet: subnet.parse().unwrap(),
            start: start.parse().ok(),
            end: end.parse().ok(),
            gateway: None,
        };
        RangeSet::new(&ranges.iter().map(draft).collect::<Vec<_>>()).unwrap()
    }

    fn choose(set: &RangeSet, last: Option<IpAddr>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let bitmap = |block: Block| {
            let mut bitmap = Bitmap::default();
            let here = taken.iter().filter(|ip| Block::of(**ip) == block);
            here.for_each(|ip| bitmap.set(offset(number(*ip))));
            Ok::<_, Infallible>(bitmap)
        };
        first_free(&turns(set, last), bitmap)
            .unwrap()
            .map(|found| found.address)
    }

    /// One address after the other, as the rule is told.
    fn choose_slowly(
        set: &RangeSet,
        last: Option<IpAddr>,
        taken: &BTreeSet<IpAddr>,
    ) -> Option<IpAddr> {
        let all: Vec<(IpAddr, IpAddr)> = set
            .ranges()
            .iter()
            .flat_map(|r| {
                (number(r.start)..=number(r.end)).map(|n| (address(r.is_v4(), n), r.gateway))
            })
            .collect();
        let first = all
            .iter()
            .position(|(ip, _)| Some(*ip) == last)
            .map_or(0, |at| at + 1);
        let turn = all[first..].iter().chain(&all[..first]);
        turn.copied()
            .find(|(ip, gateway)| ip != gateway && !taken.contains(ip))
            .map(|(ip, _)| ip)
    }

    #[test]
    fn a_set_of_eight_yields_its_five_in_turn_and_then_the_one_that_came_back() {
        let set = set(&[("10.0.0.0/29", "", "")]);
        let (mut taken, mut last) = (BTreeSet::new(), None);
        for n in 2..=6 {
            last = choose(&set, last, &taken);
            assert_eq!(last.unwrap().to_string(), format!("10.0.0.{n}"));
            taken.insert(last.unwrap());
        }
        assert_eq!(choose(&set, last, &taken), None);
        let back = "10.0.0.3".parse().unwrap();
        taken.remove(&back);
        assert_eq!(choose(&set, last, &taken), Some(back));
    }

    #[test]
    fn after_the_end_of_one_range_comes_the_next() {
        let set = set(&[("10.0.0.0/29", "", ""), ("10.1.0.0/29", "", "")]);
        let after = |last: &str| {
            choose(&set, last.parse().ok(), &BTreeSet::new())
                .unwrap()
                .to_string()
        };
        assert_eq!(after("10.0.0.6"), "10.1.0.2");
        assert_eq!(after("10.1.0.6"), "10.0.0.2");
        assert_eq!(after("192.168.0.1"), "10.0.0.2", "no longer of the set");
    }

    #[test]
    fn a_range_that_is_but_the_gateway_yields_nothing() {
        let set = set(&[("10.0.0.0/29", "10.0.0.1", "10.0.0.1")]);
        assert_eq!(choose(&set, None, &BTreeSet::new()), None);
    }

    #[test]
    fn the_very_last_address_of_all_can_be_had() {
        let set = set(&[("255.255.255.252/30", "255.255.255.255", "255.255.255.255")]);
        assert_eq!(
            choose(&set, None, &BTreeSet::new()),
            Some("255.255.255.255".parse().unwrap())
        );
    }

    fn some_set() -> impl Strategy<Value = RangeSet> {
        let range = (0..3u32, 22..=30u8, any::<(u16, u16)>());
        (any::<bool>(), proptest::collection::vec(range, 1..4)).prop_map(|(v4, ranges)| {
            let mut drafts: Vec<Draft> = Vec::new();
            for (at, prefix, (a, b)) in ranges {
                let (base, prefix) = if v4 {
                    (u128::from(0x0a00_0000 + (at << 16)), prefix)
                } else {
                    (0xfd99 << 112 | u128::from(at) << 64, prefix + 96)
                };
                let size = 1u128 << (if v4 { 32 } else { 128 } - prefix);
                let (a, b) = (base + u128::from(a) % size, base + u128::from(b) % size);
                drafts.push(Draft {
                    subnet: ipnetwork::IpNetwork::new(address(v4, base), prefix).unwrap(),
                    start: Some(address(v4, a.min(b))),
                    end: Some(address(v4, a.max(b))),
                    gateway: None,
                });
                if RangeSet::new(&drafts).is_err() {
                    drafts.pop();
                }
            }
            RangeSet::new(&drafts).unwrap()
        })
    }

    proptest! {
        #[test]
        fn the_choice_is_the_one_that_walking_finds(
            set in some_set(),
            last in any::<u16>(),
            taken in proptest::collection::vec((any::<prop::sample::Index>(), 1..600usize), 0..6),
        ) {
            let all: Vec<IpAddr> = set.ranges().iter()
                .flat_map(|r| (number(r.start)..=number(r.end)).map(|n| address(r.is_v4(), n)))
                .collect();
            let taken: BTreeSet<IpAddr> = taken.iter()
                .flat_map(|(from, count)| all.iter().copied().skip(from.index(all.len())).take(*count))
                .collect();
            let last = all.get(usize::from(last) % (all.len() + 1)).copied();
            prop_assert_eq!(choose(&set, last, &taken), choose_slowly(&set, last, &taken));
        }
    }
}
