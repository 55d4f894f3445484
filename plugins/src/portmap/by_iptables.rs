//! The plan in the words of the iptables back-end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use weft_cni::{Error, Result};

use super::{
    conf::{HostAddress, Mapping, Mark, Masquerade, Plan},
    key::Protocol,
};
use crate::{
    iptables::{self, PortMappings},
    owner::Owner,
};

/// What [`PortMappings`] borrows.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pod: Vec<IpNetwork>,
    mappings: Vec<iptables::Mapping>,
    masquerading: Option<iptables::Masquerading>,
    conditions_v4: Vec<String>,
    conditions_v6: Vec<String>,
}

impl Ports {
    pub(super) fn of(plan: &Plan, mark: &Mark) -> Result<Self> {
        let mark = match mark {
            Mark::Bit(bit) => iptables::Mark::Bit(*bit),
            Mark::Chain(chain) => iptables::Mark::Chain(chain.clone()),
        };
        let masquerading = |all| Some(iptables::Masquerading { all, mark });
        Ok(Self {
            pod: [plan.pod.v4, plan.pod.v6].into_iter().flatten().collect(),
            mappings: plan.mappings.iter().map(mapping).collect::<Result<_>>()?,
            masquerading: match plan.masquerade {
                Masquerade::Nobody => None,
                Masquerade::Neighbours => masquerading(false),
                Masquerade::Everybody => masquerading(true),
            },
            conditions_v4: plan.conditions.v4.clone(),
            conditions_v6: plan.conditions.v6.clone(),
        })
    }

    pub(super) fn of_owner<'a>(&'a self, owner: &'a Owner) -> PortMappings<'a> {
        PortMappings {
            owner,
            pod: &self.pod,
            mappings: &self.mappings,
            masquerading: self.masquerading.as_ref(),
            conditions_v4: &self.conditions_v4,
            conditions_v6: &self.conditions_v6,
        }
    }
}

fn mapping(mapping: &Mapping) -> Result<iptables::Mapping> {
    let protocol = match mapping.protocol {
        Protocol::Dccp => iptables::Protocol::Dccp,
        Protocol::Sctp => iptables::Protocol::Sctp,
        Protocol::Tcp => iptables::Protocol::Tcp,
        Protocol::Udp => iptables::Protocol::Udp,
        Protocol::UdpLite => {
            return Err(
                Error::config("the iptables back-end cannot map ports of udplite")
                    .with_details("set \"backend\" to \"nftables\""),
            );
        }
    };
    Ok(iptables::Mapping {
        protocol,
        host_ip: match mapping.host {
            HostAddress::All => None,
            HostAddress::AllV4 => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            HostAddress::AllV6 => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            HostAddress::One(address) => Some(address),
        },
        host_port: mapping.host_port,
        container_port: mapping.pod_port,
    })
}
