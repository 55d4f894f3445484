//! The contestants: each on a node of its own, doing the same job for the same pods.
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weft_netns::{Attachment, Chain, Cni, Netns, World};

use crate::process::{Cost, Program};
use crate::record::{self, Script};

const GO: &str = "/usr/lib/cni";
const NETAVARK: &str = "/usr/lib/podman/netavark";
/// Everybody's pods live in their own copy of it: nodes do not see each other.
const SUBNET: &str = "10.88.0.0/16";

/// A set of CNI plugins on a node.
pub(crate) struct CniPeer {
    pub(crate) name: &'static str,
    pub(crate) node: Netns,
    pub(crate) data_dir: PathBuf,
    chain: Chain,
    path: Vec<PathBuf>,
}

/// One pod, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) who: Attachment,
    pub(crate) result: Option<Value>,
}

impl Pod {
    pub(crate) fn new(id: &str, netns: &Netns, host_port: u16) -> Self {
        let ports = json!([{"hostPort": host_port, "containerPort": 80, "protocol": "tcp"}]);
        let who = Attachment::new(id, netns).capability("portMappings", ports);
        Self { who, result: None }
    }

    pub(crate) fn address(&self) -> Option<String> {
        let result = self.result.as_ref()?;
        let address = result["ips"][0]["address"].as_str()?;
        Some(address.split('/').next()?.to_owned())
    }
}

impl CniPeer {
    pub(crate) fn weft(world: &World, node: &str) -> Self {
        Self::new(world, "weft", node, &Cni::weft_dir())
    }

    pub(crate) fn go(world: &World, node: &str) -> Self {
        Self::new(world, "go", node, Path::new(GO))
    }

    fn new(world: &World, name: &'static str, node: &str, dir: &Path) -> Self {
        let data_dir = world.scratch(&format!("{node}-data"));
        let chain = Chain::new(&Cni::in_dirs(&[dir]), chain_config(&data_dir));
        let node = world.netns(node);
        node.exec("ip link set lo up");
        let path = vec![dir.to_owned()];
        Self {
            name,
            node,
            data_dir,
            chain,
            path,
        }
    }

    /// The same node, with another network.
    pub(crate) fn network(mut self, config: impl FnOnce(&Path) -> Value) -> Self {
        let config = config(&self.data_dir);
        self.chain = Chain::new(&Cni::in_dirs(&self.path), config);
        self
    }

    /// The chain's ADD as a runtime does it. To be called on the node.
    pub(crate) fn add(&self, pod: &mut Pod) -> Cost {
        let mut cost = Cost::default();
        pod.result = None;
        for plugin in self.chain.plugins() {
            cost = cost.then(self.program("ADD", plugin, pod).run());
            pod.result = Some(serde_json::from_slice(&cost.stdout).expect("a result is JSON"));
        }
        cost
    }

    /// The first plugin's ADD after others that are not measured: it gets the pod's result.
    pub(crate) fn add_after(&self, pod: &mut Pod) -> Cost {
        let plugin = self.chain.plugins().next().expect("a chain has plugins");
        self.program("ADD", plugin, pod).run()
    }

    pub(crate) fn del(&self, pod: &Pod) -> Cost {
        let plugins = self.chain.plugins().rev();
        plugins.fold(Cost::default(), |cost, plugin| {
            cost.then(self.program("DEL", plugin, pod).run())
        })
    }

    /// Runs the chain and notes what it asks of the kernel.
    fn record(&self, verb: &str, pod: &mut Pod, log: &Path) -> Vec<Script> {
        let mut plugins: Vec<_> = self.chain.plugins().collect();
        if verb == "DEL" {
            plugins.reverse();
        }
        let mut record = |plugin: &Value| {
            let (script, stdout) = record::record(&self.program(verb, plugin, pod), log);
            if verb == "ADD" {
                pod.result = Some(serde_json::from_slice(&stdout).expect("a result is JSON"));
            }
            script
        };
        plugins.into_iter().map(&mut record).collect()
    }

    /// The same calls for the tracer of the test world.
    pub(crate) fn traceable(&self, verb: weft_netns::Verb, pod: &Pod) -> Vec<weft_netns::Cmd> {
        self.chain.commands(verb, &pod.who, pod.result.as_ref())
    }

    fn program(&self, verb: &str, plugin: &Value, pod: &Pod) -> Program {
        let config = self
            .chain
            .config(plugin, Some(&pod.who), pod.result.as_ref());
        Program::new(self.executable(plugin["type"].as_str().unwrap_or_default()))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &pod.who.container_id)
            .env("CNI_NETNS", &pod.who.netns)
            .env("CNI_IFNAME", &pod.who.ifname)
            .env("CNI_PATH", self.path[0].display().to_string())
            .stdin(config.to_string())
    }

    pub(crate) fn executable(&self, plugin: &str) -> PathBuf {
        let file = self.path[0].join(plugin);
        assert!(file.is_file(), "{} is missing", file.display());
        file
    }
}

