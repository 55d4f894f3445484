//! The kernel's tables as the plan names them: read whole, changed in one batch. No decisions.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_net::route::{
    FdbEntry, Neighbour as KernelNeighbour, NeighbourState, Requests, Route as KernelRoute,
    RouteFilter, RouteKind, Rtnl, Ticket,
};
use weft_net::{Mac, Result};

use crate::diff::{Actual, Change, RouteKey, Seen, Whose};
use crate::drift::Links;
use crate::plan::{By, Desired, Family, Forward, Neighbour, Route};

/// What tells ours from others' while the tables are read.
#[derive(Debug, Clone)]
pub struct Marks {
    pub links: Links,
    /// The pod networks, each with the length of a node's subnet.
    pub networks: Vec<(IpNetwork, u8)>,
    /// Since the machine is up flanneld has run here, which its subnet file says, and nothing of
    /// weft's: routes of its host-gw, which only their shape betrays, are its leftovers.
    pub first_takeover: bool,
}

pub fn read(rtnl: &mut Rtnl, marks: &Marks, desired: &Desired) -> Result<Actual> {
    let mut actual = Actual::default();
    for ipv6 in [false, true] {
        let filter = RouteFilter {
            ipv6,
            table: Some(KernelRoute::MAIN_TABLE),
            of_any_kind: true,
            ..RouteFilter::default()
        };
        for route in rtnl.routes(filter)? {
            take_up_route(&mut actual, marks, desired, &route);
        }
    }
    for family in [Family::V4, Family::V6] {
        let Some(link) = marks.links.of(family) else {
            continue;
        };
        actual.neighbours.extend(neighbours(rtnl, link, family)?);
        actual.fdb.extend(forwards(rtnl, link, family)?);
    }
    Ok(actual)
}

/// What came of each change, in their order. A thing to be removed that is gone is removed.
pub fn apply(rtnl: &mut Rtnl, links: Links, changes: &[Change]) -> Result<Vec<Result<()>>> {
    let mut requests = Requests::new();
    let tickets: Vec<Option<Ticket<()>>> = changes
        .iter()
        .map(|change| request(&mut requests, links, change))
        .collect();
    let mut answers = rtnl.run(requests)?;
    let results = tickets.into_iter().zip(changes).map(|(ticket, change)| {
        // Without its device nothing can be set, and nothing is left to remove.
        let Some(ticket) = ticket else { return Ok(()) };
        match answers.take(ticket) {
            Err(error) if change.removes() && error.is_not_found() => Ok(()),
            other => other,
        }
    });
    Ok(results.collect())
}

/// The number that our routes carry as their protocol. There are several, so that the kernel,
/// which looks for a route's next hop among all of one protocol and link, finds it in a
/// sixteenth of the time: 5,000 routes are made in 75 ms instead of 350.
pub fn protocol_of(destination: IpNetwork) -> u8 {
    let low = match destination {
        IpNetwork::V4(net) => u32::from(net.network())
            .checked_shr(u32::from(32 - net.prefix()))
            .map_or(0, |n| n.to_be_bytes()[3]),
        IpNetwork::V6(net) => u128::from(net.network())
            .checked_shr(u32::from(128 - net.prefix()))
            .map_or(0, |n| n.to_be_bytes()[15]),
    };
    FIRST_PROTOCOL + (low & 15)
}

pub fn is_our_protocol(protocol: u8) -> bool {
    (FIRST_PROTOCOL..=LAST_PROTOCOL).contains(&protocol)
}

fn take_up_route(actual: &mut Actual, marks: &Marks, desired: &Desired, route: &KernelRoute) {
    let metric = route.priority.filter(|priority| *priority != 0);
    let key: RouteKey = (route.destination, metric);
    let seen = Seen {
        by: by(marks.links, route),
        whose: marks.whose(route),
    };
    let is_wanted = desired
        .routes
        .binary_search_by_key(&key, Route::key)
        .is_ok();
    if !is_wanted && !matches!(seen.whose, Whose::Ours | Whose::Leftover) {
        return;
    }
    match actual.routes.entry(key) {
        Entry::Vacant(place) => {
            place.insert(seen);
        }
        // The hops of one route, told one by one, are one thing that the plan never asks for.
        Entry::Occupied(mut place) if route.multipath => {
            place.insert(Seen { by: None, ..seen });
        }
        Entry::Occupied(_) => actual.doubled.push((key, seen)),
    }
}

fn by(links: Links, route: &KernelRoute) -> Option<By> {
    match (route.kind, route.gateway, route.link) {
        (RouteKind::Blackhole, ..) => Some(By::Blackhole),
        (RouteKind::Unicast, None, Some(link)) if !route.multipath => {
            let carries = links.of(Family::of(route.destination.ip())) == Some(link);
            carries.then_some(By::Overlay)
        }
        (RouteKind::Unicast, Some(gateway), Some(link)) if !route.multipath => {
            let tunnel = [Family::V4, Family::V6]
                .into_iter()
                .find(|family| links.of(*family) == Some(link));
            match tunnel {
                Some(device) => route.onlink.then_some(By::Tunnel {
                    device,
                    end: gateway,
                }),
                None => Some(By::Link {
                    link,
                    peer: gateway,
                }),
            }
        }
        _ => None,
    }
}

