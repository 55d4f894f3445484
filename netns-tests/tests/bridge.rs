//! `bridge` on a real kernel: what a pod gets, what CHECK sees, what DEL and GC leave, and every
//! defect of the reference plugin that we know of, each a test named after it.
//!
//! ```text
//!   node: cni0 10.22.0.1/24 ── vethXXXXXXXXXXX ══ eth0 10.22.0.2/24 :pod
//! ```
mod node;

use std::fs;
use std::path::Path;
use std::thread;

use node::{LOOK, SECOND, add, bridge_conf, ip_of, network, reaches, set_sysctl, sysctl};
use serde_json::{Value, json};
use weft_netns::{
    Attachment, Chain, Cni, Netns, Verb, Watch, World, in_rootless_world, in_world, ping,
    skip_unless,
};

fn in_node(test: impl FnOnce(&World)) {
    if skip_unless(&LOOK) {
        in_world(test);
    }
}

fn reservation(ip: &str) -> bool {
    Path::new("/var/lib/cni/networks/net").join(ip).exists()
}

fn json_of(netns: &Netns, command: &str) -> Value {
    serde_json::from_str(&netns.exec(command)).expect("JSON")
}

fn dual_stack() -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd22::/64"}]],
        "routes": [{"dst": "10.250.0.0/16", "gw": "10.22.0.9"}]})
}

// --- what a pod gets ---------------------------------------------------------

#[test]
fn a_pod_has_addresses_routes_and_a_way_to_its_node_and_its_neighbours() {
    in_node(|world| {
        let (a, b) = (world.netns("a"), world.netns("b"));
        let chain = network(json!({"ipam": dual_stack(), "hairpinMode": true, "mtu": 1400}));
        let first = add(&chain, &Attachment::new("a", &a));
        add(&chain, &Attachment::new("b", &b));

        for (number, family) in [(0, "-4"), (1, "-6")] {
            let ip = ip_of(&first, number);
            reaches(&ip);
            b.exec(&format!("ping {family} -c1 -W1 {ip}"));
            let gateway = first["ips"][number]["gateway"].as_str().unwrap();
            a.exec(&format!("ping {family} -c1 -W1 {gateway}"));
        }
        let routes = a.exec("ip -4 route; ip -6 route");
        for route in [
            "default via 10.22.0.1",
            "10.250.0.0/16 via 10.22.0.9",
            "default via fd22::1",
        ] {
            assert!(routes.contains(route), "{routes}");
        }
        let eth0 = &json_of(&a, "ip -j address show eth0")[0];
        assert_eq!(eth0["mtu"], 1400);
        assert_eq!(eth0["addr_info"][0]["broadcast"], "10.22.0.255");
        let port = first["interfaces"][1]["name"].as_str().unwrap();
        let port = world.exec(&format!("bridge -d link show dev {port}"));
        assert!(
            port.contains("hairpin on") && port.contains("state forwarding"),
            "{port}"
        );
        assert_eq!(sysctl("net/ipv4/ip_forward"), "1");
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "1");
        assert_eq!(sysctl("net/ipv6/conf/cni0/accept_ra"), "0");
        let in_pod = |key: &str| a.enter(|| sysctl(key));
        assert_eq!(in_pod("net/ipv4/conf/eth0/arp_notify"), "1");
        assert_eq!(in_pod("net/ipv6/conf/eth0/accept_dad"), "0");
        assert_eq!(in_pod("net/ipv6/conf/eth0/keep_addr_on_down"), "1");
    });
}

/// The contract's goldens: one shape for each of the three families of versions.
#[test]
fn results_have_the_shape_of_their_version() {
    in_node(|world| {
        let result = |version: &str| {
            let pod = world.netns(&format!("p{version}"));
            let conf = bridge_conf(version, json!({"ipam": dual_stack()}));
            let chain = Chain::new(&Cni::weft(), conf);
            let who = Attachment::new(&format!("c{version}"), &pod);
            (add(&chain, &who), who.netns)
        };
        let (old, _) = result("0.1.0");
        assert_eq!(old["ip4"]["gateway"], "10.22.0.1");
        let routes = json!([{"dst": "10.250.0.0/16", "gw": "10.22.0.9"}, {"dst": "0.0.0.0/0", "gw": "10.22.0.1"}]);
        assert_eq!(old["ip4"]["routes"], routes);
        assert_eq!(
            old["ip6"]["routes"],
            json!([{"dst": "::/0", "gw": "fd22::1"}])
        );
        assert_eq!(old["dns"], json!({}));

        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let (new, netns) = result(version);
            assert_eq!(new["cniVersion"], version);
            assert_eq!(new["interfaces"][0]["name"], "cni0");
            assert_eq!(new["interfaces"][2]["name"], "eth0");
            assert_eq!(new["interfaces"][2]["sandbox"], netns.as_str());
            assert_eq!(new["ips"][1]["interface"], 2);
            let versioned = version.starts_with('0');
            assert_eq!(
                new["ips"][1]["version"],
                if versioned { json!("6") } else { Value::Null }
            );
            assert_eq!(new.get("dns").is_some(), versioned);
        }
    });
}

