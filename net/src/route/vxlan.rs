//! VXLAN devices: made, changed in place, and what the kernel tells about them.

use std::net::IpAddr;

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};

use super::link_requests::{identity, set_up_flag};
use super::{LinkRef, RTM_NEWLINK, Requests, Ticket};
use crate::ip;
use crate::mac::Mac;
use crate::message::Attribute;

/// A VXLAN device to be made. Its far ends are entries of its forwarding database.
#[derive(Debug, Clone)]
pub struct NewVxlan<'a> {
    pub name: &'a str,
    /// An address given here is marked as chosen, which keeps systemd from choosing another.
    pub mac: Option<Mac>,
    /// Stays even if the lower link's grows. The kernel cuts it, without a word, to what the lower
    /// link leaves: 50 bytes less than its MTU over IPv4, 70 over IPv6.
    pub mtu: Option<u32>,
    pub txqlen: Option<u32>,
    pub vni: u32,
    /// Where its packets come from; its family is the outer packets'.
    pub local: IpAddr,
    pub lower: u32,
    pub port: u16,
    pub learning: bool,
    pub gbp: bool,
    /// Outer packets over IPv4 carry a UDP checksum; over IPv6 they always do.
    pub udp_checksum: bool,
    pub up: bool,
}

/// What changes on a living VXLAN device, its forwarding database and routes kept; what is None
/// stays as it is. The kernel refuses to change anything else of it (EOPNOTSUPP).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VxlanChange {
    /// Of the family it has.
    pub local: Option<IpAddr>,
    /// Cuts the device's MTU to what this link leaves.
    pub lower: Option<u32>,
    pub learning: Option<bool>,
}

/// What a VXLAN device is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    pub vni: u32,
    pub local: Option<IpAddr>,
    /// Where packets go that no forwarding entry has a way for.
    pub remote: Option<IpAddr>,
    pub lower: Option<u32>,
    pub port: u16,
    pub learning: bool,
    pub gbp: bool,
    pub gpe: bool,
    pub udp_checksum: bool,
    pub zero_checksum6_tx: bool,
    pub zero_checksum6_rx: bool,
    pub proxy: bool,
    pub l2miss: bool,
    pub l3miss: bool,
    /// Each packet's metadata say what the device is not set to ("external").
    pub collect_metadata: bool,
    pub ttl: u8,
    pub ageing: u32,
}

impl Requests {
    /// EEXIST if there is a link of that name, or another device with this number and port.
    pub fn create_vxlan(&mut self, vxlan: &NewVxlan<'_>) -> Ticket<()> {
        let mut data = vec![
            InfoVxlan::Id(vxlan.vni),
            local(vxlan.local),
            InfoVxlan::Link(vxlan.lower),
            InfoVxlan::Port(vxlan.port),
            InfoVxlan::Learning(vxlan.learning),
        ];
        if vxlan.local.is_ipv4() {
            data.push(InfoVxlan::UDPCsum(vxlan.udp_checksum));
        }
        if vxlan.gbp {
            data.push(InfoVxlan::Gbp);
        }
        let mut message = LinkMessage::default();
        set_up_flag(&mut message.header, vxlan.up);
        message.attributes = identity(vxlan.name, vxlan.mac, vxlan.mtu);
        message
            .attributes
            .extend(vxlan.txqlen.map(LinkAttribute::TxQueueLen));
        message.attributes.push(info(data));
        self.create(&message, format!("create vxlan {}", vxlan.name))
    }

    pub fn change_vxlan<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        change: &VxlanChange,
    ) -> Ticket<()> {
        let link = link.into();
        let mut data = Vec::new();
        data.extend(change.local.map(local));
        data.extend(change.lower.map(InfoVxlan::Link));
        data.extend(change.learning.map(InfoVxlan::Learning));
        let mut message = link.message();
        message.attributes.push(info(data));
        self.change(RTM_NEWLINK, 0, format!("change vxlan {link}"), &message)
    }
}

