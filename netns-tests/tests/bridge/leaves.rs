//! What DEL, GC and a failed ADD leave.

use std::fs;

use serde_json::{Value, json};
use weft_netns::{Attachment, Chain, Cni, Verb, Watch, in_world, skip_unless};

use crate::node::{add, bridge_conf, ip_of, network, reaches};
use crate::{dual_stack, in_node, reaches_in, reservation};

#[test]
fn del_leaves_the_node_as_the_first_pod_found_it_and_may_be_repeated() {
    in_node(|world| {
        let chain = network(json!({"ipam": dual_stack(), "macspoofchk": true}));
        let pod = world.netns("warm");
        let warm = Attachment::new("warm", &pod);
        add(&chain, &warm);
        chain.del(&warm).ok();
        // Which address is next is remembered, and shall be.
        let kept =
            |fact: &str| fact.contains("last_reserved_ip") || fact.contains("/networks/.weft");
        let before = Watch::node().take();
        for round in 0..3 {
            let pod = world.netns(&format!("p{round}"));
            let who = Attachment::new(&format!("c{round}"), &pod);
            add(&chain, &who);
            chain.del(&who).ok();
            chain.del(&who).ok();
            let left = before.difference(&Watch::node().take()).except(kept);
            assert!(left.is_empty(), "{left}");
        }
    });
}

#[test]
fn gc_takes_the_dead_of_its_own_network_and_nothing_else() {
    in_node(|world| {
        let of = |name: &str, subnet: &str| {
            let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
            let mut conf = bridge_conf(
                "1.1.0",
                json!({"ipam": ipam, "bridge": "cni0", "isDefaultGateway": false}),
            );
            conf["name"] = name.into();
            Chain::new(&Cni::weft(), conf)
        };
        // Both networks share one bridge, which has the gateway of neither.
        let (mine, other) = (of("net", "10.22.0.0/24"), of("other", "10.23.0.0/24"));
        let pods = world.many_netns("pod", 3);
        let who: Vec<_> = (0..3)
            .map(|i| Attachment::new(&format!("c{i}"), &pods[i]))
            .collect();
        let living = add(&mine, &who[0]);
        let dead = add(&mine, &who[1]);
        let foreign = add(&other, &who[2]);
        mine.gc(&who[..1]).ok();

        let node = world.exec("nft list table inet weft_pods; ip -br link");
        for (result, lives) in [(&living, true), (&dead, false), (&foreign, true)] {
            let veth = result["interfaces"][1]["name"].as_str().unwrap();
            assert_eq!(node.contains(veth), lives, "{node}");
            assert_eq!(
                node.contains(&format!(" {} comment", ip_of(result, 0))),
                lives,
                "{node}"
            );
        }
        assert!(!reservation(&ip_of(&dead, 0)) && reservation(&ip_of(&living, 0)));
        reaches_in(&pods[0], "10.22.0.2");
    });
}

#[test]
fn gc_without_a_list_does_nothing_and_with_null_knows_no_pod() {
    in_node(|world| {
        let pod = world.netns("pod");
        let chain = Chain::new(&Cni::weft(), bridge_conf("1.1.0", json!({})));
        let who = Attachment::new("c", &pod);
        let ip = ip_of(&add(&chain, &who), 0);
        let mut conf = bridge_conf("1.1.0", json!({}));
        Cni::weft().call("bridge", Verb::Gc, &who, &conf).ok();
        assert!(reservation(&ip));
        conf["cni.dev/valid-attachments"] = Value::Null;
        Cni::weft().call("bridge", Verb::Gc, &who, &conf).ok();
        assert!(!reservation(&ip) && !world.exec("ip -br link").contains("veth"));
    });
}

