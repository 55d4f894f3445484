//! From what is to what should be: the messages between, in an order that never leaves a peer
//! without a way while it is changed.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_net::Mac;

use crate::plan::{By, Desired, Family, Forward, Neighbour, Route};

/// What the kernel holds that is ours, or in the way of what is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    pub routes: BTreeMap<RouteKey, Seen>,
    /// Beyond the first with the same key: what an append leaves behind.
    pub doubled: Vec<(RouteKey, Seen)>,
    pub neighbours: BTreeMap<(Family, IpAddr), Mac>,
    pub fdb: BTreeMap<(Family, Mac), IpAddr>,
}

pub type RouteKey = (IpNetwork, Option<u32>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// None: a shape that the plan never asks for (several next hops, no gateway).
    pub by: Option<By>,
    pub whose: Whose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Ours,
    /// Of flanneld's making, and not wanted by the plan: removed.
    Leftover,
    /// Of a program that names no protocol of its own, as flanneld: taken over where the plan
    /// wants the same destination, left alone elsewhere.
    Unnamed,
    /// By its protocol number somebody else's: never touched.
    Foreign(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    SetForward(Forward),
    SetNeighbour(Neighbour),
    SetRoute(Route),
    RemoveRoute(RouteKey, Seen),
    RemoveNeighbour(Neighbour),
    RemoveForward(Forward),
}

/// Somebody else's route stands where a peer's should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InTheWay {
    pub key: RouteKey,
    pub protocol: u8,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    pub changes: Vec<Change>,
    pub in_the_way: Vec<InTheWay>,
}

/// Sets go before removals, and a tunnel's end before the route into it.
pub fn diff(desired: &Desired, actual: &Actual) -> Difference {
    let mut difference = Difference::default();
    let mut removals = Vec::new();
    let changes = &mut difference.changes;

    // The kernel uses the first of several, so nothing is lost with the others; and it refuses
    // to make the first one like another.
    let doubled = actual.doubled.iter().filter(|(_, seen)| seen.is_stale());
    changes.extend(doubled.map(|(key, seen)| Change::RemoveRoute(*key, *seen)));
    walk(
        desired.fdb.iter().map(|e| (e.key(), e.remote)),
        actual.fdb.iter().map(|(key, remote)| (*key, *remote)),
        |(device, mac), wanted, held| match (wanted, held) {
            (Some(remote), held) if held != Some(remote) => {
                changes.push(Change::SetForward(Forward {
                    device,
                    mac,
                    remote,
                }));
            }
            (None, Some(remote)) => {
                removals.push(Change::RemoveForward(Forward {
                    device,
                    mac,
                    remote,
                }));
            }
            _ => {}
        },
    );
    walk(
        desired.neighbours.iter().map(|e| (e.key(), e.mac)),
        actual.neighbours.iter().map(|(key, mac)| (*key, *mac)),
        |(device, address), wanted, held| match (wanted, held) {
            (Some(mac), held) if held != Some(mac) => {
                changes.push(Change::SetNeighbour(Neighbour {
                    device,
                    address,
                    mac,
                }));
            }
            (None, Some(mac)) => removals.push(Change::RemoveNeighbour(Neighbour {
                device,
                address,
                mac,
            })),
            _ => {}
        },
    );
    walk(
        desired.routes.iter().map(|route| (route.key(), route.by)),
        actual.routes.iter().map(|(key, seen)| (*key, *seen)),
        |key, wanted, held| match (wanted, held) {
            (
                Some(_),
                Some(Seen {
                    whose: Whose::Foreign(protocol),
                    ..
                }),
            ) => {
                difference.in_the_way.push(InTheWay { key, protocol });
            }
            (Some(by), held) if held != Some(Seen::ours(by)) => {
                changes.push(Change::SetRoute(Route {
                    destination: key.0,
                    metric: key.1,
                    by,
                }))
            }
            (None, Some(seen)) if seen.is_stale() => {
                removals.push(Change::RemoveRoute(key, seen));
            }
            _ => {}
        },
    );
    // Routes first: nothing may lead into a tunnel whose end is gone.
    changes.extend(removals.into_iter().rev());
    difference
}

