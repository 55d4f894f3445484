//! What there is to judge.

use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde_json::Value;
use weft_net::Rtnl;
use weft_net::route::{Address, Link};
use weft_net::sysctl::Key;

use super::super::arguments::Options;
use super::super::ask::Silence;
use super::cni::Confs;
use crate::firewall::{Firewall, ForwardHook, Spec};
use crate::subnet_file::{self, Found};

pub(super) struct Facts {
    pub(super) status: Result<Value, Silence>,
    pub(super) subnet_path: PathBuf,
    /// None if there is none.
    pub(super) subnet_file: Result<Option<Found>, subnet_file::Error>,
    pub(super) links: weft_net::Result<Links>,
    pub(super) hooks: Result<Vec<ForwardHook>, String>,
    pub(super) settings: Settings,
    pub(super) confs: Confs,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
}

/// None: this kernel has no such setting.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) forward4: Option<String>,
    pub(super) forward6: Option<String>,
    pub(super) bridge4: Option<String>,
    pub(super) bridge6: Option<String>,
}

impl Facts {
    pub(super) fn gather(options: &Options) -> Self {
        let status = super::super::ask_status(&options.run_dir);
        let subnet_file = Found::read(&options.subnet_file);
        let file = subnet_file.as_ref().ok().and_then(Option::as_ref);
        let networks = networks_of(status.as_ref().ok(), file);
        Self {
            hooks: hooks(networks),
            links: Links::read(),
            settings: Settings::read(),
            confs: Confs::read(&options.conf_dir, &options.bin_dir),
            subnet_path: options.subnet_file.clone(),
            status,
            subnet_file,
        }
    }

    pub(super) fn file(&self) -> Option<&Found> {
        self.subnet_file.as_ref().ok()?.as_ref()
    }

    pub(super) fn running(&self) -> Option<&Value> {
        self.status.as_ref().ok()
    }

    /// All pods'.
    pub(super) fn networks(&self) -> Vec<IpNetwork> {
        networks_of(self.running(), self.file())
    }
}

/// As the daemon says, else as it or flanneld once wrote.
fn networks_of(status: Option<&Value>, file: Option<&Found>) -> Vec<IpNetwork> {
    let told = status.map(|status| networks_in(&status["networks"]));
    match (told, file) {
        (Some(told), _) if !told.is_empty() => told,
        (_, Some(file)) => networks_by(file),
        (_, None) => Vec::new(),
    }
}

/// Of a list of texts.
pub(super) fn networks_in(list: &Value) -> Vec<IpNetwork> {
    let texts = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn hooks(networks: Vec<IpNetwork>) -> Result<Vec<ForwardHook>, String> {
    let spec = Spec {
        networks,
        forward: true,
        ..Spec::default()
    };
    let report = Firewall::open().and_then(|mut firewall| firewall.inspect(&spec));
    report
        .map(|report| report.hooks)
        .map_err(|why| why.to_string())
}

/// As the daemon writes them, IPv4 first.
pub(super) fn subnets_of(file: &Found) -> Vec<IpNetwork> {
    let v4 = file.subnets.v4.map(IpNetwork::V4);
    let v6 = file.subnets.v6.map(IpNetwork::V6);
    v4.into_iter().chain(v6).collect()
}

pub(super) fn networks_by(file: &Found) -> Vec<IpNetwork> {
    let v4 = file.v4_networks.iter().copied().map(IpNetwork::V4);
    let v6 = file.v6_networks.iter().copied().map(IpNetwork::V6);
    v4.chain(v6).collect()
}

impl Links {
    fn read() -> weft_net::Result<Self> {
        let mut rtnl = Rtnl::open()?;
        Ok(Self {
            links: rtnl.links()?,
            addresses: rtnl.addresses()?,
        })
    }

    pub(super) fn named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub(super) fn numbered(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Those that are valid beyond the link.
    pub(super) fn addresses_of(&self, link: &Link) -> Vec<IpNetwork> {
        let own = self
            .addresses
            .iter()
            .filter(|address| address.link == link.index);
        own.filter(|address| !address.narrow)
            .map(|address| address.address)
            .collect()
    }
}

impl Settings {
    fn read() -> Self {
        let read = |key: Option<Key>| key?.read().ok()?;
        Self {
            forward4: read(Key::new(["net", "ipv4", "ip_forward"])),
            forward6: read(Key::ipv6_conf("all", "forwarding")),
            bridge4: read(Key::new(["net", "bridge", "bridge-nf-call-iptables"])),
            bridge6: read(Key::new(["net", "bridge", "bridge-nf-call-ip6tables"])),
        }
    }
}
