//! Requests that make, change and delete links.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkHeader, LinkInfo, LinkMessage,
};

use super::{LinkRef, RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, Requests, Ticket};
use crate::mac::Mac;
use crate::message::{NLM_F_CREATE, NLM_F_EXCL};

/// A bridge to be made. It comes up at once.
#[derive(Debug, Clone)]
pub struct NewBridge<'a> {
    pub name: &'a str,
    /// An address given here stays; without one the bridge takes its lowest port's and changes
    /// it as ports come and go.
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    /// None leaves the kernel's default (off) and works on kernels without the feature.
    pub vlan_filtering: Option<bool>,
    pub promisc: bool,
}

/// A veth pair to be made in one message, its peer straight in another namespace.
#[derive(Debug, Clone)]
pub struct NewVeth<'a> {
    pub name: &'a str,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub master: Option<u32>,
    pub up: bool,
    pub peer: VethPeer<'a>,
}

/// The far end. It is born down: the kernel refuses to raise it before its peer is there.
#[derive(Debug, Clone)]
pub struct VethPeer<'a> {
    pub name: &'a str,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    /// Must stay open until the request has been carried out.
    pub namespace: Option<BorrowedFd<'a>>,
}

/// Settings to change on a living link, in one message; what is None stays as it is.
#[derive(Debug, Clone, Default)]
pub struct LinkChange<'a> {
    pub name: Option<&'a str>,
    pub up: Option<bool>,
    pub promisc: Option<bool>,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub txqlen: Option<u32>,
    /// Zero releases the link from its master.
    pub master: Option<u32>,
    pub alias: Option<&'a str>,
    /// Moves the link; must stay open until the request has been carried out.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Takes effect after everything else in the message, `up` included.
    pub ipv4_conf: &'a [(Ipv4Conf, u32)],
}

/// The per-link settings of net/ipv4/conf that can be made without a file. The kernel stores the
/// value and does nothing more, so only those are here that it reads when it needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Ipv4Conf {
    ProxyArp = 3,
    SendRedirects = 6,
    RpFilter = 8,
    ArpFilter = 17,
    ArpAnnounce = 18,
    ArpIgnore = 19,
    ArpAccept = 21,
    ArpNotify = 22,
    AcceptLocal = 23,
}

