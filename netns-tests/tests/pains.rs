//! What people told of the reference plugins, one test a pain, where no test of a single plugin
//! bears its number already: P5, P7, P8, P10, P11, P16 and P19 are with the bridge, P9 and P14 with
//! portmap, P17 with flannel, P18 with host-local.
mod node;

use std::fs;
use std::path::Path;
use std::thread;

use node::{GO, LOOK, add, ip_of, reaches};
use serde_json::{Value, json};
use weft_netns::{Attachment, Chain, Cni, Need, Verb, World, in_world, skip_unless};

fn in_node(test: impl FnOnce(&World)) {
    if skip_unless(&LOOK) {
        in_world(test);
    }
}

/// bridge + host-local + portmap, masqueraded.
fn chain(version: &str, portmap: Value) -> Chain {
    let mut bridge = node::bridge_conf(version, json!({"hairpinMode": true}));
    let mut portmap = portmap;
    portmap["type"] = "portmap".into();
    portmap["capabilities"] = json!({"portMappings": true});
    for key in ["cniVersion", "name"] {
        bridge.as_object_mut().expect("an object").remove(key);
    }
    let plugins = json!([bridge, portmap]);
    Chain::new(
        &Cni::weft(),
        json!({"cniVersion": version, "name": "net", "plugins": plugins}),
    )
}

