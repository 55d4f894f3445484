//! What a plan rests on, besides the store's view: looked up, and nothing changed.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_net::Rtnl;
use weft_net::route::Requests;

use super::Standing;
use crate::conf::{Backend, NetConf};
use crate::lease::{Identity, Subnets};
use crate::plan::{self, Family, Ways};
use crate::store::{Claim, Offer, Peers};

pub fn claim(
    identity: &Identity,
    conf: &NetConf,
    standing: &Standing,
    previous: Option<Subnets>,
    formerly: Option<Identity>,
    offer: Offer,
) -> Claim {
    let addresses = [
        standing.ground.v4.map(IpAddr::V4),
        standing.ground.v6.map(IpAddr::V6),
    ];
    Claim {
        identity: identity.clone(),
        public_ip: standing.public_ip.filter(|_| conf.v4.is_some()),
        public_ipv6: standing.public_ipv6.filter(|_| conf.v6.is_some()),
        sources: addresses.into_iter().flatten().collect(),
        overwritten: standing.overwritten(),
        previous,
        formerly,
        offer,
    }
}

pub fn offer(rtnl: &mut Rtnl, conf: &NetConf) -> Offer {
    match &conf.backend {
        Backend::Alloc => Offer::Nothing,
        Backend::Udp(udp) => Offer::Udp { port: udp.port },
        Backend::HostGw => Offer::HostGw,
        Backend::Vxlan(vxlan) => {
            let mut mac = |family| {
                let name = plan::device_name(family, vxlan.vni);
                let link = rtnl.link(name.as_str()).ok()?;
                link.is_vxlan().then_some(link.mac)?
            };
            Offer::Vxlan {
                vni: vxlan.vni,
                v4: mac(Family::V4),
                v6: mac(Family::V6),
            }
        }
    }
}

/// Asked of the kernel, which knows routing policies better than any table of ours.
pub fn ways(rtnl: &mut Rtnl, conf: &NetConf, peers: &Peers) -> Ways {
    let direct = matches!(&conf.backend, Backend::Vxlan(vxlan) if vxlan.direct_routing);
    if !direct {
        return Ways::new();
    }
    let mut requests = Requests::new();
    let mut tickets = Vec::new();
    for lease in &peers.leases {
        let attrs = &lease.attrs;
        let v4 = attrs.public_ip.map(IpAddr::V4);
        let v6 = attrs.public_ipv6.map(IpAddr::V6);
        for address in v4.into_iter().chain(v6) {
            tickets.push((address, requests.way_to(address)));
        }
    }
    let Ok(mut answers) = rtnl.run(requests) else {
        return Ways::new();
    };
    let mut ways = Ways::new();
    for (address, ticket) in tickets {
        if let Ok(way) = answers.take(ticket)
            && way.gateway.is_none()
            && !way.is_local
        {
            ways.insert(address, way.link);
        }
    }
    ways
}

/// Each of the pods' networks, with the length of a node's subnet.
pub fn networks(conf: &NetConf) -> Vec<(IpNetwork, u8)> {
    let v4 = conf
        .v4
        .map(|pool| (IpNetwork::V4(pool.network), pool.subnet_len));
    let v6 = conf
        .v6
        .map(|pool| (IpNetwork::V6(pool.network), pool.subnet_len));
    v4.into_iter().chain(v6).collect()
}
