//! `weft migrate --plan`: what is told is what comes, and telling it changes nothing.

use serde_json::json;
use weft_netns::apiserver::Key;
use weft_netns::{Cmd, Done, in_world};

use crate::flanneld::Flanneld;
use crate::harness::{Cluster, DUAL_VXLAN, Node, VXLAN};
use crate::kube;
use crate::migration::{
    can_be_shown, can_be_shown_in_kubernetes, everything, is_weftds, kubernetes, nodes,
    nothing_differs,
};

fn plan(node: &Node<'_>) -> Done {
    Cmd::new(env!("CARGO_BIN_EXE_weft"))
        .args(["migrate", "--plan"])
        .args(&node.flags)
        .inside(&node.netns)
        .run()
}

fn told(node: &Node<'_>) -> String {
    let done = plan(node);
    assert_eq!(done.code(), Some(0), "{}{}", done.stdout, done.stderr);
    done.stdout
}

#[test]
fn what_would_change_is_told_beside_a_flanneld_and_nothing_changes() {
    if !can_be_shown() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, VXLAN, 1);
        let nodes = nodes(&cluster);
        let running = Flanneld::start_on_all(world, &nodes, &cluster.store, VXLAN);
        // A peer that left while flanneld was down, and a device that differs.
        nodes[0].netns.exec(
            "ip neigh add 10.244.199.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent; \
             bridge fdb append 02:00:00:00:00:99 dev flannel.1 dst 192.168.9.99 self permanent; \
             ip route add 10.244.199.0/24 via 10.244.199.0 dev flannel.1 onlink; \
             ip link set flannel.1 mtu 1400",
        );
        let before = everything(&cluster, &nodes[0]);
        let plan = told(&nodes[0]);
        nothing_differs(&cluster, &nodes[0], &before);
        for part in [
            "runs here (process ",
            "10.244.11.0/24 is this node's by its address",
            "flannel.1 is kept, and changed in place: MTU 1450",
            "2 taken over in place, 0 made, 0 changed",
            "10.244.199.0/24 is removed",
            "0 set, 1 removed of 3 that stand",
            "chain FLANNEL-POSTRTG of table ip nat, which is flanneld's, removed once ours stand",
            "says the same, and is not written",
            "CNI configuration and plugins stay as they are",
        ] {
            assert!(plan.contains(part), "{part:?} is not told:\n{plan}");
        }
        // What was told is what comes.
        let [first, ..] = running;
        first.stop();
        nodes[0].start();
        is_weftds(&nodes[0]);
        nodes[0].until_says("ip route", "10.244.199.0/24", false);
        nodes[0].until_says("bridge fdb", "02:00:00:00:00:99", false);
        nodes[0].until_says("ip link show flannel.1", "mtu 1450", true);
        let plan = told(&nodes[0]);
        for part in [
            "is this node's by its identity",
            "flannel.1 is kept as it is",
            "0 taken over in place, 0 made, 0 changed, 2 as they should be",
            "is as it should be",
        ] {
            assert!(plan.contains(part), "{part:?} is not told:\n{plan}");
        }
    });
}

