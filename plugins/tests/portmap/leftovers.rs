//! What DEL and GC find, and what they leave.

use std::fs;

use serde_json::{Value, json};
use weft_netns::{Cni, Need, Verb, ask_tcp, in_world, skip_unless};

use crate::node::{Node, mapped, tcp};

#[test]
fn del_finds_everything_without_being_told_anything() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let many: Vec<Value> = (0..300u16)
            .flat_map(|i| {
                let ip = if i % 3 == 0 { "10.9.0.7" } else { "" };
                ["tcp", "udp"].map(|protocol| {
                    json!({"hostPort": 10000 + i, "containerPort": 80, "protocol": protocol, "hostIP": ip})
                })
            })
            .collect();
        node.add(&pod, many.into());
        assert!(node.elements().len() > 1);
        node.del_in_ignorance(&pod);
        assert_eq!(node.elements(), Vec::<String>::new());
        node.del_in_ignorance(&pod);
    });
}

#[test]
fn del_bears_a_node_where_nothing_was_ever_added() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        node.del_in_ignorance(&pod);
        node.call(Verb::Del, &pod, mapped(json!([{"hostPort": "none"}])))
            .ok();
        node.call(
            Verb::Del,
            &pod,
            json!({"backend": "ebtables", "markMasqBit": 99}),
        )
        .ok();
        assert_eq!(world.exec("nft list ruleset"), "");
    });
}

#[test]
fn without_mappings_nothing_is_touched() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let calls = node.socket_calls(Verb::Add, &pod, mapped(json!([])));
        assert_eq!(calls, Vec::<String>::new());
        let answer = node.call(Verb::Add, &pod, json!({})).ok().json();
        assert_eq!(answer["ips"][0]["address"], "10.1.0.2/24");
        assert_eq!(world.exec("nft list ruleset"), "");
    });
}

#[test]
fn it_must_be_called_in_a_chain() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let failure = node
            .call(Verb::Add, &pod, json!({"prevResult": null}))
            .failure();
        assert!(
            failure.msg.contains("must be called as chained plugin"),
            "{failure:?}"
        );
    });
}

#[test]
fn check_notices_what_was_taken_away() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        for damage in [
            "delete element inet weft_hostports any4 { tcp . 8080 }",
            "delete element inet weft_hostports any4_13_10.1.0.0_24 { tcp . 8080 }",
            "flush set inet weft_hostports owners",
            "flush chain inet weft_hostports prerouting",
            "flush chain inet weft_hostports mark_13_10.1.0.0_24",
            "flush chain inet weft_hostports marks_any6",
            "flush chain inet weft_hostports postrouting_13",
            "delete table inet weft_hostports",
        ] {
            node.add(&pod, tcp(8080));
            node.call(Verb::Check, &pod, mapped(tcp(8080))).ok();
            world.exec(&format!("nft {damage}"));
            let failure = node.call(Verb::Check, &pod, mapped(tcp(8080))).failure();
            assert!(failure.msg.contains("not mapped"), "{damage}: {failure:?}");
            node.call(Verb::Del, &pod, mapped(tcp(8080))).ok();
            // Of what has lost its record, GC finds the rest.
            node.gc(&pod, json!([]));
            assert_eq!(node.elements(), Vec::<String>::new(), "{damage}");
            world.exec("nft flush ruleset");
        }
    });
}

#[test]
fn gc_keeps_the_living_and_other_networks() {
    in_world(|world| {
        let node = Node::new(world);
        let (dead, living, elsewhere) = (node.pod(2), node.pod(3), node.pod(4));
        node.add(&dead, tcp(8080));
        let mut conditional = mapped(tcp(8083));
        conditional["conditionsV4"] = json!(["ip", "saddr", "10.9.0.0/24"]);
        let doomed = node.pod(5);
        node.call(Verb::Add, &doomed, conditional).ok();
        node.add(&living, tcp(8081));
        let mut other = mapped(tcp(8082));
        other["name"] = "other".into();
        node.call(Verb::Add, &elsewhere, other).ok();

        node.gc(&dead, json!([{"containerID": "pod-3", "ifname": "eth0"}]));
        let left = node.elements().join("\n");
        assert!(
            !left.contains("id: pod-2") && !left.contains("id: pod-5"),
            "{left}"
        );
        assert!(
            left.contains("id: pod-3") && left.contains("id: pod-4"),
            "{left}"
        );
        assert!(
            !world
                .exec("nft list table inet weft_hostports")
                .contains("cond_")
        );
        node.call(Verb::Check, &living, mapped(tcp(8081))).ok();
    });
}

#[test]
fn status_is_good_where_nftables_is_to_be_had() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        node.call(Verb::Status, &pod, json!({"cniVersion": "1.1.0"}))
            .ok();
        let nowhere = world.scratch("nothing");
        let config = pod.config(json!({"cniVersion": "1.1.0", "backend": "iptables"}));
        let status = node.cni.command("portmap", Verb::Status, &pod.who, &config);
        let done = status.env("PATH", nowhere).run();
        assert!(
            done.success() || done.stdout.contains("\"code\": 50"),
            "{}",
            done.stdout
        );
    });
}

