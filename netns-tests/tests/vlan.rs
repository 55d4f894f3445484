//! `bridge` with VLANs: who reaches whom, what `bridge vlan` shows, what is left, and what a kernel
//! that cannot do it is told. Run by `make test-vm` where this kernel cannot.
//!
//! ```text
//!   cni0.100 10.22.0.1/24 ══ vlan100-xxxxxx ─┐
//!                                           cni0 ── veth··········· ══ eth0 :pod
//! ```
mod node;

use std::thread;
use std::time::Duration;

use node::{GO, LOOK, add, bridge_conf, ip_of, network};
use serde_json::{Value, json};
use weft_netns::{
    Attachment, Chain, Cni, Need, Netns, Verb, Watch, World, in_world, ping, skip_unless,
};

/// How long nothing must come where nothing may come.
const SILENCE: Duration = Duration::from_millis(700);
/// What software emulation on a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn in_vlan_node(needs: &[Need], test: impl FnOnce(&World)) {
    if skip_unless(needs) && skip_unless(&[Need::vlan_filtering()]) {
        in_world(test);
    }
}

/// What `bridge vlan` shows of a link: "7 pvid untagged", "10-12".
fn vlans_of(world: &World, link: &str) -> Vec<String> {
    let ports: Value =
        serde_json::from_str(&world.exec("bridge -compressvlans -j vlan")).expect("JSON");
    let ports = ports.as_array().expect("a list");
    let port = ports.iter().find(|port| port["ifname"] == link);
    let vlans = port.and_then(|port| port["vlans"].as_array());
    vlans.into_iter().flatten().map(describe).collect()
}

fn describe(vlan: &Value) -> String {
    let mut text = vlan["vlan"].to_string();
    if let Some(end) = vlan.get("vlanEnd") {
        text += &format!("-{end}");
    }
    let flags = vlan["flags"].as_array();
    for (flag, word) in [("PVID", " pvid"), ("Egress Untagged", " untagged")] {
        if flags.is_some_and(|flags| flags.iter().any(|found| found == flag)) {
            text += word;
        }
    }
    text
}

fn host_veth(result: &Value) -> &str {
    result["interfaces"][1]["name"]
        .as_str()
        .expect("the host's end")
}

/// The bridge's port behind a gateway link.
fn gateway_port(world: &World, gateway: &str) -> String {
    let link: Value =
        serde_json::from_str(&world.exec(&format!("ip -j link show {gateway}"))).expect("JSON");
    link[0]["link"].as_str().expect("the other end").to_owned()
}

#[track_caller]
fn answers(from: &Netns, ip: &str) {
    let ip = ip.parse().expect("an address");
    if let Err(why) = from.enter(|| ping(ip, PATIENCE)) {
        panic!("{ip} does not answer {}: {why}", from.name());
    }
}

/// To the node itself.
#[track_caller]
fn reaches(ip: &str) {
    if let Err(why) = ping(ip.parse().expect("an address"), PATIENCE) {
        panic!("{ip} does not answer the node: {why}");
    }
}

#[track_caller]
fn is_silent_to(from: &Netns, ip: &str) {
    let ip = ip.parse().expect("an address");
    let answer = from.enter(|| ping(ip, SILENCE));
    assert!(
        answer.is_err(),
        "{ip} answers {}, of another VLAN",
        from.name()
    );
}

/// A network of the same subnet on the same bridge, with addresses from `first` on and no gateway.
fn neighbouring(name: &str, first: &str, change: Value) -> Chain {
    let range = json!({"subnet": "10.22.0.0/24", "rangeStart": first});
    let mut conf = bridge_conf("1.0.0", change);
    conf["name"] = name.into();
    conf["isDefaultGateway"] = false.into();
    conf["ipMasq"] = false.into();
    conf["ipam"]["ranges"] = json!([[range]]);
    Chain::new(&Cni::weft(), conf)
}

// --- who reaches whom --------------------------------------------------------