#[test]
fn what_would_change_in_both_families_is_told_and_nothing_changes() {
    if !can_be_shown() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, DUAL_VXLAN, 1);
        let nodes = nodes(&cluster);
        let running = Flanneld::start_on_all(world, &nodes, &cluster.store, DUAL_VXLAN);
        nodes[0].netns.exec(
            "ip -6 neigh add fd05:0:0:99:: lladdr 02:00:00:00:00:99 dev flannel-v6.1 nud permanent; \
             bridge fdb append 02:00:00:00:00:99 dev flannel-v6.1 dst fd90::99 self permanent; \
             ip -6 route add fd05:0:0:99::/64 via fd05:0:0:99:: dev flannel-v6.1 onlink",
        );
        let before = everything(&cluster, &nodes[0]);
        let plan = told(&nodes[0]);
        nothing_differs(&cluster, &nodes[0], &before);
        for part in [
            "10.244.11.0/24 and fd05:0:0:b::/64 is this node's by its address",
            "flannel.1 is kept as it is",
            "flannel-v6.1 is kept as it is",
            "4 taken over in place, 0 made, 0 changed",
            "fd05:0:0:99::/64 is removed",
            "0 set, 1 removed of 5 that stand",
            "chain FLANNEL-POSTRTG of table ip nat, which is flanneld's, removed once ours stand",
            "chain FLANNEL-POSTRTG of table ip6 nat, which is flanneld's, removed once ours stand",
            "is written anew, with FLANNEL_MTU=1430",
        ] {
            assert!(plan.contains(part), "{part:?} is not told:\n{plan}");
        }
        let [first, ..] = running;
        first.stop();
        nodes[0].start();
        is_weftds(&nodes[0]);
        nodes[0].until_says("ip -6 route", "fd05:0:0:99::/64", false);
        nodes[0].until_says("bridge fdb", "02:00:00:00:00:99", false);
    });
}

/// It would lease any subnet: there is nothing that a plan could hold.
#[test]
fn where_no_flanneld_ever_ran_it_is_told_that_there_is_nothing_to_take_over() {
    if !can_be_shown() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, DUAL_VXLAN, 1);
        let [peer, node] = [1, 2].map(|number| cluster.node(number));
        peer.start();
        peer.until_ready();
        let before = everything(&cluster, &node);
        let done = plan(&node);
        assert_eq!(done.code(), Some(1), "{}", done.stdout);
        for part in ["this node has no lease", "there is nothing to take over"] {
            assert!(done.stderr.contains(part), "{}", done.stderr);
        }
        nothing_differs(&cluster, &node, &before);
    });
}

#[test]
fn what_would_change_of_a_kubernetes_node_is_told_and_nothing_is_written() {
    if !can_be_shown_in_kubernetes() {
        return;
    }
    in_world(|world| {
        let cluster = kubernetes(world, VXLAN);
        let nodes = nodes(&cluster);
        let nothing = plan(&nodes[0]);
        assert_eq!(nothing.code(), Some(1), "{}", nothing.stdout);
        let part = "there is nothing to take over";
        assert!(nothing.stderr.contains(part), "{}", nothing.stderr);
        let running = Flanneld::start_on_all(world, &nodes, &cluster.store, VXLAN);
        let server = &kube::kube(&cluster).server;
        let objects = || {
            let server = server.borrow();
            [server.list("nodes"), server.list("events")]
        };
        let (before, known) = (everything(&cluster, &nodes[0]), objects());
        server.borrow().forget_seen();
        let plan = told(&nodes[0]);
        nothing_differs(&cluster, &nodes[0], &before);
        assert_eq!(objects(), known);
        let seen = server.borrow().seen();
        assert!(seen.iter().any(|request| request.is_watch()), "{seen:?}");
        assert!(
            seen.iter().all(|request| request.method == "GET"),
            "{seen:?}"
        );
        for part in [
            "runs here (process ",
            "10.244.11.0/24 is assigned to this node",
            "flannel.1 is kept as it is",
            "2 taken over in place, 0 made, 0 changed",
            "0 set, 0 removed of 2 that stand",
            "says the same, and is not written",
        ] {
            assert!(plan.contains(part), "{part:?} is not told:\n{plan}");
        }
        let [first, ..] = running;
        first.stop();
        nodes[0].start();
        is_weftds(&nodes[0]);
        // An operator's annotation goes before the command line.
        nodes[0].netns.exec("ip addr add 192.168.9.111/24 dev eth0");
        let chosen = "flannel.alpha.coreos.com/node-public-ip";
        let patch = json!({"metadata": {"annotations": {chosen: "192.168.9.111"}}});
        server.borrow().merge(&Key::node(&nodes[0].name), &patch);
        let plan = told(&nodes[0]);
        for part in [
            "0 taken over in place, 0 made, 0 changed, 2 as they should be",
            ", 192.168.9.111 published",
        ] {
            assert!(plan.contains(part), "{part:?} is not told:\n{plan}");
        }
    });
}
