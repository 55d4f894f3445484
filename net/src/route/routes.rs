//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};

use super::address::family_of;
use super::{RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE, Requests, Rtnl, Ticket};
use crate::batch::Doing;
use crate::error::Result;
use crate::ip;
use crate::message::{Attribute, Attributes, NLM_F_CREATE, NLM_F_REPLACE, u32_at};

/// A route. One with several next hops is told as one of these for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNetwork,
    pub kind: RouteKind,
    /// May be of the other family: IPv4 by way of an IPv6 neighbour.
    pub gateway: Option<IpAddr>,
    pub link: Option<u32>,
    /// The source address the host itself uses.
    pub source: Option<IpAddr>,
    pub priority: Option<u32>,
    pub table: u32,
    /// None: what the kernel expects for such a route.
    pub scope: Option<Scope>,
    pub mtu: Option<u32>,
    pub advmss: Option<u32>,
    /// The gateway is on the link, even if no address of ours says so.
    pub onlink: bool,
    /// Who made it (RTPROT_*).
    pub protocol: u8,
    /// Told, never asked for: it is one next hop of several.
    pub multipath: bool,
}

/// What becomes of packets (RTN_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    Unicast,
    /// They vanish.
    Blackhole,
    /// What we never make, by its number.
    Other(u8),
}

/// How far away a destination is (RT_SCOPE_*), by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(pub u8);

/// Which routes to list; what is None does not matter.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteFilter {
    pub ipv6: bool,
    pub table: Option<u32>,
    pub link: Option<u32>,
    pub protocol: Option<u8>,
    /// Unicast routes only if false.
    pub of_any_kind: bool,
}

impl Route {
    pub const MAIN_TABLE: u32 = 254;
    /// RTPROT_BOOT: made by a program that names no protocol of its own.
    pub const PROTOCOL_BOOT: u8 = 3;

    pub fn to(destination: IpNetwork) -> Self {
        Self {
            destination,
            kind: RouteKind::Unicast,
            gateway: None,
            link: None,
            source: None,
            priority: None,
            table: Self::MAIN_TABLE,
            scope: None,
            mtu: None,
            advmss: None,
            onlink: false,
            protocol: Self::PROTOCOL_BOOT,
            multipath: false,
        }
    }

    /// Has what is sent to `destination` vanish, unless a more specific route knows better.
    pub fn blackhole(destination: IpNetwork) -> Self {
        Self {
            kind: RouteKind::Blackhole,
            ..Self::to(destination)
        }
    }

    pub fn is_default(&self) -> bool {
        self.destination.prefix() == 0
    }
}

impl RouteKind {
    fn to_wire(self) -> RouteType {
        match self {
            Self::Unicast => RouteType::Unicast,
            Self::Blackhole => RouteType::BlackHole,
            Self::Other(number) => RouteType::from(number),
        }
    }

    fn from_wire(number: u8) -> Self {
        match RouteType::from(number) {
            RouteType::Unicast => Self::Unicast,
            RouteType::BlackHole => Self::Blackhole,
            _ => Self::Other(number),
        }
    }
}

impl Scope {
    pub const UNIVERSE: Self = Self(0);
    pub const LINK: Self = Self(253);
    pub const HOST: Self = Self(254);
    /// When deleting: any.
    const NOWHERE: Self = Self(255);
}

impl Requests {
    /// EEXIST if there is the very same route. A route that differs in its gateway only is added
    /// to the one that is there: IPv4 keeps both, the newest first, and IPv6 makes one with two
    /// next hops of them.
    pub fn add_route(&mut self, route: &Route) -> Ticket<()> {
        let doing = Doing::OfPayload(|bytes| describe("add route", bytes));
        self.change(
            RTM_NEWROUTE,
            NLM_F_CREATE,
            doing,
            &message(route, Intent::Add),
        )
    }

