//! Chains of others that drop what is forwarded: found, and where it is possible opened to pods.

use std::io::Write;
use std::time::Duration;

use weft_daemon::firewall::{Firewall, Passage, Spec};
use weft_netns::{Need, World, in_world, skip_unless, wait_until};

use crate::common::{dual_stack, ipv4_only, reconciled, ruleset};
use crate::node::{Node, OUTSIDE, POD, REMOTE};

const DOCKER: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT";

fn restore(world: &World, program: &str, text: &str) {
    world.exec(&format!("{program}-restore <<'EOF'\n{text}\nEOF"));
}

/// Rules without packet counts and remarks.
fn saved(world: &World, program: &str) -> Vec<String> {
    let text = world.exec(&format!("{program}-save -t filter"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(" [").next().unwrap().to_owned())
        .collect()
}

fn assert_open(node: &Node<'_>, v: usize) {
    node.assert_seen(Some(&node.pod), REMOTE[v], POD[v]);
    node.assert_seen(Some(&node.outside), POD[v], OUTSIDE[v]);
    assert!(node.seen(Some(&node.pod), OUTSIDE[v]).is_ok());
}

#[test]
fn a_policy_of_iptables_nft_that_drops_is_opened_to_pods() {
    if !skip_unless(&[Need::Tool("iptables-nft")]) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world);
        world.exec("iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP");
        let others = (saved(world, "iptables-nft"), saved(world, "ip6tables-nft"));
        let mut firewall = Firewall::open().unwrap();
        let closed = Spec {
            forward: false,
            ..dual_stack()
        };
        let report = reconciled(&mut firewall, &closed);
        assert_eq!(
            report.hooks[0].leaving,
            Passage::Dropped("its policy".into())
        );
        for outside in OUTSIDE {
            node.assert_silent(Some(&node.pod), outside);
        }

        let report = reconciled(&mut firewall, &dual_stack());
        assert!(report.hooks.iter().all(|hook| hook.passes()), "{report:?}");
        assert_eq!((report.hooks.len(), report.notes.len()), (2, 0));
        for v in 0..2 {
            assert_open(&node, v);
        }
        node.assert_silent(Some(&node.lan), OUTSIDE[0]);

        firewall.remove().unwrap();
        assert_eq!(
            (saved(world, "iptables-nft"), saved(world, "ip6tables-nft")),
            others
        );
    });
}

#[test]
fn what_others_refuse_to_some_pods_stays_refused() {
    if !skip_unless(&[Need::Tool("iptables-nft"), Need::Tool("iptables-legacy")]) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world);
        for program in ["iptables-nft", "iptables-legacy"] {
            world.exec(&format!(
                "{program} -A FORWARD -s 10.244.3.5 -d 192.0.2.0/24 -j DROP
                 {program} -A FORWARD -i lo -j ACCEPT
                 {program} -A FORWARD -j REJECT"
            ));
        }
        reconciled(&mut Firewall::open().unwrap(), &ipv4_only());
        node.assert_seen(Some(&node.pod), REMOTE[0], POD[0]);
        node.assert_silent(Some(&node.pod), OUTSIDE[0]);
        for program in ["iptables-nft", "iptables-legacy"] {
            let listed = world.exec(&format!("{program} -S FORWARD"));
            let place = |what: &str| listed.lines().position(|line| line.contains(what));
            assert!(place("-i lo") < place("weft: pods"), "{listed}");
            assert!(place("weft: pods") < place("REJECT"), "{listed}");
        }
    });
}

