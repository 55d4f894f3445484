//! `kubectl apply -f weft.yaml`, as far as its daemon is concerned: the file's own configuration,
//! arguments, environment, rights and probes, on a cluster that kubeadm made.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_netns::apiserver::{Fat, Right, fat_node, flannel_node};
use weft_netns::{World, in_world, wait_until};

use crate::harness::{Cluster, LIMIT, Node};
use crate::kube;

const KUBEADMS: &str = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n\
    networking:\n  dnsDomain: cluster.local\n  podSubnet: 10.244.0.0/16\n  \
    serviceSubnet: 10.96.0.0/12\n";

struct Applied<'w> {
    cluster: Cluster<'w>,
    config: Value,
    weftd: Value,
}

impl<'w> Applied<'w> {
    fn new(world: &'w World) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/weft.yaml");
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&fs::read_to_string(file).unwrap()).unwrap();
        let of_kind = |kind: &'static str| documents.iter().filter(move |d| d["kind"] == kind);
        let config = of_kind("ConfigMap").next().unwrap()["data"].clone();
        let daemons = of_kind("DaemonSet").next().unwrap();
        let roles = of_kind("Role").chain(of_kind("ClusterRole"));
        let rights = roles.flat_map(rights).collect();
        let cluster = kube::cluster(world, config["net-conf.json"].as_str().unwrap());
        let server = &kube::kube(&cluster).server;
        server.borrow().put(json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
            "data": {"ClusterConfiguration": KUBEADMS},
        }));
        server
            .borrow()
            .access(|access| access.rights = Some(rights));
        Self {
            config,
            weftd: daemons["spec"]["template"]["spec"]["containers"][0].clone(),
            cluster,
        }
    }

    /// What is the host's in the file is the node's own, and the server has no service's address.
    fn node(&self, number: u8) -> Node<'w> {
        let mut node = self.cluster.node(number);
        let (address, cidr) = (node.underlay(), format!("10.244.{number}.0/24"));
        let registered = fat_node(&node.name, &address, &[&cidr], Fat { images: 50 });
        self.server().put(registered);
        let mounted = node.dir.join("kube-flannel");
        fs::create_dir(&mounted).unwrap();
        for (name, text) in self.config.as_object().unwrap() {
            fs::write(mounted.join(name), text.as_str().unwrap()).unwrap();
        }
        let hosts = [
            "--kube-api-url",
            "--run-dir",
            "--state-dir",
            "--subnet-file",
        ];
        node.flags
            .retain(|flag| hosts.iter().any(|host| flag.starts_with(host)));
        node.flags.extend([
            format!("--net-config-path={}/net-conf.json", mounted.display()),
            format!("--cni-conf-dir={}", node.dir.join("net.d").display()),
        ]);
        let args = self.weftd["args"].as_array().unwrap().iter();
        node.flags.extend(args.map(|arg| {
            arg.as_str()
                .unwrap()
                .replace("$(NODE_NAME)", &node.name)
                .replace("/etc/kube-flannel", mounted.to_str().unwrap())
        }));
        node
    }

    fn start(&self, node: &Node<'_>) {
        let mut command = node.command();
        for variable in self.weftd["env"].as_array().unwrap() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("spec.nodeName") => node.name.as_str(),
                Some("metadata.name") => "weft-x7k2p",
                Some("metadata.namespace") => "kube-weft",
                other => panic!("a variable from {other:?}"),
            };
            command = command.env(variable["name"].as_str().unwrap(), value);
        }
        node.is_now(command.spawn());
    }

    fn server(&self) -> std::cell::Ref<'_, weft_netns::apiserver::ApiServer> {
        kube::kube(&self.cluster).server.borrow()
    }

    /// As the kubelet asks, from the node's own network.
    fn is_answered(&self, node: &Node<'_>, probe: &str) -> bool {
        let get = &self.weftd[probe]["httpGet"];
        let ports = self.weftd["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == get["port"]);
        let port = port.unwrap()["containerPort"].as_u64().unwrap();
        let place = format!("{}:{port}", node.underlay());
        node.netns.enter(|| {
            let Ok(mut stream) = TcpStream::connect(&place) else {
                return false;
            };
            let path = get["path"].as_str().unwrap();
            let ask = format!("GET {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n");
            let mut answer = String::new();
            stream.write_all(ask.as_bytes()).is_ok()
                && stream.read_to_string(&mut answer).is_ok()
                && answer.starts_with("HTTP/1.1 200 ")
        })
    }
}