/// An older skeleton has other rules; the mappings in it are the pods'.
#[test]
fn an_older_skeleton_is_rebuilt_around_its_mappings() {
    in_world(|world| {
        let node = Node::new(world);
        let (old, new) = (node.pod(2), node.pod(3));
        let _serving = old.serve();
        node.add(&old, tcp(8080));
        world.exec(
            "nft 'flush chain inet weft_hostports hostports4
             flush chain inet weft_hostports prerouting
             delete chain inet weft_hostports version_1
             add chain inet weft_hostports version_0'",
        );
        assert!(node.outside.enter(|| ask_tcp("10.9.0.1:8080").is_err()));
        node.add(&new, tcp(8081));
        node.call(Verb::Check, &old, mapped(tcp(8080))).ok();
        assert!(node.outside.enter(|| ask_tcp("10.9.0.1:8080").is_ok()));
        assert!(
            !world
                .exec("nft list table inet weft_hostports")
                .contains("version_0")
        );
    });
}

/// Debian's portmap is of a version whose back-end is iptables.
#[test]
fn del_removes_what_the_go_plugin_made_with_iptables() {
    if !skip_unless(&[Need::File("/usr/lib/cni/portmap"), Need::Tool("iptables")]) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world);
        let (pod, other) = (node.pod(2), node.pod(3));
        for (pod, port) in [(&pod, 8080), (&other, 8081)] {
            Cni::debian()
                .call(
                    "portmap",
                    Verb::Add,
                    &pod.who,
                    &pod.config(mapped(tcp(port))),
                )
                .ok();
        }
        let chains = || {
            world
                .exec("iptables-save -t nat; ip6tables-save -t nat")
                .matches(":CNI-DN-")
                .count()
        };
        assert_eq!(chains(), 4);
        node.call(Verb::Check, &pod, mapped(tcp(8080))).ok();
        node.call(Verb::Check, &pod, mapped(tcp(8081))).failure();
        node.del_in_ignorance(&pod);
        assert_eq!(chains(), 2);
        node.gc(&pod, json!([]));
        assert_eq!(chains(), 0);
    });
}

#[test]
fn del_removes_what_newer_go_plugins_made_with_nftables() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        fs::write(
            "/run/rules.nft",
            "table ip cni_hostport {
               chain hostports {
                 tcp dport 8080 dnat to 10.1.0.2:80 comment \"pod-2\"
                 tcp dport 8081 dnat to 10.1.0.3:80 comment \"pod-3\"
               }
               chain masquerading {
                 type nat hook postrouting priority srcnat;
                 ip saddr 10.1.0.2 ip daddr 10.1.0.2 masquerade comment \"pod-2\"
               }
             }
             table ip6 cni_hostport {
               chain hostports { tcp dport 8080 dnat to [fd01::2]:80 comment \"pod-2\"
               }
             }",
        )
        .unwrap();
        world.exec("nft -f /run/rules.nft");
        node.call(Verb::Check, &pod, mapped(tcp(8080))).ok();
        node.del_in_ignorance(&pod);
        let left = world.exec("nft list ruleset");
        assert!(!left.contains("pod-2") && left.contains("pod-3"), "{left}");
    });
}

#[test]
fn the_iptables_back_end_maps_checks_and_unmaps() {
    if !skip_unless(&[Need::Tool("iptables")]) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let _serving = pod.serve();
        let mut extra = mapped(tcp(8080));
        extra["backend"] = "iptables".into();
        node.call(Verb::Add, &pod, extra.clone()).ok();
        node.call(Verb::Check, &pod, extra.clone()).ok();
        assert!(node.outside.enter(|| ask_tcp("10.9.0.1:8080").is_ok()));
        assert!(ask_tcp("127.0.0.1:8080").is_ok());
        node.del_in_ignorance(&pod);
        assert!(!world.exec("iptables-save -t nat").contains(":CNI-DN-"));
        assert!(
            node.call(Verb::Check, &pod, extra)
                .failure()
                .msg
                .contains("not mapped")
        );
    });
}

#[test]
fn an_add_that_cannot_be_whole_leaves_nothing() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        // Somebody else's set in the place of one of ours.
        world.exec(
            "nft 'add table inet weft_hostports
             add set inet weft_hostports owners { type ipv4_addr; }'",
        );
        let failure = node.call(Verb::Add, &pod, mapped(tcp(8080))).failure();
        assert!(
            failure
                .msg
                .contains("set owners of table inet weft_hostports"),
            "{failure:?}"
        );
        let left = world.exec("nft list table inet weft_hostports");
        assert!(!left.contains("chain"), "{left}");
    });
}