/// plugins#29: a failed ADD leaves the interface, and a retry says that it exists.
#[test]
fn p16_plugins_29_an_add_that_failed_leaves_nothing_and_can_be_retried() {
    in_node(|world| {
        let pod = world.netns("pod");
        let who = Attachment::new("c", &pod);
        let first = world.netns("first");
        add(&network(json!({})), &Attachment::new("first", &first));
        let before = Watch::node().netns(&pod).take();
        // Nothing leads to this route's gateway.
        let mut ipam = bridge_conf("1.0.0", json!({}))["ipam"].take();
        ipam["routes"] = json!([{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]);
        let failure = network(json!({"ipam": ipam})).add(&who);
        let failure = failure.failed().expect("a failure").failure();
        assert!(failure.msg.contains("10.9.0.0/16"), "{failure:?}");
        let kept = |fact: &str| fact.contains("last_reserved_ip") || fact.contains("/.weft");
        let left = before
            .difference(&Watch::node().netns(&pod).take())
            .except(kept);
        assert!(left.is_empty(), "{left}");
        add(&network(json!({})), &who);
    });
}

#[test]
fn an_interface_that_is_there_already_is_refused_and_stays() {
    in_node(|world| {
        let pod = world.netns("pod");
        let chain = network(json!({}));
        let who = Attachment::new("c", &pod);
        let ip = ip_of(&add(&chain, &who), 0);
        let before = Watch::node().netns(&pod).take();
        for who in [&who, &Attachment::new("another", &pod)] {
            let failure = network(json!({})).add(who);
            let failure = failure.failed().expect("a failure").failure();
            assert!(failure.msg.contains("already exists"), "{failure:?}");
        }
        before.assert_same(&Watch::node().netns(&pod).take(), "after two refused ADDs");
        reaches(&ip);
    });
}

/// P4, plugins#810: DEL without a namespace left the masquerade rules behind.
#[test]
fn p4_del_without_a_namespace_removes_link_rules_and_reservation() {
    in_node(|world| {
        // nothing, a path that is gone, and the plain file that a reboot leaves
        fs::create_dir_all("/run/netns").unwrap();
        fs::write("/run/netns/plain", "").unwrap();
        for (number, netns) in ["", "/run/netns/gone", "/run/netns/plain"]
            .into_iter()
            .enumerate()
        {
            let pod = world.netns(&format!("pod{number}"));
            let chain = Chain::new(&Cni::weft(), bridge_conf("0.3.1", json!({})));
            let who = Attachment::new("c", &pod);
            let ip = add(&chain, &who)["ips"][0]["address"]
                .as_str()
                .unwrap()
                .replace("/24", "");
            assert!(reservation(&ip));
            chain.del(&who.netns(netns)).ok();
            assert!(!reservation(&ip), "{netns:?} leaks {ip}");
            assert!(
                !world
                    .exec("nft list table inet weft_pods")
                    .contains("comment \"c"),
                "{netns:?}"
            );
            assert!(
                !world
                    .exec("nft list map inet weft_pods masquerade4")
                    .contains(&ip),
                "{netns:?}"
            );
            assert!(!world.exec("ip -br link").contains("veth"), "{netns:?}");
        }
    });
}

/// The reference plugin was first, and freed the address: nothing leads to what we made but its name.
#[test]
fn p4_a_pod_whose_address_was_released_by_others_loses_its_rules_all_the_same() {
    in_node(|world| {
        let (pod, other) = (world.netns("pod"), world.netns("other"));
        let chain = Chain::new(&Cni::weft(), bridge_conf("0.3.1", json!({})));
        let who = Attachment::new("c", &pod);
        add(&chain, &who);
        add(&chain, &Attachment::new("other", &other));
        fs::remove_file("/var/lib/cni/networks/net/10.22.0.2").expect("a reservation");
        chain.del(&who.netns("")).ok();
        let map = world.exec("nft list map inet weft_pods masquerade4; ip -br link");
        assert!(
            !map.contains("10.22.0.2") && map.contains("10.22.0.3"),
            "{map}"
        );
        assert_eq!(map.matches("veth").count(), 1, "{map}");
    });
}

/// cri-o#2849: after a reboot the path of a pod's namespace may lead to somebody else's.
#[test]
fn crio_2849_a_recycled_namespace_path_costs_its_new_owner_nothing() {
    in_node(|world| {
        let stranger = world.netns("stranger");
        world.exec("ip link add br9 type bridge; ip link set br9 up");
        world.exec("ip link add v9 master br9 up type veth peer name eth0 netns stranger");
        network(json!({}))
            .del(&Attachment::new("long-gone", &stranger))
            .ok();
        assert!(stranger.exec("ip -br link").contains("eth0"));
    });
}

#[test]
fn a_pod_that_the_reference_plugin_wired_is_deleted_from_its_own_end() {
    if !skip_unless(&crate::node::GO) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        let go = Chain::new(
            &Cni::debian(),
            bridge_conf("0.4.0", json!({"ipMasq": false})),
        );
        let who = Attachment::new("c", &pod);
        add(&go, &who);
        go.by(&Cni::weft()).check(&who).ok();
        go.by(&Cni::weft()).del(&who).ok();
        assert!(!world.exec("ip -br link").contains("veth") && !reservation("10.22.0.2"));
    });
}

