//! What stands is made what it should be, in one step, and left alone when it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use weft_daemon::firewall::{Firewall, Spec};
use weft_net::nft::{Family, NftSocket, Table, Transaction};
use weft_net::watch::{Filter, RulesetEvent, RulesetWatch};
use weft_netns::{World, in_world};

use crate::common::{
    assert_listed, dual_stack, generation, guard, ipv4_only, networks, reconciled, ruleset,
};

#[test]
fn the_rules_read_as_flannels_do() {
    in_world(|world| {
        let mut spec = ipv4_only();
        spec.masquerade.as_mut().unwrap().spared = networks(&["192.168.0.0/16"]);
        spec.guard = guard(&["192.0.2.7", "2001:db8::7"]);
        reconciled(&mut Firewall::open().unwrap(), &spec);
        assert_listed(
            &ruleset(world),
            r#"
            table ip flannel-ipv4 {
                comment "Weft: kept by weftd"
                chain postrtg {
                    type nat hook postrouting priority srcnat; policy accept;
                    meta mark & 0x00004000 == 0x00004000 return
                    ip saddr 10.244.3.0/24 ip daddr 10.244.0.0/16 return
                    ip daddr 10.244.3.0/24 return
                    ip saddr 10.244.0.0/16 ip daddr 192.168.0.0/16 return
                    ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
                    ip daddr 10.244.0.0/16 masquerade fully-random
                }
                chain forward {
                    type filter hook forward priority filter; policy accept;
                    ip saddr 10.244.0.0/16 accept
                    ip daddr 10.244.0.0/16 accept
                }
            }
            table inet weft_guard {
                comment "Weft: kept by weftd"
                set guarded {
                    type inet_service
                    flags timeout
                    gc-interval 1m
                    elements = { 8472 timeout 1h15m }
                }
                set peers4 {
                    type ipv4_addr
                    elements = { 192.0.2.7 }
                }
                set peers6 {
                    type ipv6_addr
                    elements = { 2001:db8::7 }
                }
                chain input {
                    type filter hook input priority raw; policy accept;
                    udp dport @guarded iif != "lo" ip saddr != @peers4 counter drop
                    udp dport @guarded iif != "lo" ip6 saddr != @peers6 counter drop
                }
            }"#,
        );
    });
}

#[test]
fn a_second_reconciliation_writes_nothing_be_it_by_the_same_daemon_or_by_the_next() {
    in_world(|world| {
        let mut spec = dual_stack();
        spec.guard = guard(&["192.0.2.7", "192.0.2.8", "2001:db8::7"]);
        let mut firewall = Firewall::open().unwrap();
        let first = reconciled(&mut firewall, &spec);
        assert!(!first.is_drift, "{first:?}");
        assert_eq!(first.generations, [generation()]);
        let (stands, at) = (ruleset(world), generation());
        for _ in 0..3 {
            assert_eq!(reconciled(&mut firewall, &spec).repaired, []);
        }
        let mut next = Firewall::open().unwrap();
        assert_eq!(next.inspect(&spec).unwrap().repaired, []);
        assert_eq!(reconciled(&mut next, &spec).repaired, []);
        assert_eq!((ruleset(world), generation()), (stands, at));
    });
}