impl Requests {
    /// EEXIST if there is a link of that name, whatever its kind.
    pub fn create_bridge(&mut self, bridge: &NewBridge<'_>) -> Ticket<()> {
        let mut message = LinkMessage::default();
        set_flag(&mut message.header, LinkFlags::Up, true);
        if bridge.promisc {
            set_flag(&mut message.header, LinkFlags::Promisc, true);
        }
        let mut info = vec![LinkInfo::Kind(InfoKind::Bridge)];
        if let Some(on) = bridge.vlan_filtering {
            info.push(LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::VlanFiltering(on),
            ])));
        }
        message.attributes = identity(bridge.name, bridge.mac, bridge.mtu);
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.create(&message, format!("create bridge {}", bridge.name))
    }

    /// A [`Requests::get_link`] of the near end after it, in the same batch, tells the far end's
    /// index too: [`Link::link`](super::Link::link).
    pub fn create_veth(&mut self, veth: &NewVeth<'_>) -> Ticket<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = identity(veth.peer.name, veth.peer.mac, veth.peer.mtu);
        peer.attributes
            .extend(veth.peer.namespace.map(into_namespace));

        let mut message = LinkMessage::default();
        set_flag(&mut message.header, LinkFlags::Up, veth.up);
        message.attributes = identity(veth.name, veth.mac, veth.mtu);
        message
            .attributes
            .extend(veth.master.map(LinkAttribute::Controller));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.create(
            &message,
            format!("create veth {} with peer {}", veth.name, veth.peer.name),
        )
    }

    pub fn set_link<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        change: &LinkChange<'_>,
    ) -> Ticket<()> {
        let link = link.into();
        let mut message = link.message();
        if let Some(up) = change.up {
            set_flag(&mut message.header, LinkFlags::Up, up);
        }
        if let Some(promisc) = change.promisc {
            set_flag(&mut message.header, LinkFlags::Promisc, promisc);
        }
        let attributes = &mut message.attributes;
        attributes.extend(change.name.map(|n| LinkAttribute::IfName(n.to_owned())));
        attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.txqlen.map(LinkAttribute::TxQueueLen));
        attributes.extend(change.master.map(LinkAttribute::Controller));
        attributes.extend(change.alias.map(|a| LinkAttribute::IfAlias(a.to_owned())));
        attributes.extend(change.namespace.map(into_namespace));
        if !change.ipv4_conf.is_empty() {
            attributes.push(ipv4_conf(change.ipv4_conf));
        }
        self.change(RTM_SETLINK, 0, format!("change {link}"), &message)
    }

    /// Deletes a link, and with one end of a veth pair the other. ENODEV if it is not there.
    pub fn delete_link<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Ticket<()> {
        let link = link.into();
        self.change(RTM_DELLINK, 0, format!("delete {link}"), &link.message())
    }

    /// Has the kernel tell everybody on the link which hardware address its IP addresses have,
    /// so that nobody goes on sending to a former owner: a gratuitous ARP for every IPv4 address
    /// if [`Ipv4Conf::ArpNotify`] is 1, and an unsolicited advertisement for every usable IPv6
    /// address if net/ipv6/conf/*/ndisc_notify is 1.
    ///
    /// It sets the address the link has, which changes nothing but counts as a change of address
    /// (NETDEV_CHANGEADDR). Raising the link counts as one too, but that early the bridge port at
    /// the other end mostly does not forward yet. Sending the frames ourselves would cost a packet
    /// socket, and closing one waits for an RCU grace period.
    pub fn announce<'a>(&mut self, link: impl Into<LinkRef<'a>>, mac: Mac) -> Ticket<()> {
        self.set_link(
            link,
            &LinkChange {
                mac: Some(mac),
                ..LinkChange::default()
            },
        )
    }

    pub fn set_up<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Ticket<()> {
        self.set_link(
            link,
            &LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        )
    }

    pub fn set_down<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Ticket<()> {
        self.set_link(
            link,
            &LinkChange {
                up: Some(false),
                ..LinkChange::default()
            },
        )
    }

    pub(super) fn create(&mut self, message: &LinkMessage, doing: String) -> Ticket<()> {
        self.change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, doing, message)
    }
}

pub(super) fn identity(name: &str, mac: Option<Mac>, mtu: Option<u32>) -> Vec<LinkAttribute> {
    let mut attributes = vec![LinkAttribute::IfName(name.to_owned())];
    attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    attributes
}

pub(super) fn set_up_flag(header: &mut LinkHeader, up: bool) {
    set_flag(header, LinkFlags::Up, up);
}

fn set_flag(header: &mut LinkHeader, flag: LinkFlags, on: bool) {
    header.change_mask |= flag;
    header.flags.set(flag, on);
}

fn into_namespace(namespace: BorrowedFd<'_>) -> LinkAttribute {
    LinkAttribute::NetNsFd(namespace.as_raw_fd())
}

/// The crate's own type for this leaves out zeros, so it could switch nothing off.
fn ipv4_conf(settings: &[(Ipv4Conf, u32)]) -> LinkAttribute {
    let entry = |&(conf, value): &(Ipv4Conf, u32)| {
        DefaultNla::new(conf as u16, value.to_ne_bytes().to_vec())
    };
    let entries: Vec<DefaultNla> = settings.iter().map(entry).collect();
    let conf = AfSpecInet::Other(nest(IFLA_INET_CONF, &entries));
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![conf])])
}

pub(super) fn nest(kind: u16, entries: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; entries.buffer_len()];
    entries.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

const IFLA_INET_CONF: u16 = 1;
