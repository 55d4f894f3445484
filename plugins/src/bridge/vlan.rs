//! VLANs of a bridge that filters by them.

use std::collections::BTreeSet;

use weft_cni::{Code, Error, Result};
use weft_net::route::{
    Answers, Link, LinkChange, NewVeth, Requests, Rtnl, VethPeer, VlanOwner, VlanRange,
};

use super::{
    advertisements,
    conf::{self, Plan, Vlans},
};
use crate::{owner, told::Told};

/// Has a bridge that was made without it filter by VLAN.
pub(super) fn filter(host: &mut Rtnl, bridge: &Link) -> Result<()> {
    match host.one(|r| r.set_vlan_filtering(bridge.index, true)) {
        Err(error) if error.is_not_supported() => return Err(unsupported(&bridge.name)),
        done => done.told()?,
    }
    // A kernel without the feature takes the setting and forgets it.
    let filters = host
        .link(bridge.index)
        .told()?
        .bridge
        .is_some_and(|set| set.vlan_filtering);
    if filters {
        Ok(())
    } else {
        Err(unsupported(&bridge.name))
    }
}

/// Gives a port its VLANs, and takes from it those it is not to have: the one that the kernel gives
/// every new port, or an earlier configuration's.
pub(super) fn restrict(host: &mut Rtnl, port: u32, vlans: &Vlans) -> Result<()> {
    let present = vlans_of(host, port)?;
    let wanted = wanted(vlans);
    let stale: Vec<VlanRange> = present
        .iter()
        .filter(|range| !vlans.keep_default && !wanted.contains(range))
        .copied()
        .collect();
    let missing: Vec<VlanRange> = wanted
        .into_iter()
        .filter(|range| !present.contains(range))
        .collect();
    let owner = VlanOwner::Port(port);
    let mut requests = Requests::new();
    if !stale.is_empty() {
        let _ = requests.delete_vlans(owner, &stale);
    }
    // After the deletions, since what is stale may overlap what is wanted.
    if !missing.is_empty() {
        let _ = requests.add_vlans(owner, &missing);
    }
    match host.run(requests).and_then(Answers::all) {
        Err(error) if error.is_not_supported() => Err(unsupported("the bridge")),
        done => done.told(),
    }
}

/// A port that lost one of its VLANs is cut off without a sign of it. More than it needs is no
/// failure: an earlier plugin of this name left every port in VLAN 1 too.
pub(super) fn check(host: &mut Rtnl, port: &Link, vlans: &Vlans) -> Result<()> {
    let present = vlans_of(host, port.index)?;
    let missing: Vec<u16> = one_by_one(&wanted(vlans))
        .difference(&one_by_one(&present))
        .map(|(vlan, _, _)| *vlan)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let error = format!(
        "interface {:?} is not as ADD left it: it is not in the VLANs {missing:?} as configured",
        port.name
    );
    Err(Error::internal(error)
        .with_details("compare with `bridge vlan`; DEL and ADD put the port right"))
}

/// The gateway of a VLAN's pods is a link `<bridge>.<vlan>`, one end of a pair whose other end is a
/// port of the bridge in that VLAN. An ADD that was killed may have left it half made, and a bridge
/// that was made anew has lost it as a port, so all of it is put right each time.
pub(super) fn gateway_link(host: &mut Rtnl, bridge: &Link, vlan: u16, plan: &Plan) -> Result<Link> {
    let name = conf::gateway_name(&bridge.name, vlan);
    let gateway = match host.link(name.as_str()) {
        Err(error) if error.is_not_found() => make_gateway(host, bridge, &name, vlan)?,
        link => link.told()?,
    };
    // A link of another kind is the operator's own way into the VLAN.
    if !gateway.is_veth() {
        return Ok(gateway);
    }
    let port = gateway.link.filter(|_| gateway.link_namespace.is_none());
    let port = port.ok_or_else(|| {
        Error::config(format!(
            "the gateway of VLAN {vlan}, {name:?}, does not lead to bridge {:?}: its other end is in another namespace",
            bridge.name
        ))
        .with_details("remove that link, or give it another name")
    })?;
    enslave(host, port, bridge)?;
    let access = Vlans {
        native: Some(vlan),
        trunk: Vec::new(),
        keep_default: plan.vlans.as_ref().is_some_and(|vlans| vlans.keep_default),
        access: Some(vlan),
    };
    restrict(host, port, &access)?;
    if gateway.up {
        return Ok(gateway);
    }
    // Only now, so that it never was in another VLAN with an address.
    host.one(|r| r.set_up(gateway.index)).told()?;
    host.link(gateway.index).told()
}

