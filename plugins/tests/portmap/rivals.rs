//! Several that want one thing, or the same time.

use serde_json::{Value, json};
use weft_netns::{Verb, ask_tcp, in_world};

use crate::node::{Node, mapped, tcp};

#[test]
fn of_two_pods_wanting_one_port_the_newest_has_it_with_a_warning() {
    in_world(|world| {
        let node = Node::new(world);
        let (old, new) = (node.pod(2), node.pod(3));
        let _serving = new.serve();
        assert_eq!(node.add(&old, tcp(8080)).done.stderr, "");
        let warning = node.add(&new, tcp(8080)).done.stderr;
        for named in ["pod-2", "pod-3", "tcp:8080", "tcp6:8080"] {
            assert!(warning.contains(named), "{named}: {warning}");
        }
        assert!(node.outside.enter(|| ask_tcp("10.9.0.1:8080").is_ok()));
        node.call(Verb::Check, &new, mapped(tcp(8080))).ok();
        let failure = node.call(Verb::Check, &old, mapped(tcp(8080))).failure();
        assert!(failure.msg.contains("pod-3"), "{failure:?}");

        node.call(Verb::Del, &old, mapped(tcp(8080))).ok();
        assert!(
            node.outside.enter(|| ask_tcp("10.9.0.1:8080").is_ok()),
            "its DEL takes nothing of the newer's"
        );
        node.call(Verb::Check, &new, mapped(tcp(8080))).ok();
        node.del_in_ignorance(&new);
        assert_eq!(node.elements(), Vec::<String>::new());
    });
}

#[test]
fn a_port_taken_over_takes_the_marking_of_its_old_sources_along() {
    in_world(|world| {
        let node = Node::new(world);
        let (old, new) = (node.pod(2), node.pod(3));
        node.add(&old, tcp(8080));
        let mut extra = mapped(tcp(8080));
        extra["masqAll"] = true.into();
        node.call(Verb::Add, &new, extra).ok();
        let of_old: Vec<String> = node
            .elements()
            .into_iter()
            .filter(|line| line.contains("id: pod-2"))
            .collect();
        assert_eq!(of_old, Vec::<String>::new());
    });
}

#[test]
fn a_repeated_add_replaces_what_the_first_one_made() {
    in_world(|world| {
        let node = Node::new(world);
        let pod = node.pod(2);
        let _serving = pod.serve();
        node.add(&pod, json!([{"hostPort": 8080, "containerPort": 81}, {"hostPort": 8081, "containerPort": 81}]));
        assert_eq!(
            node.add(&pod, tcp(8080)).done.stderr,
            "",
            "this is no rivalry"
        );
        node.add(&pod, tcp(8080));
        assert!(node.outside.enter(|| ask_tcp("10.9.0.1:8080").is_ok()));
        let listing = world.exec("nft list table inet weft_hostports");
        assert!(!listing.contains("8081"), "{listing}");
        node.call(Verb::Check, &pod, mapped(tcp(8080))).ok();
        node.del_in_ignorance(&pod);
        assert_eq!(node.elements(), Vec::<String>::new());
    });
}

#[test]
fn thirty_two_adds_at_once_and_as_many_dels_leave_each_port_to_its_owner() {
    in_world(|world| {
        let node = Node::new(world);
        let pods: Vec<_> = (2..34).map(|number| node.pod(number)).collect();
        let port = |i: usize| 9000 + u16::try_from(i).unwrap();
        let all = |verb: Verb, mappings: &dyn Fn(usize) -> Value| {
            let running: Vec<_> = pods
                .iter()
                .enumerate()
                .map(|(i, pod)| node.command(verb, pod, mappings(i)).spawn())
                .collect();
            for call in running {
                call.finish().ok();
            }
        };
        // The very first ones: the table itself is made in the race.
        all(Verb::Add, &|i| mapped(tcp(port(i))));
        all(Verb::Check, &|i| mapped(tcp(port(i))));
        let listing = world.exec("nft list table inet weft_hostports");
        assert_eq!(listing.matches("jump hostports\n").count(), 2, "{listing}");
        for (i, pod) in pods.iter().enumerate() {
            let mapping = format!("tcp . {} comment", port(i));
            assert!(listing.contains(&mapping), "{mapping}: {listing}");
            assert!(
                listing.contains(&format!(": {} . 80", pod.v4())),
                "{listing}"
            );
            assert!(
                listing.contains(&format!(": {} . 80", pod.v6())),
                "{listing}"
            );
        }
        // All want the same one: somebody has it, whole.
        all(Verb::Add, &|_| mapped(tcp(8080)));
        let winners = pods
            .iter()
            .filter(|pod| {
                node.call(Verb::Check, pod, mapped(tcp(8080)))
                    .done
                    .success()
            })
            .count();
        assert_eq!(winners, 1);
        all(Verb::Del, &|_| json!({}));
        assert_eq!(node.elements(), Vec::<String>::new());
    });
}
