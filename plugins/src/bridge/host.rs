//! The host's side: the bridge itself, and what the host knows of the pod.

use std::hash::{BuildHasher, Hasher, RandomState};

use weft_cni::{Error, Outcome, Result};
use weft_net::{
    Mac,
    route::{Link, LinkChange, Neighbour, NeighbourState, NewBridge, Requests, Rtnl},
};

use super::{advertisements, conf::Plan, vlan};
use crate::told::Told;

/// The bridge as the configuration wants it, made if it is not there.
pub(super) fn ensure_bridge(host: &mut Rtnl, plan: &Plan) -> Result<Link> {
    match host.link(plan.bridge.as_str()) {
        Ok(bridge) => adopt(host, bridge, plan),
        Err(error) if error.is_not_found() => create(host, plan),
        Err(error) => Err(error).told(),
    }
}

fn create(host: &mut Rtnl, plan: &Plan) -> Result<Link> {
    let bridge = NewBridge {
        name: &plan.bridge,
        // An address given at birth stays: without one it changes as ports come and go.
        mac: Some(random_mac()),
        // Given at birth it would follow the ports that come and go; set later, it stays.
        mtu: None,
        vlan_filtering: plan.vlans.is_some().then_some(true),
        promisc: plan.promiscuous,
    };
    let made = host.one(|r| r.create_bridge(&bridge));
    let created = made.is_ok();
    match made {
        // Another pod's ADD was faster.
        Err(error) if error.exists() => {}
        Err(error) if error.is_not_supported() && plan.vlans.is_some() => {
            return Err(vlan::unsupported(&plan.bridge));
        }
        made => made.told()?,
    }
    if created {
        advertisements::ignore(&plan.bridge)?;
    }
    let bridge = host.link(plan.bridge.as_str()).told()?;
    let adopted = adopt(host, bridge, plan);
    if adopted.is_err() && created {
        // Nobody else can use a bridge that this kernel cannot make as it is configured.
        let _ = host.one(|r| r.delete_link(plan.bridge.as_str()));
    }
    adopted
}

/// Puts right what somebody else's bridge, or an earlier configuration's, has different.
fn adopt(host: &mut Rtnl, mut bridge: Link, plan: &Plan) -> Result<Link> {
    if !bridge.is_bridge() {
        let kind = bridge.kind.as_deref().unwrap_or("a device");
        return Err(Error::config(format!(
            "{:?} already exists but is not a bridge: it is {kind}",
            bridge.name
        ))
        .with_details("name another \"bridge\" in the configuration, or remove that link"));
    }
    if plan.vlans.is_some() && !bridge.bridge.is_some_and(|set| set.vlan_filtering) {
        vlan::filter(host, &bridge)?;
    }
    let change = LinkChange {
        up: (!bridge.up).then_some(true),
        promisc: (plan.promiscuous && !bridge.promisc).then_some(true),
        mtu: new_mtu(host, &bridge, plan)?,
        // Written, it stays. The reference plugin has a VLAN's bridge take the MAC of one port or
        // another as pods come and go, and CHECK fails for those that were told the one before.
        mac: plan.vlans.as_ref().and(bridge.mac),
        ..LinkChange::default()
    };
    let settled = change.up.is_none() && change.promisc.is_none() && change.mtu.is_none();
    if !settled || change.mac.is_some() {
        host.one(|r| r.set_link(bridge.index, &change)).told()?;
        bridge = host.link(bridge.index).told()?;
    }
    Ok(bridge)
}

/// A bridge whose MTU is above a port's drops what is too long for that port without a word, so it
/// is lowered at once, and raised only while no pod is on it.
fn new_mtu(host: &mut Rtnl, bridge: &Link, plan: &Plan) -> Result<Option<u32>> {
    let Some(mtu) = plan.mtu.filter(|mtu| *mtu != bridge.mtu) else {
        return Ok(None);
    };
    let may = mtu < bridge.mtu || host.links_of_master(bridge.index).told()?.is_empty();
    Ok(may.then_some(mtu))
}

/// Tells the host which MAC the pod's addresses have: whoever had them before may still be
/// remembered, and traffic to a MAC that is gone is lost until the kernel gives up on it.
pub(super) fn greet(host: &mut Rtnl, link: &Link, mac: Mac, outcome: &Outcome) -> Result<()> {
    if outcome.ips.is_empty() {
        return Ok(());
    }
    let mut requests = Requests::new();
    for ip in &outcome.ips {
        let neighbour = Neighbour {
            link: link.index,
            address: ip.address.ip(),
            mac: Some(mac),
            state: NeighbourState::Reachable,
        };
        let _ = requests.replace_neighbour(&neighbour);
    }
    host.run(requests)
        .and_then(weft_net::route::Answers::all)
        .told()
}

fn random_mac() -> Mac {
    let random = RandomState::new().build_hasher().finish().to_ne_bytes();
    let mut mac: [u8; 6] = std::array::from_fn(|i| random[i]);
    mac[0] = mac[0] & !1 | 2;
    Mac(mac)
}
