//! VLANs of a bridge that filters by them.

use weft_cni::{Code, Error, Result};
use weft_net::route::{
    Answers, Link, LinkRef, NewVeth, Requests, Rtnl, VethPeer, VlanOwner, VlanRange,
};

use super::{
    conf::{Plan, Vlans},
    host,
};
use crate::told::Told;

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

/// Gives a port its VLANs, and takes from it the one that the kernel gives every port.
pub(super) fn restrict(host: &mut Rtnl, port: u32, vlans: &Vlans) -> Result<()> {
    let owner = VlanOwner::Port(port);
    let mut requests = Requests::new();
    if !vlans.keep_default {
        let present = host.vlans().told()?;
        let present: Vec<VlanRange> = present
            .iter()
            .filter(|vlan| vlan.link == port)
            .map(|vlan| vlan.range)
            .collect();
        if !present.is_empty() {
            let _ = requests.delete_vlans(owner, &present);
        }
    }
    let tagged = vlans.trunk.iter().map(|range| VlanRange {
        first: *range.start(),
        last: *range.end(),
        pvid: false,
        untagged: false,
    });
    let wanted: Vec<VlanRange> = tagged.chain(vlans.native.map(VlanRange::access)).collect();
    let _ = requests.add_vlans(owner, &wanted);
    match host.run(requests).and_then(Answers::all) {
        Err(error) if error.is_not_supported() => Err(unsupported("the bridge")),
        done => done.told(),
    }
}

/// The gateway of a VLAN's pods is a link `<bridge>.<vlan>`, one end of a pair whose other end is a
/// port of the bridge in that VLAN.
pub(super) fn gateway_link(host: &mut Rtnl, bridge: &Link, vlan: u16, plan: &Plan) -> Result<Link> {
    let name = format!("{}.{vlan}", bridge.name);
    if name.len() > LONGEST_LINK_NAME {
        return Err(Error::config(format!(
            "the gateway of VLAN {vlan} would be called {name:?}, which is too long"
        ))
        .with_details("give \"bridge\" a shorter name"));
    }
    match host.link(name.as_str()) {
        Ok(link) => return Ok(link),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error).told(),
    }
    let port = format!("vlan{vlan}p{}", bridge.index);
    let pair = NewVeth {
        name: &port,
        mac: None,
        mtu: plan.mtu,
        master: Some(bridge.index),
        up: true,
        peer: VethPeer {
            name: &name,
            mac: None,
            mtu: plan.mtu,
            namespace: None,
        },
    };
    match host.one(|r| r.create_veth(&pair)) {
        // Another pod's ADD was faster.
        Err(error) if error.exists() => {}
        made => made.told()?,
    }
    host.one(|r| r.set_up(LinkRef::Name(&name))).told()?;
    host::ignore_router_advertisements(&name)?;
    let port = host.link(port.as_str()).told()?;
    let access = Vlans {
        native: Some(vlan),
        trunk: Vec::new(),
        keep_default: false,
        access: Some(vlan),
    };
    restrict(host, port.index, &access)?;
    host.link(name.as_str()).told()
}

fn unsupported(bridge: &str) -> Error {
    Error::new(Code::UnsupportedField, format!("\"vlan\" and \"vlanTrunk\" cannot be served: this kernel has no VLAN filtering for {bridge}"))
        .with_details("it was built without CONFIG_BRIDGE_VLAN_FILTERING; remove the keys, or use another kernel")
}

const LONGEST_LINK_NAME: usize = 15;