#[test]
fn a_chain_without_version_answers_in_the_oldest_form() {
    in_node(|world| {
        let pod = world.netns("pod");
        let mut conf = bridge_conf("1.0.0", json!({}));
        conf.as_object_mut().unwrap().remove("cniVersion");
        let result = add(&Chain::new(&Cni::weft(), conf), &Attachment::new("c", &pod));
        assert_eq!(
            (&result["cniVersion"], &result["ip4"]["ip"]),
            (&json!("0.1.0"), &json!("10.22.0.2/24"))
        );
    });
}

#[test]
fn a_network_without_addresses_is_a_link_and_nothing_more() {
    in_node(|world| {
        let pod = world.netns("pod");
        let chain = network(json!({"ipam": {}, "disableContainerInterface": true}));
        let who = Attachment::new("c", &pod);
        let result = add(&chain, &who);
        assert_eq!(result.get("ips"), None);
        assert_eq!(
            json_of(&pod, "ip -j link show eth0")[0]["operstate"],
            "DOWN"
        );
        chain.check(&who).ok();
        chain.del(&who).ok();

        let chain = network(json!({"ipam": {}, "promiscMode": true, "portIsolation": true}));
        let result = add(&chain, &who);
        assert_eq!(json_of(&pod, "ip -j link show eth0")[0]["operstate"], "UP");
        let port = result["interfaces"][1]["name"].as_str().unwrap();
        assert!(
            world
                .exec(&format!("bridge -d link show dev {port}"))
                .contains("isolated on")
        );
        assert!(world.exec("ip -d link show cni0").contains("promiscuity 1"));
    });
}

#[test]
fn a_pod_gets_the_mac_address_it_is_promised() {
    in_node(|world| {
        let pod = world.netns("pod");
        let who = Attachment::new("c", &pod).args("IgnoreUnknown=1;MAC=0a:00:00:00:00:07");
        let chain = network(json!({}));
        assert_eq!(
            add(&chain, &who)["interfaces"][2]["mac"],
            "0a:00:00:00:00:07"
        );
        assert_eq!(
            json_of(&pod, "ip -j link show eth0")[0]["address"],
            "0a:00:00:00:00:07"
        );
        chain.check(&who).ok();
    });
}

#[test]
fn the_configurations_dns_replaces_that_of_the_address_management() {
    in_node(|world| {
        let pod = world.netns("pod");
        let chain = network(json!({"dns": {"nameservers": ["10.22.0.53"], "search": ["a.b"]}}));
        let result = add(&chain, &Attachment::new("c", &pod));
        assert_eq!(
            result["dns"],
            json!({"nameservers": ["10.22.0.53"], "search": ["a.b"]})
        );
    });
}

/// Addresses that another program manages: nobody tells them at a DEL of version 0.3.1.
#[test]
fn a_pod_whose_addresses_are_managed_elsewhere_is_unwired_by_name() {
    if !skip_unless(&[
        node::GO[0],
        node::GO[1],
        weft_netns::Need::File("/usr/lib/cni/static"),
    ]) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        let ipam = json!({"type": "static", "addresses": [
            {"address": "10.22.0.50/24", "gateway": "10.22.0.1"}, {"address": "fd22::50/64"}]});
        let cni = Cni::weft().with(world, "static", &Cni::debian());
        let chain = Chain::new(&cni, bridge_conf("0.3.1", json!({"ipam": ipam})));
        let who = Attachment::new("c", &pod);
        let result = add(&chain, &who);
        assert_eq!(result["ips"][0]["address"], "10.22.0.50/24");
        reaches("10.22.0.50");
        chain.del(&who.netns("")).ok();
        let left = world.exec("nft list table inet weft_pods; ip -br link");
        assert!(
            !left.contains("22.0.50") && !left.contains("fd22::50") && !left.contains("veth"),
            "{left}"
        );
    });
}