/// What the reference plugin's nftables back-end (1.6 and later) makes, word for word.
#[test]
fn nftables_rules_that_the_reference_plugin_made_go_with_the_pod_and_no_others() {
    in_node(|world| {
        let pod = world.netns("pod");
        let chain = network(json!({"macspoofchk": true}));
        let who = Attachment::new("c", &pod);
        add(&chain, &who);
        let comments = world.exec("nft list map inet weft_pods masquerade4");
        let mark = comments
            .split("comment \"")
            .nth(1)
            .unwrap()
            .split(", net")
            .next()
            .unwrap()
            .to_owned();
        world.exec(&format!(
            "nft -f - <<'E'\ntable inet cni_plugins_masquerade {{\n chain masq_checks {{\n\
             ip saddr 10.22.0.2 ip daddr != 10.22.0.0/24 masquerade comment \"{mark}, net: net, if: eth0, id: c\"\n\
             ip saddr 10.22.0.9 masquerade comment \"0123456789abcdef-0123456789abcdef, net: x\"\n }}\n}}\n\
             table bridge nat {{\n chain cni-br-iface-c-eth0-mac {{ ether saddr 0a:58:0a:16:00:02 return; drop; }}\n\
             chain cni-br-iface-c-eth0 {{ jump cni-br-iface-c-eth0-mac; }}\n\
             chain PREROUTING {{ type filter hook prerouting priority -300;\n\
             iifname \"x\" jump cni-br-iface-c-eth0 comment \"macspoofchk-c-eth0\"\n\
             iifname \"y\" accept comment \"macspoofchk-d-eth0\"\n }}\n}}\nE"
        ));
        chain.del(&who).ok();
        let left =
            world.exec("nft list table inet cni_plugins_masquerade; nft list table bridge nat");
        assert!(
            !left.contains("10.22.0.2") && left.contains("10.22.0.9"),
            "{left}"
        );
        assert!(
            !left.contains("cni-br-iface") && left.contains("macspoofchk-d-eth0"),
            "{left}"
        );
    });
}

#[test]
fn the_iptables_back_end_makes_the_chains_that_others_read_with_one_program_a_family() {
    if !skip_unless(&crate::node::GO) {
        return;
    }
    in_world(|world| {
        let (warm, pod) = (world.netns("warm"), world.netns("pod"));
        let chain = network(json!({"ipam": dual_stack(), "ipMasqBackend": "iptables"}));
        add(&chain, &Attachment::new("warm", &warm));
        let before = Watch::node().take();
        let who = Attachment::new("cid1.1.0", &pod);
        let run = chain.traced().add(&who).ok();
        // bridge, and host-local in its process
        assert_eq!(
            run.execs,
            1 + 2,
            "the plugin, and one iptables-restore for each family"
        );
        let rules = world.exec("iptables-save -t nat");
        for rule in [
            "--comment \"name: \\\"net\\\" id: \\\"cid1.1.0\\\"\"",
            "-s 10.22.0.3/32",
            "-d 10.22.0.0/24",
        ] {
            assert!(rules.contains(rule), "{rule} in {rules}");
        }
        chain.check(&who).ok();
        chain.del(&who).ok();
        let left = before.difference(&Watch::node().take());
        let left = left.except(|fact| fact.contains("last_reserved_ip") || fact.contains("/.weft"));
        assert!(left.is_empty(), "{left}");
    });
}

/// P4 again: the masquerade chains of pods that the reference plugin wired.
#[test]
fn p4_iptables_chains_that_the_reference_plugin_made_go_with_the_pod() {
    if !skip_unless(&crate::node::GO) {
        return;
    }
    in_world(|world| {
        for (number, netns) in [None, Some("")].into_iter().enumerate() {
            let pod = world.netns(&format!("pod{number}"));
            let go = Chain::new(&Cni::debian(), bridge_conf("0.3.1", json!({})));
            let who = Attachment::new("c", &pod);
            add(&go, &who);
            assert!(world.exec("iptables-save -t nat").contains("CNI-"));
            let who = match netns {
                None => who,
                Some(path) => who.netns(path),
            };
            go.by(&Cni::weft()).del(&who).ok();
            assert!(
                !world.exec("iptables-save -t nat").contains("CNI-"),
                "{netns:?}"
            );
        }
    });
}