/// The kernel's part of our calls, and nothing else.
pub(crate) struct Floor {
    pub(crate) node: Netns,
    executable: PathBuf,
    recorded: String,
    add: Vec<Script>,
    del: Vec<Script>,
}

impl Floor {
    /// Records ours on a node that has a pod already.
    pub(crate) fn record(world: &World, node: &str) -> Self {
        let executable = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("dist/bench/floor");
        assert!(
            executable.is_file(),
            "{} is missing: make bench builds it",
            executable.display()
        );
        let peer = CniPeer::weft(world, node);
        let (resident, recorded) = (world.netns("floor-resident"), world.netns("floor-recorded"));
        let log = world.scratch("floor").join("log");
        let mut pod = Pod::new("floor", &recorded, 8080);
        let (add, del) = peer.node.enter(|| {
            peer.add(&mut Pod::new("resident", &resident, 7999));
            (
                peer.record("ADD", &mut pod, &log),
                peer.record("DEL", &mut pod, &log),
            )
        });
        Self {
            node: peer.node,
            executable,
            recorded: pod.who.netns,
            add,
            del,
        }
    }

    pub(crate) fn add(&self, netns: &Netns) -> Cost {
        self.carry_out(&self.add, netns)
    }

    pub(crate) fn del(&self, netns: &Netns) -> Cost {
        self.carry_out(&self.del, netns)
    }

    pub(crate) fn sends(&self) -> (usize, usize) {
        let count = |scripts: &[Script]| scripts.iter().map(Script::sends).sum();
        (count(&self.add), count(&self.del))
    }

    fn carry_out(&self, scripts: &[Script], netns: &Netns) -> Cost {
        let netns = netns.path().display().to_string();
        scripts.iter().fold(Cost::default(), |cost, script| {
            let script = script.bytes(&self.recorded, &netns);
            cost.then(Program::new(&self.executable).stdin(script).run())
        })
    }
}

/// bridge + host-local + portmap, with masquerading.
pub(crate) fn chain_config(data_dir: &Path) -> Value {
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    json!({
        "cniVersion": "1.0.0", "name": "bench",
        "plugins": [bridge_config(data_dir, true), portmap],
    })
}

/// bridge + host-local alone.
pub(crate) fn plain_config(data_dir: &Path) -> Value {
    json!({"cniVersion": "1.0.0", "name": "bench", "plugins": [bridge_config(data_dir, false)]})
}

fn bridge_config(data_dir: &Path, masquerade: bool) -> Value {
    json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": masquerade,
        "ipam": {
            "type": "host-local", "dataDir": data_dir,
            "ranges": [[{"subnet": SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}],
        },
    })
}

/// Podman's network stack, for the same job: it gets its address from its caller.
pub(crate) struct Netavark {
    pub(crate) node: Netns,
    config: PathBuf,
}

impl Netavark {
    pub(crate) fn new(world: &World, node: &str) -> Option<Self> {
        if !Path::new(NETAVARK).is_file() {
            return None;
        }
        let config = world.scratch("netavark");
        let node = world.netns(node);
        node.exec("ip link set lo up");
        Some(Self { node, config })
    }

    pub(crate) fn set_up(&self, pod: &Pod, number: u16) -> Cost {
        self.program("setup", pod, number).run()
    }

    pub(crate) fn tear_down(&self, pod: &Pod, number: u16) -> Cost {
        self.program("teardown", pod, number).run()
    }

    fn program(&self, verb: &str, pod: &Pod, number: u16) -> Program {
        let [high, low] = number.to_be_bytes();
        let ports = &pod.who.capabilities["portMappings"][0];
        let options = json!({
            "container_id": pod.who.container_id, "container_name": pod.who.container_id,
            "networks": {"bench": {
                "static_ips": [format!("10.88.{high}.{low}")], "interface_name": "eth0",
            }},
            "network_info": {"bench": {
                "name": "bench", "id": "b".repeat(64), "driver": "bridge",
                "network_interface": "nv0", "subnets": [{"subnet": SUBNET, "gateway": "10.88.0.1"}],
                "ipv6_enabled": false, "internal": false, "dns_enabled": false,
                "ipam_options": {"driver": "host-local"},
            }},
            "port_mappings": [{
                "host_ip": "", "host_port": ports["hostPort"], "container_port": 80, "range": 1,
                "protocol": "tcp",
            }],
        });
        let config = self.config.display().to_string();
        Program::new(NETAVARK)
            .args(&["-c", &config, verb, &pod.who.netns])
            .stdin(options.to_string())
    }
}

/// The files in a network's directory, without those that outlive reservations by design.
pub(crate) fn reservations(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("bench"))
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect()
}
