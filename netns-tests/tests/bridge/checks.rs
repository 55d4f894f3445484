//! CHECK, and what somebody changed.

use serde_json::json;
use weft_netns::{Attachment, Cni, Netns, Verb, World};

use crate::in_node;
use crate::node::{add, bridge_conf, network};

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