#[test]
fn two_interfaces_of_one_pod_on_one_network_live_and_die_apart() {
    in_node(|world| {
        let pod = world.netns("pod");
        // Two default routes of one pod would be one too many.
        let chain = network(json!({"isDefaultGateway": false, "isGateway": true}));
        let (eth0, eth1) = (
            Attachment::new("c", &pod),
            Attachment::new("c", &pod).ifname("eth1"),
        );
        add(&chain, &eth0);
        let second = add(&chain, &eth1);
        chain.del(&eth0).ok();
        assert!(
            world
                .exec("nft list map inet weft_pods masquerade4")
                .contains(&ip_of(&second, 0))
        );
        assert!(pod.exec("ip -br link").contains("eth1"));
        chain.check(&eth1).ok();
        chain.del(&eth1).ok();
    });
}

#[test]
fn a_pod_sends_under_its_own_mac_address_only() {
    in_node(|world| {
        let pod = world.netns("pod");
        let chain = network(json!({"macspoofchk": true}));
        let who = Attachment::new("c", &pod);
        add(&chain, &who);
        chain.check(&who).ok();
        pod.exec("ping -c1 -W1 10.22.0.1");
        pod.exec("ip link set eth0 address 0a:00:00:00:00:99");
        assert!(
            !pod.command("ping")
                .args(["-c1", "-W1", "10.22.0.1"])
                .run()
                .success()
        );
        chain.del(&who).ok();
        assert!(
            !world
                .exec("nft list table bridge weft_macspoof")
                .contains("veth")
        );
    });
}

#[test]
fn duplicate_address_detection_is_waited_for_where_it_is_wanted() {
    in_node(|world| {
        let pod = world.netns("pod");
        let chain = network(json!({"ipam": dual_stack(), "enabledad": true}));
        add(&chain, &Attachment::new("c", &pod));
        assert!(
            !pod.exec("ip -6 address show eth0 scope global")
                .contains("tentative")
        );
        assert_eq!(pod.enter(|| sysctl("net/ipv6/conf/eth0/enhanced_dad")), "1");
    });
}

#[test]
fn what_leaves_the_subnet_leaves_under_the_nodes_address_and_what_stays_does_not() {
    in_node(|world| {
        let (pod, outside) = (world.netns("pod"), world.netns("outside"));
        world.exec("ip link add wan type veth peer name wan netns outside");
        world.exec("ip link set wan up; ip address add 10.77.0.1/24 dev wan");
        outside.exec("ip link set wan up; ip address add 10.77.0.2/24 dev wan");
        // `outside` has no route to the pods: only what is masqueraded is answered.
        add(&network(json!({})), &Attachment::new("c", &pod));
        pod.exec("ping -c1 -W1 10.77.0.2");
        let bare = world.netns("bare");
        let chain = network(json!({"ipMasq": false}));
        add(&chain, &Attachment::new("bare", &bare));
        assert!(
            !bare
                .command("ping")
                .args(["-c1", "-W1", "10.77.0.2"])
                .run()
                .success()
        );
        bare.exec("ping -c1 -W1 10.22.0.2");
    });
}

#[test]
fn an_ordinary_user_can_wire_pods_in_a_world_of_his_own() {
    if !skip_unless(&LOOK) {
        return;
    }
    in_rootless_world(|world| {
        let pod = world.netns("pod");
        let chain = network(json!({"ipam": dual_stack()}));
        let who = Attachment::new("c", &pod);
        let result = add(&chain, &who);
        reaches(&ip_of(&result, 0));
        chain.check(&who).ok();
        chain.del(&who).ok();
    });
}

// --- what DEL, GC and a failed ADD leave ---------------------------------------

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

