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
use weft_netns::{World, in_world, skip_unless};

/// What kube-flannel installs.
fn flannel(version: &str) -> Value {
    let plugins = json!([
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]);
    json!({"name": "net", "cniVersion": version, "plugins": plugins})
}

/// A bridge with everything that makes it leave something somewhere.
fn bridge(version: &str) -> Value {
    let ranges = json!([[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd22::/64"}]]);
    let plugins = json!([
        {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true,
            "macspoofchk": true, "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": ranges}},
    ]);
    json!({"name": "net", "cniVersion": version, "plugins": plugins})
}

fn lease_subnet() {
    fs::create_dir_all("/run/flannel").expect("make a directory");
    let lease = "FLANNEL_NETWORK=10.22.0.0/16\nFLANNEL_SUBNET=10.22.3.1/24\n\
        FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
    fs::write("/run/flannel/subnet.env", lease).expect("write the lease");
}

/// A node with a neighbour that lives through it all.
fn on_node(conflist: Value, extent: Extent, story: impl FnOnce(&Node<'_>)) {
    if skip_unless(&LOOK) {
        in_world(|world| {
            lease_subnet();
            let (pod, neighbour) = (world.netns("pod"), world.netns("neighbour"));
            story(&Node::new(&conflist, extent, &pod, Some(&neighbour)));
        });
    }
}

/// A node with no other pod.
fn on_empty_node(conflist: Value, extent: Extent, story: impl FnOnce(&Node<'_>, &World)) {
    if skip_unless(&LOOK) {
        in_world(|world| {
            lease_subnet();
            let pod = world.netns("pod");
            story(&Node::new(&conflist, extent, &pod, None), world);
        });
    }
}

#[test]
fn flannel_add_killed_anywhere_is_undone_by_del() {
    on_node(flannel("1.0.0"), Extent::Everywhere, |node| {
        node.kill_add_then_del()
    });
}

#[test]
fn bridge_add_killed_anywhere_is_undone_by_del() {
    on_node(bridge("0.3.1"), Extent::Everywhere, |node| {
        node.kill_add_then_del()
    });
}

#[test]
fn the_first_add_of_a_node_killed_anywhere_is_undone_by_del() {
    on_empty_node(bridge("1.0.0"), Extent::WhereItMatters, |node, world| {
        node.kill_first_add(world)
    });
}

#[test]
fn flannel_del_killed_anywhere_is_completed_by_del() {
    on_node(flannel("0.3.1"), Extent::WhereItMatters, |node| {
        node.kill_del_then_del()
    });
}

#[test]
fn bridge_del_killed_anywhere_is_completed_by_del() {
    on_node(bridge("1.0.0"), Extent::WhereItMatters, |node| {
        node.kill_del_then_del()
    });
}

#[test]
fn flannel_add_killed_anywhere_is_undone_by_gc() {
    on_node(flannel("1.1.0"), Extent::WhereItMatters, |node| {
        node.kill_add_then_gc()
    });
}

#[test]
fn bridge_add_killed_anywhere_is_undone_by_gc_with_null() {
    on_empty_node(bridge("1.1.0"), Extent::WhereItMatters, |node, _| {
        node.kill_add_then_gc()
    });
}

#[test]
fn flannel_del_killed_anywhere_is_completed_by_gc() {
    on_node(flannel("1.1.0"), Extent::WhereItMatters, |node| {
        node.kill_del_then_gc()
    });
}

#[test]
fn flannel_gc_killed_anywhere_is_completed_by_gc() {
    on_node(flannel("1.1.0"), Extent::WhereItMatters, |node| {
        node.kill_gc_then_gc()
    });
}

#[test]
fn bridge_gc_killed_anywhere_is_completed_by_gc_with_null() {
    on_empty_node(bridge("1.1.0"), Extent::WhereItMatters, |node, _| {
        node.kill_gc_then_gc()
    });
}

#[test]
fn flannel_add_killed_anywhere_and_tried_again_works_or_fails_clearly() {
    on_node(flannel("1.0.0"), Extent::WhereItMatters, |node| {
        node.kill_add_then_add()
    });
}

#[test]
fn bridge_add_killed_anywhere_and_tried_again_works_or_fails_clearly() {
    on_node(bridge("1.0.0"), Extent::WhereItMatters, |node| {
        node.kill_add_then_add()
    });
}

// --- the whole matrix: every system call, every way ------------------------------

#[test]
#[ignore = "for make soak: minutes"]
fn soak_flannel_add_killed_anywhere_is_undone_by_del() {
    on_node(flannel("1.0.0"), Extent::InEveryWay, |node| {
        node.kill_add_then_del()
    });
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_bridge_add_killed_anywhere_is_undone_by_del() {
    on_node(bridge("0.3.1"), Extent::InEveryWay, |node| {
        node.kill_add_then_del()
    });
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_the_first_add_of_a_node_killed_anywhere_is_undone_by_del() {
    on_empty_node(bridge("1.0.0"), Extent::InEveryWay, |node, world| {
        node.kill_first_add(world)
    });
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_flannel_del_killed_anywhere_is_completed_by_del() {
    on_node(flannel("0.3.1"), Extent::InEveryWay, |node| {
        node.kill_del_then_del()
    });
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_bridge_del_killed_anywhere_is_completed_by_del() {
    on_node(bridge("1.0.0"), Extent::InEveryWay, |node| {
        node.kill_del_then_del()
    });
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_flannel_add_killed_anywhere_is_undone_by_gc() {
    on_node(flannel("1.1.0"), Extent::InEveryWay, |node| {
        node.kill_add_then_gc()
    });
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_bridge_add_killed_anywhere_is_undone_by_gc_with_null() {
    on_empty_node(bridge("1.1.0"), Extent::InEveryWay, |node, _| {
        node.kill_add_then_gc()
    });
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_flannel_del_killed_anywhere_is_completed_by_gc() {
    on_node(flannel("1.1.0"), Extent::InEveryWay, |node| {
        node.kill_del_then_gc()
    });
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_flannel_gc_killed_anywhere_is_completed_by_gc() {
    on_node(flannel("1.1.0"), Extent::InEveryWay, |node| {
        node.kill_gc_then_gc()
    });
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_bridge_gc_killed_anywhere_is_completed_by_gc_with_null() {
    on_empty_node(bridge("1.1.0"), Extent::InEveryWay, |node, _| {
        node.kill_gc_then_gc()
    });
}
