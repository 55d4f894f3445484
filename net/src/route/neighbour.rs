//! Neighbours: which hardware address an IP address has on a link, and by which port or tunnel a
//! bridge or VXLAN reaches a hardware address (the forwarding database).

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
    NeighbourState as WireState,
};

use super::address::family_of;
use super::{RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH, Requests, Rtnl, Ticket};
use crate::batch::Doing;
use crate::error::Result;
use crate::ip;
use crate::mac::Mac;
use crate::message::{Attributes, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, u16_at, u32_at};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    pub link: u32,
    pub address: IpAddr,
    pub mac: Option<Mac>,
    pub state: NeighbourState,
}

/// An entry of a bridge's or a VXLAN device's forwarding database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbEntry {
    /// The port, or the VXLAN device.
    pub link: u32,
    pub mac: Mac,
    /// The far end of the tunnel, on a VXLAN device.
    pub remote: Option<IpAddr>,
    pub vlan: Option<u16>,
    /// Where they differ from what the VXLAN device is set to.
    pub port: Option<u16>,
    pub vni: Option<u32>,
    /// In the database of the bridge that `link` is a port of, rather than in the link's own.
    pub of_master: bool,
    pub state: NeighbourState,
}

impl FdbEntry {
    /// By way of the VXLAN device `link`, `mac` is at `remote`; for good.
    pub fn tunnel(link: u32, mac: Mac, remote: IpAddr) -> Self {
        Self {
            link,
            mac,
            remote: Some(remote),
            vlan: None,
            port: None,
            vni: None,
            of_master: false,
            state: NeighbourState::Permanent,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourState {
    Incomplete,
    Reachable,
    Stale,
    Delay,
    Probe,
    Failed,
    /// Needs no resolution. In a forwarding database: put there by an operator, may go.
    Noarp,
    /// Never ages. In a forwarding database: the address of the link itself, or put there so.
    Permanent,
    None,
}

impl Requests {
    pub fn replace_neighbour(&mut self, neighbour: &Neighbour) -> Ticket<()> {
        let doing = Doing::OfPayload(|bytes| describe("set neighbour", bytes));
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.change(RTM_NEWNEIGH, flags, doing, &neighbour_message(neighbour))
    }

    /// ENOENT if there is none.
    pub fn delete_neighbour(&mut self, link: u32, address: IpAddr) -> Ticket<()> {
        let doing = Doing::OfPayload(|bytes| describe("delete neighbour", bytes));
        let neighbour = Neighbour {
            link,
            address,
            mac: None,
            state: NeighbourState::None,
        };
        self.change(RTM_DELNEIGH, 0, doing, &neighbour_message(&neighbour))
    }

    /// Takes the place of the entry for the same hardware address.
    pub fn replace_fdb(&mut self, entry: &FdbEntry) -> Ticket<()> {
        let doing = Doing::OfPayload(|bytes| describe_fdb("set forwarding entry", bytes));
        self.change(
            RTM_NEWNEIGH,
            NLM_F_CREATE | NLM_F_REPLACE,
            doing,
            &fdb_message(entry),
        )
    }

    /// Adds another remote for the same hardware address: to a VXLAN device, for 00:00:00:00:00:00
    /// and for multicast addresses only.
    pub fn append_fdb(&mut self, entry: &FdbEntry) -> Ticket<()> {
        let doing = Doing::OfPayload(|bytes| describe_fdb("add forwarding entry", bytes));
        self.change(
            RTM_NEWNEIGH,
            NLM_F_CREATE | NLM_F_APPEND,
            doing,
            &fdb_message(entry),
        )
    }

    /// ENOENT if there is none.
    pub fn delete_fdb(&mut self, entry: &FdbEntry) -> Ticket<()> {
        let doing = Doing::OfPayload(|bytes| describe_fdb("delete forwarding entry", bytes));
        self.change(RTM_DELNEIGH, 0, doing, &fdb_message(entry))
    }
}

impl Rtnl {
    /// The IPv4 and IPv6 neighbours on one link.
    pub fn neighbours_of(&mut self, link: u32) -> Result<Vec<Neighbour>> {
        let doing = format!("list the neighbours on link {link}");
        let mut filter = NeighbourMessage::default();
        filter.attributes = vec![NeighbourAttribute::IfIndex(link)];
        self.dump(RTM_GETNEIGH, &doing, &filter, |payload, all| {
            all.extend(read_neighbour(payload)?);
            Some(())
        })
    }

    /// The forwarding entries of a bridge and its ports.
    pub fn fdb_of_bridge(&mut self, bridge: u32) -> Result<Vec<FdbEntry>> {
        let doing = format!("list the forwarding entries of bridge {bridge}");
        self.dump_fdb(&doing, 0, vec![NeighbourAttribute::Controller(bridge)])
    }

    /// The forwarding entries of one VXLAN device or bridge port.
    pub fn fdb_of_link(&mut self, link: u32) -> Result<Vec<FdbEntry>> {
        self.dump_fdb(
            &format!("list the forwarding entries of link {link}"),
            link,
            vec![],
        )
    }

    fn dump_fdb(
        &mut self,
        doing: &str,
        link: u32,
        filter: Vec<NeighbourAttribute>,
    ) -> Result<Vec<FdbEntry>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = link;
        message.attributes = filter;
        self.dump(RTM_GETNEIGH, doing, &message, |payload, all| {
            all.extend(read_fdb(payload)?);
            Some(())
        })
    }
}

fn neighbour_message(neighbour: &Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(neighbour.address);
    message.header.ifindex = neighbour.link;
    message.header.state = neighbour.state.to_wire();
    message.attributes = vec![NeighbourAttribute::Destination(on_wire(neighbour.address))];
    message.attributes.extend(neighbour.mac.map(hardware));
    message
}

fn fdb_message(entry: &FdbEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = entry.link;
    message.header.state = entry.state.to_wire();
    message.header.flags = if entry.of_master {
        NeighbourFlags::Controller
    } else {
        NeighbourFlags::Own
    };
    message.attributes = vec![hardware(entry.mac)];
    message.attributes.extend(
        entry
            .remote
            .map(|ip| NeighbourAttribute::Destination(on_wire(ip))),
    );
    message
        .attributes
        .extend(entry.vlan.map(NeighbourAttribute::Vlan));
    message
        .attributes
        .extend(entry.port.map(NeighbourAttribute::Port));
    message
        .attributes
        .extend(entry.vni.map(NeighbourAttribute::Vni));
    message
}

fn describe(doing: &str, message: &[u8]) -> String {
    match read_neighbour(message).flatten() {
        Some(Neighbour { link, address, .. }) => format!("{doing} {address} on link {link}"),
        None => doing.to_owned(),
    }
}

fn describe_fdb(doing: &str, message: &[u8]) -> String {
    match read_fdb(message).flatten() {
        Some(FdbEntry { link, mac, .. }) => format!("{doing} {mac} on link {link}"),
        None => doing.to_owned(),
    }
}

fn hardware(mac: Mac) -> NeighbourAttribute {
    NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())
}

fn on_wire(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }
}