fn reaches_in(netns: &Netns, ip: &str) {
    netns.exec(&format!("ip link set lo up; ping -c1 -W1 {ip}"));
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
fn plugins_29_an_add_that_failed_leaves_nothing_and_can_be_retried() {
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
    if !skip_unless(&node::GO) {
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
    if !skip_unless(&node::GO) {
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
    if !skip_unless(&node::GO) {
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

// --- what the reference plugin gets wrong --------------------------------------

/// P5, plugins#756: whoever is remembered under an address used again blackholes it for 11 s.
#[test]
fn p5_an_address_used_again_is_reached_at_once_from_the_node_and_from_pods() {
    in_node(|world| {
        let neighbour = world.netns("neighbour");
        let chain = network(json!({}));
        add(&chain, &Attachment::new("neighbour", &neighbour));
        let pod = world.netns("pod");
        for remembering in ["cni0", "eth0"] {
            let line = "ip neighbour replace 10.22.0.3 lladdr 02:00:00:00:00:99 nud stale dev";
            if remembering == "cni0" {
                world.exec(&format!("{line} cni0"));
            } else {
                neighbour.exec(&format!("{line} eth0"));
            }
        }
        assert_eq!(
            ip_of(&add(&chain, &Attachment::new("c", &pod)), 0),
            "10.22.0.3"
        );
        reaches("10.22.0.3");
        reaches_in(&neighbour, "10.22.0.3");
    });
}

/// A pod's neighbours keep what they know of an address: its next owner has the same MAC.
#[test]
fn p5_the_next_owner_of_an_address_has_the_same_mac() {
    in_node(|world| {
        let one =
            json!({"subnet": "10.22.0.0/24", "rangeStart": "10.22.0.7", "rangeEnd": "10.22.0.7"});
        let chain = network(json!({"ipam": {"type": "host-local", "ranges": [[one]]}}));
        let mac = |id: &str| {
            let pod = world.netns(id);
            let who = Attachment::new(id, &pod);
            let result = add(&chain, &who);
            chain.del(&who).ok();
            result["interfaces"][2]["mac"].clone()
        };
        assert_eq!(mac("first"), mac("second"));
    });
}

/// P19: isDefaultGateway beside a default route of the address management: "file exists".
#[test]
fn p19_a_default_route_that_is_asked_for_twice_is_made_once() {
    in_node(|world| {
        let pod = world.netns("pod");
        let mut ipam = dual_stack();
        ipam["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
        add(&network(json!({"ipam": ipam})), &Attachment::new("c", &pod));
        assert_eq!(
            pod.exec("ip -4 route; ip -6 route")
                .matches("default")
                .count(),
            2
        );
    });
}

/// P7: the gateway's address was tentative, and silent, for one or two seconds.
#[test]
fn p7_the_gateway_of_the_first_ipv6_pod_answers_at_once() {
    in_node(|world| {
        let pod = world.netns("pod");
        add(
            &network(json!({"ipam": dual_stack()})),
            &Attachment::new("c", &pod),
        );
        let addresses = world.exec("ip -6 address show cni0 scope global");
        assert!(
            addresses.contains("fd22::1") && !addresses.contains("tentative"),
            "{addresses}"
        );
        reaches_in(&pod, "fd22::1");
    });
}

/// P8, podman#6114: a node that begins to forward IPv6 forgot what its routers had told it.
#[test]
fn p8_interfaces_that_listen_to_routers_go_on_listening() {
    in_node(|world| {
        let pod = world.netns("pod");
        world.exec("ip link add wan type veth peer name wan-far; ip link set wan up");
        world.exec("ip link set wan-far up; ip -6 route add default via fe80::1 dev wan proto ra");
        for link in ["wan", "wan-far"] {
            set_sysctl(&format!("net/ipv6/conf/{link}/accept_ra"), "1");
        }
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "0");
        add(
            &network(json!({"ipam": dual_stack()})),
            &Attachment::new("c", &pod),
        );
        assert_eq!(sysctl("net/ipv6/conf/wan/accept_ra"), "2");
        assert_eq!(
            sysctl("net/ipv6/conf/wan-far/accept_ra"),
            "1",
            "has learned nothing"
        );
        assert!(
            world
                .exec("ip -6 route")
                .contains("default via fe80::1 dev wan")
        );
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "1");
    });
}

/// plugins#160: a stray router advertisement gave pods addresses on top of the managed ones.
#[test]
fn plugins_160_a_pod_with_managed_addresses_takes_none_from_routers() {
    in_node(|world| {
        let pod = world.netns("pod");
        add(
            &network(json!({"ipam": dual_stack()})),
            &Attachment::new("c", &pod),
        );
        assert_eq!(pod.enter(|| sysctl("net/ipv6/conf/eth0/accept_ra")), "0");
    });
}

/// plugins#805: udev gave host links another MAC, and CHECK failed from then on.
#[test]
fn p10_links_have_addresses_that_udev_leaves_alone() {
    in_node(|world| {
        let pod = world.netns("pod");
        let result = add(&network(json!({})), &Attachment::new("c", &pod));
        let port = result["interfaces"][1]["name"].as_str().unwrap();
        world.exec("mount -t sysfs sysfs /sys");
        for link in ["cni0", port] {
            let kind =
                fs::read_to_string(format!("/sys/class/net/{link}/addr_assign_type")).unwrap();
            assert_eq!(
                kind.trim(),
                "3",
                "{link}: NET_ADDR_SET, as somebody chose it"
            );
        }
    });
}

/// P11: the bridge has the address of a subnet that the node had before.
#[test]
fn p11_an_address_of_another_subnet_is_explained_or_replaced() {
    in_node(|world| {
        let pod = world.netns("pod");
        world.exec("ip link add cni0 type bridge; ip link set cni0 up; ip address add 10.99.0.1/24 dev cni0");
        let who = Attachment::new("c", &pod);
        let failure = network(json!({})).add(&who);
        let failure = failure.failed().expect("a failure").failure();
        assert_eq!(failure.code, 7);
        assert!(
            failure
                .msg
                .contains("already has an IP address different from 10.22.0.1/24"),
            "{failure:?}"
        );
        assert!(
            failure
                .details
                .contains("ip address del 10.99.0.1/24 dev cni0"),
            "{failure:?}"
        );
        add(&network(json!({"forceAddress": true})), &who);
        let addresses = world.exec("ip -4 address show cni0");
        assert!(
            addresses.contains("10.22.0.1/24") && !addresses.contains("10.99"),
            "{addresses}"
        );
    });
}

/// P11, flannel#1850: the node got another lease, and no pod started any more.
#[test]
fn p11_an_earlier_lease_of_the_overlay_gives_way_when_its_last_pod_has_gone() {
    in_node(|world| {
        let of_lease = |subnet: &str| {
            network(
                json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]],
                "routes": [{"dst": "10.20.0.0/14"}]}}),
            )
        };
        let pods = world.many_netns("pod", 3);
        let who = |i: usize| Attachment::new(&format!("c{i}"), &pods[i]);
        let addresses = || world.exec("ip -4 address show cni0");
        let (old, new) = (of_lease("10.21.7.0/24"), of_lease("10.22.0.0/24"));
        add(&old, &who(0));
        add(&new, &who(1));
        assert!(
            addresses().contains("10.21.7.1/24"),
            "a pod still needs it: {}",
            addresses()
        );
        reaches_in(&pods[0], "10.21.7.1");
        reaches_in(&pods[1], "10.22.0.1");
        old.del(&who(0)).ok();
        new.del(&who(1)).ok();
        world.exec("ip address del 10.22.0.1/24 dev cni0");
        add(&new, &who(2));
        assert!(!addresses().contains("10.21.7.1"), "{}", addresses());
    });
}