fn make_gateway(host: &mut Rtnl, bridge: &Link, name: &str, vlan: u16) -> Result<Link> {
    let port = owner::gateway_port(name, vlan);
    let pair = NewVeth {
        name: &port,
        mac: None,
        mtu: Some(bridge.mtu),
        master: Some(bridge.index),
        up: true,
        peer: VethPeer {
            name,
            mac: None,
            mtu: Some(bridge.mtu),
            namespace: None,
        },
    };
    match host.one(|r| r.create_veth(&pair)) {
        // Another pod's ADD was faster.
        Err(error) if error.exists() => {}
        made => made.told()?,
    }
    advertisements::ignore(name)?;
    host.link(name).told()
}

fn enslave(host: &mut Rtnl, port: u32, bridge: &Link) -> Result<()> {
    let port = host.link(port).told()?;
    if port.master == Some(bridge.index) && port.up {
        return Ok(());
    }
    let change = LinkChange {
        master: Some(bridge.index),
        up: Some(true),
        ..LinkChange::default()
    };
    host.one(|r| r.set_link(port.index, &change)).told()
}

fn vlans_of(host: &mut Rtnl, port: u32) -> Result<Vec<VlanRange>> {
    let all = host.vlans().told()?;
    let ranges = all.iter().filter(|vlan| vlan.link == port);
    Ok(ranges.map(|vlan| vlan.range).collect())
}

/// As the kernel would list them. A trunk that includes the native VLAN leaves it without a tag.
fn wanted(vlans: &Vlans) -> Vec<VlanRange> {
    let mut tagged: BTreeSet<u16> = vlans.trunk.iter().cloned().flatten().collect();
    let native = vlans.native.inspect(|native| {
        let _ = tagged.remove(native);
    });
    let mut ranges: Vec<VlanRange> = Vec::new();
    for vlan in tagged {
        match ranges.last_mut() {
            Some(range) if range.last + 1 == vlan => range.last = vlan,
            _ => ranges.push(VlanRange::tagged(vlan)),
        }
    }
    ranges.extend(native.map(VlanRange::access));
    ranges
}

/// Each VLAN by itself, and how its frames travel.
fn one_by_one(ranges: &[VlanRange]) -> BTreeSet<(u16, bool, bool)> {
    let each = |range: &VlanRange| {
        let (pvid, untagged) = (range.pvid, range.untagged);
        (range.first..=range.last).map(move |vlan| (vlan, pvid, untagged))
    };
    ranges.iter().flat_map(each).collect()
}

pub(super) fn unsupported(bridge: &str) -> Error {
    Error::new(Code::UnsupportedField, format!("\"vlan\" and \"vlanTrunk\" cannot be served: this kernel has no VLAN filtering for {bridge}"))
        .with_details("it was built without CONFIG_BRIDGE_VLAN_FILTERING; remove the keys, or use another kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlans(native: Option<u16>, trunk: &[std::ops::RangeInclusive<u16>]) -> Vlans {
        Vlans {
            native,
            trunk: trunk.to_vec(),
            keep_default: false,
            access: None,
        }
    }

    fn range(first: u16, last: u16) -> VlanRange {
        VlanRange {
            last,
            ..VlanRange::tagged(first)
        }
    }

    #[test]
    fn a_port_of_one_vlan_sends_and_receives_it_without_a_tag() {
        assert_eq!(wanted(&vlans(Some(7), &[])), [VlanRange::access(7)]);
    }

    #[test]
    fn a_trunk_is_listed_as_the_kernel_lists_it() {
        let trunk = vlans(Some(1), &[20..=22, 7..=7, 23..=23, 22..=25, 4094..=4094]);
        let expected = [range(7, 7), range(20, 25), range(4094, 4094)];
        assert_eq!(wanted(&trunk)[..3], expected);
        assert_eq!(wanted(&trunk)[3..], [VlanRange::access(1)]);
    }

    #[test]
    fn the_native_vlan_of_a_trunk_goes_without_a_tag() {
        let expected = [range(10, 10), range(12, 12), VlanRange::access(11)];
        assert_eq!(wanted(&vlans(Some(11), &[10..=12])), expected);
    }

    #[test]
    fn a_vlan_counts_as_lost_when_its_frames_travel_in_another_way() {
        let (tagged, access) = ([VlanRange::tagged(7)], [VlanRange::access(7)]);
        assert_ne!(one_by_one(&tagged), one_by_one(&access));
        assert_eq!(one_by_one(&[range(7, 8)]).len(), 2);
    }
}