fn conflist(node: &Node<'_>) -> PathBuf {
    node.dir.join("net.d/10-flannel.conflist")
}

fn rights(role: &Value) -> Vec<Right> {
    let mut rights = Vec::new();
    let texts = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    for rule in role["rules"].as_array().unwrap() {
        for (verb, resource) in texts(&rule["verbs"]).iter().flat_map(|verb| {
            texts(&rule["resources"])
                .into_iter()
                .map(move |r| (verb, r))
        }) {
            let names = texts(&rule["resourceNames"]);
            if names.is_empty() {
                rights.push(Right::new(verb, &resource));
            }
            rights.extend(names.iter().map(|name| Right::of(verb, &resource, name)));
        }
    }
    rights
}

#[test]
fn weft_yaml_as_it_is_serves_a_cluster_that_kubeadm_made() {
    in_world(|world| {
        let applied = Applied::new(world);
        let nodes = [1, 2].map(|number| applied.node(number));
        nodes.iter().for_each(|node| applied.start(node));
        for node in &nodes {
            node.until_ready();
            wait_until("the kubelet's probes are answered", LIMIT, || {
                ["livenessProbe", "readinessProbe"]
                    .iter()
                    .all(|probe| applied.is_answered(node, probe))
            });
            let env = node.subnet_env();
            assert_eq!(env["FLANNEL_NETWORK"], "10.244.0.0/16");
            assert_eq!(env["FLANNEL_IPMASQ"], "true");
            let placed = fs::read_to_string(conflist(node)).unwrap();
            assert_eq!(placed, applied.config["cni-conf.json"].as_str().unwrap());
            wait_until("the network is available", LIMIT, || {
                kube::kube(&applied.cluster).condition(&node.name)["status"] == "False"
            });
        }
        let pods = nodes.each_ref().map(Node::pod);
        pods[0].until_reaches(&pods[1]);
        let mut refused = applied.server().seen();
        refused.retain(|request| request.code() == 403);
        assert!(refused.is_empty(), "{refused:?}");
    });
}

/// On nodes that were never served before.
#[test]
fn the_conflist_stands_within_300_ms_of_the_api_servers_answer() {
    in_world(|world| {
        let applied = Applied::new(world);
        for peer in 101..=200 {
            let (public, cidr) = (format!("172.16.0.{peer}"), format!("10.244.{peer}.0/24"));
            let name = format!("worker-{peer}");
            let node = fat_node(&name, &public, &[&cidr], Fat { images: 50 });
            let mac = format!("02:00:00:00:00:{peer:02x}");
            applied.server().put(flannel_node(node, &public, &mac));
        }
        let taken = (1..=5).map(|number| {
            let node = applied.node(number);
            applied.server().forget_seen();
            let began = Instant::now();
            applied.start(&node);
            let mut answered = None;
            while !conflist(&node).exists() {
                assert!(began.elapsed() < LIMIT, "{}", node.log());
                if answered.is_none() && !applied.server().seen().is_empty() {
                    answered = Some(Instant::now());
                }
                std::thread::yield_now();
            }
            assert!(node.subnet_file().exists());
            let taken = (began.elapsed(), answered.unwrap().elapsed());
            node.until_ready();
            node.terminate();
            taken
        });
        let taken: Vec<_> = taken.collect();
        println!("to the conflist with 100 peers, from exec and from the first answer: {taken:?}");
        let soonest = taken.iter().map(|(_, since_answer)| *since_answer).min();
        assert!(soonest.unwrap() < Duration::from_millis(300), "{taken:?}");
    });
}
