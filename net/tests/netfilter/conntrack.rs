//! Connections on the real kernel. In one network namespace, every flow through its loopback:
//!
//! ```text
//!   client ──udp──▶ 10.0.0.1:port ══dnat══▶ 10.1.0.5:port      (and the like for IPv6)
//! ```

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use weft_net::conntrack::{Conntrack, Filter};
use weft_net::nft::{Element, NftSocket, Transaction, concat, octets};

use crate::common::{HOSTPORTS, hostports_skeleton, hostports4, in_fresh_namespace, run};

const UDP: u8 = 17;

/// Loopback with the host's and the pod's addresses, and a mapping for each port.
fn host_with_mappings(nft: &mut NftSocket, ports: &[u16]) {
    run("ip", "link set lo up");
    for address in ["10.0.0.1/32", "10.1.0.5/32", "10.1.0.6/32"] {
        run("ip", &format!("addr add {address} dev lo"));
    }
    for address in ["fd00::1", "fd01::5", "fd01::6"] {
        run("ip", &format!("addr add {address}/128 dev lo nodad"));
        // The kernel makes an IPv6 address's route later, by itself.
        while !run("ip", "-6 route show table local").contains(address) {
            std::thread::yield_now();
        }
    }
    let mut transaction = Transaction::new();
    hostports_skeleton(&mut transaction);
    nft.commit(transaction).unwrap();
    for &port in ports {
        lead(nft, "10.0.0.1", port, "10.1.0.5");
        lead(nft, "fd00::1", port, "fd01::5");
    }
}

fn lead(nft: &mut NftSocket, host: &str, port: u16, pod: &str) {
    let (host, pod): (IpAddr, IpAddr) = (host.parse().unwrap(), pod.parse().unwrap());
    let set = if host.is_ipv6() {
        HOSTPORTS.set("hostports6")
    } else {
        hostports4()
    };
    let key = concat(&[&[UDP], &octets(host), &port.to_be_bytes()]);
    let value = concat(&[&octets(pod), &port.to_be_bytes()]);
    let mut transaction = Transaction::new();
    transaction.add_elements(set, &[Element::new(&key).value(&value)]);
    nft.commit(transaction).unwrap();
}

fn bind(address: impl ToSocketAddrs) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

/// One question and its answer through the mapping, so that the kernel tracks the connection.
fn talk(client: &UdpSocket, host: &str, port: u16, pod: &UdpSocket) {
    client.send_to(b"ping", (host, port)).unwrap();
    let mut buffer = [0; 8];
    let (_, from) = pod.recv_from(&mut buffer).unwrap();
    pod.send_to(b"pong", from).unwrap();
    let (len, answered) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], answered),
        (&b"pong"[..], (host.parse::<IpAddr>().unwrap(), port).into())
    );
}

fn to_port(port: u16, is_ipv6: bool) -> Filter {
    Filter {
        is_ipv6,
        protocol: Some(UDP),
        original_port: Some(port),
        ..Filter::default()
    }
}

fn tracked(family: &str) -> usize {
    run("conntrack", &format!("-L -f {family}"))
        .lines()
        .filter(|line| line.contains("udp"))
        .count()
}

#[test]
fn the_connections_of_a_port_are_forgotten_and_all_others_kept() {
    in_fresh_namespace(|mut nft| {
        host_with_mappings(&mut nft, &[53, 54]);
        let client4 = bind("10.0.0.1:0");
        let client6 = bind("[fd00::1]:0");
        for port in [53, 54] {
            let pod4 = bind(("10.1.0.5", port));
            let pod6 = bind(("fd01::5", port));
            talk(&client4, "10.0.0.1", port, &pod4);
            talk(&client6, "fd00::1", port, &pod6);
        }
        assert_eq!((tracked("ipv4"), tracked("ipv6")), (2, 2));

        let mut conntrack = Conntrack::open().unwrap();
        let found = conntrack.list(&to_port(53, false)).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].original.destination,
            "10.0.0.1".parse::<IpAddr>().unwrap()
        );
        assert_eq!(found[0].original.destination_port, 53);
        assert_eq!(found[0].reply.source, "10.1.0.5".parse::<IpAddr>().unwrap());

        assert_eq!(conntrack.delete(&[to_port(53, false)]).unwrap(), 1);
        assert_eq!((tracked("ipv4"), tracked("ipv6")), (1, 2));
        assert_eq!(
            conntrack
                .delete(&[to_port(53, true), to_port(54, true)])
                .unwrap(),
            2
        );
        assert_eq!((tracked("ipv4"), tracked("ipv6")), (1, 0));
        assert_eq!(
            conntrack
                .delete(&[to_port(53, false), to_port(53, true)])
                .unwrap(),
            0
        );
        assert_eq!(conntrack.delete(&[]).unwrap(), 0);
        assert_eq!(tracked("ipv4"), 1);
    });
}