impl Actual {
    /// What is held once a change has been made.
    pub fn apply(&mut self, change: &Change) {
        match *change {
            Change::SetForward(entry) => {
                self.fdb.insert(entry.key(), entry.remote);
            }
            Change::RemoveForward(entry) => {
                self.fdb.remove(&entry.key());
            }
            Change::SetNeighbour(entry) => {
                self.neighbours.insert(entry.key(), entry.mac);
            }
            Change::RemoveNeighbour(entry) => {
                self.neighbours.remove(&entry.key());
            }
            Change::SetRoute(route) => {
                self.routes.insert(route.key(), Seen::ours(route.by));
            }
            Change::RemoveRoute(key, seen) => {
                let doubled = self.doubled.iter().position(|entry| *entry == (key, seen));
                if let Some(index) = doubled {
                    self.doubled.remove(index);
                } else {
                    self.routes.remove(&key);
                }
            }
        }
    }

    pub fn has_route_to(&self, destination: IpNetwork) -> bool {
        let any = (destination, None)..=(destination, Some(u32::MAX));
        self.routes.range(any).next().is_some()
    }

    /// What `self` lacks, or has otherwise, of what was believed to be held: somebody else's
    /// doing.
    pub fn drift_from(&self, believed: &Self) -> Vec<Change> {
        let mut drift = Vec::new();
        for (&(device, mac), &remote) in &believed.fdb {
            if self.fdb.get(&(device, mac)) != Some(&remote) {
                drift.push(Change::SetForward(Forward {
                    device,
                    mac,
                    remote,
                }));
            }
        }
        for (&(device, address), &mac) in &believed.neighbours {
            if self.neighbours.get(&(device, address)) != Some(&mac) {
                drift.push(Change::SetNeighbour(Neighbour {
                    device,
                    address,
                    mac,
                }));
            }
        }
        for (&key, seen) in &believed.routes {
            if let (Some(by), Whose::Ours) = (seen.by, seen.whose)
                && self.routes.get(&key) != Some(seen)
            {
                drift.push(Change::SetRoute(Route {
                    destination: key.0,
                    metric: key.1,
                    by,
                }));
            }
        }
        drift
    }
}

impl Change {
    pub fn removes(&self) -> bool {
        match self {
            Self::SetForward(_) | Self::SetNeighbour(_) | Self::SetRoute(_) => false,
            Self::RemoveRoute(..) | Self::RemoveNeighbour(_) | Self::RemoveForward(_) => true,
        }
    }
}

impl Seen {
    pub fn ours(by: By) -> Self {
        Self {
            by: Some(by),
            whose: Whose::Ours,
        }
    }

    fn is_stale(&self) -> bool {
        matches!(self.whose, Whose::Ours | Whose::Leftover)
    }
}