#[test]
fn beside_docker_the_accepts_stand_in_its_chain_for_users_and_come_back_when_lost() {
    if !skip_unless(&[Need::Tool("iptables-nft")]) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world);
        restore(world, "iptables-nft", DOCKER);
        let others = saved(world, "iptables-nft");
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &ipv4_only());
        assert_open(&node, 0);
        let listed = world.exec("iptables-nft -S DOCKER-USER");
        let mut rules: Vec<&str> = listed.lines().collect();
        rules.sort_unstable();
        assert_eq!(
            rules,
            [
                "-A DOCKER-USER -d 10.244.0.0/16 -m comment --comment \"weft: pods\" -j ACCEPT",
                "-A DOCKER-USER -j RETURN",
                "-A DOCKER-USER -s 10.244.0.0/16 -m comment --comment \"weft: pods\" -j ACCEPT",
                "-N DOCKER-USER",
            ]
        );
        assert_eq!(reconciled(&mut firewall, &ipv4_only()).repaired, []);

        for harm in [
            "iptables-nft -F DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN",
            "iptables-nft -D DOCKER-USER 1",
            "iptables-nft -I FORWARD -j DROP; iptables-nft -D FORWARD 1; iptables-nft -D DOCKER-USER 2",
            "iptables-nft -I DOCKER-USER -d 10.0.0.0/8 -j REJECT; iptables-nft -D DOCKER-USER 2",
        ] {
            world.exec(harm);
            let report = reconciled(&mut firewall, &ipv4_only());
            assert!(report.is_drift, "{harm}: {report:?}");
            assert_open(&node, 0);
            assert_eq!(
                reconciled(&mut firewall, &ipv4_only()).repaired,
                [],
                "{harm}"
            );
        }
        world.exec("iptables-nft -D DOCKER-USER -d 10.0.0.0/8 -j REJECT");
        firewall.remove().unwrap();
        assert_eq!(saved(world, "iptables-nft"), others);
    });
}

#[test]
fn accepts_that_were_saved_and_restored_are_known_again() {
    if !skip_unless(&[Need::Tool("iptables-nft")]) {
        return;
    }
    in_world(|world| {
        world.exec("iptables-nft -P FORWARD DROP");
        let others = saved(world, "iptables-nft");
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &ipv4_only());
        let before = saved(world, "iptables-nft");
        world.exec(
            "iptables-nft-save > /run/rules; iptables-nft -F; iptables-nft-restore < /run/rules",
        );
        assert_eq!(saved(world, "iptables-nft"), before);
        assert_eq!(reconciled(&mut firewall, &ipv4_only()).repaired, []);
        Firewall::open().unwrap().remove().unwrap();
        assert_eq!(saved(world, "iptables-nft"), others);
    });
}

#[test]
fn an_operator_s_own_accepts_serve_and_stay() {
    if !skip_unless(&[Need::Tool("iptables-nft")]) {
        return;
    }
    in_world(|world| {
        world.exec(
            "iptables-nft -P FORWARD DROP
             iptables-nft -A FORWARD -s 10.244.0.0/16 -j ACCEPT
             iptables-nft -A FORWARD -d 10.244.0.0/16 -j ACCEPT",
        );
        let others = saved(world, "iptables-nft");
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &ipv4_only());
        assert_eq!(saved(world, "iptables-nft"), others);
        firewall.remove().unwrap();
        assert_eq!(saved(world, "iptables-nft"), others);
    });
}

#[test]
fn a_policy_of_iptables_legacy_that_drops_is_opened_by_its_own_program() {
    if !skip_unless(&[Need::Tool("iptables-legacy")]) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world);
        restore(world, "iptables-legacy", DOCKER);
        world.exec("ip6tables-legacy -P FORWARD DROP");
        let others = (
            saved(world, "iptables-legacy"),
            saved(world, "ip6tables-legacy"),
        );
        let mut firewall = Firewall::open().unwrap();
        let before = firewall.inspect(&dual_stack()).unwrap();
        let [v4, v6] = &before.hooks[..] else {
            panic!("{before:?}")
        };
        assert_eq!(
            (v4.table.as_str(), v6.table.as_str()),
            ("iptables-legacy filter", "ip6tables-legacy filter")
        );
        assert!(!v4.passes() && !v6.passes());
        let report = reconciled(&mut firewall, &dual_stack());
        for v in 0..2 {
            assert_open(&node, v);
        }
        assert!(report.hooks.iter().all(|hook| hook.passes()), "{report:?}");
        let listed = world.exec("iptables-legacy -S DOCKER-USER");
        assert_eq!(listed.matches("weft: pods").count(), 2, "{listed}");
        assert_eq!(reconciled(&mut firewall, &dual_stack()).repaired, []);
        firewall.remove().unwrap();
        assert_eq!(
            (
                saved(world, "iptables-legacy"),
                saved(world, "ip6tables-legacy")
            ),
            others
        );
    });
}