#[test]
fn pods_of_one_vlan_reach_each_other_and_none_of_another() {
    in_vlan_node(&LOOK, |world| {
        let pods = world.many_netns("pod", 4);
        let red = network(json!({"vlan": 100}));
        let blue = neighbouring("blue", "10.22.0.100", json!({"vlan": 200}));
        let mut ips = Vec::new();
        for (chain, pod) in [(&red, 0), (&red, 1), (&blue, 2), (&blue, 3)] {
            let who = Attachment::new(pods[pod].name(), &pods[pod]);
            ips.push(ip_of(&add(chain, &who), 0));
        }
        answers(&pods[0], &ips[1]);
        answers(&pods[2], &ips[3]);
        reaches(&ips[0]);
        is_silent_to(&pods[2], &ips[0]);
        is_silent_to(&pods[0], &ips[3]);
        is_silent_to(&pods[3], "10.22.0.1");
    });
}

#[test]
fn a_vlan_moves_the_gateway_to_a_fourth_interface() {
    in_vlan_node(&LOOK, |world| {
        let pod = world.netns("pod");
        let ranges = json!([[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd22::/64"}]]);
        let ipam = json!({"type": "host-local", "ranges": ranges});
        let chain = network(json!({"vlan": 100, "ipam": ipam, "mtu": 1400}));
        let who = Attachment::new("pod", &pod);
        let result = add(&chain, &who);

        let names: Vec<_> = (0..5)
            .map(|i| result["interfaces"][i]["name"].clone())
            .collect();
        assert_eq!(names[0], "cni0");
        assert_eq!(names[2..], [json!("eth0"), json!("cni0.100"), Value::Null]);
        let link: Value = serde_json::from_str(&world.exec("ip -j address show cni0.100")).unwrap();
        assert_eq!(link[0]["address"], result["interfaces"][3]["mac"]);
        assert_eq!(link[0]["mtu"], 1400);
        assert!(
            link[0]["flags"]
                .as_array()
                .unwrap()
                .contains(&json!("LOWER_UP"))
        );
        let shown = world.exec("ip -br address show cni0.100");
        assert!(
            shown.contains("10.22.0.1/24") && shown.contains("fd22::1/64"),
            "{shown}"
        );
        let on_bridge = world.exec("ip -br address show cni0");
        assert!(
            !on_bridge.contains("22.0.1") && !on_bridge.contains("fd22"),
            "{on_bridge}"
        );

        assert_eq!(vlans_of(world, host_veth(&result)), ["100 pvid untagged"]);
        let port = gateway_port(world, "cni0.100");
        assert_eq!(vlans_of(world, &port), ["100 pvid untagged"]);
        assert_eq!(vlans_of(world, "cni0"), ["1 pvid untagged"]);
        answers(&pod, "10.22.0.1");
        answers(&pod, "fd22::1");
        reaches(&ip_of(&result, 0));
        chain.check(&who).ok();
    });
}

#[test]
fn a_vlan_trunk_carries_tags_to_and_from_the_pod() {
    in_vlan_node(&LOOK, |world| {
        let (trunk, access) = (world.netns("trunk"), world.netns("access"));
        let list = json!([{"id": 100}, {"minID": 200, "maxID": 202}]);
        // No access VLAN: what has no tag is of VLAN 1, where the bridge itself is the gateway.
        let result = add(
            &network(json!({"vlanTrunk": list})),
            &Attachment::new("trunk", &trunk),
        );
        let expected = ["1 pvid untagged", "100", "200-202"];
        assert_eq!(vlans_of(world, host_veth(&result)), expected);
        assert_eq!(result["interfaces"][3], Value::Null);
        answers(&trunk, "10.22.0.1");

        let red = neighbouring("red", "10.22.0.100", json!({"vlan": 100}));
        let ip = ip_of(&add(&red, &Attachment::new("access", &access)), 0);
        is_silent_to(&trunk, &ip);
        trunk.exec("ip link add link eth0 name eth0.100 type vlan id 100; ip link set eth0.100 up");
        trunk.exec("ip link add link eth0 name eth0.150 type vlan id 150; ip link set eth0.150 up");
        trunk.exec("ip address add 10.22.0.200/32 dev eth0.100");
        trunk.exec(&format!("ip route add {ip} dev eth0.150 src 10.22.0.200"));
        is_silent_to(&trunk, &ip);
        trunk.exec(&format!(
            "ip route replace {ip} dev eth0.100 src 10.22.0.200"
        ));
        answers(&trunk, &ip);
    });
}

#[test]
fn the_native_vlan_of_a_trunk_is_the_access_vlan() {
    in_vlan_node(&LOOK, |world| {
        let (trunk, access) = (world.netns("trunk"), world.netns("access"));
        let list = json!([{"minID": 99, "maxID": 101}]);
        let chain = network(json!({"vlan": 100, "vlanTrunk": list}));
        let who = Attachment::new("trunk", &trunk);
        let result = add(&chain, &who);
        let expected = ["99", "100 pvid untagged", "101"];
        assert_eq!(vlans_of(world, host_veth(&result)), expected);
        chain.check(&who).ok();
        answers(&trunk, "10.22.0.1");
        let red = neighbouring("red", "10.22.0.100", json!({"vlan": 100}));
        let ip = ip_of(&add(&red, &Attachment::new("access", &access)), 0);
        answers(&trunk, &ip);
    });
}

#[test]
fn the_default_vlan_stays_only_if_it_is_to_be_preserved() {
    in_vlan_node(&LOOK, |world| {
        let (keeps, loses) = (world.netns("keeps"), world.netns("loses"));
        let conf = |keep: bool| json!({"vlan": 100, "preserveDefaultVlan": keep});
        let result = add(&network(conf(true)), &Attachment::new("keeps", &keeps));
        assert_eq!(
            vlans_of(world, host_veth(&result)),
            ["1 untagged", "100 pvid untagged"]
        );
        let result = add(&network(conf(false)), &Attachment::new("loses", &loses));
        assert_eq!(vlans_of(world, host_veth(&result)), ["100 pvid untagged"]);
        // Without the keys of VLANs, a port is what the kernel makes it.
        let plain = world.netns("plain");
        let plain_chain = neighbouring("plain", "10.22.0.100", json!({}));
        let result = add(&plain_chain, &Attachment::new("plain", &plain));
        assert_eq!(vlans_of(world, host_veth(&result)), ["1 pvid untagged"]);
    });
}

#[test]
fn isolated_pods_of_a_vlan_reach_their_gateway_and_not_each_other() {
    in_vlan_node(&LOOK, |world| {
        let pods = world.many_netns("pod", 3);
        let chain = |isolated: bool| network(json!({"vlan": 100, "portIsolation": isolated}));
        let ips: Vec<_> = [true, true, false]
            .iter()
            .zip(&pods)
            .map(|(isolated, pod)| {
                ip_of(
                    &add(&chain(*isolated), &Attachment::new(pod.name(), pod)),
                    0,
                )
            })
            .collect();
        answers(&pods[0], "10.22.0.1");
        answers(&pods[0], &ips[2]);
        is_silent_to(&pods[0], &ips[1]);
    });
}

#[test]
fn a_bridge_made_without_vlans_filters_from_the_first_pod_with_one() {
    in_vlan_node(&LOOK, |world| {
        let (old, new) = (world.netns("old"), world.netns("new"));
        let old_ip = ip_of(&add(&network(json!({})), &Attachment::new("old", &old)), 0);
        let red = neighbouring("red", "10.22.0.100", json!({"vlan": 100}));
        let new_ip = ip_of(&add(&red, &Attachment::new("new", &new)), 0);
        reaches(&old_ip);
        answers(&old, "10.22.0.1");
        is_silent_to(&old, &new_ip);
    });
}

// --- CHECK, DEL, crashes and rivals -------------------------------------------

#[test]
fn check_sees_a_vlan_that_a_port_has_lost() {
    in_vlan_node(&LOOK, |world| {
        let pod = world.netns("pod");
        let chain = network(json!({"vlan": 100, "vlanTrunk": [{"minID": 5, "maxID": 9}]}));
        let who = Attachment::new("pod", &pod);
        let result = add(&chain, &who);
        let port = host_veth(&result);
        chain.check(&who).ok();
        // More than what was asked for takes nothing away.
        world.exec(&format!("bridge vlan add dev {port} vid 77"));
        chain.check(&who).ok();
        world.exec(&format!("bridge vlan del dev {port} vid 7"));
        let failure = chain
            .check(&who)
            .failed()
            .expect("a failed CHECK")
            .failure();
        assert!(failure.msg.contains("[7]"), "{failure:?}");
        world.exec(&format!(
            "bridge vlan add dev {port} vid 7; bridge vlan add dev {port} vid 100"
        ));
        let failure = chain
            .check(&who)
            .failed()
            .expect("a failed CHECK")
            .failure();
        assert!(failure.msg.contains("[100]"), "{failure:?}");
    });
}

#[test]
fn del_of_the_last_pod_of_a_vlan_leaves_the_gateway_alone() {
    in_vlan_node(&GO, |world| {
        let pod = world.netns("pod");
        let chain = network(json!({"vlan": 100}));
        let who = Attachment::new("pod", &pod);
        let round = || {
            let result = add(&chain, &who);
            reaches(&ip_of(&result, 0));
            chain.del(&who).ok();
            Watch::node().netns(&pod).take()
        };
        let before = Watch::node().netns(&pod).take();
        let after = round();
        let more = after.difference(&round()).except(host_local_remembers);
        assert!(more.is_empty(), "left by a second pod:\n{more}");
        assert_eq!(world.exec("ip neighbour show"), "", "of the pod's address");
        let left = before.difference(&after).except(host_local_remembers);
        let left = left.to_string();
        assert!(
            left.contains("cni0.100") && left.contains("10.22.0.1"),
            "{left}"
        );
        let pods_link = add(&chain, &who);
        for gone in [
            "\"10.22.0.2\"",
            "/10.22.0.2 ",
            "pod: ",
            host_veth(&pods_link),
        ] {
            assert!(!left.contains(gone), "{gone} is left in\n{left}");
        }
    });
}

#[test]
fn a_vlan_gateway_left_half_made_is_put_right() {
    in_vlan_node(&LOOK, |world| {
        let pods = world.many_netns("pod", 3);
        let chain = network(json!({"vlan": 100}));
        let works = |pod: &Netns| {
            let result = add(&chain, &Attachment::new(pod.name(), pod));
            answers(pod, "10.22.0.1");
            reaches(&ip_of(&result, 0));
            let port = gateway_port(world, "cni0.100");
            assert_eq!(vlans_of(world, &port), ["100 pvid untagged"]);
        };
        // An ADD killed before the pair was a port.
        world.exec("ip link add name cni0.100 type veth peer name half-made");
        works(&pods[0]);
        // One killed before its port had its VLAN and was up.
        world.exec("bridge vlan add dev half-made vid 1 pvid untagged; bridge vlan del dev half-made vid 100");
        world.exec("ip link set cni0.100 down");
        works(&pods[1]);
        // And a bridge that somebody removed and that is made anew.
        world.exec("ip link del cni0");
        works(&pods[2]);
    });
}

#[test]
fn pods_of_a_vlan_that_start_at_once_share_one_gateway() {
    in_vlan_node(&LOOK, |world| {
        let pods = world.many_netns("pod", 6);
        let chain = network(json!({"vlan": 100}));
        thread::scope(|scope| {
            for pod in &pods {
                let chain = &chain;
                scope.spawn(move || add(chain, &Attachment::new(pod.name(), pod)));
            }
        });
        for pod in &pods {
            answers(pod, "10.22.0.1");
        }
        let links = world.exec("ip -o link show");
        assert_eq!(
            links.matches("cni0.100").count(),
            2,
            "a pair shows twice:\n{links}"
        );
    });
}

// --- the Go bridge -------------------------------------------------------------

/// What `bridge vlan` shows of a network with one pod: the pod's port, the gateway's, the bridge.
fn vlans_of_network(world: &World, result: &Value, bridge: &str) -> [Vec<String>; 3] {
    let gateway = gateway_port(world, &format!("{bridge}.100"));
    [host_veth(result), &gateway, bridge].map(|link| vlans_of(world, link))
}

#[test]
fn vlans_are_those_of_the_go_bridge() {
    in_vlan_node(&GO, |world| {
        let (ours, theirs) = (world.netns("ours"), world.netns("theirs"));
        // Version 1.1.1 knows no key for it, and leaves every port in the default VLAN.
        let change = json!({"vlan": 100, "preserveDefaultVlan": true});
        let weft = add(&network(change.clone()), &Attachment::new("ours", &ours));
        let mut conf = bridge_conf("1.0.0", change);
        conf["bridge"] = "cni1".into();
        conf["name"] = "go".into();
        conf["ipam"]["ranges"] = json!([[{"subnet": "10.23.0.0/24"}]]);
        let go = add(
            &Chain::new(&Cni::debian(), conf),
            &Attachment::new("theirs", &theirs),
        );

        let shown = vlans_of_network(world, &weft, "cni0");
        assert_eq!(shown, vlans_of_network(world, &go, "cni1"));
        assert_eq!(shown[0], ["1 untagged", "100 pvid untagged"]);
        let shape = |result: &Value| {
            let interfaces = result["interfaces"].as_array().expect("a list");
            let keys = |interface: &Value| {
                let interface = interface.as_object().expect("an object");
                interface
                    .keys()
                    .cloned()
                    .collect::<std::collections::BTreeSet<_>>()
            };
            (
                interfaces.iter().map(keys).collect::<Vec<_>>(),
                result["ips"][0]["interface"].clone(),
            )
        };
        assert_eq!(shape(&weft), shape(&go));
        assert_eq!(go["interfaces"][3]["name"], "cni1.100");
    });
}

/// It takes the lowest MAC of its ports, unless it was given one; the Go plugin gives it none where
/// the gateway's address is not on the bridge itself.
#[test]
fn a_vlan_bridge_of_the_go_plugin_keeps_its_mac_when_our_pods_come() {
    in_vlan_node(&GO, |world| {
        let (a, b) = (world.netns("a"), world.netns("b"));
        let ours = network(json!({"vlan": 100, "ipMasq": false}));
        let by_go = Attachment::new("a", &a);
        add(&ours.by(&Cni::debian()), &by_go);
        add(&ours, &Attachment::new("b", &b));
        world.exec(
            "ip link add low address 02:00:00:00:00:01 type dummy; ip link set low master cni0",
        );
        ours.check(&by_go).ok();
    });
}

#[test]
fn vlan_pods_of_the_go_bridge_and_ours_live_together_and_end_by_either() {
    in_vlan_node(&GO, |world| {
        let (a, b) = (world.netns("a"), world.netns("b"));
        let ours = network(json!({"vlan": 100, "ipMasqBackend": "iptables"}));
        let theirs = ours.by(&Cni::debian());
        let (by_go, by_us) = (Attachment::new("a", &a), Attachment::new("b", &b));
        let ip = ip_of(&add(&theirs, &by_go), 0);
        add(&ours, &by_us);
        answers(&b, &ip);
        answers(&b, "10.22.0.1");
        for chain in [&ours, &theirs] {
            chain.check(&by_go).ok();
            chain.check(&by_us).ok();
        }
        ours.del(&by_go).ok();
        theirs.del(&by_us).ok();
        assert_eq!(
            world
                .exec("ip -o link show type veth")
                .matches("cni0.100")
                .count(),
            2
        );
        assert_eq!(world.exec("ip -o link show type veth").lines().count(), 2);
        assert_eq!(
            world
                .exec("nft list ruleset | grep -c 10.22.0. || true")
                .trim(),
            "0"
        );
    });
}

// --- a kernel that cannot --------------------------------------------------------

#[test]
fn a_kernel_that_filters_by_no_tag_is_named_and_nothing_is_left() {
    let Need::Kernel(_, filters) = Need::vlan_filtering() else {
        panic!("a property of the kernel");
    };
    if !skip_unless(&GO) || !skip_unless(&[Need::Kernel("no VLAN filtering", !filters)]) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        let who = Attachment::new("pod", &pod);
        let refuses = |change: Value| {
            let before = Watch::node().netns(&pod).take();
            let conf = bridge_conf("1.0.0", change);
            let failure = Cni::weft().call("bridge", Verb::Add, &who, &conf).failure();
            assert_eq!(failure.code, 2, "{failure:?}");
            assert!(failure.msg.contains("no VLAN filtering"), "{failure:?}");
            assert!(
                failure.details.contains("CONFIG_BRIDGE_VLAN_FILTERING"),
                "{failure:?}"
            );
            let left = before.difference(&Watch::node().netns(&pod).take());
            let left = left.except(host_local_remembers);
            assert!(left.is_empty(), "left by a refused ADD:\n{left}");
        };
        // The first call of host-local makes its directory and its lock.
        let neighbour = Attachment::new("neighbour", &pod);
        let chain = network(json!({}));
        add(&chain, &neighbour);
        chain.del(&neighbour).ok();
        refuses(json!({"vlan": 100}));
        refuses(json!({"vlanTrunk": [{"id": 100}]}));
        refuses(json!({"vlan": 100, "bridge": "cni9"}));
        refuses(json!({"vlanTrunk": [], "bridge": "cni9"}));
        add(&chain, &neighbour);
    });
}

/// What outlives every reservation: the directory, the address given last, an index.
fn host_local_remembers(fact: &str) -> bool {
    fact.contains("/last_reserved_ip.") || fact.contains("/networks/.weft/")
}