/// Goes through two sorted lists side by side.
fn walk<K: Ord + Copy, A, B>(
    wanted: impl Iterator<Item = (K, A)>,
    held: impl Iterator<Item = (K, B)>,
    mut each: impl FnMut(K, Option<A>, Option<B>),
) {
    let (mut wanted, mut held) = (wanted.peekable(), held.peekable());
    loop {
        let order = match (wanted.peek(), held.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let left = (order != Ordering::Greater)
            .then(|| wanted.next())
            .flatten();
        let right = (order != Ordering::Less).then(|| held.next()).flatten();
        let Some(key) = left
            .as_ref()
            .map(|l| l.0)
            .or_else(|| right.as_ref().map(|r| r.0))
        else {
            return;
        };
        each(key, left.map(|l| l.1), right.map(|r| r.1));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(n: u8) -> IpNetwork {
        format!("10.0.{n}.0/24").parse().expect("a network")
    }

    fn ip(n: u8) -> IpAddr {
        format!("192.168.0.{n}").parse().expect("an address")
    }

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    prop_compose! {
        fn a_by()(kind in 0..3u8, n in 0..4u8) -> By {
            match kind {
                0 => By::Tunnel { device: Family::V4, end: ip(n) },
                1 => By::Link { link: 3, peer: ip(n) },
                _ => By::Blackhole,
            }
        }
    }

    prop_compose! {
        fn a_desired()(
            routes in prop::collection::btree_map(0..12u8, a_by(), 0..12),
            neighbours in prop::collection::btree_map(0..12u8, 0..4u8, 0..12),
            fdb in prop::collection::btree_map(0..12u8, 0..4u8, 0..12),
        ) -> Desired {
            Desired {
                routes: routes
                    .into_iter()
                    .map(|(n, by)| Route { destination: net(n), metric: None, by })
                    .collect(),
                neighbours: neighbours
                    .into_iter()
                    .map(|(n, m)| Neighbour { device: Family::V4, address: ip(n), mac: mac(m) })
                    .collect(),
                fdb: fdb
                    .into_iter()
                    .map(|(m, n)| Forward { device: Family::V4, mac: mac(m), remote: ip(n) })
                    .collect(),
                ..Desired::default()
            }
        }
    }

    fn whose() -> impl Strategy<Value = Whose> {
        prop_oneof![
            Just(Whose::Ours),
            Just(Whose::Leftover),
            Just(Whose::Unnamed),
            Just(Whose::Foreign(4)),
        ]
    }

    prop_compose! {
        fn an_actual()(
            mut wanted in a_desired(),
            whose in prop::collection::vec(whose(), 12),
            doubled in prop::collection::vec((0..12u8, a_by(), whose()), 0..3),
        ) -> Actual {
            wanted.routes.truncate(whose.len());
            Actual {
                routes: wanted
                    .routes
                    .iter()
                    .zip(&whose)
                    .map(|(r, w)| (r.key(), Seen { by: Some(r.by), whose: *w }))
                    .collect(),
                doubled: doubled
                    .into_iter()
                    .map(|(n, by, whose)| ((net(n), None), Seen { by: Some(by), whose }))
                    .collect(),
                neighbours: wanted.neighbours.iter().map(|e| (e.key(), e.mac)).collect(),
                fdb: wanted.fdb.iter().map(|e| (e.key(), e.remote)).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_is_what_should_be_once_the_difference_is_applied(
            desired in a_desired(), before in an_actual()
        ) {
            let mut actual = before.clone();
            let difference = diff(&desired, &before);
            difference.changes.iter().for_each(|change| actual.apply(change));

            for route in &desired.routes {
                let held = actual.routes[&route.key()];
                match before.routes.get(&route.key()).map(|seen| seen.whose) {
                    Some(Whose::Foreign(protocol)) => {
                        prop_assert_eq!(held, before.routes[&route.key()]);
                        let told = InTheWay { key: route.key(), protocol };
                        prop_assert!(difference.in_the_way.contains(&told));
                    }
                    _ => prop_assert_eq!(held, Seen::ours(route.by)),
                }
            }
            for (key, seen) in &actual.routes {
                let wanted = desired.routes.iter().any(|route| route.key() == *key);
                prop_assert!(wanted || !seen.is_stale());
            }
            prop_assert!(actual.doubled.iter().all(|(_, seen)| !seen.is_stale()));
            let neighbours: BTreeMap<_, _> =
                desired.neighbours.iter().map(|e| (e.key(), e.mac)).collect();
            let fdb: BTreeMap<_, _> = desired.fdb.iter().map(|e| (e.key(), e.remote)).collect();
            prop_assert_eq!(&actual.neighbours, &neighbours);
            prop_assert_eq!(&actual.fdb, &fdb);
            prop_assert_eq!(diff(&desired, &actual).changes, vec![]);
        }

        #[test]
        fn what_is_not_ours_is_never_removed(desired in a_desired(), actual in an_actual()) {
            for change in diff(&desired, &actual).changes {
                if let Change::RemoveRoute(_, seen) = change {
                    prop_assert!(matches!(seen.whose, Whose::Ours | Whose::Leftover));
                }
            }
        }

        #[test]
        fn no_drift_means_that_nothing_believed_is_missing(a in an_actual(), b in an_actual()) {
            let mut mended = b.clone();
            b.drift_from(&a).iter().for_each(|change| mended.apply(change));
            prop_assert_eq!(mended.drift_from(&a), vec![]);
            prop_assert_eq!(a.drift_from(&a), vec![]);
        }
    }

    #[test]
    fn a_peer_that_moves_gets_its_ways_before_the_old_ones_go() {
        let entry = |m: u8| Forward {
            device: Family::V4,
            mac: mac(m),
            remote: ip(1),
        };
        let desired = Desired {
            fdb: vec![entry(2)],
            ..Desired::default()
        };
        let mut actual = Actual::default();
        actual.apply(&Change::SetForward(entry(1)));
        assert_eq!(
            diff(&desired, &actual).changes,
            [
                Change::SetForward(entry(2)),
                Change::RemoveForward(entry(1))
            ]
        );
    }
}
