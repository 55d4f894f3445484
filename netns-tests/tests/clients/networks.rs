//! The networks that clients come with.
use serde_json::{Value, json};

/// What kube-flannel ships, in its own words.
pub(crate) fn kube_flannel() -> Value {
    json!({
        "name": "cbr0",
        "cniVersion": "0.3.1",
        "plugins": [
            {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// What flanneld writes on the node of [`kube_flannel`].
pub(crate) const SUBNET_ENV: &str = "\
FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.1.1/24
FLANNEL_MTU=1450
FLANNEL_IPMASQ=false
";

/// What containerd's own documentation and tests use. `mapping` stands in for a
/// runtime that offers no port mappings.
pub(crate) fn containerd(mapping: Option<Value>) -> Value {
    let ranges = json!([[{"subnet": "10.88.0.0/16"}], [{"subnet": "2001:4860:4860::/64"}]]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    let ipam = json!({"type": "host-local", "ranges": ranges, "routes": routes});
    let bridge = json!({
        "type": "bridge", "bridge": "cni0",
        "isGateway": true, "ipMasq": true, "promiscMode": true, "ipam": ipam,
    });
    let mut portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    if let Some(mapping) = mapping {
        portmap["runtimeConfig"] = json!({"portMappings": mapping});
    }
    json!({"cniVersion": "1.0.0", "name": "containerd-net", "plugins": [bridge, portmap]})
}