#[test]
fn a_firewalld_that_rejects_is_told_of_once_with_its_remedy() {
    in_world(|world| {
        let node = Node::new(world);
        let firewalld = "table inet firewalld {
            chain filter_FORWARD {
                type filter hook forward priority filter + 10; policy accept;
                ct state { established, related } accept
                ct status dnat accept
                iifname \"lo\" accept
                ct state invalid drop
                jump filter_FORWARD_ZONES
                reject with icmpx admin-prohibited
            }
            chain filter_FORWARD_ZONES {
                SOURCES
                iifname \"eth0\" goto filter_FWD_public
                goto filter_FWD_public
            }
            chain filter_FWD_public {
                jump filter_FWD_public_allow
                reject with icmpx admin-prohibited
            }
            chain filter_FWD_public_allow { }
            chain filter_FWD_trusted { accept; }
        }";
        world.exec(&format!("nft '{}'", firewalld.replace("SOURCES", "")));
        let others = ruleset(world);
        let mut firewall = Firewall::open().unwrap();
        let report = reconciled(&mut firewall, &ipv4_only());
        node.assert_silent(Some(&node.pod), REMOTE[0]);
        assert_eq!(report.notes.len(), 1, "{report:?}");
        let note = &report.notes[0];
        assert!(
            note.contains("firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16"),
            "{note}"
        );
        assert!(note.contains("filter_FWD_public"), "{note}");
        assert_eq!(reconciled(&mut firewall, &ipv4_only()).notes, [""; 0]);
        assert!(ruleset(world).contains(others.trim()));

        // What the remedy makes of it.
        let trusting =
            firewalld.replace("SOURCES", "ip saddr 10.244.0.0/16 goto filter_FWD_trusted");
        world.exec(&format!("nft 'delete table inet firewalld; {trusting}'"));
        let report = reconciled(&mut firewall, &ipv4_only());
        assert_eq!(report.hooks[0].leaving, Passage::Passes);
        node.assert_seen(Some(&node.pod), REMOTE[0], POD[0]);
    });
}

#[test]
fn a_chain_of_the_operator_s_own_that_drops_is_told_of_with_the_rules_it_needs() {
    in_world(|world| {
        let node = Node::new(world);
        world.exec(
            "nft 'add table inet filter
                  add chain inet filter forward { type filter hook forward priority 0; policy drop; }'",
        );
        let mut firewall = Firewall::open().unwrap();
        let report = reconciled(&mut firewall, &dual_stack());
        // Both families meet it.
        assert_eq!(report.notes.len(), 2, "{report:?}");
        node.assert_silent(Some(&node.pod), REMOTE[0]);
        for note in &report.notes {
            let (_, commands) = note.split_once('`').unwrap();
            world.exec(commands.split_once('`').unwrap().0);
        }
        for v in 0..2 {
            assert_open(&node, v);
        }
        assert!(
            reconciled(&mut firewall, &dual_stack())
                .hooks
                .iter()
                .all(|hook| hook.passes())
        );
    });
}

/// A table that its maker keeps for itself: the kernel refuses others' changes.
#[test]
fn what_may_not_be_changed_leaves_the_rest_as_it_should_be() {
    in_world(|world| {
        // Whoever made it must live on.
        let mut owner = std::process::Command::new("nft")
            .arg("-i")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut input = owner.stdin.take().unwrap();
        let chain =
            "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
        writeln!(input, "add table ip filter {{ flags owner; }}\n{chain}").unwrap();
        let stands = || world.exec("nft list ruleset").contains("policy drop");
        wait_until("the table stands", Duration::from_secs(5), stands);

        let mut firewall = Firewall::open().unwrap();
        let report = reconciled(&mut firewall, &ipv4_only());
        assert!(ruleset(world).contains("masquerade"), "{report:?}");
        assert!(
            report
                .notes
                .iter()
                .any(|note| note.contains("stay as they are")),
            "{report:?}"
        );
        assert!(!report.hooks[0].passes(), "{report:?}");
        assert_eq!(reconciled(&mut firewall, &ipv4_only()).repaired, []);
        drop(input);
        owner.wait().unwrap();
    });
}
