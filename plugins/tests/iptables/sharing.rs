//! Many pods in the same chains.
//!
//! ```text
//! PREROUTING, OUTPUT ─ CNI-HOSTPORT-DNAT ─ CNI-DN-<pod> ─ CNI-HOSTPORT-SETMARK
//! POSTROUTING ─ CNI-HOSTPORT-MASQ            (each of these lines once for all pods)
//!            └─ CNI-<pod>
//! ```

use std::thread;

use weft_plugins::iptables::{Masquerade, PortMappings, Protocol};

use crate::node::{Node, on_both_variants};
use crate::pods::{Pod, mapping};

on_both_variants! {
    adding_twice_doubles_nothing
    shared_rules_stand_once_after_parallel_adds
    an_ordinary_verb_runs_one_program_a_family
    shared_rules_that_somebody_removed_come_back
    shared_rules_that_were_doubled_become_one_again
    two_attachments_of_one_container_are_removed_one_by_one
    collecting_leaves_the_living_and_other_networks
    check_sees_what_is_missing
}

const SHARED: [&str; 5] = [
    "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
    "-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
    "-A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ",
    "-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE",
    "-A CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark 0x2000/0x2000",
];

fn dual_stack(container_id: &str, host: u8) -> Pod {
    let (v4, v6) = (format!("10.99.0.{host}/24"), format!("fd99::{host}/64"));
    let mut pod = Pod::new("n1", container_id, &[&v4, &v6]);
    pod.mappings[0].host_port = 8000 + u16::from(host);
    pod
}

fn adding_twice_doubles_nothing(node: &Node<'_>) {
    let mut pod = dual_stack("cidA", 5);
    pod.add(&node.host);
    let once = node.rules();
    pod.add(&node.host);
    assert_eq!(node.rules(), once);

    pod.mappings = vec![mapping(Protocol::Udp, None, 53, 53)];
    pod.add(&node.host);
    assert_eq!(node.count("-p tcp"), 0, "{}", node.rules());
    assert_eq!(node.count("--dports 53"), 2, "{}", node.rules());
}

fn shared_rules_stand_once_after_parallel_adds(node: &Node<'_>) {
    let pods: Vec<_> = (1..=24)
        .map(|i| dual_stack(&format!("cid{i}"), i))
        .collect();
    thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| pod.add(&node.host));
        }
    });
    let rules = node.rules();
    for shared in SHARED {
        assert_eq!(node.count(shared), 2, "{shared}\n{rules}");
    }
    assert_eq!(node.count("--dports"), 48, "{rules}");
    for pod in &pods {
        pod.check(&node.host).unwrap();
    }
    thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| pod.del(&node.host));
        }
    });
    assert_eq!(
        node.our_rules().len(),
        2 * (3 + SHARED.len()),
        "{}",
        node.rules()
    );
}

fn an_ordinary_verb_runs_one_program_a_family(node: &Node<'_>) {
    dual_stack("first", 4).add(&node.host);
    let pod = dual_stack("cidA", 5);
    let restores = ["iptables-restore", "ip6tables-restore"];

    assert_eq!(
        node.runs_of(|| pod.ports().add(&node.host).unwrap()),
        restores
    );
    assert_eq!(
        node.runs_of(|| pod.masquerade().add(&node.host).unwrap()),
        restores
    );
    assert_eq!(
        node.runs_of(|| pod.ports().check(&node.host).unwrap()),
        restores
    );
    assert_eq!(
        node.runs_of(|| pod.ports().del(&node.host).unwrap()).len(),
        2
    );
    assert_eq!(
        node.runs_of(|| pod.masquerade().del(&node.host).unwrap())
            .len(),
        2
    );
}

fn shared_rules_that_somebody_removed_come_back(node: &Node<'_>) {
    dual_stack("first", 4).add(&node.host);
    node.exec("iptables -t nat -F PREROUTING; iptables -t nat -F CNI-HOSTPORT-MASQ");
    dual_stack("cidA", 5).add(&node.host);
    for shared in SHARED {
        assert_eq!(node.count(shared), 2, "{shared}\n{}", node.rules());
    }
}

// The Go plugins look and then append, so parallel ones may append twice.
fn shared_rules_that_were_doubled_become_one_again(node: &Node<'_>) {
    let pod = dual_stack("cidA", 5);
    pod.add(&node.host);
    node.exec("iptables -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT");
    assert_eq!(node.count(SHARED[1]), 3);
    pod.add(&node.host);
    assert_eq!(node.count(SHARED[1]), 2);
}

// The name of the interface is not in the chain's, and the Go plugin removes the chain of both.
fn two_attachments_of_one_container_are_removed_one_by_one(node: &Node<'_>) {
    let one = Pod::new("n1", "cidA", &["10.99.0.5/24"]);
    let mut other = Pod::new("n1", "cidA", &["10.98.0.6/24"]);
    other.owner.ifname = "eth1".into();
    one.masquerade().add(&node.host).unwrap();
    other.masquerade().add(&node.host).unwrap();
    one.masquerade().check(&node.host).unwrap();
    other.masquerade().check(&node.host).unwrap();

    one.masquerade().del(&node.host).unwrap();
    other.masquerade().check(&node.host).unwrap();
    assert_eq!(node.count("10.99.0.5"), 0);

    other.masquerade().del(&node.host).unwrap();
    assert_eq!(node.our_rules(), [""; 0]);
}

fn collecting_leaves_the_living_and_other_networks(node: &Node<'_>) {
    let pods = [
        Pod::new("n1", "living", &["10.99.0.5/24"]),
        Pod::new("n1", "dead", &["10.99.0.6/24"]),
        Pod::new("n2", "dead", &["10.98.0.6/24"]),
    ];
    for pod in &pods {
        pod.add(&node.host);
    }
    let living = [weft_cni::Attachment {
        container_id: "living".into(),
        ifname: "eth0".into(),
    }];
    let living = living.into_iter().collect();
    PortMappings::gc("n1", &living, &node.host).unwrap();
    Masquerade::gc("n1", &living, &node.host).unwrap();

    pods[0].check(&node.host).unwrap();
    pods[2].check(&node.host).unwrap();
    let rules = node.rules();
    assert!(!rules.contains("10.99.0.6"), "{rules}");
    assert_eq!(node.count(":CNI-"), 7, "{rules}");

    let nobody = weft_cni::Attachments::default();
    PortMappings::gc("n1", &nobody, &node.host).unwrap();
    Masquerade::gc("n2", &nobody, &node.host).unwrap();
    assert_eq!(node.count(":CNI-"), 5, "{}", node.rules());
}

fn check_sees_what_is_missing(node: &Node<'_>) {
    let pod = dual_stack("cidA", 5);
    for damage in [
        "iptables -t nat -F CNI-HOSTPORT-DNAT",
        "ip6tables -t nat -F CNI-DN-895718981c112e2ba32fa",
        "iptables -t nat -F POSTROUTING",
        "ip6tables -t nat -D CNI-895718981c112e2ba32fa38f 1",
    ] {
        pod.add(&node.host);
        pod.check(&node.host).unwrap();
        let before = node.exec(damage) + &node.rules();
        let error = pod.check(&node.host).unwrap_err();
        assert!(error.msg.contains("-C "), "{error}");
        assert_eq!(node.rules(), before);
    }
}
