//! A node that ran flanneld runs weftd, and back again, in a cluster where others run either.
//!
//! ```text
//!  pod ── node-1: there and back ──┐
//!  pod ── node-2: there and back ──┼── wire-0, etcd or an API server
//!  pod ── node-3: flanneld        ─┘
//! ```

use std::time::Duration;

use weft_daemon::lock::Lock;
use weft_netns::apiserver::{Fat, fat_node};
use weft_netns::{Cmd, Need, World, in_world, skip_unless, wait_until};

use crate::etcd::etcd_is_here;
use crate::flanneld::Flanneld;
use crate::flood::Flood;
use crate::harness::{
    Cluster, DUAL_HOST_GW, DUAL_NFTABLES, DUAL_VXLAN, HOST_GW, LIMIT, Node, Pod, VXLAN,
};
use crate::kube;
use crate::strip::Strip;

#[track_caller]
pub(crate) fn can_be_shown() -> bool {
    let tools = [
        "iptables-nft",
        "iptables-nft-restore",
        "ip6tables-nft-restore",
        "nft",
        "bridge",
    ];
    skip_unless(&tools.map(Need::Tool)) && etcd_is_here()
}

#[track_caller]
pub(crate) fn can_be_shown_in_kubernetes() -> bool {
    let tools = [
        "iptables-nft",
        "iptables-nft-restore",
        "ip6tables-nft-restore",
        "nft",
        "bridge",
        "curl",
        "jq",
    ];
    skip_unless(&tools.map(Need::Tool))
}

/// On a cluster without a node.
type Ground = for<'w> fn(&'w World, &str) -> Cluster<'w>;

fn etcd<'w>(world: &'w World, conf: &str) -> Cluster<'w> {
    Cluster::on_etcd(world, conf, 1)
}

/// The nodes have the podCIDRs that their flannelds would lease elsewhere.
pub(crate) fn kubernetes<'w>(world: &'w World, conf: &str) -> Cluster<'w> {
    let cluster = kube::cluster(world, conf);
    for number in 1..=3 {
        let subnet = 10 + number;
        let (v4, v6) = (
            format!("10.244.{subnet}.0/24"),
            format!("fd05:0:0:{subnet:x}::/64"),
        );
        let cidrs: &[&str] = match conf.contains("IPv6Network") {
            true => &[&v4, &v6],
            false => &[&v4],
        };
        let (name, address) = (format!("node-0-{number}"), format!("192.168.9.{number}"));
        let node = fat_node(&name, &address, cidrs, Fat { images: 5 });
        kube::kube(&cluster).server.borrow().put(node);
    }
    cluster
}

/// Nodes that forward, which flanneld leaves to others to see to.
pub(crate) fn nodes<'w>(cluster: &Cluster<'w>) -> [Node<'w>; 3] {
    [1, 2, 3].map(|number| {
        let node = cluster.node(number);
        node.netns.exec("echo 1 > /proc/sys/net/ipv4/ip_forward");
        node
    })
}

/// What a node must not lose on its way: its devices (none with host-gw), its subnets, and what its
/// peers know of it.
fn belongings(cluster: &Cluster<'_>, node: &Node<'_>) -> [String; 3] {
    let lease = cluster.store.get(&cluster.key_of(node)).unwrap();
    let fields = lease.split(",\"Weft\"").next().unwrap();
    [
        node.netns.exec(
            "for dev in flannel.1 flannel-v6.1; do \
                ip -o link show $dev 2>/dev/null | grep -o -e '^[0-9]*' -e 'ether [0-9a-f:]*' || :; \
             done",
        ),
        cluster.key_of(node),
        fields.trim_end_matches('}').to_owned(),
    ]
}

