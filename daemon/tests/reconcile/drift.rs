use std::io::Write;

use weft_netns::{in_world, wait_until};

use crate::node::{LIMIT, Node, VXLAN, conf, index, peer, underlay};

const ALL: &str = "(ip -o route show dev flannel.1; ip neigh show dev flannel.1 nud permanent; \
                   bridge fdb show dev flannel.1; ip -o -4 addr show dev flannel.1 | cut -c4-; \
                   ip link show flannel.1 | grep ether) | sed 's/ proto [0-9]*//' | sort";

fn peers() -> Vec<std::sync::Arc<weft_daemon::lease::Lease>> {
    (2..12).map(peer).collect()
}

/// Defect R2 of flanneld: a route deleted by hand stays gone.
#[test]
fn r2_whatever_is_removed_by_hand_is_back() {
    in_world(|world| {
        underlay(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &peers());
        let whole = world.exec(ALL);
        for (kind, command) in [
            ("route", "ip route del 172.20.7.0/24"),
            ("neighbour", "ip neigh del 172.20.7.0 dev flannel.1"),
            (
                "fdb",
                "bridge fdb del 02:00:00:00:00:07 dev flannel.1 dst 192.168.9.7",
            ),
            ("ruleset", "nft flush ruleset"),
        ] {
            let before = repairs(&node, kind);
            world.exec(command);
            wait_until(&format!("{command} to be repaired"), LIMIT, || {
                repairs(&node, kind) > before
            });
            assert_eq!(world.exec(ALL), whole);
        }
    });
}

fn repairs(node: &Node<'_>, kind: &str) -> u64 {
    let repairs = node.report().repairs;
    let ours = repairs.iter().filter(|((of, _), _)| *of == kind);
    ours.map(|(_, count)| count).sum()
}

/// A program that has ended cannot be looked up any more; these live on until they are told.
#[test]
fn a_repair_names_the_process_that_made_it_necessary() {
    in_world(|world| {
        underlay(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &peers());
        for (kind, line) in [
            ("route", "route del 172.20.7.0/24"),
            ("neighbour", "neigh del 172.20.7.0 dev flannel.1"),
            ("device", "link del flannel.1"),
        ] {
            let before = repairs(&node, kind);
            world.exec("rm -f /run/weft-test/line && mkfifo /run/weft-test/line");
            let rival = world.spawn("ip -force -batch - < /run/weft-test/line");
            let mut feed = std::fs::File::create("/run/weft-test/line").unwrap();
            writeln!(feed, "{line}").unwrap();
            wait_until(&format!("{line} to be repaired"), LIMIT, || {
                repairs(&node, kind) > before
            });
            let repairs = node.report().repairs;
            assert!(
                repairs.contains_key(&(kind, "ip".to_owned())),
                "{line}: {repairs:?}"
            );
            drop(feed);
            rival.finish();
        }
    });
}

#[test]
fn who_flushes_the_ruleset_is_named_even_when_he_has_ended() {
    in_world(|world| {
        underlay(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &peers());
        world.exec("nft flush ruleset");
        wait_until("the ruleset to be repaired", LIMIT, || {
            repairs(&node, "ruleset") > 0
        });
        let repairs = node.report().repairs;
        assert!(
            repairs.contains_key(&("ruleset", "nft".to_owned())),
            "{repairs:?}"
        );
    });
}

/// Defect R3 of flanneld: the device comes back with another MAC and nothing else.
#[test]
fn r3_a_removed_device_is_back_as_it_was_with_all_its_entries() {
    in_world(|world| {
        underlay(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &peers());
        let whole = world.exec(ALL);
        world.exec("ip link del flannel.1");
        node.wait_for(ALL, &whole);
    });
}

#[test]
fn a_device_set_down_is_up_again_with_its_routes() {
    in_world(|world| {
        underlay(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &peers());
        let whole = world.exec(ALL);
        world.exec("ip link set flannel.1 down");
        node.wait_for(ALL, &whole);
    });
}

#[test]
fn what_is_changed_on_the_device_is_changed_back_and_the_device_kept() {
    in_world(|world| {
        underlay(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &peers());
        let whole = world.exec(ALL);
        let before = index(world);
        world.exec("ip link set flannel.1 address 02:aa:aa:aa:aa:aa");
        node.wait_for(ALL, &whole);
        world.exec("ip link set flannel.1 mtu 1300");
        node.wait_for("ip link show flannel.1 | grep -o 'mtu [0-9]*'", "mtu 1450");
        world.exec("ip addr del 172.20.1.0/32 dev flannel.1");
        node.wait_for(ALL, &whole);
        assert_eq!(index(world), before);
    });
}

#[test]
fn an_underlay_that_goes_down_and_up_finds_all_as_it_was() {
    in_world(|world| {
        underlay(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &peers());
        let whole = world.exec(ALL);
        world.exec("ip link set eth0 down && ip link set eth0 up");
        node.wait_for(ALL, &whole);
    });
}

#[test]
fn entries_that_somebody_adds_to_our_device_are_removed() {
    in_world(|world| {
        underlay(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &peers());
        let whole = world.exec(ALL);
        world.exec("bridge fdb append 02:00:00:00:00:77 dev flannel.1 dst 192.168.9.77");
        world.exec("ip neigh add 172.20.77.0 lladdr 02:00:00:00:00:77 dev flannel.1 nud permanent");
        world.exec("ip route add 172.20.77.0/24 via 172.20.77.0 dev flannel.1 onlink");
        world.exec("ip route del 172.20.7.0/24");
        node.wait_for(ALL, &whole);
    });
}

#[test]
fn a_rival_is_named_and_fought_ever_less() {
    in_world(|world| {
        underlay(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &peers());
        let is_there = || {
            world
                .exec("ip -o route show 172.20.7.0/24")
                .contains("172.20.7.0")
        };
        let told = || {
            let notes = node.report().notes;
            notes
                .into_iter()
                .find(|note| note.contains("again and again"))
        };
        wait_until("the rival to be told of", LIMIT, || {
            if is_there() {
                world.exec("ip route del 172.20.7.0/24 2>/dev/null || true");
            }
            told().is_some()
        });
        let note = told().unwrap();
        assert!(note.contains("172.20.7.0/24"), "{note}");
        wait_until("the route to be back all the same", LIMIT, is_there);
    });
}

#[test]
fn a_round_that_finds_nothing_changes_nothing() {
    in_world(|world| {
        underlay(world);
        let mut node = Node::start(world, conf(VXLAN), peer(1), &peers());
        let mut watch = world.spawn("ip monitor link address route neigh");
        wait_until("the monitor to listen", LIMIT, || {
            world.exec("ip link add probe type veth peer name eborp && ip link del probe");
            !watch.said_so_far().is_empty()
        });
        let rounds = node.report().rounds;
        node.with_peers(&peers());
        wait_until("a round", LIMIT, || node.report().rounds > rounds);
        let said = watch.said_so_far();
        let ours: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("flannel"))
            .collect();
        assert!(ours.is_empty(), "{ours:?}");
        let _ = &mut watch;
    });
}
