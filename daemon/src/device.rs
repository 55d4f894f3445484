//! A tunnel device as it is and as it should be: kept and changed in place wherever the kernel
//! allows it, since a device made anew has lost every entry and its peers' trust in its MAC.

use weft_net::Mac;
use weft_net::route::{Link, LinkChange, NewVxlan, Requests, Rtnl, Vxlan, VxlanChange};

use crate::plan::Device;

/// How to get from one to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Make,
    /// What cannot change on a living device, and is wrong on this one.
    MakeAnew {
        why: String,
    },
    /// In place: what differs.
    Change(Differences),
    Keep,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    pub tunnel: VxlanChange,
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
    pub raise: bool,
}

pub fn step(wanted: &Device, held: Option<&Link>) -> Step {
    let Some(link) = held else {
        return Step::Make;
    };
    let Some(vxlan) = &link.vxlan else {
        let kind = link.kind.as_deref().unwrap_or("physical");
        return Step::MakeAnew {
            why: format!("a {kind} link has its name"),
        };
    };
    if let Some(why) = fixed_difference(wanted, vxlan) {
        return Step::MakeAnew { why };
    }
    let differences = Differences {
        tunnel: VxlanChange {
            local: (vxlan.local != Some(wanted.local)).then_some(wanted.local),
            lower: (vxlan.lower != Some(wanted.lower)).then_some(wanted.lower),
            learning: (vxlan.learning != wanted.learning).then_some(wanted.learning),
        },
        mtu: (link.mtu != wanted.mtu).then_some(wanted.mtu),
        mac: (link.mac != Some(wanted.mac)).then_some(wanted.mac),
        raise: !link.up,
    };
    if differences == Differences::default() {
        Step::Keep
    } else {
        Step::Change(differences)
    }
}

/// The requests of a step. One that makes the device anew removes the other in the same breath.
pub fn carry_out(rtnl: &mut Rtnl, wanted: &Device, step: &Step) -> weft_net::Result<()> {
    let mut requests = Requests::new();
    let mut tickets = Vec::new();
    match step {
        Step::Keep => return Ok(()),
        Step::Make => {}
        Step::MakeAnew { .. } => tickets.push(requests.delete_link(wanted.name.as_str())),
        Step::Change(differences) => {
            let name = wanted.name.as_str();
            if differences.tunnel != VxlanChange::default() {
                tickets.push(requests.change_vxlan(name, &differences.tunnel));
            }
            // A change of the lower link may have cut the MTU, so it comes after.
            tickets.push(requests.set_link(
                name,
                &LinkChange {
                    mtu: Some(wanted.mtu),
                    mac: differences.mac,
                    up: Some(true),
                    ..LinkChange::default()
                },
            ));
        }
    }
    if matches!(step, Step::Make | Step::MakeAnew { .. }) {
        tickets.push(requests.create_vxlan(&new_vxlan(wanted)));
    }
    drop(tickets);
    rtnl.run(requests)?.all()
}

fn new_vxlan(wanted: &Device) -> NewVxlan<'_> {
    NewVxlan {
        name: &wanted.name,
        mac: Some(wanted.mac),
        mtu: Some(wanted.mtu),
        // It only hands on: a queue of its own would be one more place to wait in.
        txqlen: Some(0),
        vni: wanted.vni,
        local: wanted.local,
        lower: wanted.lower,
        port: wanted.port,
        learning: wanted.learning,
        gbp: wanted.gbp,
        udp_checksum: true,
        up: true,
    }
}

fn fixed_difference(wanted: &Device, held: &Vxlan) -> Option<String> {
    if held.vni != wanted.vni {
        return Some(format!("its VNI is {}, not {}", held.vni, wanted.vni));
    }
    if held.port != wanted.port {
        return Some(format!("its port is {}, not {}", held.port, wanted.port));
    }
    if held.gbp != wanted.gbp {
        let has = if held.gbp { "has" } else { "lacks" };
        return Some(format!("it {has} group policies (GBP)"));
    }
    if held.collect_metadata || held.l2miss || held.l3miss || held.proxy {
        return Some("it is set to external, proxy or miss notifications".into());
    }
    let family = held.local.map(|ip| ip.is_ipv4());
    if family.is_some_and(|is_v4| is_v4 != wanted.local.is_ipv4()) {
        return Some("its packets are of the other family".into());
    }
    None
}
