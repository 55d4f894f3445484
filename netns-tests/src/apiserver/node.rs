//! Nodes as clusters have them.

use serde_json::{Value, json};

use super::fields;

/// How much a node has to show.
#[derive(Debug, Clone, Copy)]
pub struct Fat {
    /// The kubelet reports fifty at most.
    pub images: usize,
}

/// With what the node's parts write into it, each through its own door: what a kubelet, kubeadm,
/// the controllers and an operator's labels leave there.
pub fn fat_node(name: &str, address: &str, cidrs: &[&str], fat: Fat) -> Value {
    let mut node = json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": name, "labels": {}, "annotations": {}},
        "spec": {}, "status": {},
    });
    // With it a kubelet makes the node, and of a status that comes so nobody is noted as owner.
    node["status"] = status(name, address, fat);
    let mut write = |manager: &str, subresource: &str, patch: Value| {
        super::patch::strategic(&mut node, &patch);
        fields::note(&mut node, manager, subresource, &patch);
    };
    write(
        "kubelet",
        "",
        json!({"metadata": {
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            "labels": {
                "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
            },
        }}),
    );
    write(
        "kubeadm",
        "",
        json!({"metadata": {
            "annotations": {"kubeadm.alpha.kubernetes.io/cri-socket": "unix:///var/run/containerd/containerd.sock"},
        }}),
    );
    write(
        "kube-controller-manager",
        "",
        json!({
            "metadata": {"annotations": {"node.alpha.kubernetes.io/ttl": "0"}},
        }),
    );
    if !cidrs.is_empty() {
        write(
            "kube-controller-manager",
            "",
            json!({
                "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
            }),
        );
    }
    write(
        "kubectl-label",
        "",
        json!({"metadata": {"labels": {
            "topology.kubernetes.io/region": "eu-central", "topology.kubernetes.io/zone": "eu-central-1",
            "node.kubernetes.io/instance-type": "m-16-64", "node-role.kubernetes.io/worker": "",
        }}}),
    );
    write("kubelet", "status", json!({"status": heartbeat()}));
    node["status"] = status(name, address, fat);
    node
}

/// Of no more than what is read of it.
pub fn slim_node(name: &str, cidrs: &[&str]) -> Value {
    let mut node = json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": name}, "spec": {}, "status": {"conditions": []},
    });
    if let Some(first) = cidrs.first() {
        node["spec"] = json!({"podCIDR": first, "podCIDRs": cidrs});
    }
    node
}

/// What flanneld writes into its node, vxlan, IPv4.
pub fn flannel_node(mut node: Value, public: &str, mac: &str) -> Value {
    let patch = json!({"metadata": {"annotations": {
        "flannel.alpha.coreos.com/backend-data": format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#),
        "flannel.alpha.coreos.com/backend-type": "vxlan",
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/public-ip": public,
    }}});
    super::patch::strategic(&mut node, &patch);
    fields::note(&mut node, "flanneld", "status", &patch);
    node
}

/// What a kubelet writes from then on: when it looked, that it became ready, and its images.
fn heartbeat() -> Value {
    let looked = |kind: &str| json!({"type": kind, "lastHeartbeatTime": ""});
    json!({
        "conditions": [
            looked("MemoryPressure"), looked("DiskPressure"), looked("PIDPressure"),
            {
                "type": "Ready", "lastHeartbeatTime": "", "lastTransitionTime": "",
                "message": "", "reason": "", "status": "",
            },
        ],
        "images": [], "allocatable": {"ephemeral-storage": ""},
    })
}

fn status(name: &str, address: &str, fat: Fat) -> Value {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status,
            "lastHeartbeatTime": "2026-01-15T10:12:41Z",
            "lastTransitionTime": "2026-01-15T08:30:12Z",
            "reason": reason, "message": message,
        })
    };
    let resources = json!({
        "cpu": "16", "ephemeral-storage": "203056560Ki", "hugepages-1Gi": "0",
        "hugepages-2Mi": "0", "memory": "65843032Ki", "pods": "110",
    });
    let images: Vec<Value> = (0..fat.images).map(image).collect();
    json!({
        "capacity": resources, "allocatable": resources,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": "8f2c1b7d5a3e4c0f9b6d2a1e7c4f3b58",
            "systemUUID": "8f2c1b7d-5a3e-4c0f-9b6d-2a1e7c4f3b58",
            "bootID": "0b1f6c1e-6a52-4a7e-9a55-5d2f3f0f7a11",
            "kernelVersion": "6.1.0-28-amd64", "osImage": "Debian GNU/Linux 12 (bookworm)",
            "containerRuntimeVersion": "containerd://1.7.22", "kubeletVersion": "v1.33.1",
            "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
        },
        "images": images,
    })
}

fn image(number: usize) -> Value {
    let name = format!("registry.example.com/platform/service-{number}");
    let digest = format!("{:064x}", (number as u128 + 1) * 0x9e37_79b9_7f4a_7c15);
    json!({
        "names": [format!("{name}@sha256:{digest}"), format!("{name}:v1.{number}.0")],
        "sizeBytes": 91_234_567 + number,
    })
}
