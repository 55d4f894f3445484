//! Which subnets of the pool are free, and which to ask for. An address is a number here, so that
//! both families are one.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};

use super::dice::Dice;
use crate::conf::NetConf;
use crate::lease::Subnets;

/// What other keys hold, merged and in order.
#[derive(Debug, Default)]
pub struct Taken {
    v4: Vec<Span>,
    v6: Vec<Span>,
}

impl Taken {
    pub fn by<'a>(subnets: impl Iterator<Item = &'a Subnets>) -> Self {
        let mut taken = Self::default();
        for one in subnets {
            taken.v4.extend(one.v4.map(v4_span));
            taken.v6.extend(one.v6.map(v6_span));
        }
        merge(&mut taken.v4);
        merge(&mut taken.v6);
        taken
    }
}

/// Of each family the preferred subnet if it is free, else one of the first hundred that are. The
/// error says what is exhausted.
///
/// A key names the subnets of both families, and only the same key is refused to the second who asks
/// for it. So subnets are chosen in pairs, of which each has its place in both pools: nodes that
/// choose at once have both in common or neither.
pub fn choose(
    conf: &NetConf,
    preferred: &[Subnets],
    taken: &Taken,
    dice: &mut Dice,
) -> Result<Subnets, String> {
    let mut chosen = Subnets::default();
    let v4 = conf.v4.map(|pool| {
        let (min, max) = (u32::from(pool.min), u32::from(pool.max));
        Pool::new(32, pool.subnet_len, min.into(), max.into())
    });
    let v6 = conf
        .v6
        .map(|pool| Pool::new(128, pool.subnet_len, pool.min.into(), pool.max.into()));
    let mut place = None;
    if let Some(pool) = &v4 {
        let preferred = preferred
            .iter()
            .filter_map(|subnets| subnets.v4.map(v4_span));
        let mut free = pool.first_free(&taken.v4);
        if let Some(other) = &v6 {
            let paired = |at: &u128| other.free_at(pool.place(*at), &taken.v6).is_some();
            if free.iter().any(paired) {
                free.retain(paired);
            }
        }
        let at = pool.choose(preferred, &taken.v4, &free, dice);
        let at = at.ok_or_else(|| pool.exhausted("", |n| v4_address(n).to_string()))?;
        chosen.v4 = Ipv4Network::new_checked(v4_address(at), pool.len);
        place = Some(pool.place(at));
    }
    if let Some(pool) = &v6 {
        let preferred = preferred
            .iter()
            .filter_map(|subnets| subnets.v6.map(v6_span));
        let free = match place.and_then(|place| pool.free_at(place, &taken.v6)) {
            Some(at) => vec![at],
            None => pool.first_free(&taken.v6),
        };
        let at = pool.choose(preferred, &taken.v6, &free, dice);
        let at = at.ok_or_else(|| pool.exhausted("IPv6", |n| Ipv6Addr::from(n).to_string()))?;
        chosen.v6 = Ipv6Network::new_checked(at.into(), pool.len);
    }
    Ok(chosen)
}

/// Whether the configuration allows a node to hold these. A dual-stack lease will do where only
/// IPv4 is asked for.
pub fn compatible(conf: &NetConf, subnets: &Subnets) -> bool {
    let v4 = conf.v4.is_none_or(|pool| {
        subnets.v4.is_some_and(|net| {
            net.prefix() == pool.subnet_len && (pool.min..=pool.max).contains(&net.ip())
        })
    });
    let v6 = conf.v6.is_none_or(|pool| {
        subnets.v6.is_some_and(|net| {
            net.prefix() == pool.subnet_len && (pool.min..=pool.max).contains(&net.ip())
        })
    });
    v4 && v6
}

/// First and last address.
type Span = (u128, u128);

struct Pool {
    width: u8,
    len: u8,
    /// A subnet's size, less one.
    mask: u128,
    min: u128,
    max: u128,
}

impl Pool {
    fn new(width: u8, len: u8, min: u128, max: u128) -> Self {
        let bits = u32::from(width.saturating_sub(len));
        let mask = 1u128.checked_shl(bits).map_or(u128::MAX, |size| size - 1);
        Self {
            width,
            len,
            mask,
            min,
            max,
        }
    }

    /// One of the preferred if it is not taken, else one of `free`.
    fn choose(
        &self,
        preferred: impl Iterator<Item = Span>,
        taken: &[Span],
        free: &[u128],
        dice: &mut Dice,
    ) -> Option<u128> {
        let mut preferred = preferred.filter(|(first, last)| {
            let fits = last - first == self.mask && (self.min..=self.max).contains(first);
            fits && !overlaps(taken, (*first, *last))
        });
        if let Some((first, _)) = preferred.next() {
            return Some(first);
        }
        let at = dice.below(free.len() as u64);
        free.get(usize::try_from(at).unwrap_or(0)).copied()
    }