#[test]
fn whatever_is_done_to_the_tables_by_hand_is_undone_by_one_transaction() {
    in_world(|world| {
        let mut spec = dual_stack();
        spec.guard = guard(&["192.0.2.7", "192.0.2.8", "2001:db8::7"]);
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &spec);
        let whole = ruleset(world);
        for harm in [
            "nft flush ruleset",
            "nft delete table ip flannel-ipv4",
            "nft delete table ip6 flannel-ipv6",
            "nft delete table inet weft_guard",
            "nft flush table ip flannel-ipv4",
            "nft flush chain ip6 flannel-ipv6 postrtg",
            "nft 'flush chain ip flannel-ipv4 forward; delete chain ip flannel-ipv4 forward'",
            "nft delete rule ip flannel-ipv4 postrtg handle $(handle ip flannel-ipv4 3)",
            "nft insert rule ip flannel-ipv4 postrtg ip daddr 8.8.8.8 return",
            "nft add rule ip6 flannel-ipv6 forward counter",
            "nft replace rule ip flannel-ipv4 postrtg handle $(handle ip flannel-ipv4 3) masquerade",
            "nft replace rule ip flannel-ipv4 postrtg handle $(handle ip flannel-ipv4 2) counter return",
            "nft add chain ip flannel-ipv4 foreign",
            "nft 'add chain ip flannel-ipv4 foreign; insert rule ip flannel-ipv4 postrtg jump foreign'",
            "nft 'add chain ip flannel-ipv4 forward { policy drop; }'",
            "nft 'delete table ip flannel-ipv4; add table ip flannel-ipv4;
                  add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority -5; }'",
            "nft 'delete table ip flannel-ipv4; add table ip flannel-ipv4;
                  add chain ip flannel-ipv4 postrtg'",
            "nft 'delete table ip flannel-ipv4; add table ip flannel-ipv4 { flags dormant; }'",
            "nft add set ip flannel-ipv4 foreign '{ type ipv4_addr; }'",
            "nft delete element inet weft_guard peers4 '{ 192.0.2.7 }'",
            "nft add element inet weft_guard peers6 '{ 2001:db8::99 }'",
            "nft flush set inet weft_guard peers4",
            "nft flush set inet weft_guard guarded",
            "nft add element inet weft_guard guarded '{ 4789 }'",
            "nft 'delete table inet weft_guard; add table inet weft_guard;
                  add set inet weft_guard peers4 { type ipv4_addr; flags interval; }'",
            // The first two rules change places.
            "h=$(handle ip flannel-ipv4 1)
             nft \"delete rule ip flannel-ipv4 postrtg handle $h
                   add rule ip flannel-ipv4 postrtg position $(handle ip flannel-ipv4 2) meta mark and 0x4000 == 0x4000 return\"",
        ] {
            harm_by(world, harm);
            assert_ne!(ruleset(world), whole, "{harm}: it did nothing");
            let before = generation();
            let report = reconciled(&mut firewall, &spec);
            assert!(report.is_drift, "{harm}: {report:?}");
            assert_ne!(report.repaired, [], "{harm}");
            assert_same(&ruleset(world), &whole, harm);
            assert_eq!(generation(), before + 1, "{harm}: {report:?}");
            assert_eq!(report.generations, [before + 1], "{harm}");
        }
    });
}

#[test]
fn others_who_change_the_ruleset_all_the_time_do_not_keep_ours_from_being_right() {
    in_world(|world| {
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &dual_stack());
        let whole = ruleset(world);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut nft = NftSocket::open().unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    let other = Table::new(Family::Inet, "other");
                    let mut transaction = Transaction::new();
                    transaction.add_table(other, "");
                    nft.commit(transaction).unwrap();
                    let mut transaction = Transaction::new();
                    transaction.delete_table(other);
                    nft.commit(transaction).unwrap();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            for _ in 0..20 {
                world.exec("nft flush table ip flannel-ipv4; nft delete table ip6 flannel-ipv6");
                reconciled(&mut firewall, &dual_stack());
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_same(&ruleset(world), &whole, "the storm");
    });
}

#[test]
fn a_watch_tells_of_others_changes_of_our_tables_and_not_of_our_own() {
    in_world(|world| {
        let mut firewall = Firewall::open().unwrap();
        let filter = Filter {
            own_ports: vec![firewall.port().unwrap()],
            ..Filter::default()
        };
        let mut watch = RulesetWatch::open(&filter, &Firewall::watched()).unwrap();
        let mut events = Vec::new();
        reconciled(&mut firewall, &dual_stack());
        watch.read(&mut events).unwrap();
        assert_eq!(events, []);

        world.exec("nft flush chain ip6 flannel-ipv6 postrtg");
        watch.read(&mut events).unwrap();
        let [
            RulesetEvent::Commit {
                generation,
                touched,
            },
        ] = &events[..]
        else {
            panic!("{events:?}")
        };
        let table = Firewall::watched()[touched[0]];
        assert_eq!(
            (generation.program.as_str(), table.name),
            ("nft", "flannel-ipv6")
        );
        assert!(reconciled(&mut firewall, &dual_stack()).is_drift);
        events.clear();
        watch.read(&mut events).unwrap();
        assert_eq!(events, []);
    });
}

