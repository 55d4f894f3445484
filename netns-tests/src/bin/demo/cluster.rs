//! Three nodes on one wire, two pods on each.
//!
//! ```text
//!   pod-1a  pod-1b     pod-2a  pod-2b     pod-3a  pod-3b
//!      └─ cni0 ─┘         └─ cni0 ─┘         └─ cni0 ─┘
//!      flannel.1          flannel.1          flannel.1
//!   node-1 eth0        node-2 eth0        node-3 eth0
//!          └────────────── wire ──────────────┘
//! ```
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use weft_netns::{Attachment, Chain, Cni, Netns, Run, World, wait_until_answers};

use crate::node::Node;
use crate::weftd::{STORE, Weftd};

pub(crate) const NETWORK: &str = "10.244.0.0/16";
/// Where the world beyond the cluster is.
pub(crate) const BEYOND: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Vxlan,
    HostGw,
    Udp,
}

impl Backend {
    pub(crate) const ALL: [Self; 3] = [Self::Vxlan, Self::HostGw, Self::Udp];

    pub(crate) fn named(name: &str) -> Result<Self, String> {
        match name {
            "" | "vxlan" => Ok(Self::Vxlan),
            "host-gw" => Ok(Self::HostGw),
            "udp" => Ok(Self::Udp),
            other => Err(format!(
                "BACKEND={other}: the demo knows vxlan (the default), host-gw and udp"
            )),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
            Self::Udp => "udp",
        }
    }

    /// What packets to other nodes go into, if it is not the wire itself.
    pub(crate) fn device(self) -> Option<&'static str> {
        match self {
            Self::Vxlan => Some("flannel.1"),
            Self::HostGw => None,
            Self::Udp => Some("flannel0"),
        }
    }
}

pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
}

/// A node with all that is on it. The daemon ends first.
pub(crate) struct Member {
    pub(crate) weftd: Option<Weftd>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) chain: Chain,
    pub(crate) node: Node,
}

pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) netns: Netns,
    pub(crate) address: Option<Ipv4Addr>,
}

impl Cluster {
    /// Nodes with a wire and nothing on them.
    pub(crate) fn bare(world: &World) -> Self {
        let pods = |number| {
            ["a", "b"].map(|letter| {
                let name = format!("pod-{number}{letter}");
                Pod {
                    netns: world.netns(&name),
                    name,
                    address: None,
                }
            })
        };
        let pods: Vec<Vec<Pod>> = (1..=3).map(|number| pods(number).into()).collect();
        // The bridge plugin lays the wire too.
        let wire = Chain::new(&Cni::weft(), wire());
        let member = |(index, pods): (usize, Vec<Pod>)| {
            let netns = world.netns(&format!("node-{}", index + 1));
            let result = wire
                .add(&Attachment::new(netns.name(), &netns))
                .ok()
                .result();
            Member {
                weftd: None,
                pods,
                chain: Chain::new(&Cni::weft(), conflist()),
                node: Node::new(netns, address(&result)),
            }
        };
        Self {
            members: pods.into_iter().enumerate().map(member).collect(),
        }
    }

    /// What an operator does once for a cluster.
    pub(crate) fn configure(backend: Backend) -> Value {
        let conf = json!({"Network": NETWORK, "Backend": {"Type": backend.name()}});
        fs::create_dir_all(STORE).expect("make the directory of leases");
        let (beside, file) = (format!("{STORE}/.config"), format!("{STORE}/config"));
        fs::write(&beside, conf.to_string()).expect("write the network's configuration");
        fs::rename(&beside, &file).expect("put the network's configuration in its place");
        conf
    }

    /// All at once, as after a power cut.
    pub(crate) fn start(&mut self) {
        for member in &mut self.members {
            member.weftd = Some(Weftd::start(&member.node));
        }
        self.await_ready();
    }

    fn await_ready(&self) {
        for member in &self.members {
            member.weftd().await_ready(&member.node);
        }
    }

    pub(crate) fn stop(&mut self) {
        for member in &mut self.members {
            if let Some(weftd) = member.weftd.take() {
                weftd.stop();
            }
        }
    }

    /// Every pod reaches every other: neighbours are found, leases have come around.
    pub(crate) fn await_paths(&self) {
        let pods = || self.members.iter().flat_map(|member| &member.pods);
        let addresses: Vec<IpAddr> = pods().map(|pod| pod.address().into()).collect();
        for (number, pod) in pods().enumerate() {
            let others = (0..addresses.len()).filter(|other| *other != number);
            pod.netns
                .enter(|| others.for_each(|other| wait_until_answers(addresses[other])));
        }
    }
}

impl Member {
    pub(crate) fn weftd(&self) -> &Weftd {
        self.weftd.as_ref().expect("a daemon that was started")
    }

    pub(crate) fn add_pods(&mut self) -> Vec<Run> {
        let Self {
            pods, chain, node, ..
        } = self;
        let add = |pod: &mut Pod| {
            let run = node.enter(|| chain.add(&pod.attachment())).ok();
            pod.address = Some(address(run.result.as_ref().unwrap_or(&Value::Null)));
            run
        };
        pods.iter_mut().map(add).collect()
    }

    pub(crate) fn del_pods(&self) -> Vec<Run> {
        let del = |pod: &Pod| self.node.enter(|| self.chain.del(&pod.attachment())).ok();
        self.pods.iter().map(del).collect()
    }
}

impl Pod {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address.expect("a pod that was added")
    }

    pub(crate) fn attachment(&self) -> Attachment {
        Attachment::new(&self.name, &self.netns)
    }
}

/// As kube-flannel installs it.
pub(crate) fn conflist() -> Value {
    json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

fn wire() -> Value {
    let ipam = json!({
        "type": "host-local", "subnet": "192.168.9.0/24", "rangeStart": "192.168.9.11",
        "gateway": BEYOND.to_string(),
    });
    json!({
        "cniVersion": "1.0.0", "name": "wire", "type": "bridge", "bridge": "wire",
        "isGateway": true, "ipam": ipam,
    })
}

fn address(result: &Value) -> Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().unwrap_or_default();
    let host = text.split('/').next().unwrap_or_default();
    host.parse()
        .unwrap_or_else(|_| panic!("a plugin gave no IPv4 address: {result}"))
}
