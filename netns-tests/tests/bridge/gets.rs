//! What a pod gets.

use serde_json::{Value, json};
use weft_netns::{Attachment, Chain, Cni, Need, in_rootless_world, in_world, skip_unless};

use crate::node::{LOOK, add, bridge_conf, ip_of, network, reaches, sysctl};
use crate::{dual_stack, in_node, json_of};

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
        crate::node::GO[0],
        crate::node::GO[1],
        Need::File("/usr/lib/cni/static"),
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