    /// Takes the place of the route to the same destination, with the same table and priority.
    pub fn replace_route(&mut self, route: &Route) -> Ticket<()> {
        let doing = Doing::OfPayload(|bytes| describe("replace route", bytes));
        self.change(
            RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_REPLACE,
            doing,
            &message(route, Intent::Add),
        )
    }

    /// ESRCH if there is none. What is None in `route` does not matter, nor does who made it.
    pub fn delete_route(&mut self, route: &Route) -> Ticket<()> {
        let doing = Doing::OfPayload(|bytes| describe("delete route", bytes));
        self.change(RTM_DELROUTE, 0, doing, &message(route, Intent::Delete))
    }

    /// The same, but only a route of this very protocol; so a route as it was listed is deleted,
    /// and no other that somebody has put in its place.
    pub fn delete_route_of_protocol(&mut self, route: &Route) -> Ticket<()> {
        let mut message = message(route, Intent::Delete);
        message.header.protocol = RouteProtocol::from(route.protocol);
        let doing = Doing::OfPayload(|bytes| describe("delete route", bytes));
        self.change(RTM_DELROUTE, 0, doing, &message)
    }
}

impl Rtnl {
    /// Routes of one family; the kernel filters.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = if filter.ipv6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        if !filter.of_any_kind {
            message.header.kind = RouteType::Unicast;
        }
        message.header.protocol = RouteProtocol::from(filter.protocol.unwrap_or(0));
        message
            .attributes
            .extend(filter.table.map(RouteAttribute::Table));
        message
            .attributes
            .extend(filter.link.map(RouteAttribute::Oif));
        let listed = self.dump(RTM_GETROUTE, "list routes", &message, read);
        match listed {
            // A table is made with its first route, so one without routes may not exist.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            other => other,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Intent {
    Add,
    Delete,
}