impl Vxlan {
    pub(super) fn read(data: Attribute<'_>) -> Option<Self> {
        let mut vxlan = Self {
            vni: 0,
            local: None,
            remote: None,
            lower: None,
            port: 0,
            learning: false,
            gbp: false,
            gpe: false,
            udp_checksum: false,
            zero_checksum6_tx: false,
            zero_checksum6_rx: false,
            proxy: false,
            l2miss: false,
            l3miss: false,
            collect_metadata: false,
            ttl: 0,
            ageing: 0,
        };
        for attribute in data.nested() {
            vxlan.take_up(attribute)?;
        }
        Some(vxlan)
    }

    fn take_up(&mut self, attribute: Attribute<'_>) -> Option<()> {
        let on = || attribute.as_u8().map(|byte| byte != 0);
        match attribute.kind {
            IFLA_VXLAN_ID => self.vni = attribute.as_u32()?,
            IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 => self.remote = ip::from_bytes(attribute.value),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => self.local = ip::from_bytes(attribute.value),
            IFLA_VXLAN_LINK => self.lower = Some(attribute.as_u32()?).filter(|&i| i != 0),
            IFLA_VXLAN_PORT => self.port = u16::from_be(attribute.as_u16()?),
            IFLA_VXLAN_TTL => self.ttl = attribute.as_u8()?,
            IFLA_VXLAN_AGEING => self.ageing = attribute.as_u32()?,
            IFLA_VXLAN_LEARNING => self.learning = on()?,
            IFLA_VXLAN_PROXY => self.proxy = on()?,
            IFLA_VXLAN_L2MISS => self.l2miss = on()?,
            IFLA_VXLAN_L3MISS => self.l3miss = on()?,
            IFLA_VXLAN_UDP_CSUM => self.udp_checksum = on()?,
            IFLA_VXLAN_UDP_ZERO_CSUM6_TX => self.zero_checksum6_tx = on()?,
            IFLA_VXLAN_UDP_ZERO_CSUM6_RX => self.zero_checksum6_rx = on()?,
            IFLA_VXLAN_COLLECT_METADATA => self.collect_metadata = on()?,
            // These two are told by being there.
            IFLA_VXLAN_GBP => self.gbp = true,
            IFLA_VXLAN_GPE => self.gpe = true,
            _ => {}
        }
        Some(())
    }
}

fn local(address: IpAddr) -> InfoVxlan {
    match address {
        IpAddr::V4(v4) => InfoVxlan::Local(v4),
        IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    }
}

fn info(data: Vec<InfoVxlan>) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(data)),
    ])
}

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_TTL: u16 = 5;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_AGEING: u16 = 8;
const IFLA_VXLAN_PROXY: u16 = 11;
const IFLA_VXLAN_L2MISS: u16 = 13;
const IFLA_VXLAN_L3MISS: u16 = 14;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_UDP_CSUM: u16 = 18;
const IFLA_VXLAN_UDP_ZERO_CSUM6_TX: u16 = 19;
const IFLA_VXLAN_UDP_ZERO_CSUM6_RX: u16 = 20;
const IFLA_VXLAN_GBP: u16 = 23;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
const IFLA_VXLAN_GPE: u16 = 27;

/// On bytes that a little-endian kernel sent, kept as seeds for fuzzing.
#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::super::{Link, Reply};
    use crate::message::Messages;

    #[test]
    fn a_vxlans_settings_are_read_from_what_the_kernel_tells_of_the_link() {
        let datagram = include_bytes!("../../../fuzz/seeds/netlink/link-vxlan");
        let message = Messages::of(datagram).next().unwrap();
        let vxlan = Link::read(message.payload).unwrap().vxlan.unwrap();
        assert_eq!((vxlan.vni, vxlan.port), (1, 8472));
        assert_eq!(vxlan.local, Some([192, 0, 2, 1].into()));
        assert!(vxlan.gbp && vxlan.udp_checksum && !vxlan.learning);
    }
}
