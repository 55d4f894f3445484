//! Which way the kernel would send a packet, and which way it sends what it knows nothing about.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};

use super::address::family_of;
use super::{RTM_GETROUTE, Reply, Requests, Route, RouteFilter, Rtnl, Ticket};
use crate::error::Result;
use crate::ip;
use crate::message::Attributes;

/// Where a packet would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The link it would leave by; for an address of the host's own, the loopback.
    pub link: u32,
    /// The address is the host's own.
    pub is_local: bool,
    /// The address the host itself would send from.
    pub source: Option<IpAddr>,
    /// None: it is a neighbour.
    pub gateway: Option<IpAddr>,
}

impl Requests {
    /// ENETUNREACH (and its like) if there is no way.
    pub fn way_to(&mut self, address: IpAddr) -> Ticket<Way> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family_of(address),
            destination_prefix_length: IpNetwork::from(address).prefix(),
            ..RouteHeader::default()
        };
        message
            .attributes
            .push(RouteAttribute::Destination(address.into()));
        self.get(
            RTM_GETROUTE,
            format!("look up the way to {address}"),
            &message,
        )
    }
}

impl Rtnl {
    pub fn way_to(&mut self, address: IpAddr) -> Result<Way> {
        self.one(|r| r.way_to(address))
    }

    /// The main table's routes to everywhere, the preferred first: the lower its priority's
    /// number, the better.
    pub fn default_routes(&mut self, ipv6: bool) -> Result<Vec<Route>> {
        let mut routes = self.routes(RouteFilter {
            ipv6,
            table: Some(Route::MAIN_TABLE),
            ..RouteFilter::default()
        })?;
        routes.retain(Route::is_default);
        routes.sort_by_key(|route| route.priority.unwrap_or(0));
        Ok(routes)
    }
}

impl Reply for Way {
    fn read(bytes: &[u8]) -> Option<Self> {
        let is_local = *bytes.get(KIND)? == RTN_LOCAL;
        let (mut link, mut source, mut gateway) = (None, None, None);
        for attribute in Attributes::after(bytes, ROUTE_HEADER) {
            match attribute.kind {
                RTA_OIF => link = attribute.as_u32(),
                RTA_PREFSRC => source = ip::from_bytes(attribute.value),
                RTA_GATEWAY => gateway = ip::from_bytes(attribute.value),
                RTA_VIA => gateway = ip::from_bytes(attribute.value.get(2..)?),
                _ => {}
            }
        }
        Some(Self {
            link: link?,
            is_local,
            source,
            gateway,
        })
    }
}

/// `struct rtmsg`, and where in it the kind stands.
const ROUTE_HEADER: usize = 12;
const KIND: usize = 7;
const RTN_LOCAL: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_VIA: u16 = 18;
