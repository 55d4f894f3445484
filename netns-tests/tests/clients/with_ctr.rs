//! `ctr run --cni`: no port mappings of its own, DEL with an empty CNI_NETNS.
use serde_json::json;
use weft_netns::{in_world, wait_for, wait_until};

use crate::containerd::{Containerd, TOOLS};
use crate::image::{IMAGE, PROGRAM};
use crate::networks;
use crate::node::{Mapped, Node, PATIENCE, SERVED, TCP, UDP, can_run};

const PORTS: Mapped = Mapped {
    tcp: TCP,
    udp: UDP,
    ipv6: true,
};

#[test]
fn ctr_runs_a_container_that_answers_and_leaves_nothing() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world, &[]);
        let mapping = json!([
            {"hostPort": TCP, "containerPort": SERVED, "protocol": "tcp"},
            {"hostPort": UDP, "containerPort": SERVED, "protocol": "udp"},
        ]);
        node.configure(
            "10-containerd-net.conflist",
            &networks::containerd(Some(mapping)),
        );
        // A bridge in promiscuous mode sends a packet back only where netfilter
        // leaves bridged packets alone.
        node.bridge_netfilter(false);
        let containerd = Containerd::start(&node, "default");
        node.assert_leaves_nothing(|| live(&node, &containerd));
    });
}

/// One container's life, and the name it had.
fn live(node: &Node<'_>, containerd: &Containerd) -> Vec<String> {
    let name = "server";
    let cgroup = format!("{}/{name}", containerd.cgroup());
    let port = SERVED.to_string();
    // Only a `ctr run` that waits for the container's end detaches it.
    let options = ["run", "--rm", "--cni", "--cgroup", &cgroup, IMAGE, name];
    let running = containerd
        .ctr(&options)
        .args([PROGRAM, "serve", &port])
        .spawn();
    wait_until("the container runs", PATIENCE, || {
        let tasks = containerd.ctr(&["task", "list"]).run().ok().stdout;
        assert!(
            !running.ends_within(std::time::Duration::ZERO),
            "{}",
            running.said_so_far()
        );
        tasks.contains("RUNNING")
    });
    node.assert_mapped(PORTS, |args| {
        let exec = ["task", "exec", "--exec-id", "inside", name, PROGRAM];
        let exec = containerd.ctr(&exec).args(args);
        // ctr loses the output of what ends sooner than ctr has begun to copy it.
        wait_for("ctr shows what was printed", PATIENCE, || {
            Some(exec.run().ok().stdout).filter(|printed| !printed.is_empty())
        })
    });
    containerd
        .ctr(&["task", "kill", "--signal", "SIGKILL", name])
        .run()
        .ok();
    let done = running.finish();
    assert!(!done.stderr.contains("CNI"), "{}", done.stderr);
    node.assert_unmapped(PORTS);
    vec![format!("default-{name}")]
}