#[test]
fn what_is_others_is_never_touched() {
    in_world(|world| {
        world.exec(
            "nft 'add table ip mine; add chain ip mine c { type filter hook forward priority 0; }
                  add rule ip mine c counter; add table ip6 flannel-ipv4; add table inet weft_pods'",
        );
        let others = ruleset(world);
        let mut firewall = Firewall::open().unwrap();
        let mut spec = dual_stack();
        spec.guard = guard(&[]);
        reconciled(&mut firewall, &spec);
        assert!(ruleset(world).contains(others.trim()));
        firewall.remove().unwrap();
        assert_eq!(ruleset(world), others);
    });
}

#[test]
fn flanneld_s_own_tables_are_taken_over_in_one_transaction() {
    in_world(|world| {
        world.exec(
            "nft '
            table ip flannel-ipv4 {
                comment \"rules for flannel-ipv4\"
                chain postrtg {
                    comment \"chain to manage traffic masquerading\"
                    type nat hook postrouting priority srcnat; policy accept;
                    meta mark 0x00004000 return
                    ip saddr 10.244.3.0/24 ip daddr 10.244.0.0/16 return
                    ip saddr 10.244.0.0/16 ip daddr 10.244.3.0/24 return
                    ip saddr != 10.244.3.0/24 ip daddr 10.244.0.0/16 return
                    ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
                    ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
                }
                chain forward {
                    type filter hook forward priority filter; policy accept;
                    ip saddr 10.244.0.0/16 accept
                    ip daddr 10.244.0.0/16 accept
                }
            }
            table ip6 flannel-ipv6 {
                chain postrtg { type nat hook postrouting priority srcnat; policy accept; }
            }'",
        );
        let before = generation();
        let report = reconciled(&mut Firewall::open().unwrap(), &ipv4_only());
        assert_eq!(report.generations, [before + 1]);
        assert_eq!(generation(), before + 1);
        let stands = ruleset(world);
        assert!(!stands.contains("flannel-ipv6"), "{stands}");
        assert!(stands.contains("meta mark & 0x00004000"), "{stands}");
        assert_eq!(stands.matches("return").count(), 3, "{stands}");
    });
}

#[test]
fn each_part_of_a_spec_can_be_left_out() {
    in_world(|world| {
        let mut firewall = Firewall::open().unwrap();
        let no_masquerade = Spec {
            masquerade: None,
            ..dual_stack()
        };
        reconciled(&mut firewall, &no_masquerade);
        assert!(!ruleset(world).contains("postrtg"));
        let no_forward = Spec {
            forward: false,
            ..dual_stack()
        };
        reconciled(&mut firewall, &no_forward);
        assert!(!ruleset(world).contains("forward"));
        let nothing = Spec {
            masquerade: None,
            forward: false,
            ..dual_stack()
        };
        reconciled(&mut firewall, &nothing);
        assert_eq!(ruleset(world), "");
    });
}

/// `handle FAMILY TABLE N` is the handle of the N-th rule of its chain postrtg.
fn harm_by(world: &World, line: &str) {
    world.exec(&format!(
        "handle() {{ nft -a list chain $1 $2 postrtg | grep -o 'handle [0-9]*$' |
            tail -n +2 | sed -n \"$3s/handle //p\"; }}
         {line}"
    ));
}

/// Tables and chains come in the order of their making; rules' order is the rules' meaning.
#[track_caller]
fn assert_same(now: &str, whole: &str, after: &str) {
    let blocks = |text: &str| {
        let (mut table, mut block) = (String::new(), String::new());
        let mut blocks: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            match (line.starts_with('\t'), line.starts_with("\t\t")) {
                (false, _) => table = line.to_owned(),
                (true, false) => block = line.trim().to_owned(),
                (true, true) => {
                    let place = (table.clone(), block.clone());
                    blocks
                        .entry(place)
                        .or_default()
                        .push(line.trim().to_owned());
                }
            }
        }
        blocks
    };
    assert_eq!(blocks(now), blocks(whole), "{after}:\n{now}");
}
