//! podman's own networks: Debian's firewall and tuning beside our plugins.
use weft_netns::in_world;

use crate::node::{Node, SERVED, TCP, UDP, can_run};
use crate::podman::{Podman, TOOLS};

#[test]
fn podman_runs_a_container_that_answers_and_leaves_nothing() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world, &["firewall", "tuning"]);
        node.bridge_netfilter(true);
        let podman = Podman::new(&node);
        podman.run(&["network", "create", "--subnet", "10.89.7.0/24", "pods"]);
        node.assert_leaves_nothing(|| live(&node, &podman));
    });
}

/// One container's life, with a restart in the middle; the name it had.
fn live(node: &Node<'_>, podman: &Podman) -> Vec<String> {
    let (tcp, udp) = (format!("{TCP}:{SERVED}"), format!("{UDP}:{SERVED}/udp"));
    let options = ["--network", "pods", "-p", &tcp, "-p", &udp];
    let container = podman.start(&options, &["serve", &SERVED.to_string()]);
    let inside = |args: &[&str]| {
        let mut line = vec!["exec", &container, crate::image::PROGRAM];
        line.extend(args);
        podman.run(&line)
    };
    node.assert_mapped(TCP, Some(UDP), inside);

    podman.run(&["stop", "--time", "0", &container]);
    node.assert_unmapped(TCP, Some(UDP));
    podman.run(&["start", &container]);
    node.assert_mapped(TCP, Some(UDP), inside);

    podman.run(&["rm", "--force", "--time", "0", &container]);
    node.assert_unmapped(TCP, Some(UDP));
    vec![container]
}
