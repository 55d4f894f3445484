//! `loopback` on a real kernel: `lo` up, a result in the shape of its version, and DEL that bears
//! everything.
mod node;

use std::fs;
use std::thread;

use node::{LOOK, add, network};
use serde_json::{Value, json};
use weft_netns::{Attachment, Cni, Verb, World, in_world, skip_unless};

fn in_node(test: impl FnOnce(&World)) {
    if skip_unless(&LOOK) {
        in_world(test);
    }
}

/// What containerd calls it with.
fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "cni-loopback", "type": "loopback"})
}

/// The reference plugin prints the newest shape whatever the version.
#[test]
fn loopback_answers_in_the_shape_of_its_version() {
    in_node(|world| {
        let cni = Cni::weft();
        for version in [
            "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
        ] {
            let pod = world.netns(&format!("pod{version}"));
            let who = Attachment::new("c", &pod).ifname("lo");
            let result = cni
                .call("loopback", Verb::Add, &who, &conf(version))
                .ok()
                .json();
            assert_eq!(result["cniVersion"], version);
            pod.exec("ping -c1 -W1 127.0.0.1; ping -c1 -W1 ::1");
            if version < "0.3.0" {
                assert_eq!(result["ip4"]["ip"], "127.0.0.1/8");
                assert_eq!(result["ip6"]["ip"], "::1/128");
                continue;
            }
            assert_eq!(
                result["interfaces"],
                json!([{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": who.netns}])
            );
            let mut ips = json!([
                {"interface": 0, "address": "127.0.0.1/8"},
                {"interface": 0, "address": "::1/128"}
            ]);
            if version < "1.0.0" {
                ips[0]["version"] = "4".into();
                ips[1]["version"] = "6".into();
            }
            assert_eq!(result["ips"], ips);
        }
    });
}

#[test]
fn check_sees_a_loopback_that_is_down_and_del_takes_it_down() {
    in_node(|world| {
        let pod = world.netns("pod");
        let who = Attachment::new("c", &pod).ifname("lo");
        let cni = Cni::weft();
        let mut with_result = conf("1.0.0");
        with_result["prevResult"] = cni
            .call("loopback", Verb::Add, &who, &conf("1.0.0"))
            .ok()
            .json();
        cni.call("loopback", Verb::Check, &who, &with_result).ok();
        cni.call("loopback", Verb::Del, &who, &with_result).ok();
        let failure = cni
            .call("loopback", Verb::Check, &who, &with_result)
            .failure();
        assert_eq!(failure.msg, "loopback interface is down");
    });
}

#[test]
fn an_address_that_does_not_belong_there_is_refused() {
    in_node(|world| {
        let pod = world.netns("pod");
        pod.exec("ip address add 10.1.2.3/32 dev lo");
        let who = Attachment::new("c", &pod).ifname("lo");
        let failure = Cni::weft()
            .call("loopback", Verb::Add, &who, &conf("1.0.0"))
            .failure();
        assert!(
            failure.code == 7 && failure.msg.contains("10.1.2.3/32"),
            "{failure:?}"
        );
    });
}

#[test]
fn del_bears_a_namespace_that_is_gone_or_never_was_one() {
    in_node(|world| {
        let pod = world.netns("pod");
        fs::write("/run/netns/plain", "").unwrap();
        for netns in ["", "/run/netns/gone", "/run/netns/plain"] {
            let who = Attachment::new("c", &pod).ifname("lo").netns(netns);
            Cni::weft()
                .call("loopback", Verb::Del, &who, &conf("0.3.1"))
                .ok();
        }
    });
}

#[test]
fn later_in_a_chain_it_passes_the_result_on() {
    in_node(|world| {
        let pod = world.netns("pod");
        let mut conf = conf("1.0.0");
        conf["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24"}]});
        let who = Attachment::new("c", &pod);
        let result = Cni::weft()
            .call("loopback", Verb::Add, &who, &conf)
            .ok()
            .json();
        assert_eq!(result, conf["prevResult"]);
    });
}

/// containerd attaches both networks at once, which the specification forbids.
#[test]
fn containerd_may_attach_lo_and_eth0_at_the_same_time() {
    in_node(|world| {
        let pods = world.many_netns("pod", 16);
        let chain = network(json!({}));
        thread::scope(|scope| {
            for (i, pod) in pods.iter().enumerate() {
                let who = Attachment::new(&format!("c{i}"), pod);
                let lo = who.clone().ifname("lo");
                let chain = chain.clone();
                scope.spawn(move || add(&chain, &who));
                scope.spawn(move || {
                    Cni::weft()
                        .call("loopback", Verb::Add, &lo, &conf("0.3.1"))
                        .ok()
                });
            }
        });
        for pod in &pods {
            pod.exec("ping -c1 -W1 127.0.0.1; ping -c1 -W1 10.22.0.1");
        }
    });
}
