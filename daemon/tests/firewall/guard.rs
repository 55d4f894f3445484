//! Encapsulated packets from whoever is no peer.
//!
//! ```text
//!  peer  192.0.2.7  2001:db8::7 ──┐
//!                                 ├── node 192.0.2.1, 2001:db8::1, the test itself
//!  other 192.0.2.66 2001:db8::66 ─┘
//!        each with a tunnel: tun 10.244.x.0, tun6 fd10:244:x::
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use weft_daemon::firewall::{Firewall, Guard, Spec};
use weft_netns::{Netns, Running, World, in_world, wait_until, wait_until_answers};

use crate::common::{generation, guard, reconciled};

const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const PEER: [&str; 2] = ["192.0.2.7", "2001:db8::7"];
const OTHER: [&str; 2] = ["192.0.2.66", "2001:db8::66"];
/// The node's own addresses in its tunnels.
const TUNNEL: [&str; 2] = ["10.244.1.0", "10.246.1.0"];

struct Underlay {
    peer: Netns,
    other: Netns,
}

impl Underlay {
    fn new(world: &World) -> Self {
        let no_trial = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad";
        world.exec(no_trial);
        world.exec("ip link add wire type bridge; ip link set wire up");
        for (v, node) in NODE.iter().enumerate() {
            world.exec(&format!(
                "ip addr add {node}/{} dev wire nodad",
                [24, 64][v]
            ));
        }
        let member = |name: &str, addresses: [&str; 2], number: u8| {
            let netns = world.netns(name);
            netns.exec(no_trial);
            world.exec(&format!(
                "ip link add {name} master wire type veth peer name wire netns {name}; ip link set {name} up"
            ));
            netns.exec("ip link set lo up; ip link set wire up");
            for (v, address) in addresses.iter().enumerate() {
                netns.exec(&format!(
                    "ip addr add {address}/{} dev wire nodad",
                    [24, 64][v]
                ));
            }
            netns.exec(&tunnels((number, addresses), &[(1, NODE)]));
            netns
        };
        let peer = member("peer", PEER, 7);
        let other = member("other", OTHER, 66);
        for address in [PEER, OTHER].concat() {
            wait_until_answers(address.parse().unwrap());
        }
        world.exec(&tunnels((1, NODE), &[(7, PEER), (66, OTHER)]));
        Self { peer, other }
    }
}

/// Tunnels over IPv4 and over IPv6 to all of the others, with fixed neighbours. A member's number
/// is in its MAC address and in its addresses inside.
fn tunnels(own: (u8, [&str; 2]), others: &[(u8, [&str; 2])]) -> String {
    let (number, local) = own;
    let mut script = String::new();
    for (v, (dev, net)) in [("tun", 244), ("tun6", 246)].into_iter().enumerate() {
        script += &format!(
            "ip link add {dev} address {} type vxlan id {} local {} dev wire dstport 8472 nolearning
             ip addr add 10.{net}.{number}.0/32 dev {dev}; ip link set {dev} up\n",
            mac(number),
            v + 1,
            local[v],
        );
        for (other, addresses) in others {
            script += &format!(
                "bridge fdb add {0} dst {1} dev {dev} self permanent
                 ip route add 10.{net}.{other}.0/32 dev {dev} src 10.{net}.{number}.0
                 ip neigh add 10.{net}.{other}.0 lladdr {0} dev {dev}\n",
                mac(*other),
                addresses[v],
            );
        }
    }
    script
}

fn mac(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

fn reaches(from: &Netns, address: &str) -> bool {
    let ping = from.command("ping").args(["-c1", "-W1", address]).run();
    ping.success()
}

fn guarded(from: &[&str]) -> Spec {
    Spec {
        guard: guard(from),
        ..Spec::default()
    }
}

#[test]
fn a_stranger_s_tunnel_ends_at_the_guard_and_a_peer_s_goes_through() {
    in_world(|world| {
        let underlay = Underlay::new(world);
        let Underlay { peer, other } = &underlay;
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &guarded(&[PEER[0], PEER[1], "192.0.2.8"]));
        assert_eq!(firewall.dropped().unwrap(), 0);
        for tunnel in TUNNEL {
            assert!(reaches(peer, tunnel), "the peer to {tunnel}");
            assert!(!reaches(other, tunnel), "a stranger to {tunnel}");
        }
        assert_eq!(firewall.dropped().unwrap(), 2);
        // What is not encapsulated is not the guard's.
        for node in NODE {
            assert!(reaches(other, node));
        }

        // A peer under one family's address only.
        reconciled(&mut firewall, &guarded(&[PEER[0], OTHER[1]]));
        assert!(!reaches(other, TUNNEL[0]) && reaches(other, TUNNEL[1]));
        assert!(reaches(peer, TUNNEL[0]) && !reaches(peer, TUNNEL[1]));
        assert_eq!(firewall.dropped().unwrap(), 4);

        reconciled(&mut firewall, &Spec::default());
        for tunnel in TUNNEL {
            assert!(reaches(other, tunnel));
        }
        assert_eq!(
            firewall.dropped().unwrap(),
            4,
            "what was counted is not forgotten"
        );
        assert_eq!(world.exec("nft list ruleset"), "");
    });
}

