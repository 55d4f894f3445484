//! A bridge's ports: their settings and their VLANs.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoData, InfoKind,
    LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage, LinkProtoInfoBridge,
};

use super::link::{IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LEARNING, IFLA_BRPORT_MODE};
use super::{RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK, Requests, Rtnl, Ticket};
use crate::error::Result;
use crate::message::{Attributes, u16_at, u32_at};

/// Settings of a port to change; what is None stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortSettings {
    /// Frames may leave by the port they came in by.
    pub hairpin: Option<bool>,
    /// No frames to or from other isolated ports.
    pub isolated: Option<bool>,
    pub learning: Option<bool>,
}

/// VLANs `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanRange {
    pub first: u16,
    pub last: u16,
    /// What comes in without a tag is of this VLAN; for one VLAN only, the kernel insists.
    pub pvid: bool,
    /// What goes out loses its tag.
    pub untagged: bool,
}

/// A range of VLANs on a port, or on a bridge itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortVlan {
    pub link: u32,
    pub range: VlanRange,
}

/// Whose VLANs are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VlanOwner {
    Port(u32),
    /// The host's own way into a bridge.
    Bridge(u32),
}

impl VlanRange {
    /// One VLAN, sent and received with its tag.
    pub fn tagged(vlan: u16) -> Self {
        Self {
            first: vlan,
            last: vlan,
            pvid: false,
            untagged: false,
        }
    }

    /// One VLAN whose frames have no tag on this port.
    pub fn access(vlan: u16) -> Self {
        Self {
            first: vlan,
            last: vlan,
            pvid: true,
            untagged: true,
        }
    }
}

impl Requests {
    pub fn set_port(&mut self, link: u32, settings: &PortSettings) -> Ticket<()> {
        let wanted = [
            (IFLA_BRPORT_MODE, settings.hairpin),
            (IFLA_BRPORT_ISOLATED, settings.isolated),
            (IFLA_BRPORT_LEARNING, settings.learning),
        ];
        let attribute = |(kind, value): (u16, Option<bool>)| {
            value.map(|on| LinkProtoInfoBridge::Other(DefaultNla::new(kind, vec![on.into()])))
        };
        let mut message = of_bridge(link);
        let attributes = wanted.into_iter().filter_map(attribute).collect();
        message.attributes = vec![LinkAttribute::ProtoInfoBridge(attributes)];
        self.change(
            RTM_SETLINK,
            0,
            format!("change bridge port {link}"),
            &message,
        )
    }

    /// Has a living bridge filter by VLAN, or not. A kernel without the feature answers success
    /// and changes nothing, so look at the bridge afterwards.
    pub fn set_vlan_filtering(&mut self, bridge: u32, on: bool) -> Ticket<()> {
        let mut message = LinkMessage::default();
        message.header.index = bridge;
        message.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(on)])),
        ])];
        self.change(
            RTM_NEWLINK,
            0,
            format!("filter bridge {bridge} by VLAN"),
            &message,
        )
    }

    /// EOPNOTSUPP where the kernel was built without VLAN filtering.
    pub fn add_vlans(&mut self, owner: VlanOwner, ranges: &[VlanRange]) -> Ticket<()> {
        let doing = format!("add VLANs to {owner:?}");
        self.change(RTM_SETLINK, 0, doing, &vlan_message(owner, ranges))
    }

    pub fn delete_vlans(&mut self, owner: VlanOwner, ranges: &[VlanRange]) -> Ticket<()> {
        let doing = format!("delete VLANs of {owner:?}");
        self.change(RTM_DELLINK, 0, doing, &vlan_message(owner, ranges))
    }
}

impl Rtnl {
    /// The VLANs of all ports of all bridges, and of the bridges themselves: the kernel has no
    /// narrower question before version 5.7.
    pub fn vlans(&mut self) -> Result<Vec<PortVlan>> {
        let mut message = of_bridge(0);
        message.attributes = vec![LinkAttribute::ExtMask(vec![
            LinkExtentMask::BrvlanCompressed,
        ])];
        self.dump(
            RTM_GETLINK,
            "list the VLANs of bridge ports",
            &message,
            read_vlans,
        )
    }
}

fn of_bridge(link: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = link;
    message
}

