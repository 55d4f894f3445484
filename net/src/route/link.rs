//! What the kernel tells about a link.

use std::fmt;

use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use super::{RTM_GETLINK, Reply, Requests, Rtnl, Ticket, Tun, Vxlan};
use crate::error::Result;
use crate::mac::Mac;
use crate::message::{Attribute, Attributes, u32_at};

/// How a request says which link it means. By name the kernel looks it up itself, which saves
/// asking for the index first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRef<'a> {
    Index(u32),
    Name(&'a str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// "veth", "bridge", "vxlan", "tun"; physical devices and the loopback have none.
    pub kind: Option<String>,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub txqlen: u32,
    pub alias: Option<String>,
    /// Switched on; whether anything gets through is told by the next.
    pub up: bool,
    /// Has a carrier (IFF_LOWER_UP).
    pub lower_up: bool,
    pub promisc: bool,
    pub loopback: bool,
    pub point_to_point: bool,
    pub operstate: OperState,
    /// The bridge or other device this link is a port of.
    pub master: Option<u32>,
    /// A veth's other end, a VLAN's or VXLAN's lower device. If `link_namespace` is set it is an
    /// index in that namespace, not in this one.
    pub link: Option<u32>,
    pub link_namespace: Option<u32>,
    /// What a bridge knows of this link, its port.
    pub port: Option<BridgePort>,
    /// What this link, a bridge, is set to.
    pub bridge: Option<Bridge>,
    /// What this link, a VXLAN device, is set to.
    pub vxlan: Option<Vxlan>,
    /// What this link, a TUN or TAP device, is set to.
    pub tun: Option<Tun>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgePort {
    pub state: PortState,
    pub hairpin: bool,
    pub isolated: bool,
    pub learning: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    pub vlan_filtering: bool,
}

/// A link's operational state (RFC 2863).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperState {
    /// Also what devices say that have no notion of it, such as the loopback.
    Unknown,
    NotPresent,
    Down,
    LowerLayerDown,
    Testing,
    Dormant,
    Up,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    Disabled,
    Listening,
    Learning,
    Forwarding,
    Blocking,
}

impl Requests {
    pub fn get_link<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Ticket<Link> {
        let link = link.into();
        let mut message = link.message();
        message.attributes.push(without_statistics());
        self.get(RTM_GETLINK, format!("look up {link}"), &message)
    }
}

impl Rtnl {
    pub fn link<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<Link> {
        self.one(|r| r.get_link(link))
    }

    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.dump_links("list links", vec![])
    }

    /// The ports of a bridge or other master.
    pub fn links_of_master(&mut self, master: u32) -> Result<Vec<Link>> {
        let doing = format!("list the ports of link {master}");
        self.dump_links(&doing, vec![LinkAttribute::Controller(master)])
    }

    /// All links of one kind ("veth", "bridge").
    pub fn links_of_kind(&mut self, kind: &str) -> Result<Vec<Link>> {
        let filter = LinkInfo::Kind(InfoKind::Other(kind.to_owned()));
        let doing = format!("list links of kind {kind}");
        self.dump_links(&doing, vec![LinkAttribute::LinkInfo(vec![filter])])
    }

    fn dump_links(&mut self, doing: &str, mut filter: Vec<LinkAttribute>) -> Result<Vec<Link>> {
        filter.push(without_statistics());
        let mut message = LinkMessage::default();
        message.attributes = filter;
        self.dump(RTM_GETLINK, doing, &message, |bytes, links| {
            links.push(Link::read(bytes)?);
            Some(())
        })
    }
}

impl Reply for Link {
    fn read(payload: &[u8]) -> Option<Self> {
        let flags = LinkFlags::from_bits_retain(u32_at(payload, 8)?);
        let mut link = Self {
            index: u32_at(payload, 4)?,
            name: String::new(),
            kind: None,
            mac: None,
            mtu: 0,
            txqlen: 0,
            alias: None,
            up: flags.contains(LinkFlags::Up),
            lower_up: flags.contains(LinkFlags::LowerUp),
            promisc: flags.contains(LinkFlags::Promisc),
            loopback: flags.contains(LinkFlags::Loopback),
            point_to_point: flags.contains(LinkFlags::Pointopoint),
            operstate: OperState::Unknown,
            master: None,
            link: None,
            link_namespace: None,
            port: None,
            bridge: None,
            vxlan: None,
            tun: None,
        };
        for attribute in Attributes::after(payload, LINK_HEADER) {
            link.take_up(attribute)?;
        }
        Some(link)
    }
}