/// Outer None: makes no sense. Inner None: not an IP neighbour.
pub(crate) fn read_neighbour(payload: &[u8]) -> Option<Option<Neighbour>> {
    let parts = Parts::read(payload)?;
    let neighbour = |address| Neighbour {
        link: parts.link,
        address,
        mac: parts.mac,
        state: parts.state,
    };
    Some(parts.address.map(neighbour))
}

pub(crate) fn read_fdb(payload: &[u8]) -> Option<Option<FdbEntry>> {
    let parts = Parts::read(payload)?;
    let entry = |mac| FdbEntry {
        link: parts.link,
        mac,
        remote: parts.address,
        vlan: parts.vlan,
        port: parts.port,
        vni: parts.vni,
        of_master: parts.of_master,
        state: parts.state,
    };
    Some(parts.mac.map(entry))
}

struct Parts {
    link: u32,
    state: NeighbourState,
    address: Option<IpAddr>,
    mac: Option<Mac>,
    vlan: Option<u16>,
    port: Option<u16>,
    vni: Option<u32>,
    of_master: bool,
}

impl Parts {
    fn read(payload: &[u8]) -> Option<Self> {
        let mut parts = Self {
            link: u32_at(payload, 4)?,
            state: NeighbourState::from_wire(u16_at(payload, 8)?),
            address: None,
            mac: None,
            vlan: None,
            port: None,
            vni: None,
            of_master: false,
        };
        for attribute in Attributes::after(payload, NEIGHBOUR_HEADER) {
            match attribute.kind {
                NDA_DST => parts.address = ip::from_bytes(attribute.value),
                NDA_LLADDR => parts.mac = Mac::from_bytes(attribute.value),
                NDA_VLAN => parts.vlan = Some(attribute.as_u16()?),
                // The one number here in network order.
                NDA_PORT => parts.port = Some(u16::from_be(attribute.as_u16()?)),
                NDA_VNI => parts.vni = Some(attribute.as_u32()?),
                NDA_MASTER => parts.of_master = true,
                _ => {}
            }
        }
        Some(parts)
    }
}

impl NeighbourState {
    fn to_wire(self) -> WireState {
        match self {
            Self::Incomplete => WireState::Incomplete,
            Self::Reachable => WireState::Reachable,
            Self::Stale => WireState::Stale,
            Self::Delay => WireState::Delay,
            Self::Probe => WireState::Probe,
            Self::Failed => WireState::Failed,
            Self::Noarp => WireState::Noarp,
            Self::Permanent => WireState::Permanent,
            Self::None => WireState::None,
        }
    }

    fn from_wire(number: u16) -> Self {
        // `bridge fdb` makes entries that are both permanent and in no need of resolution.
        if number & u16::from(WireState::Permanent) != 0 {
            return Self::Permanent;
        }
        match WireState::from(number) {
            WireState::Incomplete => Self::Incomplete,
            WireState::Reachable => Self::Reachable,
            WireState::Stale => Self::Stale,
            WireState::Delay => Self::Delay,
            WireState::Probe => Self::Probe,
            WireState::Failed => Self::Failed,
            WireState::Noarp => Self::Noarp,
            _ => Self::None,
        }
    }
}

const NEIGHBOUR_HEADER: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_PORT: u16 = 6;
const NDA_VNI: u16 = 7;
const NDA_MASTER: u16 = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_of_any_bytes_is_read_or_refused_without_panic(bytes: Vec<u8>) {
            let _ = (read_neighbour(&bytes), read_fdb(&bytes));
        }
    }
}