/// The node holds nothing of flanneld's that is not weftd's by then.
pub(crate) fn is_weftds(node: &Node<'_>) {
    node.until_ready();
    node.until_says("iptables-nft-save; ip6tables-nft-save", "FLANNEL", false);
    node.until_says("nft list ruleset", "saddr != 10.244.", false);
    node.until_says("nft list ruleset", "masquerade", true);
    let boot = node
        .netns
        .exec("ip route show proto boot; ip -6 route show proto boot");
    let pods = |line: &&str| line.starts_with("10.244.") || line.starts_with("fd05:");
    let peers: Vec<_> = boot.lines().filter(pods).collect();
    assert!(peers.is_empty(), "routes without an owner: {peers:?}");
}

fn there_and_back(ground: Ground, conf: &str, times: u32) {
    in_world(|world| {
        let cluster = ground(world, conf);
        let nodes = nodes(&cluster);
        let flanneld = |node: &Node<'_>| Flanneld::start(world, node, &cluster.store, conf);
        let mut running = nodes.each_ref().map(|node| Some(flanneld(node)));
        let pods = nodes.each_ref().map(Node::pod);
        for one in &pods {
            pods.iter().for_each(|other| one.until_reaches(other));
        }
        let before = nodes.each_ref().map(|node| belongings(&cluster, node));
        let floods: Vec<_> = [(0, 1), (2, 0)]
            .into_iter()
            .flat_map(|(a, b): (usize, usize)| Flood::start_in_each(&pods[a], &pods[b]))
            .collect();
        let strips = pods[1].strips_to(&pods[2]);
        for round in 0..times {
            // One moves, or the other, or both: the cluster is mixed in every way.
            let moving: &[usize] = match round % 3 {
                0 => &[0],
                1 => &[1],
                _ => &[0, 1],
            };
            for &n in moving {
                running[n].take().unwrap().stop();
                nodes[n].start();
                is_weftds(&nodes[n]);
                assert_eq!(belongings(&cluster, &nodes[n]), before[n]);
            }
            floods.iter().for_each(Flood::flows_on);
            for &n in moving {
                goes_back(&nodes[n]);
                running[n] = Some(flanneld(&nodes[n]));
                assert_eq!(belongings(&cluster, &nodes[n]), before[n]);
            }
            floods.iter().for_each(Flood::flows_on);
        }
        Flood::all_end_whole(floods);
        strips.into_iter().for_each(Strip::ends_whole);
    });
}

#[test]
fn a_vxlan_node_goes_there_and_back_and_no_packet_of_ten_thousand_a_second_is_lost() {
    if can_be_shown() {
        there_and_back(etcd, VXLAN, 3);
    }
}

#[test]
fn a_host_gw_node_goes_there_and_back_and_no_packet_of_ten_thousand_a_second_is_lost() {
    if can_be_shown() {
        there_and_back(etcd, HOST_GW, 3);
    }
}

#[test]
fn a_kubernetes_node_goes_there_and_back_and_no_packet_of_ten_thousand_a_second_is_lost() {
    if can_be_shown_in_kubernetes() {
        there_and_back(kubernetes, VXLAN, 3);
    }
}

/// Traffic in both families at once.
#[test]
fn a_vxlan_node_of_both_families_goes_there_and_back_and_no_packet_is_lost() {
    if can_be_shown() {
        there_and_back(etcd, DUAL_VXLAN, 3);
    }
}

#[test]
fn a_host_gw_node_of_both_families_goes_there_and_back_and_no_packet_is_lost() {
    if can_be_shown() {
        there_and_back(etcd, DUAL_HOST_GW, 3);
    }
}