impl Link {
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }

    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }

    pub fn is_vxlan(&self) -> bool {
        self.kind.as_deref() == Some("vxlan")
    }

    pub fn is_tun(&self) -> bool {
        self.kind.as_deref() == Some("tun")
    }

    fn take_up(&mut self, attribute: Attribute<'_>) -> Option<()> {
        match attribute.kind {
            IFLA_ADDRESS => self.mac = Mac::from_bytes(attribute.value),
            IFLA_IFNAME => self.name = attribute.as_text().into_owned(),
            IFLA_MTU => self.mtu = attribute.as_u32()?,
            IFLA_LINK => self.link = Some(attribute.as_u32()?).filter(|&i| i != 0),
            IFLA_MASTER => self.master = Some(attribute.as_u32()?),
            IFLA_TXQLEN => self.txqlen = attribute.as_u32()?,
            IFLA_OPERSTATE => self.operstate = OperState::from_number(attribute.as_u8()?),
            IFLA_IFALIAS => self.alias = Some(attribute.as_text().into_owned()),
            IFLA_LINK_NETNSID => self.link_namespace = Some(attribute.as_u32()?),
            IFLA_LINKINFO => self.take_up_kind(attribute)?,
            _ => {}
        }
        Some(())
    }

    fn take_up_kind(&mut self, info: Attribute<'_>) -> Option<()> {
        // The kernel writes the kind before the data whose meaning depends on it.
        let mut of_bridge = false;
        for attribute in info.nested() {
            match attribute.kind {
                IFLA_INFO_KIND => self.kind = Some(attribute.as_text().into_owned()),
                IFLA_INFO_DATA if self.is_bridge() => self.bridge = Some(Bridge::read(attribute)),
                IFLA_INFO_DATA if self.is_vxlan() => self.vxlan = Some(Vxlan::read(attribute)?),
                IFLA_INFO_DATA if self.is_tun() => self.tun = Some(Tun::read(attribute)?),
                IFLA_INFO_SLAVE_KIND => of_bridge = attribute.as_text() == "bridge",
                IFLA_INFO_SLAVE_DATA if of_bridge => {
                    self.port = Some(BridgePort::read(attribute)?);
                }
                _ => {}
            }
        }
        Some(())
    }
}

impl Bridge {
    fn read(data: Attribute<'_>) -> Self {
        let is_set = |a: Attribute<'_>| a.kind == IFLA_BR_VLAN_FILTERING && a.as_u8() == Some(1);
        Self {
            vlan_filtering: data.nested().any(is_set),
        }
    }
}

impl BridgePort {
    fn read(data: Attribute<'_>) -> Option<Self> {
        let mut port = Self {
            state: PortState::Disabled,
            hairpin: false,
            isolated: false,
            learning: false,
        };
        for attribute in data.nested() {
            match attribute.kind {
                IFLA_BRPORT_STATE => port.state = PortState::from_number(attribute.as_u8()?),
                IFLA_BRPORT_MODE => port.hairpin = attribute.as_u8()? != 0,
                IFLA_BRPORT_ISOLATED => port.isolated = attribute.as_u8()? != 0,
                IFLA_BRPORT_LEARNING => port.learning = attribute.as_u8()? != 0,
                _ => {}
            }
        }
        Some(port)
    }
}

impl OperState {
    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::NotPresent,
            2 => Self::Down,
            3 => Self::LowerLayerDown,
            4 => Self::Testing,
            5 => Self::Dormant,
            6 => Self::Up,
            _ => Self::Unknown,
        }
    }
}

impl PortState {
    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Listening,
            2 => Self::Learning,
            3 => Self::Forwarding,
            4 => Self::Blocking,
            _ => Self::Disabled,
        }
    }
}

impl LinkRef<'_> {
    pub(super) fn message(self) -> LinkMessage {
        let mut message = LinkMessage::default();
        match self {
            Self::Index(index) => message.header.index = index,
            Self::Name(name) => message
                .attributes
                .push(LinkAttribute::IfName(name.to_owned())),
        }
        message
    }
}

impl From<u32> for LinkRef<'_> {
    fn from(index: u32) -> Self {
        Self::Index(index)
    }
}

impl<'a> From<&'a str> for LinkRef<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl fmt::Display for LinkRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "link {index}"),
            Self::Name(name) => write!(f, "link {name}"),
        }
    }
}

/// Leaves out the counters, a quarter of the answer and the part that costs the kernel most.
fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

const LINK_HEADER: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BRPORT_STATE: u16 = 1;
pub(super) const IFLA_BRPORT_MODE: u16 = 4;
pub(super) const IFLA_BRPORT_LEARNING: u16 = 8;
pub(super) const IFLA_BRPORT_ISOLATED: u16 = 33;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_link_of_any_bytes_is_read_or_refused_without_panic(bytes: Vec<u8>) {
            let _ = Link::read(&bytes);
        }
    }
}
