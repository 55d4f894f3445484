//! Hosts that lack something, and words that mean harm.

use std::fs::{self, File};
use std::time::Duration;

use weft_cni::Code;
use weft_plugins::iptables::{Host, Masquerade, PortMappings};

use crate::node::{Node, on_both_variants};
use crate::pods::Pod;

on_both_variants! {
    nothing_to_remove_runs_nothing
    hostile_conditions_are_one_word_each
    a_held_lock_is_waited_for_only_so_long
    the_lock_of_iptables_itself_is_waited_for_only_so_long
    plain_names_are_enough
    a_refused_add_leaves_nothing
    an_add_that_one_family_refuses_leaves_nothing_of_the_other
    a_host_without_iptables_can_remove_and_says_why_it_cannot_add
    rules_that_are_there_and_cannot_be_removed_are_told
}

fn pod() -> Pod {
    Pod::new("n1", "cidA", &["10.99.0.5/24", "fd99::5/64"])
}

fn nothing_to_remove_runs_nothing(node: &Node<'_>) {
    let nobody = weft_cni::Attachments::default();
    let runs = node.runs_of(|| {
        pod().del(&node.host);
        PortMappings::gc("n1", &nobody, &node.host).unwrap();
        Masquerade::gc("n1", &nobody, &node.host).unwrap();
    });
    assert_eq!(runs, [""; 0]);
    let lists = ["ip_tables_names", "ip6_tables_names"];
    for list in lists.map(|list| format!("/proc/thread-self/net/{list}")) {
        assert_eq!(fs::read_to_string(list).unwrap_or_default(), "");
    }
}

fn hostile_conditions_are_one_word_each(node: &Node<'_>) {
    let mut pod = pod();
    pod.add(&node.host);
    pod.ports().del(&node.host).unwrap();
    let before = node.rules();
    for hostile in [
        "\"",
        "\\",
        "\\\" -j ACCEPT",
        "-s 192.0.2.1",
        "x\n-F POSTROUTING",
        "x\r\n-F POSTROUTING",
        "\0",
        "",
        "#",
        "COMMIT",
        "*filter",
        "$(touch /run/hostile)",
        "`touch /run/hostile`",
        "--table=filter",
        "-tfilter",
        &"y".repeat(20_000),
    ] {
        pod.conditions_v4 = vec![hostile.into()];
        let error = pod.ports().add(&node.host).unwrap_err();
        assert_eq!(error.code, Code::InvalidConfig, "{hostile:?}: {error}");
        assert_eq!(node.rules(), before, "{hostile:?}");
    }
    let many = "z".repeat(1000);
    pod.conditions_v4 = vec![many; 20];
    assert_eq!(
        pod.ports().add(&node.host).unwrap_err().code,
        Code::InvalidConfig
    );
    assert!(!fs::exists("/run/hostile").unwrap());

    let comment = "a \"quoted\" \\ comment; $HOME 'x' #";
    pod.conditions_v4 = ["-m", "comment", "--comment", comment]
        .map(String::from)
        .into();
    pod.ports().add(&node.host).unwrap();
    pod.ports().check(&node.host).unwrap();
    pod.ports().add(&node.host).unwrap();
    assert_eq!(node.count("quoted"), 1);
    pod.conditions_v4.clear();
    pod.ports().del(&node.host).unwrap();
    assert_eq!(node.rules(), before);
}

fn a_held_lock_is_waited_for_only_so_long(node: &Node<'_>) {
    pod().add(&node.host);
    let held = File::open(&node.host.lock).unwrap();
    held.lock().unwrap();
    let host = Host {
        patience: Duration::from_millis(50),
        ..node.host.clone()
    };
    let error = pod().ports().add(&host).unwrap_err();
    assert_eq!(error.code, Code::TryAgain, "{error}");
    // Removing needs no lock to be right.
    pod().del(&host);
    assert_eq!(node.count("cidA"), 0);
}

fn the_lock_of_iptables_itself_is_waited_for_only_so_long(node: &Node<'_>) {
    let held = File::create("/run/xtables.lock").unwrap();
    held.lock().unwrap();
    let host = Host {
        patience: Duration::from_secs(1),
        ..node.without_counting()
    };
    let added = pod().ports().add(&host);
    if node.is_legacy() {
        let error = added.unwrap_err();
        assert_eq!(error.code, Code::TryAgain, "{error}");
        assert_eq!(node.our_rules(), [""; 0]);
    } else {
        // It needs none.
        added.unwrap();
    }
}

fn plain_names_are_enough(node: &Node<'_>) {
    let host = node.without_counting();
    pod().add(&host);
    pod().del(&host);
    assert_eq!(node.count("cidA"), 0);
    pod().add(&host);
    Masquerade::gc("n1", &weft_cni::Attachments::default(), &host).unwrap();
    PortMappings::gc("n1", &weft_cni::Attachments::default(), &host).unwrap();
    assert_eq!(node.count("cidA"), 0);
}

fn a_refused_add_leaves_nothing(node: &Node<'_>) {
    let mut pod = pod();
    pod.conditions_v4 = ["--no-such-match"].map(String::from).into();
    let error = pod.ports().add(&node.host).unwrap_err();
    assert!(error.msg.contains("--no-such-match"), "{error}");
    assert_eq!(node.our_rules(), [""; 0]);
}

fn an_add_that_one_family_refuses_leaves_nothing_of_the_other(node: &Node<'_>) {
    let only_v4 = node.world.scratch("only-v4");
    for tool in ["iptables-restore", "iptables-save"] {
        let program = node.host.directories[0].join(tool);
        std::os::unix::fs::symlink(program, only_v4.join(tool)).unwrap();
    }
    let host = Host {
        directories: vec![only_v4],
        ..node.host.clone()
    };
    let error = pod().masquerade().add(&host).unwrap_err();
    assert!(
        error.msg.contains("ip6tables-restore is not installed"),
        "{error}"
    );
    assert_eq!(node.our_rules(), [""; 0]);
}

fn a_host_without_iptables_can_remove_and_says_why_it_cannot_add(node: &Node<'_>) {
    let host = node.without_iptables();
    pod().del(&host);
    Masquerade::gc("n1", &weft_cni::Attachments::default(), &host).unwrap();
    let error = pod().ports().add(&host).unwrap_err();
    assert_eq!(error.code, Code::Io);
    assert!(
        error.msg.contains("iptables-restore is not installed"),
        "{error}"
    );
}

fn rules_that_are_there_and_cannot_be_removed_are_told(node: &Node<'_>) {
    node.exec("iptables-nft -t nat -N CNI-DN-895718981c112e2ba32fa");
    let error = pod().ports().del(&node.without_iptables()).unwrap_err();
    assert!(
        error.msg.contains("nft variant is not installed"),
        "{error}"
    );
}