fn with_port(who: Attachment, port: u16) -> Attachment {
    // Spelled as containerd spells it.
    let mapping = json!([{"HostPort": port, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]);
    who.capability("portMappings", mapping)
}

fn reservations() -> usize {
    let files = fs::read_dir("/var/lib/cni/networks/net").expect("the network's directory");
    let names = files.map(|file| file.expect("a file").file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("10."))
        .count()
}

/// P1: whoever is never deleted keeps its address for ever, until none is left.
#[test]
fn p1_gc_frees_the_addresses_of_pods_that_nobody_deleted() {
    in_node(|world| {
        let network = chain("1.1.0", json!({}));
        let living = world.netns("living");
        let alive = Attachment::new("living", &living);
        add(&network, &alive);
        for number in 0..3 {
            // The runtime crashes, and the namespace goes with the container.
            let pod = world.netns(&format!("pod{number}"));
            add(
                &network,
                &with_port(Attachment::new(&format!("c{number}"), &pod), 8080 + number),
            );
        }
        assert_eq!(reservations(), 4);
        network.gc(std::slice::from_ref(&alive)).ok();
        assert_eq!(reservations(), 1);
        let left = world.exec("nft list ruleset");
        assert!(
            !left.contains("id: c0") && left.contains("id: living"),
            "{left}"
        );
    });
}

/// P2: about twenty programs an ADD, each of them waiting for the xtables lock.
#[test]
fn p2_no_program_is_started_but_the_plugins_themselves() {
    in_node(|world| {
        let pod = world.netns("pod");
        let network = chain("1.0.0", json!({}));
        let who = with_port(Attachment::new("c", &pod), 8080);
        for run in [
            network.traced().add(&who),
            network.traced().check(&who),
            network.traced().del(&who),
        ] {
            let run = run.ok();
            assert_eq!(run.execs, 2, "bridge and portmap");
        }
        let bare = Attachment::new("bare", &pod);
        let run = network.traced().add(&bare).ok();
        let portmap = run.calls.last().expect("portmap").done.stdout.len();
        assert!(portmap > 0, "the result is passed on");
        assert_eq!(run.execs, 2);
    });
}

/// P3: pods that start in parallel doubled the shared rules, and nothing ever removed them.
#[test]
fn p3_no_rule_stands_twice_after_many_pods_at_once_in_either_back_end() {
    if !skip_unless(&GO) {
        return;
    }
    in_world(|world| {
        for (round, portmap) in [json!({}), json!({"backend": "iptables"})]
            .into_iter()
            .enumerate()
        {
            let pods = world.many_netns(&format!("r{round}p"), 24);
            let network = chain("1.0.0", portmap);
            thread::scope(|scope| {
                for (number, pod) in (0..).zip(&pods) {
                    let who = with_port(
                        Attachment::new(&format!("r{round}c{number}"), pod),
                        8000 + number,
                    );
                    let network = network.clone();
                    scope.spawn(move || network.add(&who).ok());
                }
            });
        }
        let mut rules: Vec<String> = world
            .exec("iptables-save -t nat")
            .lines()
            .map(str::to_owned)
            .collect();
        let table = world.exec("nft list table inet weft_hostports; nft list table inet weft_pods");
        rules.extend(
            table
                .lines()
                .filter(|line| line.contains("map @") || line.contains("jump "))
                .map(str::to_owned),
        );
        let all = rules.len();
        assert!(all > 24, "{rules:?}");
        rules.sort();
        rules.dedup();
        // Both nat hooks jump to the same chain, under the same condition.
        let twice = all - rules.len();
        assert!(twice <= 2, "{twice} rules stand twice: {rules:#?}");
    });
}

/// P6: a pod stuck in Terminating, because DEL fails for what is gone (cri-o#438, containerd#9064).
#[test]
fn p6_del_succeeds_whatever_has_become_of_the_namespace() {
    in_node(|world| {
        fs::create_dir_all("/run/netns").expect("a directory");
        fs::write("/run/netns/plain", "").expect("a file");
        // A path in a tmpfs is what "unknown FS magic" was about.
        for (number, path) in ["", "/run/netns/plain", "/run", "/nowhere/at/all"]
            .into_iter()
            .enumerate()
        {
            let pod = world.netns(&format!("pod{number}"));
            let network = chain("0.3.1", json!({}));
            let who = with_port(Attachment::new(&format!("c{number}"), &pod), 8080);
            add(&network, &who);
            let who = who.netns(path);
            network.del(&who).ok();
            network.del(&who).ok();
            assert_eq!(reservations(), 0, "{path:?}");
        }
    });
}

/// P12: what is sent before the port forwards is lost, and asked for again a second later.
#[test]
fn p12_the_first_packet_after_add_gets_through() {
    in_node(|world| {
        let network = chain("1.0.0", json!({}));
        for (number, pod) in world.many_netns("pod", 10).iter().enumerate() {
            let result = add(&network, &Attachment::new(&format!("c{number}"), pod));
            reaches(&ip_of(&result, 0));
        }
    });
}

/// P13: hosts without iptables, and hooks whose PATH lacks sbin (nerdctl#1318, plugins#461).
#[test]
fn p13_pods_come_and_go_on_a_host_without_iptables_and_nft() {
    in_node(|world| {
        let pod = world.netns("pod");
        let network = chain("1.0.0", json!({}));
        let who = with_port(Attachment::new("c", &pod), 8080);
        let without_programs = |verb: Verb, plugin: usize, previous: Option<&Value>| {
            let cmd = network.commands(verb, &who, previous).swap_remove(plugin);
            cmd.env("PATH", "/nonexistent").run().ok().stdout
        };
        let (bridge, portmap) = (0, 1);
        let result = without_programs(Verb::Add, bridge, None);
        let result: Value = serde_json::from_str(&result).expect("a result");
        without_programs(Verb::Add, portmap, Some(&result));
        for plugin in [bridge, portmap] {
            without_programs(Verb::Check, plugin, Some(&result));
        }
        // In reverse, as a runtime does.
        for call in [0, 1] {
            without_programs(Verb::Del, call, None);
        }
        assert_eq!(reservations(), 0);
        assert!(
            !world
                .exec("nft list ruleset; ip -br link")
                .contains("id: c"),
            "rules are left"
        );
    });
}

/// P20, kind#2167: "argument list too long", since each plugin copied its environment once more.
#[test]
fn p20_a_large_environment_is_handed_on_and_not_copied() {
    if !skip_unless(&[Need::File("/usr/lib/cni/static")]) {
        return;
    }
    in_world(|world| {
        let pod = world.netns("pod");
        let cni = Cni::weft().with(world, "static", &Cni::debian());
        let ipam = json!({"type": "static", "addresses": [{"address": "10.22.0.50/24"}]});
        let conf = node::bridge_conf("1.0.0", json!({"ipam": ipam}));
        let mut cmd = cni.command("bridge", Verb::Add, &Attachment::new("c", &pod), &conf);
        for number in 0..8 {
            cmd = cmd.env(format!("NOISE_{number}"), "x".repeat(120_000));
        }
        cmd.run().ok();
    });
}

/// P21: GC and STATUS answered success and did nothing.
#[test]
fn p21_status_tells_what_is_missing() {
    in_node(|world| {
        let pod = world.netns("pod");
        let who = Attachment::new("c", &pod);
        let status =
            |plugin: &str, conf: &Value| Cni::weft().call(plugin, Verb::Status, &who, conf);
        let good = node::bridge_conf("1.1.0", json!({}));
        status("bridge", &good).ok();
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/31"}]]});
        let bad_range = node::bridge_conf("1.1.0", json!({"ipam": ipam}));
        assert_eq!(status("bridge", &bad_range).failure().code, 50);
        let no_such = node::bridge_conf("1.1.0", json!({"ipam": {"type": "no-such-plugin"}}));
        assert_eq!(status("bridge", &no_such).failure().code, 50);
        let flannel = json!({"cniVersion": "1.1.0", "name": "cbr0", "type": "flannel"});
        assert_eq!(status("flannel", &flannel).failure().code, 50);
        assert!(
            !Path::new("/var/lib/cni/networks").exists(),
            "STATUS makes nothing"
        );
    });
}
