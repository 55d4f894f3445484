//! Which way the kernel would send a packet.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};

use super::address::family_of;
use super::{RTM_GETROUTE, Reply, Requests, Rtnl, Ticket};
use crate::error::Result;
use crate::message::Attributes;

/// Where a packet would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The link it would leave by; for an address of the host's own, the loopback.
    pub link: u32,
    /// The address is the host's own.
    pub is_local: bool,
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
}

impl Reply for Way {
    fn read(bytes: &[u8]) -> Option<Self> {
        let kind = *bytes.get(KIND)?;
        let link = Attributes::after(bytes, ROUTE_HEADER)
            .find(|attribute| attribute.kind == RTA_OIF)?
            .as_u32()?;
        Some(Self {
            link,
            is_local: kind == RTN_LOCAL,
        })
    }
}

/// `struct rtmsg`, and where in it the kind stands.
const ROUTE_HEADER: usize = 12;
const KIND: usize = 7;
const RTN_LOCAL: u8 = 2;
const RTA_OIF: u16 = 4;
