//! A tunnel device as it is and as it should be: kept and changed in place wherever the kernel
//! allows it, since a device made anew has lost every entry and its peers' trust in its MAC.

use weft_net::Mac;
use weft_net::route::{self, Link, LinkChange, NewVxlan, Requests, Rtnl, VxlanChange};

use crate::plan::{Device, Kind, Vxlan};

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
    let compared = match &wanted.kind {
        Kind::Vxlan(vxlan) => of_vxlan(vxlan, link),
        Kind::Tun => of_tun(link),
    };
    let differences = match compared {
        Ok(differences) => Differences {
            mtu: (link.mtu != wanted.mtu).then_some(wanted.mtu),
            raise: !link.up,
            ..differences
        },
        Err(why) => return Step::MakeAnew { why },
    };
    if differences == Differences::default() {
        Step::Keep
    } else {
        Step::Change(differences)
    }
}

/// By kind as well as by name: others may have taken the name.
pub fn is_flannels(link: &Link) -> bool {
    match &link.vxlan {
        Some(vxlan) => {
            let numbered = |prefix: &str| link.name == format!("{prefix}.{}", vxlan.vni);
            numbered("flannel") || numbered("flannel-v6")
        }
        None => link.is_tun() && link.name == "flannel0",
    }
}

/// The error says what cannot change on a living device.
fn of_vxlan(wanted: &Vxlan, link: &Link) -> Result<Differences, String> {
    let Some(vxlan) = &link.vxlan else {
        return Err(another_kind(link));
    };
    if let Some(why) = fixed_difference(wanted, vxlan) {
        return Err(why);
    }
    Ok(Differences {
        tunnel: VxlanChange {
            local: (vxlan.local != Some(wanted.local)).then_some(wanted.local),
            lower: (vxlan.lower != Some(wanted.lower)).then_some(wanted.lower),
            learning: (vxlan.learning != wanted.learning).then_some(wanted.learning),
        },
        mac: (link.mac != Some(wanted.mac)).then_some(wanted.mac),
        ..Differences::default()
    })
}

fn of_tun(link: &Link) -> Result<Differences, String> {
    if !link.is_tun() {
        return Err(another_kind(link));
    }
    // A kernel that tells nothing of its TUNs refuses what does not fit.
    match link.tun {
        Some(tun) if tun.tap => Err("it carries Ethernet frames (TAP)".into()),
        Some(tun) if !tun.multi_queue => Err("it is of the kind with a single queue".into()),
        _ => Ok(Differences::default()),
    }
}

fn another_kind(link: &Link) -> String {
    let kind = link.kind.as_deref().unwrap_or("physical");
    format!("a {kind} link has its name")
}

/// The requests of a step. One that makes the device anew removes the other in the same breath;
/// a TUN was made before, by who holds its queues.
pub fn carry_out(rtnl: &mut Rtnl, wanted: &Device, step: &Step) -> weft_net::Result<()> {
    let mut requests = Requests::new();
    let mut tickets = Vec::new();
    match step {
        Step::Keep => return Ok(()),
        Step::Make | Step::MakeAnew { .. } => {}
        Step::Change(differences) => {
            let name = wanted.name.as_str();
            if differences.tunnel != VxlanChange::default() {
                tickets.push(requests.change_vxlan(name, &differences.tunnel));
            }
            // A change of the lower link may have cut the MTU, so it comes after.
            tickets.push(requests.set_link(name, &raised(wanted, differences.mac)));
        }
    }
    if matches!(step, Step::Make | Step::MakeAnew { .. }) {
        let name = wanted.name.as_str();
        match &wanted.kind {
            Kind::Vxlan(vxlan) => {
                if matches!(step, Step::MakeAnew { .. }) {
                    tickets.push(requests.delete_link(name));
                }
                tickets.push(requests.create_vxlan(&new_vxlan(wanted, vxlan)));
            }
            Kind::Tun => tickets.push(requests.set_link(
                name,
                &LinkChange {
                    txqlen: Some(TUN_QUEUE),
                    ..raised(wanted, None)
                },
            )),
        }
    }
    drop(tickets);
    rtnl.run(requests)?.all()
}

fn raised(wanted: &Device, mac: Option<Mac>) -> LinkChange<'static> {
    LinkChange {
        mtu: Some(wanted.mtu),
        mac,
        up: Some(true),
        ..LinkChange::default()
    }
}

fn new_vxlan<'a>(wanted: &'a Device, vxlan: &Vxlan) -> NewVxlan<'a> {
    NewVxlan {
        name: &wanted.name,
        mac: Some(vxlan.mac),
        mtu: Some(wanted.mtu),
        // It only hands on: a queue of its own would be one more place to wait in.
        txqlen: Some(0),
        vni: vxlan.vni,
        local: vxlan.local,
        lower: vxlan.lower,
        port: vxlan.port,
        learning: vxlan.learning,
        gbp: vxlan.gbp,
        udp_checksum: true,
        up: true,
    }
}

/// As an Ethernet device has it, and twice what a TUN has: packets wait here while one daemon
/// follows another. Longer, and a pod that floods would make all others wait (EXPERIMENTS.md). It
/// is set once, since the kernel drops packets while it changes.
const TUN_QUEUE: u32 = 1000;

fn fixed_difference(wanted: &Vxlan, held: &route::Vxlan) -> Option<String> {
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