#[test]
fn who_answers_and_who_was_asked_tell_connections_apart() {
    tell_apart("10.0.0.1", "10.1.0.5", "10.1.0.6");
}

#[test]
fn who_answers_and_who_was_asked_tell_ipv6_connections_apart() {
    tell_apart("fd00::1", "fd01::5", "fd01::6");
}

fn tell_apart(host: &'static str, mapped: &'static str, unmapped: &'static str) {
    in_fresh_namespace(move |mut nft| {
        host_with_mappings(&mut nft, &[53]);
        let client = bind((host, 0));
        let pod = bind((mapped, 53));
        let other = bind((unmapped, 53));
        talk(&client, host, 53, &pod);
        talk(&client, unmapped, 53, &other);

        let mut conntrack = Conntrack::open().unwrap();
        let is_ipv6 = host.contains(':');
        let to = |address: &str| Filter {
            original_address: Some(address.parse().unwrap()),
            ..to_port(53, is_ipv6)
        };
        let answered_by = |address: &str| Filter {
            is_ipv6,
            reply_source: Some(address.parse().unwrap()),
            ..Filter::default()
        };
        let mut count = |filter| conntrack.list(&filter).unwrap().len();
        assert_eq!(count(to_port(53, is_ipv6)), 2);
        assert_eq!(count(to(host)), 1);
        assert_eq!(count(to(mapped)), 0);
        assert_eq!(count(answered_by(mapped)), 1);
        assert_eq!(conntrack.delete(&[answered_by(mapped)]).unwrap(), 1);
        let left = conntrack.list(&to_port(53, is_ipv6)).unwrap();
        assert_eq!(left.len(), 1);
        let asked = left[0].original.destination;
        assert_eq!(asked, unmapped.parse::<IpAddr>().unwrap());
    });
}

#[test]
fn a_flow_follows_its_mapping_only_after_it_was_forgotten() {
    in_fresh_namespace(|mut nft| {
        host_with_mappings(&mut nft, &[53]);
        let client = bind("10.0.0.1:0");
        let old = bind("10.1.0.5:53");
        let new = bind("10.1.0.6:53");
        talk(&client, "10.0.0.1", 53, &old);

        let mut transaction = Transaction::new();
        transaction.flush_set(hostports4());
        nft.commit(transaction).unwrap();
        lead(&mut nft, "10.0.0.1", 53, "10.1.0.6");
        talk(&client, "10.0.0.1", 53, &old);
        assert_eq!(
            Conntrack::open()
                .unwrap()
                .delete(&[to_port(53, false)])
                .unwrap(),
            1
        );
        talk(&client, "10.0.0.1", 53, &new);
    });
}

#[test]
fn a_thousand_connections_are_forgotten_at_once() {
    in_fresh_namespace(|mut nft| {
        host_with_mappings(&mut nft, &[53]);
        let pod = bind("10.1.0.5:53");
        for _ in 0..1000 {
            let client = bind("10.0.0.1:0");
            talk(&client, "10.0.0.1", 53, &pod);
        }
        let before = tracked("ipv4");
        assert!(before > 900, "{before}");
        assert_eq!(
            Conntrack::open()
                .unwrap()
                .delete(&[to_port(53, false)])
                .unwrap(),
            before
        );
        assert_eq!(tracked("ipv4"), 0);
    });
}
