//! containerd's CRI: loopback and eth0 wired in parallel, port mappings with
//! capital keys, DEL with whatever namespace is left.
use std::fs;

use weft_netns::in_world;

use crate::containerd::{Containerd, TOOLS};
use crate::cri::{Cri, PodSpec};
use crate::networks;
use crate::node::{Node, SERVED, TCP, UDP, can_run};

#[test]
fn a_pod_on_containerds_network_answers_and_leaves_nothing() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world, &[]);
        node.bridge_netfilter(false);
        node.configure("10-containerd-net.conflist", &networks::containerd(None));
        let containerd = Containerd::start(&node, "k8s.io");
        let cri = containerd.cri();
        node.assert_leaves_nothing(|| reported(&containerd, live(&node, &cri)));
    });
}

#[test]
fn a_pod_on_kube_flannels_network_answers_and_leaves_nothing() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world, &[]);
        node.bridge_netfilter(true);
        fs::create_dir_all("/run/flannel").expect("create flannel's directory");
        fs::write("/run/flannel/subnet.env", networks::SUBNET_ENV).expect("write subnet.env");
        node.configure("10-flannel.conflist", &networks::kube_flannel());
        let containerd = Containerd::start(&node, "k8s.io");
        let cri = containerd.cri();
        node.assert_leaves_nothing(|| reported(&containerd, live(&node, &cri)));
    });
}

/// One pod's life; the identifier it had.
fn live(node: &Node<'_>, cri: &Cri) -> Result<Vec<String>, String> {
    let pod = PodSpec {
        name: "web".to_owned(),
        tcp: vec![(SERVED, TCP)],
        udp: vec![(SERVED, UDP)],
    };
    let sandbox = cri.run_pod_sandbox(&pod)?;
    let container = cri.run_container(&sandbox, &pod, &["serve", &SERVED.to_string()])?;
    node.assert_mapped(TCP, Some(UDP), |args| {
        cri.exec(&container, args).unwrap_or_default()
    });
    cri.stop_pod_sandbox(&sandbox)?;
    node.assert_unmapped(TCP, Some(UDP));
    cri.remove_pod_sandbox(&sandbox)?;
    Ok(vec![sandbox])
}

#[track_caller]
fn reported<T>(containerd: &Containerd, outcome: Result<T, String>) -> T {
    outcome.unwrap_or_else(|e| panic!("{e}; containerd says\n{}", containerd.complaints()))
}