/// A bridge that an earlier configuration made kept its MTU for ever.
#[test]
fn the_mtu_of_a_bridge_follows_the_configuration_as_far_as_its_pods_allow() {
    in_node(|world| {
        let pods = world.many_netns("pod", 3);
        let mtu = || {
            let links: Value = serde_json::from_str(&world.exec("ip -j link show cni0")).unwrap();
            links[0]["mtu"].as_u64()
        };
        let who = |i: usize| Attachment::new(&format!("c{i}"), &pods[i]);
        add(&network(json!({"mtu": 1450})), &who(0));
        assert_eq!(mtu(), Some(1450));
        add(&network(json!({"mtu": 1400})), &who(1));
        assert_eq!(mtu(), Some(1400), "lowered at once");
        add(&network(json!({"mtu": 8950})), &who(2));
        assert_eq!(
            mtu(),
            Some(1400),
            "a pod with 1400 would lose what is longer"
        );
        for i in 0..3 {
            network(json!({})).del(&who(i)).ok();
        }
        add(&network(json!({"mtu": 8950})), &who(0));
        assert_eq!(mtu(), Some(8950));
    });
}

#[test]
fn the_mtu_of_a_bridge_outlives_its_pods() {
    in_node(|world| {
        let pod = world.netns("pod");
        let chain = network(json!({"mtu": 1450}));
        let who = Attachment::new("c", &pod);
        add(&chain, &who);
        chain.del(&who).ok();
        assert!(world.exec("ip link show cni0").contains("mtu 1450"));
    });
}

