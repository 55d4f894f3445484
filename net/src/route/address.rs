//! Addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

use super::{RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR, Requests, Rtnl, Scope, Ticket};
use crate::error::Result;
use crate::ip;
use crate::message::{Attributes, NLM_F_CREATE, NLM_F_EXCL, u32_at};

/// An address with its prefix length, on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub address: IpNetwork,
    pub broadcast: Option<Ipv4Addr>,
    /// Usable at once: no duplicate address detection (IPv6 only; IPv4 has none).
    pub nodad: bool,
    /// Told, never asked for: detection is running, the address cannot be used yet.
    pub tentative: bool,
    /// Told, never asked for: somebody else has it.
    pub dad_failed: bool,
    /// Valid only on the link (fe80::/10) or the host.
    pub narrow: bool,
    /// Told, never asked for, like the rest: how far it is valid; [`Scope::UNIVERSE`] for most.
    pub scope: Scope,
    /// Does not run out.
    pub permanent: bool,
    /// Of IPv6: made up for privacy, and to be replaced. Of IPv4: not the first of its network.
    pub secondary: bool,
    /// Is about to run out; not to be used for anything that begins.
    pub deprecated: bool,
}

impl Address {
    pub fn new(link: u32, address: IpNetwork) -> Self {
        Self {
            link,
            address,
            broadcast: None,
            nodad: false,
            tentative: false,
            dad_failed: false,
            narrow: false,
            scope: Scope::UNIVERSE,
            permanent: true,
            secondary: false,
            deprecated: false,
        }
    }

    #[must_use]
    pub fn nodad(mut self) -> Self {
        self.nodad = true;
        self
    }

    /// With the broadcast address its prefix implies; no change for IPv6 and for /31 and /32.
    #[must_use]
    pub fn with_broadcast(mut self) -> Self {
        self.broadcast = match self.address {
            IpNetwork::V4(v4) if v4.prefix() < 31 => Some(v4.broadcast()),
            IpNetwork::V4(_) | IpNetwork::V6(_) => None,
        };
        self
    }
}

impl Requests {
    /// EEXIST if the link has the address with this prefix length.
    pub fn add_address(&mut self, address: &Address) -> Ticket<()> {
        let doing = format!("add address {} to link {}", address.address, address.link);
        self.change(
            RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_EXCL,
            doing,
            &message(address),
        )
    }

    /// EADDRNOTAVAIL if the link does not have it.
    pub fn delete_address(&mut self, address: &Address) -> Ticket<()> {
        let doing = format!(
            "delete address {} of link {}",
            address.address, address.link
        );
        self.change(RTM_DELADDR, 0, doing, &message(address))
    }
}

impl Rtnl {
    /// The addresses of one link, both families; only these leave the kernel.
    pub fn addresses_of(&mut self, link: u32) -> Result<Vec<Address>> {
        self.dump_addresses(&format!("list the addresses of link {link}"), link)
    }

    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        self.dump_addresses("list addresses", 0)
    }

    fn dump_addresses(&mut self, doing: &str, link: u32) -> Result<Vec<Address>> {
        let mut filter = AddressMessage::default();
        filter.header.index = link;
        self.dump(RTM_GETADDR, doing, &filter, |payload, addresses| {
            addresses.extend(read(payload)?);
            Some(())
        })
    }
}

fn message(address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    let ip = address.address.ip();
    message.header.family = family_of(ip);
    message.header.prefix_len = address.address.prefix();
    message.header.index = address.link;
    message.header.scope = if ip.is_loopback() {
        AddressScope::Host
    } else {
        AddressScope::Universe
    };
    if address.nodad {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
        .attributes
        .extend(address.broadcast.map(AddressAttribute::Broadcast));
    message
}

/// Outer None: makes no sense. Inner None: of a family that is not IP.
pub(crate) fn read(payload: &[u8]) -> Option<Option<Address>> {
    let [_family, prefix, flags, scope, ..] = *payload else {
        return None;
    };
    let mut flags = u32::from(flags);
    let (mut local, mut address, mut broadcast) = (None, None, None);
    for attribute in Attributes::after(payload, ADDRESS_HEADER) {
        match attribute.kind {
            IFA_LOCAL => local = ip::from_bytes(attribute.value),
            IFA_ADDRESS => address = ip::from_bytes(attribute.value),
            IFA_BROADCAST => broadcast = ip::from_bytes(attribute.value),
            IFA_FLAGS => flags = attribute.as_u32()?,
            _ => {}
        }
    }
    let flags = AddressFlags::from_bits_retain(flags);
    // On a point-to-point link IFA_ADDRESS is the far end's.
    let Some(ip) = local.or(address) else {
        return Some(None);
    };
    Some(Some(Address {
        link: u32_at(payload, 4)?,
        address: IpNetwork::new(ip, prefix).ok()?,
        broadcast: broadcast.and_then(|b| {
            if let IpAddr::V4(v4) = b {
                Some(v4)
            } else {
                None
            }
        }),
        nodad: flags.contains(AddressFlags::Nodad),
        tentative: flags.contains(AddressFlags::Tentative),
        dad_failed: flags.contains(AddressFlags::Dadfailed),
        narrow: AddressScope::from(scope) != AddressScope::Universe,
        scope: Scope(scope),
        permanent: flags.contains(AddressFlags::Permanent),
        secondary: flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
    }))
}

pub(super) fn family_of(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

const ADDRESS_HEADER: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_broadcast_address_is_implied_only_where_there_is_one() {
        let broadcast = |text: &str| {
            Address::new(1, text.parse().unwrap())
                .with_broadcast()
                .broadcast
        };
        assert_eq!(broadcast("10.1.2.3/24"), Some(Ipv4Addr::new(10, 1, 2, 255)));
        assert_eq!(broadcast("10.1.2.3/31"), None);
        assert_eq!(broadcast("10.1.2.3/32"), None);
        assert_eq!(broadcast("fd00::1/64"), None);
    }

    proptest! {
        #[test]
        fn an_address_of_any_bytes_is_read_or_refused_without_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