impl Marks {
    fn whose(&self, route: &KernelRoute) -> Whose {
        if is_our_protocol(route.protocol) {
            return Whose::Ours;
        }
        if route.protocol != KernelRoute::PROTOCOL_BOOT {
            return Whose::Foreign(route.protocol);
        }
        if self.is_flannels(route) {
            Whose::Leftover
        } else {
            Whose::Unnamed
        }
    }

    fn is_flannels(&self, route: &KernelRoute) -> bool {
        let network = self
            .networks
            .iter()
            .find(|(network, _)| holds(*network, route.destination));
        let (Some((_, length)), Some(link), Some(_)) = (network, route.link, route.gateway) else {
            return false;
        };
        let in_tunnel = [self.links.v4, self.links.v6].contains(&Some(link));
        let direct = self.first_takeover
            && link == self.links.ground
            && route.destination.prefix() == *length;
        (in_tunnel && route.onlink) || (direct && !route.onlink)
    }
}

fn holds(network: IpNetwork, part: IpNetwork) -> bool {
    part.prefix() >= network.prefix() && network.contains(part.network())
}

fn neighbours(
    rtnl: &mut Rtnl,
    link: u32,
    family: Family,
) -> Result<BTreeMap<(Family, IpAddr), Mac>> {
    let listed = rtnl.neighbours_of(link)?.into_iter();
    Ok(listed
        .filter(|entry| entry.state == NeighbourState::Permanent)
        .filter_map(|entry| Some(((family, entry.address), entry.mac?)))
        .collect())
}

fn forwards(rtnl: &mut Rtnl, link: u32, family: Family) -> Result<BTreeMap<(Family, Mac), IpAddr>> {
    let listed = rtnl.fdb_of_link(link)?.into_iter();
    Ok(listed
        .filter(|entry| entry.state == NeighbourState::Permanent)
        .filter_map(|entry| Some(((family, entry.mac), entry.remote?)))
        .collect())
}

fn request(requests: &mut Requests, links: Links, change: &Change) -> Option<Ticket<()>> {
    Some(match change {
        Change::SetForward(entry) => requests.replace_fdb(&fdb_entry(links, entry)?),
        Change::RemoveForward(entry) => requests.delete_fdb(&fdb_entry(links, entry)?),
        Change::SetNeighbour(entry) => requests.replace_neighbour(&neighbour(links, entry)?),
        Change::RemoveNeighbour(entry) => {
            requests.delete_neighbour(links.of(entry.device)?, entry.address)
        }
        Change::SetRoute(wanted) => {
            requests.replace_route(&route(links, wanted.key(), Some(wanted.by))?)
        }
        Change::RemoveRoute(key, seen) => {
            let route = route(links, *key, seen.by)?;
            match seen.whose {
                // One of our numbers, whichever.
                Whose::Ours => requests.delete_route(&route),
                Whose::Leftover | Whose::Unnamed | Whose::Foreign(_) => requests
                    .delete_route_of_protocol(&KernelRoute {
                        protocol: KernelRoute::PROTOCOL_BOOT,
                        ..route
                    }),
            }
        }
    })
}

fn fdb_entry(links: Links, entry: &Forward) -> Option<FdbEntry> {
    Some(FdbEntry::tunnel(
        links.of(entry.device)?,
        entry.mac,
        entry.remote,
    ))
}

fn neighbour(links: Links, entry: &Neighbour) -> Option<KernelNeighbour> {
    Some(KernelNeighbour {
        link: links.of(entry.device)?,
        address: entry.address,
        mac: Some(entry.mac),
        state: NeighbourState::Permanent,
    })
}

fn route(links: Links, key: RouteKey, by: Option<By>) -> Option<KernelRoute> {
    let (destination, priority) = key;
    let plain = KernelRoute {
        priority,
        protocol: protocol_of(destination),
        ..KernelRoute::to(destination)
    };
    Some(match by {
        None => plain,
        Some(By::Blackhole) => KernelRoute {
            priority,
            protocol: protocol_of(destination),
            ..KernelRoute::blackhole(destination)
        },
        Some(By::Overlay) => KernelRoute {
            link: Some(links.of(Family::of(destination.ip()))?),
            ..plain
        },
        Some(By::Link { link, peer }) => KernelRoute {
            gateway: Some(peer),
            link: Some(link),
            ..plain
        },
        Some(By::Tunnel { device, end }) => KernelRoute {
            gateway: Some(end),
            link: Some(links.of(device)?),
            onlink: true,
            ..plain
        },
    })
}

/// A range that neither the kernel's headers nor iproute2's list of protocols gives to anybody.
const FIRST_PROTOCOL: u8 = 208;
const LAST_PROTOCOL: u8 = 223;