#[test]
fn a_link_that_is_no_bridge_is_refused() {
    in_node(|world| {
        let pod = world.netns("pod");
        world.exec("ip link add cni0 type veth peer name far");
        let failure = network(json!({})).add(&Attachment::new("c", &pod));
        let failure = failure.failed().expect("a failure").failure();
        assert!(
            failure.code == 7 && failure.msg.contains("is not a bridge"),
            "{failure:?}"
        );
    });
}

#[test]
fn thirty_two_pods_at_once_share_one_bridge_and_one_table() {
    in_node(|world| {
        let pods = world.many_netns("pod", 32);
        let chain = network(json!({"ipam": dual_stack()}));
        thread::scope(|scope| {
            for (i, pod) in pods.iter().enumerate() {
                let chain = chain.clone();
                scope.spawn(move || chain.add(&Attachment::new(&format!("c{i}"), pod)).ok());
            }
        });
        let map = world.exec("nft list map inet weft_pods masquerade4");
        assert_eq!(map.matches("comment").count(), 32, "{map}");
        let table = world.exec("nft list table inet weft_pods");
        assert_eq!(table.matches("vmap").count(), 2, "{table}");
        assert_eq!(
            world.exec("ip -br link show master cni0").lines().count(),
            32
        );
        for i in 2..34 {
            ping(format!("10.22.0.{i}").parse().unwrap(), SECOND).expect("an answer");
        }
        thread::scope(|scope| {
            for (i, pod) in pods.iter().enumerate() {
                let chain = chain.clone();
                scope.spawn(move || chain.del(&Attachment::new(&format!("c{i}"), pod)).ok());
            }
        });
        assert!(!world.exec("ip -br link").contains("veth"));
        assert_eq!(
            world
                .exec("nft list table inet weft_pods")
                .matches("comment \"")
                .count(),
            1
        );
    });
}

// --- CHECK ----------------------------------------------------------------------

#[test]
fn check_sees_what_somebody_changed() {
    type Damage = (&'static str, fn(&World, &Netns, &str));
    let damages: [Damage; 8] = [
        ("the default route", |_, pod, _| {
            drop(pod.exec("ip route del default"))
        }),
        ("the address", |_, pod, _| {
            drop(pod.exec("ip address flush dev eth0"))
        }),
        ("the pod's MAC", |_, pod, _| {
            drop(pod.exec("ip link set eth0 address 0a:00:00:00:00:99"))
        }),
        ("the link", |_, pod, _| drop(pod.exec("ip link del eth0"))),
        ("the port", |world, _, port| {
            drop(world.exec(&format!("ip link set {port} nomaster")))
        }),
        ("the element", |world, _, _| {
            drop(world.exec("nft flush map inet weft_pods masquerade4"))
        }),
        ("the ruleset", |world, _, _| {
            drop(world.exec("nft flush ruleset"))
        }),
        ("the rules", |world, _, _| {
            drop(world.exec("nft flush chain inet weft_pods postrouting"))
        }),
    ];
    in_node(|world| {
        for (number, (what, damage)) in damages.into_iter().enumerate() {
            let pod = world.netns(&format!("pod{number}"));
            let chain = network(json!({}));
            let who = Attachment::new(&format!("c{number}"), &pod);
            let result = add(&chain, &who);
            chain.check(&who).ok();
            damage(
                world,
                &pod,
                result["interfaces"][1]["name"].as_str().unwrap(),
            );
            assert!(chain.check(&who).failed().is_some(), "CHECK misses {what}");
            chain.del(&who).ok();
        }
    });
}

#[test]
fn check_needs_the_result_of_add() {
    in_node(|world| {
        let pod = world.netns("pod");
        let who = Attachment::new("c", &pod);
        add(&network(json!({})), &who);
        let conf = bridge_conf("1.0.0", json!({}));
        let failure = Cni::weft()
            .call("bridge", Verb::Check, &who, &conf)
            .failure();
        assert_eq!(failure.msg, "Required prevResult missing");
    });
}
