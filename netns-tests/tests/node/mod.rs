//! What the tests of several plugins share: a node with its bridge network.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::time::Duration;

use serde_json::{Value, json};
use weft_netns::{Attachment, Chain, Cni, Need, ping};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What a look at the node needs.
pub(crate) const LOOK: [Need; 2] = [Need::Tool("ip"), Need::Tool("nft")];

/// What the reference plugins need.
pub(crate) const GO: [Need; 4] = [
    Need::Tool("ip"),
    Need::Tool("nft"),
    Need::Tool("iptables"),
    Need::File("/usr/lib/cni/bridge"),
];

/// A bridge network 10.22.0.0/24 with everything that most networks have, changed by `change`.
pub(crate) fn bridge_conf(version: &str, change: Value) -> Value {
    let mut conf = json!({
        "cniVersion": version, "name": "net", "type": "bridge", "bridge": "cni0",
        "isDefaultGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}]]},
    });
    let Value::Object(change) = change else {
        panic!("not an object: {change}")
    };
    for (key, value) in change {
        conf[key] = value;
    }
    conf
}

pub(crate) fn network(change: Value) -> Chain {
    Chain::new(&Cni::weft(), bridge_conf("1.0.0", change))
}

/// The `number`th address, counted from 0, that the pod was given, without its prefix length.
#[track_caller]
pub(crate) fn ip_of(result: &Value, number: usize) -> String {
    let address = result["ips"][number]["address"].as_str();
    let address = address.unwrap_or_else(|| panic!("no address {number} in {result}"));
    address.split('/').next().unwrap_or_default().to_owned()
}

#[track_caller]
pub(crate) fn add(chain: &Chain, who: &Attachment) -> Value {
    chain.add(who).ok().result()
}

#[track_caller]
pub(crate) fn reaches(ip: &str) {
    if let Err(why) = ping(ip.parse().expect("an address"), SECOND) {
        panic!("{ip} does not answer: {why}");
    }
}

pub(crate) fn sysctl(key: &str) -> String {
    let path = format!("/proc/sys/{key}");
    let value = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    value.trim_end().to_owned()
}

pub(crate) fn set_sysctl(key: &str, value: &str) {
    let path = format!("/proc/sys/{key}");
    std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
}