/// In Kubernetes, and from a flanneld that keeps its rules in nftables, under our tables' names.
#[test]
fn a_kubernetes_node_of_both_families_goes_to_flanneld_s_nftables_and_no_packet_is_lost() {
    if can_be_shown_in_kubernetes() {
        there_and_back(kubernetes, DUAL_NFTABLES, 3);
    }
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_a_vxlan_node_of_both_families_goes_there_and_back_a_hundred_times() {
    if can_be_shown() {
        there_and_back(etcd, DUAL_VXLAN, 100);
    }
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_a_host_gw_node_of_both_families_goes_there_and_back_a_hundred_times() {
    if can_be_shown() {
        there_and_back(etcd, DUAL_HOST_GW, 100);
    }
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_a_kubernetes_node_of_both_families_goes_to_nftables_and_back_a_hundred_times() {
    if can_be_shown_in_kubernetes() {
        there_and_back(kubernetes, DUAL_NFTABLES, 100);
    }
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_a_kubernetes_node_goes_there_and_back_a_hundred_times() {
    if can_be_shown_in_kubernetes() {
        there_and_back(kubernetes, VXLAN, 100);
    }
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_a_kubernetes_host_gw_node_goes_there_and_back_a_hundred_times() {
    if can_be_shown_in_kubernetes() {
        there_and_back(kubernetes, HOST_GW, 100);
    }
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_a_vxlan_node_goes_there_and_back_a_hundred_times() {
    if can_be_shown() {
        there_and_back(etcd, VXLAN, 100);
    }
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_a_host_gw_node_goes_there_and_back_a_hundred_times() {
    if can_be_shown() {
        there_and_back(etcd, HOST_GW, 100);
    }
}

/// A guard that nobody keeps knows no node that comes later.
fn goes_back(node: &Node<'_>) {
    let back = || {
        Cmd::new(env!("CARGO_BIN_EXE_weft"))
            .args(["migrate", "--back"])
            .args(&node.flags)
            .inside(&node.netns)
            .run()
    };
    let refused = back();
    assert_eq!(
        refused.code(),
        Some(1),
        "beside a weftd: {}",
        refused.stdout
    );
    node.terminate();
    assert!(back().success());
    node.until_says("nft list tables", "weft_guard", false);
}

/// Everything on a node and in the store that a daemon could change.
pub(crate) fn everything(cluster: &Cluster<'_>, node: &Node<'_>) -> [String; 6] {
    let keys = cluster.store.leases().into_iter();
    let leases: Vec<_> = keys.map(|key| (cluster.store.get(&key), key)).collect();
    [
        node.state(),
        node.netns.exec(
            "(iptables-nft-save; ip6tables-nft-save) | grep -v '^#' | sed 's/ .[0-9]*:[0-9]*.$//'; \
             nft list tables",
        ),
        node.netns.exec(
            "ip route; ip -6 route; ip rule; ip -6 rule; ip -d addr; \
             sysctl -a -r 'net.ipv[46].(conf|ip_forward)'",
        ),
        format!("{:?}", node.subnet_env()),
        format!("{leases:?}"),
        node.netns.exec(&format!("find {}", node.dir.display())),
    ]
}

#[track_caller]
pub(crate) fn nothing_differs(cluster: &Cluster<'_>, node: &Node<'_>, before: &[String; 6]) {
    for (now, before) in everything(cluster, node).iter().zip(before) {
        assert_eq!(now, before);
    }
}

/// The second refuses, says how to take over, and touches nothing.
#[test]
fn beside_a_flanneld_weftd_refuses_and_changes_nothing() {
    if !can_be_shown() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, VXLAN, 1);
        let nodes = [1, 2].map(|number| cluster.node(number));
        let _running = Flanneld::start_on_all(world, &nodes, &cluster.store, VXLAN);
        let before = everything(&cluster, &nodes[0]);
        let done = nodes[0].command().time_limit(Duration::from_secs(10)).run();
        assert_eq!(done.code(), Some(1), "{}", done.stderr);
        let said = format!("{}{}", done.stdout, done.stderr);
        for part in [
            "flanneld runs on this node (process ",
            "systemctl disable --now flanneld",
        ] {
            assert!(said.contains(part), "{part:?} is not said:\n{said}");
        }
        nothing_differs(&cluster, &nodes[0], &before);
    });
}

/// As pods of two DaemonSets may be for a moment: neither sees the other's process.
#[test]
fn beside_a_flanneld_that_it_cannot_see_weftd_loses_no_packet_and_tells_of_it() {
    if !can_be_shown_in_kubernetes() {
        return;
    }
    in_world(|world| {
        let cluster = kubernetes(world, VXLAN);
        let nodes = nodes(&cluster);
        let running = Flanneld::start_on_all(world, &nodes, &cluster.store, VXLAN);
        let pods = nodes.each_ref().map(Node::pod);
        for one in &pods {
            pods.iter().for_each(|other| one.until_reaches(other));
        }
        let floods =
            [(0, 1), (2, 0)].map(|(a, b): (usize, usize)| Flood::start(&pods[a], &pods[b]));
        let apart = "unshare --pid --fork --kill-child=TERM --mount-proc";
        let weftd = [env!("CARGO_BIN_EXE_weftd")];
        let flags = nodes[0].flags.iter().map(String::as_str);
        let words: Vec<&str> = apart.split(' ').chain(weftd).chain(flags).collect();
        nodes[0].start_as(&words);
        nodes[0].until_told(&["of flanneld is there again: either flanneld runs beside weftd"]);
        nodes[0].until_ready();
        let [first, ..] = running;
        first.stop();
        floods.iter().for_each(Flood::flows_on);
        // A restart removes it at once. unshare passes no signal on, but its end is one.
        nodes[0].kill9();
        let run_dir = nodes[0].dir.join("run");
        let is_free = || nodes[0].netns.enter(|| Lock::take(&run_dir).is_ok());
        wait_until("weftd has ended", LIMIT, is_free);
        nodes[0].start();
        is_weftds(&nodes[0]);
        Flood::all_end_whole(floods);
    });
}

/// An operator's slip: it is told of, and goes with all that it did.
#[test]
fn a_flanneld_that_runs_beside_weftd_for_a_moment_costs_no_packet_and_leaves_nothing() {
    if !can_be_shown() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, DUAL_VXLAN, 1);
        let nodes = nodes(&cluster);
        nodes.iter().for_each(Node::start);
        nodes.iter().for_each(Node::until_ready);
        let pods = nodes.each_ref().map(Node::pod);
        for one in &pods {
            pods.iter().for_each(|other| one.until_reaches(other));
        }
        let floods: Vec<_> = [(0, 1), (2, 0)]
            .into_iter()
            .flat_map(|(a, b): (usize, usize)| Flood::start_in_each(&pods[a], &pods[b]))
            .collect();
        // Chains of iptables' own, which nobody removes.
        nodes[0].netns.exec(
            "for program in iptables-nft ip6tables-nft; do \
                $program -P FORWARD ACCEPT; $program -t nat -P POSTROUTING ACCEPT; done",
        );
        let before = nodes[0].state();
        let flanneld = Flanneld::begin(world, &nodes[0], &cluster.store, DUAL_VXLAN);
        nodes[0].until_told(&[
            "chain FLANNEL-FWD of table ip filter of flanneld is there again: flanneld runs",
            "chain FLANNEL-POSTRTG of table ip6 nat of flanneld is there again: flanneld runs",
        ]);
        flanneld.stop();
        nodes[0].until_says("iptables-nft-save; ip6tables-nft-save", "FLANNEL", false);
        nodes[0].until_state(&before);
        floods.iter().for_each(Flood::flows_on);
        Flood::all_end_whole(floods);
    });
}

/// Its pods come and go meanwhile, and so do peers.
#[test]
fn a_peer_that_comes_while_nodes_run_either_is_reached_by_all() {
    if !can_be_shown() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::on_etcd(world, VXLAN, 1);
        let nodes = nodes(&cluster);
        let _first = Flanneld::start(world, &nodes[0], &cluster.store, VXLAN);
        nodes[1].start();
        nodes[1].until_ready();
        let mut pods: Vec<Pod> = nodes[..2].iter().map(Node::pod).collect();
        pods[0].until_reaches(&pods[1]);
        let _third = Flanneld::start(world, &nodes[2], &cluster.store, VXLAN);
        pods.push(nodes[2].pod());
        for one in &pods {
            pods.iter().for_each(|other| one.until_reaches(other));
        }
    });
}
