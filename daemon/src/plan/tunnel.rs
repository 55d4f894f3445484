//! The vxlan backend: a device a family, and three entries a peer; or one route straight to it,
//! where DirectRouting is on and no router is between.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_net::Mac;

use super::{
    By, Desired, Device, Family, Forward, Ground, Inputs, Kind, Neighbour, Route, Seen, Side, Vxlan,
};
use crate::conf;
use crate::lease::{Lease, Published, Vtep};

/// Ethernet, UDP, VXLAN and the inner Ethernet header, with an IPv4 header around them.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;

pub(super) fn plan(inputs: &Inputs, vxlan: &conf::Vxlan) -> Desired {
    let devices = devices(inputs, vxlan);
    let mut desired = Desired {
        mtu: devices
            .iter()
            .map(|device| device.mtu)
            .min()
            .unwrap_or(inputs.ground.mtu),
        ..Desired::default()
    };
    let mut ends = Ends {
        vni: vxlan.vni,
        direct: vxlan.direct_routing,
        own: devices.iter().filter_map(own_end).collect(),
        subnets: Seen::none(),
        macs: Seen::none(),
    };
    for peer in &inputs.peers.leases {
        for side in Side::of(peer, &inputs.conf, &mut desired.skipped) {
            match ends.reach(&side, inputs) {
                Ok(Reach::Direct(route)) => desired.routes.push(route),
                Ok(Reach::Tunnel(route, neighbour, forward)) => {
                    desired.routes.push(route);
                    desired.neighbours.push(neighbour);
                    desired.fdb.push(forward);
                }
                Err(why) => desired.skipped.push(side.skip(why)),
            }
        }
    }
    desired.devices = devices;
    desired
}

/// flannel's names, so that a node of either kind becomes one of the other in place.
pub fn device_name(family: Family, vni: u32) -> String {
    match family {
        Family::V4 => format!("flannel.{vni}"),
        Family::V6 => format!("flannel-v6.{vni}"),
    }
}

fn devices(inputs: &Inputs, vxlan: &conf::Vxlan) -> Vec<Device> {
    let Ground { link, mtu, v4, v6 } = inputs.ground;
    let outer_mtu = vxlan.mtu.unwrap_or(mtu);
    let device = |family: Family, local: IpAddr, address: IpNetwork, overhead: u32| {
        Some(Device {
            name: device_name(family, vxlan.vni),
            mtu: outer_mtu.saturating_sub(overhead),
            addresses: vec![address],
            kind: Kind::Vxlan(Vxlan {
                vni: vxlan.vni,
                local,
                lower: link,
                port: vxlan.port,
                learning: vxlan.learning,
                gbp: vxlan.gbp,
                mac: own_mac(&inputs.own, family)?,
                checksums: inputs.wishes.tunnel_checksums,
            }),
        })
    };
    let first = inputs.conf.v4.and_then(|_| {
        let address = inputs.own.subnets.v4?.network();
        device(
            Family::V4,
            v4?.into(),
            IpAddr::V4(address).into(),
            OVERHEAD_V4,
        )
    });
    let second = inputs.conf.v6.and_then(|_| {
        let address = inputs.own.subnets.v6?.network();
        device(
            Family::V6,
            v6?.into(),
            IpAddr::V6(address).into(),
            OVERHEAD_V6,
        )
    });
    first.into_iter().chain(second).collect()
}

/// What our own lease publishes is what peers send to.
fn own_mac(own: &Lease, family: Family) -> Option<Mac> {
    let Published::Vxlan { v4, v6 } = &own.attrs.backend else {
        return None;
    };
    let vtep = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    vtep.map(|vtep| vtep.mac)
}

fn own_end(device: &Device) -> Option<(Family, Mac, IpAddr)> {
    match &device.kind {
        Kind::Vxlan(vxlan) => Some((device.families().next()?, vxlan.mac, vxlan.local)),
        Kind::Tun => None,
    }
}

/// What is known of tunnel ends while peers are gone through.
struct Ends {
    vni: u32,
    direct: bool,
    own: Vec<(Family, Mac, IpAddr)>,
    subnets: Seen<IpNetwork>,
    macs: Seen<(Family, Mac)>,
}

enum Reach {
    Direct(Route),
    Tunnel(Route, Neighbour, Forward),
}

impl Ends {
    fn reach(&mut self, side: &Side<'_>, inputs: &Inputs) -> Result<Reach, String> {
        let vtep = self.check(side)?;
        if self.direct
            && let Some(&link) = inputs.ways.get(&side.public)
        {
            let by = By::Link {
                link,
                peer: side.public,
            };
            return Ok(Reach::Direct(route(side, by)));
        }
        if self.macs.twice((side.family, vtep.mac)) {
            return Err(format!(
                "it publishes the MAC address {} of another node, and the kernel keeps one \
                 destination for it; restart the daemon of the node whose machine was cloned \
                 after deleting its {}",
                vtep.mac,
                device_name(side.family, self.vni)
            ));
        }
        let end = side.subnet.network();
        let device = side.family;
        Ok(Reach::Tunnel(
            route(side, By::Tunnel { device, end }),
            Neighbour {
                device,
                address: end,
                mac: vtep.mac,
            },
            Forward {
                device,
                mac: vtep.mac,
                remote: side.public,
            },
        ))
    }

    fn check(&mut self, side: &Side<'_>) -> Result<Vtep, String> {
        let Some(vtep) = side.vtep() else {
            return Err(match side.backend {
                Published::Vxlan { .. } => {
                    format!("it publishes no VTEP for {}", side.family)
                }
                other => format!(
                    "its backend is {}, ours is vxlan; give all nodes one configuration",
                    other.name()
                ),
            });
        };
        if vtep.vni.is_some_and(|vni| vni != self.vni) {
            return Err(format!(
                "its VNI is {}, ours is {}; restart its daemon with today's configuration",
                vtep.vni.unwrap_or_default(),
                self.vni
            ));
        }
        if self.subnets.twice(side.subnet) {
            return Err("another node holds the same subnet".into());
        }
        for (family, mac, local) in &self.own {
            if *family == side.family && *mac == vtep.mac {
                return Err(format!("it publishes our own MAC address {mac}"));
            }
            if *local == side.public {
                return Err(format!("it publishes our own address {local}"));
            }
        }
        Ok(vtep)
    }
}

fn route(side: &Side<'_>, by: By) -> Route {
    Route {
        destination: side.subnet,
        metric: side.family.metric(),
        by,
    }
}
