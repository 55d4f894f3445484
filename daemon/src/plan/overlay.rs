//! The udp backend: a TUN that a route leads into for each pod network as a whole, and a table of
//! peers by which the packets that come out of it are sent.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use weft_dataplane::Peer;

use super::{By, Desired, Device, Family, Inputs, Kind, Route, Seen, Skipped};
use crate::lease::{Lease, Published};

/// What the packet path listens on, and whom it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    pub locals: Vec<IpAddr>,
    /// Of all nodes.
    pub port: u16,
    /// This node's subnets.
    pub own: Vec<IpNetwork>,
    pub peers: Vec<Peer>,
}

/// flannel's, so that a node of either kind becomes one of the other in place.
const DEVICE: &str = "flannel0";
/// UDP, with an IPv4 or an IPv6 header around it.
const OVERHEAD_V4: u32 = 28;
const OVERHEAD_V6: u32 = 48;

pub(super) fn plan(inputs: &Inputs, port: u16) -> Desired {
    let ground = &inputs.ground;
    let overhead = match ground.v4 {
        Some(_) => OVERHEAD_V4,
        None => OVERHEAD_V6,
    };
    let mut desired = Desired {
        mtu: ground.mtu.saturating_sub(overhead),
        routes: routes(inputs),
        ..Desired::default()
    };
    let own = subnets(&inputs.own, inputs);
    desired.devices = vec![Device {
        name: DEVICE.into(),
        mtu: desired.mtu,
        addresses: own.iter().map(|net| net.network().into()).collect(),
        kind: Kind::Tun,
    }];
    desired.overlay = Some(Arc::new(Overlay {
        locals: [ground.v4.map(IpAddr::V4), ground.v6.map(IpAddr::V6)]
            .into_iter()
            .flatten()
            .collect(),
        port,
        own,
        peers: peers(inputs, port, &mut desired.skipped),
    }));
    desired
}

fn routes(inputs: &Inputs) -> Vec<Route> {
    let networks = inputs.conf.networks.iter();
    networks
        .map(|destination| Route {
            destination: *destination,
            metric: Family::of(destination.ip()).metric(),
            by: By::Overlay,
        })
        .collect()
}

/// Those of the families that the network has.
fn subnets(lease: &Lease, inputs: &Inputs) -> Vec<IpNetwork> {
    let v4 = lease.subnets.v4.filter(|_| inputs.conf.v4.is_some());
    let v6 = lease.subnets.v6.filter(|_| inputs.conf.v6.is_some());
    let v4 = v4.map(IpNetwork::V4);
    let v6 = v6.map(IpNetwork::V6);
    v4.into_iter().chain(v6).collect()
}

fn peers(inputs: &Inputs, port: u16, skipped: &mut Vec<Skipped>) -> Vec<Peer> {
    let mut seen = Seen::none();
    let mut peers = Vec::with_capacity(inputs.peers.leases.len());
    for lease in &inputs.peers.leases {
        let subnets = subnets(lease, inputs);
        let address = check(lease, port).and_then(|()| outer(lease, inputs));
        let mut twice = || subnets.iter().any(|subnet| seen.twice(*subnet));
        let peer = address.and_then(|address| match twice() {
            true => Err("another node holds the same subnet".into()),
            false => Ok(peer(lease, subnets.clone(), address)),
        });
        match peer {
            Ok(peer) => peers.push(peer),
            Err(why) => skipped.extend(subnets.into_iter().map(|subnet| Skipped {
                subnet,
                why: why.clone(),
            })),
        }
    }
    peers
}

fn check(lease: &Lease, port: u16) -> Result<(), String> {
    match &lease.attrs.backend {
        Published::Nothing => {}
        other if other.name() == "udp" => {}
        other => {
            return Err(format!(
                "its backend is {}, ours is udp; give all nodes one configuration",
                other.name()
            ));
        }
    }
    let extra = lease.attrs.extra.as_ref();
    match extra.and_then(|extra| extra.udp_port) {
        Some(other) if other != port => Err(format!(
            "it listens on UDP port {other}, and we on {port}; restart the daemon of whichever \
             node does not have today's configuration"
        )),
        _ => Ok(()),
    }
}

/// IPv4 if both have it, which a flannel of this backend knows alone.
fn outer(lease: &Lease, inputs: &Inputs) -> Result<IpAddr, String> {
    let ground = &inputs.ground;
    let v4 = lease.attrs.public_ip.filter(|_| ground.v4.is_some());
    let v6 = lease.attrs.public_ipv6.filter(|_| ground.v6.is_some());
    let address = v4.map(IpAddr::V4).or_else(|| v6.map(IpAddr::V6));
    let ours = [ground.v4.map(IpAddr::V4), ground.v6.map(IpAddr::V6)];
    match address {
        None => Err("it publishes no address of a family that this node has one of".into()),
        Some(address) if ours.contains(&Some(address)) => {
            Err(format!("it publishes our own address {address}"))
        }
        Some(address) => Ok(address),
    }
}

fn peer(lease: &Lease, subnets: Vec<IpNetwork>, address: IpAddr) -> Peer {
    let attrs = &lease.attrs;
    let public = [
        attrs.public_ip.map(IpAddr::V4),
        attrs.public_ipv6.map(IpAddr::V6),
    ];
    let sources = attrs.extra.iter().flat_map(|extra| extra.sources.clone());
    let mut also_from: Vec<IpAddr> = public.into_iter().flatten().chain(sources).collect();
    also_from.retain(|other| *other != address);
    also_from.sort_unstable();
    also_from.dedup();
    Peer {
        subnets,
        address,
        also_from,
        // Every weftd of this backend publishes its port, and brings the marks in.
        carries_ecn: attrs.extra.as_ref().is_some_and(|e| e.udp_port.is_some()),
    }
}