    /// Which of the pool's subnets begins there, counted from its first.
    fn place(&self, at: u128) -> u128 {
        match self.mask.checked_add(1) {
            Some(size) => at.saturating_sub(self.min) / size,
            None => 0,
        }
    }

    /// Where the subnet of that place begins, if there is one and it is free.
    fn free_at(&self, place: u128, taken: &[Span]) -> Option<u128> {
        let before = match place {
            0 => 0,
            _ => self.mask.checked_add(1)?.checked_mul(place)?,
        };
        let at = self.min.checked_add(before)?;
        (at <= self.max && !overlaps(taken, (at, at | self.mask))).then_some(at)
    }

    fn first_free(&self, taken: &[Span]) -> Vec<u128> {
        let mut free = Vec::new();
        let mut taken = taken.iter().peekable();
        let mut at = self.min;
        while at <= self.max && free.len() < CANDIDATES {
            let last = at | self.mask;
            while taken.next_if(|(_, end)| *end < at).is_some() {}
            let next = match taken.peek() {
                // Behind what is taken, at a subnet's start.
                Some((start, end)) if *start <= last => (*end).max(last) | self.mask,
                _ => {
                    free.push(at);
                    last
                }
            };
            let Some(next) = next.checked_add(1) else {
                break;
            };
            at = next;
        }
        free
    }

    fn exhausted(&self, prefix: &str, address: impl Fn(u128) -> String) -> String {
        let count = (self.max - self.min) / (self.mask.saturating_add(1)) + 1;
        let (len, min, max) = (self.len, address(self.min), address(self.max));
        let network = if self.width == 32 {
            "Network"
        } else {
            "IPv6Network"
        };
        format!(
            "all {count} subnets from {min}/{len} to {max}/{len} are taken by leases and \
             reservations; enlarge {network} or raise {prefix}SubnetMax in the network \
             configuration, or delete the keys of nodes that are gone"
        )
    }
}

fn overlaps(taken: &[Span], (first, last): Span) -> bool {
    let behind = taken.partition_point(|(_, end)| *end < first);
    taken.get(behind).is_some_and(|(start, _)| *start <= last)
}