/// The gap: from the moment a peer sends from another address until its lease says so.
#[test]
fn a_peer_that_moved_is_a_stranger_until_its_lease_arrives() {
    in_world(|world| {
        let underlay = Underlay::new(world);
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &guarded(&["192.0.2.65"]));
        assert!(!reaches(&underlay.other, TUNNEL[0]));
        let pinging = underlay.other.spawn(&format!("ping -i 0.01 {}", TUNNEL[0]));
        wait_until(
            "strangers' packets are dropped",
            Duration::from_secs(5),
            || firewall.dropped().unwrap() > 20,
        );
        assert!(
            !pinging.said_so_far().contains("icmp_seq"),
            "{}",
            pinging.said_so_far()
        );
        let report = reconciled(&mut firewall, &guarded(&[OTHER[0]]));
        assert_eq!(report.generations.len(), 1);
        wait_until(
            "the next packet comes through",
            Duration::from_secs(5),
            || pinging.said_so_far().contains("icmp_seq"),
        );
    });
}

/// Kept, it stands for as long as one likes, without a moment at which it does not; left behind by
/// whoever kept it, it goes by itself, and no peer notices either.
#[test]
fn a_guard_that_nobody_keeps_lets_everybody_in_when_its_time_is_over() {
    in_world(|world| {
        let underlay = Underlay::new(world);
        let mut spec = guarded(&[PEER[0], PEER[1]]);
        let lasting = Duration::from_secs(2);
        spec.guard.as_mut().unwrap().lasting = lasting;
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &spec);
        let pinging = |netns: &Netns| netns.spawn(&format!("ping -i 0.002 {}", TUNNEL[0]));
        let (peer, other) = (pinging(&underlay.peer), pinging(&underlay.other));

        let end = Instant::now() + lasting * 3 / 2;
        let mut renewals = 0;
        while Instant::now() < end {
            let due = firewall.due().expect("a guard that lasts for a time");
            assert_eq!(reconciled(&mut firewall, &spec).generations, [0; 0]);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let report = reconciled(&mut firewall, &spec);
            assert_eq!((&report.repaired[..], report.is_drift), (&[][..], false));
            assert_eq!(report.generations.len(), 1, "{report:?}");
            renewals += 1;
        }
        assert!(renewals > 2, "{renewals} renewals");
        let dropped = firewall.dropped().unwrap();
        assert!(dropped > 100, "{dropped} packets dropped");
        let is_heard = || other.said_so_far().contains("icmp_seq");
        assert!(!is_heard(), "{}", other.said_so_far());

        drop(firewall);
        let left = Instant::now();
        wait_until("a stranger is let in", Duration::from_secs(30), is_heard);
        assert!(left.elapsed() >= lasting, "after {:?}", left.elapsed());

        // Whoever comes next takes it up again, and does not call it anybody's fault.
        let mut firewall = Firewall::open().unwrap();
        let report = reconciled(&mut firewall, &spec);
        let repaired: Vec<_> = report.repaired.iter().map(|r| r.what.as_str()).collect();
        let added = "1 elements added to set guarded of table inet weft_guard";
        assert_eq!((repaired, report.is_drift), (vec![added], false));
        assert!(!reaches(&underlay.other, TUNNEL[0]));
        // So does one that was kept from running for longer than it lasts.
        thread::sleep(2 * lasting);
        assert!(reaches(&underlay.other, TUNNEL[0]));
        let report = reconciled(&mut firewall, &spec);
        assert_eq!((report.repaired.len(), report.is_drift), (1, false));
        assert_ends_whole(peer);
    });
}

/// Every ping that was sent has been answered, but for the last, which may be on its way.
#[track_caller]
fn assert_ends_whole(pinging: Running) {
    let said = pinging.said_so_far();
    let numbers = said.split("icmp_seq=").skip(1);
    let answered: Vec<u32> = numbers
        .filter_map(|rest| rest.split(' ').next()?.parse().ok())
        .collect();
    assert!(answered.len() > 100, "{said}");
    let all: Vec<u32> = (1..).take(answered.len()).collect();
    assert_eq!(answered, all);
}

#[test]
fn the_node_s_own_packets_come_over_loopback_and_pass() {
    in_world(|world| {
        world.exec("ip addr add 192.0.2.1/32 dev lo");
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &guarded(&[PEER[0]]));
        let socket = std::net::UdpSocket::bind("192.0.2.1:8472").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        socket.send_to(b"x", "192.0.2.1:8472").unwrap();
        socket.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(firewall.dropped().unwrap(), 0);
    });
}

#[test]
fn a_thousand_peers_come_and_go_in_one_transaction_and_unchanged_ones_are_not_written() {
    in_world(|world| {
        let many = |from: u32, to: u32| -> BTreeSet<IpAddr> {
            let peers = (from..to).map(|n| IpAddr::from(Ipv4Addr::from(0x0a63_0000 + n)));
            peers.collect()
        };
        let spec = |from| Spec {
            guard: Some(Guard {
                port: 8472,
                from,
                lenient: false,
                lasting: Guard::LASTING,
            }),
            ..Spec::default()
        };
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &spec(many(0, 4000)));
        let report = reconciled(&mut firewall, &spec(many(0, 5000)));
        assert_eq!(report.repaired.len(), 1, "{report:?}");
        assert_eq!(
            report.repaired[0].what,
            "1000 elements added to set peers4 of table inet weft_guard"
        );
        let report = reconciled(&mut firewall, &spec(many(500, 5500)));
        assert_eq!(
            (report.repaired.len(), report.generations.len()),
            (2, 1),
            "{report:?}"
        );
        let before = generation();
        // Others' changes make us look again, and find nothing.
        world.exec("nft add table ip other");
        assert_eq!(
            reconciled(&mut firewall, &spec(many(500, 5500))).repaired,
            []
        );
        assert_eq!(generation(), before + 1);
        let listed = world.exec("nft -j list set inet weft_guard peers4");
        assert_eq!(listed.matches("10.99.").count(), 5000);
    });
}
