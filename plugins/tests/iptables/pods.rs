//! What is known of the pods of these tests.

use ipnetwork::IpNetwork;
use weft_plugins::iptables::{
    Host, Mapping, Mark, Masquerade, Masquerading, PortMappings, Protocol,
};
use weft_plugins::owner::Owner;

pub(crate) struct Pod {
    pub(crate) owner: Owner,
    pub(crate) addresses: Vec<IpNetwork>,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) conditions_v4: Vec<String>,
}

const HAIRPIN: Masquerading = Masquerading {
    all: false,
    mark: Mark::Bit(13),
};

impl Pod {
    pub(crate) fn new(network: &str, container_id: &str, addresses: &[&str]) -> Self {
        Self {
            owner: Owner {
                network: network.into(),
                container_id: container_id.into(),
                ifname: "eth0".into(),
            },
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            mappings: vec![mapping(Protocol::Tcp, None, 8080, 80)],
            conditions_v4: Vec::new(),
        }
    }

    pub(crate) fn masquerade(&self) -> Masquerade<'_> {
        Masquerade {
            owner: &self.owner,
            addresses: &self.addresses,
        }
    }

    pub(crate) fn ports(&self) -> PortMappings<'_> {
        PortMappings {
            owner: &self.owner,
            pod: &self.addresses,
            mappings: &self.mappings,
            masquerading: Some(&HAIRPIN),
            conditions_v4: &self.conditions_v4,
            conditions_v6: &[],
        }
    }

    pub(crate) fn add(&self, host: &Host) {
        self.masquerade().add(host).unwrap();
        self.ports().add(host).unwrap();
    }

    pub(crate) fn check(&self, host: &Host) -> weft_cni::Result<()> {
        self.masquerade().check(host)?;
        self.ports().check(host)
    }

    pub(crate) fn del(&self, host: &Host) {
        self.ports().del(host).unwrap();
        self.masquerade().del(host).unwrap();
    }
}

pub(crate) fn mapping(protocol: Protocol, host: Option<&str>, from: u16, to: u16) -> Mapping {
    Mapping {
        protocol,
        host_ip: host.map(|ip| ip.parse().unwrap()),
        host_port: from,
        container_port: to,
    }
}