fn vlan_message(owner: VlanOwner, ranges: &[VlanRange]) -> LinkMessage {
    let (VlanOwner::Port(link) | VlanOwner::Bridge(link)) = owner;
    let mut entries = Vec::new();
    if let VlanOwner::Bridge(_) = owner {
        entries.push(AfSpecBridge::Flags(BridgeFlag::LowerDev));
    }
    entries.extend(
        ranges
            .iter()
            .flat_map(range_entries)
            .map(AfSpecBridge::VlanInfo),
    );
    let mut message = of_bridge(link);
    message.attributes = vec![LinkAttribute::AfSpecBridge(entries)];
    message
}

fn range_entries(range: &VlanRange) -> Vec<BridgeVlanInfo> {
    let mut flags = BridgeVlanInfoFlags::empty();
    flags.set(BridgeVlanInfoFlags::Pvid, range.pvid);
    flags.set(BridgeVlanInfoFlags::Untagged, range.untagged);
    let entry = |vid, extra| BridgeVlanInfo {
        flags: flags | extra,
        vid,
    };
    if range.first == range.last {
        return vec![entry(range.first, BridgeVlanInfoFlags::empty())];
    }
    vec![
        entry(range.first, BridgeVlanInfoFlags::RangeBegin),
        entry(range.last, BridgeVlanInfoFlags::RangeEnd),
    ]
}

pub(super) fn read_vlans(payload: &[u8], vlans: &mut Vec<PortVlan>) -> Option<()> {
    let link = u32_at(payload, 4)?;
    let mut begun = None;
    let all = Attributes::after(payload, LINK_HEADER).filter(|a| a.kind == IFLA_AF_SPEC);
    for info in all
        .flat_map(|a| a.nested())
        .filter(|a| a.kind == IFLA_BRIDGE_VLAN_INFO)
    {
        let flags = BridgeVlanInfoFlags::from_bits_retain(u16_at(info.value, 0)?);
        let vid = u16_at(info.value, 2)?;
        if flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            begun = Some(vid);
            continue;
        }
        let range = VlanRange {
            first: begun.take().unwrap_or(vid),
            last: vid,
            pvid: flags.contains(BridgeVlanInfoFlags::Pvid),
            untagged: flags.contains(BridgeVlanInfoFlags::Untagged),
        };
        vlans.push(PortVlan { link, range });
    }
    Some(())
}

const LINK_HEADER: usize = 16;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;

#[cfg(test)]
mod tests {
    use super::super::bytes_of;
    use super::*;
    use proptest::prelude::*;

    /// What the kernel would send had it stored what we ask for: the very attributes.
    fn told_back(owner: VlanOwner, ranges: &[VlanRange]) -> Vec<PortVlan> {
        let mut vlans = Vec::new();
        read_vlans(&bytes_of(&vlan_message(owner, ranges)), &mut vlans).unwrap();
        vlans
    }

    #[test]
    fn one_vlan_takes_one_entry_and_a_range_two() {
        assert_eq!(range_entries(&VlanRange::access(7)).len(), 1);
        let range = VlanRange {
            first: 10,
            last: 20,
            pvid: false,
            untagged: false,
        };
        let entries = range_entries(&range);
        assert_eq!(entries.iter().map(|e| e.vid).collect::<Vec<_>>(), [10, 20]);
    }

    #[test]
    fn vlans_are_encoded_as_the_bridge_program_does() {
        // What `bridge vlan add dev port vid 7 pvid untagged` sends after the header.
        let bytes = bytes_of(&vlan_message(VlanOwner::Port(3), &[VlanRange::access(7)]));
        let expected = [12, 0, 26, 0, 8, 0, 2, 0, 6, 0, 7, 0];
        assert_eq!((bytes[0], &bytes[LINK_HEADER..]), (7, &expected[..]));
        let bytes = bytes_of(&vlan_message(VlanOwner::Bridge(3), &[]));
        assert_eq!(bytes[LINK_HEADER..], [12, 0, 26, 0, 6, 0, 0, 0, 2, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn ranges_survive_being_written_and_read(
            firsts in proptest::collection::vec((1_u16..4000, 0_u16..90, any::<bool>()), 0..20),
        ) {
            let range = |(first, more, untagged)| {
                VlanRange { first, last: first + more, pvid: false, untagged }
            };
            let ranges: Vec<VlanRange> = firsts.into_iter().map(range).collect();
            let told = told_back(VlanOwner::Port(3), &ranges);
            prop_assert_eq!(told.iter().map(|v| v.range).collect::<Vec<_>>(), ranges);
        }

        #[test]
        fn vlans_of_any_bytes_are_read_or_refused_without_panic(bytes: Vec<u8>) {
            let _ = read_vlans(&bytes, &mut Vec::new());
        }
    }
}