fn merge(spans: &mut Vec<Span>) {
    spans.sort_unstable();
    spans.dedup_by(|next, kept| {
        let touches = next.0 <= kept.1;
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
}

fn v4_span(net: Ipv4Network) -> Span {
    (
        u32::from(net.network()).into(),
        u32::from(net.broadcast()).into(),
    )
}

fn v6_span(net: Ipv6Network) -> Span {
    (net.network().into(), net.broadcast().into())
}

fn v4_address(number: u128) -> Ipv4Addr {
    Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// As many as flanneld takes: fewer collide less seldom, more tear the pool apart.
const CANDIDATES: usize = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conf::Checks;

    fn conf(text: &str) -> NetConf {
        NetConf::parse(text, Checks::Leases).unwrap()
    }

    fn subnet(text: &str) -> Subnets {
        Subnets {
            v4: Some(text.parse().unwrap()),
            v6: None,
        }
    }

    fn small() -> NetConf {
        conf(r#"{"Network": "10.5.0.0/20", "SubnetMax": "10.5.3.0", "Backend": {"Type": "alloc"}}"#)
    }

    #[test]
    fn a_preferred_subnet_is_chosen_if_it_is_free_and_fits() {
        let mut dice = Dice::new(1);
        let wish = subnet("10.5.2.0/24");
        let none = Taken::by([].iter());
        assert_eq!(choose(&small(), &[wish], &none, &mut dice), Ok(wish));
        let taken = Taken::by([wish, subnet("10.5.1.0/24")].iter());
        assert_eq!(
            choose(&small(), &[wish], &taken, &mut dice),
            Ok(subnet("10.5.3.0/24"))
        );
        let taken = Taken::by([subnet("10.5.1.0/24"), subnet("10.5.3.128/25")].iter());
        for unfit in ["10.5.2.0/25", "10.5.0.0/24", "10.5.4.0/24"] {
            assert_eq!(
                choose(&small(), &[subnet(unfit)], &taken, &mut dice),
                Ok(wish)
            );
        }
    }

    #[test]
    fn an_exhausted_pool_is_told_with_its_bounds_and_the_remedy() {
        let taken = Taken::by([subnet("10.5.0.0/22")].iter());
        let told = choose(&small(), &[], &taken, &mut Dice::new(1)).unwrap_err();
        assert!(
            told.starts_with("all 3 subnets from 10.5.1.0/24 to 10.5.3.0/24 are taken"),
            "{told}"
        );
        assert!(told.contains("enlarge Network"), "{told}");
    }

    #[test]
    fn both_families_are_chosen_apart() {
        let dual = conf(
            r#"{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd05::/48", "Backend": {"Type": "alloc"}}"#,
        );
        let wish = Subnets {
            v4: Some("10.5.7.0/24".parse().unwrap()),
            v6: Some("fd05:0:0:7::/64".parse().unwrap()),
        };
        let taken = Taken::by(
            [Subnets {
                v4: None,
                v6: wish.v6,
            }]
            .iter(),
        );
        let chosen = choose(&dual, &[wish], &taken, &mut Dice::new(1)).unwrap();
        assert_eq!(chosen.v4, wish.v4);
        assert!(chosen.v6.is_some() && chosen.v6 != wish.v6);
        assert!(compatible(&dual, &chosen) && !compatible(&dual, &subnet("10.5.7.0/24")));
    }

    proptest! {
        /// Else both would have their lease, and one of them no pod that anybody reaches.
        #[test]
        fn nodes_that_choose_at_once_have_both_families_in_common_or_neither(
            held in proptest::collection::vec((0u32..16, 0u16..24), 0..12), seeds: [u64; 2],
        ) {
            let dual = conf(
                r#"{"Network": "10.5.0.0/20", "EnableIPv6": true, "IPv6Network": "fd05::/59", "Backend": {"Type": "alloc"}}"#,
            );
            let held: Vec<Subnets> = held.iter().map(|(v4, v6)| Subnets {
                v4: Ipv4Network::new_checked((0x0a05_0000 + (v4 << 8)).into(), 24),
                v6: Ipv6Network::new_checked(Ipv6Addr::new(0xfd05, 0, 0, *v6, 0, 0, 0, 0), 64),
            }).collect();
            let taken = Taken::by(held.iter());
            let chosen = seeds.map(|seed| choose(&dual, &[], &taken, &mut Dice::new(seed)).unwrap());
            let [one, other] = chosen;
            let paired = (1..16).any(|n| {
                let pair = Subnets {
                    v4: Ipv4Network::new_checked((0x0a05_0000 + (n << 8)).into(), 24),
                    v6: Ipv6Network::new_checked(Ipv6Addr::new(0xfd05, 0, 0, u16::try_from(n).unwrap(), 0, 0, 0, 0), 64),
                };
                held.iter().all(|held| !held.overlaps(&pair))
            });
            prop_assert!(held.iter().all(|held| !held.overlaps(&one) && !held.overlaps(&other)));
            prop_assert!(!paired || one == other || !one.overlaps(&other), "{one} and {other}");
        }

        #[test]
        fn what_is_free_is_the_first_hundred_that_overlap_nothing(
            holes in proptest::collection::vec((0u32..1 << 16, 20u8..=30), 0..60), seed: u64,
        ) {
            let conf = conf(r#"{"Network": "10.5.0.0/16", "SubnetLen": 25, "Backend": {"Type": "alloc"}}"#);
            let held: Vec<Subnets> = holes.iter().map(|(at, len)| {
                let net = Ipv4Network::new((0x0a05_0000 + at).into(), *len).unwrap();
                Subnets { v4: Some(Ipv4Network::new(net.network(), *len).unwrap()), v6: None }
            }).collect();
            let taken = Taken::by(held.iter());
            let simple: Vec<Subnets> = (1..512u32)
                .map(|n| Subnets { v4: Some(Ipv4Network::new((0x0a05_0000 + n * 128).into(), 25).unwrap()), v6: None })
                .filter(|one| !held.iter().any(|other| one.overlaps(other)))
                .take(CANDIDATES).collect();
            let pool = conf.v4.unwrap();
            let pool = Pool::new(32, 25, u32::from(pool.min).into(), u32::from(pool.max).into());
            let free: Vec<Subnets> = pool.first_free(&taken.v4).into_iter()
                .map(|at| Subnets { v4: Some(Ipv4Network::new(v4_address(at), 25).unwrap()), v6: None }).collect();
            prop_assert_eq!(&free, &simple);
            if let Ok(chosen) = choose(&conf, &[], &taken, &mut Dice::new(seed)) {
                prop_assert!(simple.contains(&chosen) && compatible(&conf, &chosen));
            }
        }

        #[test]
        fn pools_at_the_end_of_the_address_space_end(len in 1u8..=30) {
            let pool = Pool::new(32, len, 0xffff_ff00 & !((1u128 << (32 - len)) - 1), u32::MAX.into());
            prop_assert!(!pool.first_free(&[]).is_empty());
            let pool = Pool::new(128, len, !((1u128 << (128 - len)) - 1), u128::MAX);
            prop_assert_eq!(pool.first_free(&[]).len(), 1);
        }
    }
}