fn message(route: &Route, intent: Intent) -> RouteMessage {
    let mut message = RouteMessage::default();
    let destination = route.destination;
    message.header = RouteHeader {
        address_family: family_of(destination.ip()),
        destination_prefix_length: destination.prefix(),
        // A table above 255 is told by an attribute only.
        table: u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
        protocol: RouteProtocol::from(route.protocol),
        scope: RouteScope::from(scope(route, intent).0),
        kind: route.kind.to_wire(),
        ..RouteHeader::default()
    };
    if intent == Intent::Delete {
        message.header.protocol = RouteProtocol::from(0);
    }
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    if destination.prefix() > 0 {
        attributes.push(RouteAttribute::Destination(destination.network().into()));
    }
    attributes.extend(route.gateway.map(|gateway| via(destination, gateway)));
    attributes.extend(route.link.map(RouteAttribute::Oif));
    attributes.extend(
        route
            .source
            .map(|ip| RouteAttribute::PrefSource(RouteAddress::from(ip))),
    );
    attributes.extend(route.priority.map(RouteAttribute::Priority));
    if message.header.table == RouteHeader::RT_TABLE_UNSPEC {
        attributes.push(RouteAttribute::Table(route.table));
    }
    let metrics: Vec<RouteMetric> = route
        .mtu
        .map(RouteMetric::Mtu)
        .into_iter()
        .chain(route.advmss.map(RouteMetric::Advmss))
        .collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

/// IPv4 takes a route without gateway only with a scope that says its destination is near.
fn scope(route: &Route, intent: Intent) -> Scope {
    let near = route.gateway.is_none() && route.kind == RouteKind::Unicast;
    let implied = match (intent, route.destination, near) {
        (Intent::Delete, IpNetwork::V4(_), _) => Scope::NOWHERE,
        (Intent::Add, IpNetwork::V4(_), true) => Scope::LINK,
        _ => Scope::UNIVERSE,
    };
    route.scope.unwrap_or(implied)
}

fn via(destination: IpNetwork, gateway: IpAddr) -> RouteAttribute {
    match (destination, gateway) {
        (IpNetwork::V4(_), IpAddr::V6(v6)) => RouteAttribute::Via(RouteVia::Inet6(v6)),
        _ => RouteAttribute::Gateway(RouteAddress::from(gateway)),
    }
}

fn describe(doing: &str, message: &[u8]) -> String {
    let mut routes = Vec::new();
    let _ = read(message, &mut routes);
    let Some(route) = routes.first() else {
        return format!("{doing} of many next hops");
    };
    let mut text = format!("{doing} {}", route.destination);
    if let Some(gateway) = route.gateway {
        text += &format!(" via {gateway}");
    }
    if let Some(link) = route.link {
        text += &format!(" on link {link}");
    }
    text
}

pub(crate) fn read(payload: &[u8], routes: &mut Vec<Route>) -> Option<()> {
    let [family, prefix, _, _, table, protocol, scope, kind, ..] = *payload else {
        return None;
    };
    let ipv6 = AddressFamily::from(family) == AddressFamily::Inet6;
    let any = if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let mut route = Route::to(IpNetwork::new(any, prefix).ok()?);
    route.kind = RouteKind::from_wire(kind);
    route.table = table.into();
    route.protocol = protocol;
    route.scope = Some(Scope(scope));
    route.onlink = is_onlink(u32_at(payload, 8)?);
    let mut next_hops = None;
    for attribute in Attributes::after(payload, ROUTE_HEADER) {
        match attribute.kind {
            RTA_DST => {
                route.destination =
                    IpNetwork::new(ip::from_bytes(attribute.value)?, prefix).ok()?;
            }
            RTA_PREFSRC => route.source = ip::from_bytes(attribute.value),
            RTA_PRIORITY => route.priority = Some(attribute.as_u32()?),
            RTA_TABLE => route.table = attribute.as_u32()?,
            RTA_METRICS => read_metrics(attribute, &mut route)?,
            RTA_MULTIPATH => next_hops = Some(attribute.value),
            _ => read_hop(attribute, &mut route)?,
        }
    }
    match next_hops {
        None => routes.push(route),
        Some(hops) => read_hops(hops, &route, routes)?,
    }
    Some(())
}

fn read_hop(attribute: Attribute<'_>, route: &mut Route) -> Option<()> {
    match attribute.kind {
        RTA_OIF => route.link = Some(attribute.as_u32()?),
        RTA_GATEWAY => route.gateway = ip::from_bytes(attribute.value),
        RTA_VIA => route.gateway = ip::from_bytes(attribute.value.get(2..)?),
        _ => {}
    }
    Some(())
}

fn read_metrics(metrics: Attribute<'_>, route: &mut Route) -> Option<()> {
    for metric in metrics.nested() {
        match metric.kind {
            RTAX_MTU => route.mtu = Some(metric.as_u32()?),
            RTAX_ADVMSS => route.advmss = Some(metric.as_u32()?),
            _ => {}
        }
    }
    Some(())
}

/// Each hop is a length (2 bytes), flags, weight, link (4 bytes) and attributes.
fn read_hops(mut hops: &[u8], common: &Route, routes: &mut Vec<Route>) -> Option<()> {
    while !hops.is_empty() {
        let length = usize::from(crate::message::u16_at(hops, 0)?);
        let hop = hops.get(..length).filter(|h| h.len() >= NEXT_HOP_HEADER)?;
        let mut route = Route {
            multipath: true,
            ..*common
        };
        route.onlink = is_onlink(hop[2].into());
        route.link = Some(u32_at(hop, 4)?);
        for attribute in Attributes::after(hop, NEXT_HOP_HEADER) {
            read_hop(attribute, &mut route)?;
        }
        routes.push(route);
        hops = hops
            .get(crate::message::align(length)..)
            .unwrap_or_default();
    }
    Some(())
}

fn is_onlink(flags: u32) -> bool {
    RouteFlags::from_bits_retain(flags).contains(RouteFlags::Onlink)
}

const ROUTE_HEADER: usize = 12;
const NEXT_HOP_HEADER: usize = 8;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_route_of_any_bytes_is_read_or_refused_without_panic(bytes: Vec<u8>) {
            let _ = read(&bytes, &mut Vec::new());
        }
    }
}
