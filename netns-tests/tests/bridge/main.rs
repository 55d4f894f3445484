//! `bridge` on a real kernel: what a pod gets, what CHECK sees, what DEL and GC leave, and every
//! defect of the reference plugin that we know of, each a test named after it.
//!
//! ```text
//!   node: cni0 10.22.0.1/24 ── veth··········· ══ eth0 10.22.0.2/24 :pod
//! ```
mod checks;
mod defects;
mod gets;
mod leaves;
#[path = "../node/mod.rs"]
mod node;

use std::path::Path;

use serde_json::{Value, json};
use weft_netns::{Netns, World, in_world, skip_unless};

fn in_node(test: impl FnOnce(&World)) {
    if skip_unless(&node::LOOK) {
        in_world(test);
    }
}

fn reservation(ip: &str) -> bool {
    Path::new("/var/lib/cni/networks/net").join(ip).exists()
}

fn json_of(netns: &Netns, command: &str) -> Value {
    serde_json::from_str(&netns.exec(command)).expect("JSON")
}

fn reaches_in(netns: &Netns, ip: &str) {
    netns.exec(&format!("ip link set lo up; ping -c1 -W1 {ip}"));
}

fn dual_stack() -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd22::/64"}]],
        "routes": [{"dst": "10.250.0.0/16", "gw": "10.22.0.9"}]})
}
