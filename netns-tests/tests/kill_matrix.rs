//! The kill matrix: whatever a plugin dies of, and wherever, a runtime's next call cleans up.
//!
//! ```text
//!   node: cni0 ── neighbour (lives, and must go on living)
//!              └─ pod (its ADD, DEL or GC is killed at the 1st, 2nd, ... last system call)
//! ```
mod kills;
mod node;

use std::fs;

use kills::{Extent, Node};
use node::LOOK;
use serde_json::{Value, json};
use weft_netns::{Chain, Cni, World, in_world, skip_unless};

/// What kube-flannel installs, on a node that has a lease.
fn flannel(version: &str) -> Chain {
    fs::create_dir_all("/run/flannel").unwrap();
    let lease = "FLANNEL_NETWORK=10.22.0.0/16\nFLANNEL_SUBNET=10.22.3.1/24\n\
        FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
    fs::write("/run/flannel/subnet.env", lease).unwrap();
    let plugins = json!([
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]);
    network(version, plugins)
}

/// A bridge with everything that makes it leave something somewhere.
fn bridge(version: &str) -> Chain {
    let ranges = json!([[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd22::/64"}]]);
    let plugins = json!([
        {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true,
            "macspoofchk": true, "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": ranges}},
    ]);
    network(version, plugins)
}

fn network(version: &str, plugins: Value) -> Chain {
    let list = json!({"name": "net", "cniVersion": version, "plugins": plugins});
    Chain::new(&Cni::weft(), list)
}

/// A node of its own, with a neighbour that lives through it all.
fn on_node(chain: impl Fn() -> Chain, story: impl FnOnce(&Node<'_>, &World)) {
    if skip_unless(&LOOK) {
        in_world(|world| {
            let (pod, neighbour) = (world.netns("pod"), world.netns("neighbour"));
            story(&Node::new(chain(), &pod, Some(&neighbour)), world);
        });
    }
}

fn on_empty_node(chain: impl Fn() -> Chain, story: impl FnOnce(&Node<'_>, &World)) {
    if skip_unless(&LOOK) {
        in_world(|world| {
            let pod = world.netns("pod");
            story(&Node::new(chain(), &pod, None), world);
        });
    }
}

#[test]
fn flannel_add_killed_anywhere_is_undone_by_del() {
    on_node(
        || flannel("1.0.0"),
        |node, _| node.kill_add_then_del(Extent::InTurn),
    );
}

#[test]
fn bridge_add_killed_anywhere_is_undone_by_del() {
    on_node(
        || bridge("0.3.1"),
        |node, _| node.kill_add_then_del(Extent::InTurn),
    );
}

#[test]
fn the_first_add_of_a_node_killed_anywhere_is_undone_by_del() {
    on_empty_node(
        || bridge("1.0.0"),
        |node, world| node.kill_first_add(world, Extent::InTurn),
    );
}

#[test]
fn flannel_del_killed_anywhere_is_completed_by_del() {
    on_node(
        || flannel("0.3.1"),
        |node, _| node.kill_del_then_del(Extent::InTurn),
    );
}

#[test]
fn bridge_del_killed_anywhere_is_completed_by_del() {
    on_node(
        || bridge("1.0.0"),
        |node, _| node.kill_del_then_del(Extent::InTurn),
    );
}

#[test]
fn flannel_add_killed_anywhere_is_undone_by_gc() {
    on_node(|| flannel("1.1.0"), |node, _| node.kill_add_then_gc());
}

#[test]
fn bridge_add_killed_anywhere_is_undone_by_gc_with_null() {
    on_empty_node(|| bridge("1.1.0"), |node, _| node.kill_add_then_gc());
}

#[test]
fn flannel_del_killed_anywhere_is_completed_by_gc() {
    on_node(|| flannel("1.1.0"), |node, _| node.kill_del_then_gc());
}

#[test]
fn flannel_gc_killed_anywhere_is_completed_by_gc() {
    on_node(|| flannel("1.1.0"), |node, _| node.kill_gc_then_gc());
}

#[test]
fn bridge_gc_killed_anywhere_is_completed_by_gc_with_null() {
    on_empty_node(|| bridge("1.1.0"), |node, _| node.kill_gc_then_gc());
}

#[test]
fn flannel_add_killed_anywhere_and_tried_again_works_or_fails_clearly() {
    on_node(|| flannel("1.0.0"), |node, _| node.kill_add_then_add());
}

#[test]
fn bridge_add_killed_anywhere_and_tried_again_works_or_fails_clearly() {
    on_node(|| bridge("1.0.0"), |node, _| node.kill_add_then_add());
}
