use proptest::prelude::*;

use super::*;
use crate::conf::Checks;
use crate::lease::{Attrs, Extra, Subnets};

const NETWORK: &str = r#""Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48""#;

fn conf(backend: &str) -> Arc<NetConf> {
    let text = format!(r#"{{{NETWORK},"Backend":{backend}}}"#);
    Arc::new(NetConf::parse(&text, Checks::Leases).expect("a configuration"))
}

fn member(n: u8, mac: u8) -> Lease {
    Lease {
        subnets: Subnets::from_key(&format!("10.5.{n}.0-24&fd05:0:0:{n:x}::-64")).expect("a key"),
        attrs: Attrs {
            public_ip: Some([192, 168, 0, n].into()),
            public_ipv6: Some(format!("fd90::{n:x}").parse().expect("an address")),
            backend: Published::Vxlan {
                v4: vtep(mac, 4),
                v6: vtep(mac, 6),
            },
            extra: None,
        },
    }
}

fn vtep(mac: u8, family: u8) -> Option<Vtep> {
    Some(Vtep {
        vni: Some(1),
        mac: Mac([2, 0, 0, 0, family, mac]),
    })
}

fn inputs(backend: &str, peers: Vec<Lease>) -> Inputs {
    Inputs {
        conf: conf(backend),
        own: Arc::new(member(1, 1)),
        peers: Arc::new(Peers {
            leases: peers.into_iter().map(Arc::new).collect(),
            rubbish: Vec::new(),
        }),
        ground: Ground {
            link: 2,
            mtu: 1500,
            v4: Some([192, 168, 0, 1].into()),
            v6: Some("fd90::1".parse().expect("an address")),
        },
        wishes: Wishes {
            masquerade: true,
            random_fully: true,
            forward: true,
            guard: true,
            spared: Vec::new(),
            tunnel_checksums: true,
            blackhole: false,
        },
        ways: Ways::new(),
        remembered: false,
    }
}

const VXLAN: &str = r#"{"Type":"vxlan"}"#;

#[test]
fn a_peer_of_both_families_gets_three_entries_in_each() {
    let desired = plan(&inputs(VXLAN, vec![member(2, 2)]));
    assert_eq!(desired.routes.len(), 2);
    assert_eq!(desired.neighbours.len(), 2);
    assert_eq!(desired.fdb.len(), 2);
    assert_eq!(desired.skipped, []);
    assert_eq!(desired.mtu, 1430);
    let mtus: Vec<u32> = desired.devices.iter().map(|device| device.mtu).collect();
    assert_eq!(mtus, [1450, 1430]);
}

#[test]
fn with_direct_routing_only_peers_behind_a_router_are_tunnelled_to() {
    let mut inputs = inputs(
        r#"{"Type":"vxlan","DirectRouting":true}"#,
        vec![member(2, 2), member(3, 3)],
    );
    inputs.ways.insert([192, 168, 0, 2].into(), 7);
    let desired = plan(&inputs);
    let v4: Vec<By> = desired
        .routes
        .iter()
        .filter(|route| route.destination.is_ipv4())
        .map(|route| route.by)
        .collect();
    let peer = [192, 168, 0, 2].into();
    assert_eq!(v4[0], By::Link { link: 7, peer });
    assert!(matches!(v4[1], By::Tunnel { .. }));
    let near = Mac([2, 0, 0, 0, 4, 2]);
    assert!(desired.fdb.iter().all(|entry| entry.mac != near));
}

#[test]
fn a_configured_mtu_is_that_of_the_underlay() {
    let desired = plan(&inputs(r#"{"Type":"vxlan","MTU":9000}"#, vec![]));
    assert_eq!(desired.mtu, 8930);
}

#[test]
fn peers_of_other_backends_vnis_and_with_our_own_address_are_left_out_each_for_its_reason() {
    let other = |edit: fn(&mut Lease)| {
        let mut lease = member(9, 9);
        edit(&mut lease);
        let skipped = plan(&inputs(VXLAN, vec![lease])).skipped;
        assert_eq!(skipped.len(), 2, "{skipped:?}");
        skipped[0].why.clone()
    };
    let why = other(|lease| lease.attrs.backend = Published::HostGw);
    assert!(why.contains("host-gw"), "{why}");
    let why = other(|lease| lease.attrs.backend = Published::Other("wireguard".into()));
    assert!(why.contains("wireguard"), "{why}");
    let why = other(|lease| {
        let odd = |family| {
            let vtep = vtep(9, family)?;
            Some(Vtep {
                vni: Some(2),
                ..vtep
            })
        };
        lease.attrs.backend = Published::Vxlan {
            v4: odd(4),
            v6: odd(6),
        };
    });
    assert!(why.contains("VNI is 2"), "{why}");
    let why = other(|lease| {
        lease.attrs.public_ip = Some([192, 168, 0, 1].into());
        lease.attrs.public_ipv6 = Some("fd90::1".parse().expect("an address"));
    });
    assert!(why.contains("our own address"), "{why}");
}

#[test]
fn the_guard_lets_in_public_addresses_and_what_peers_say_they_send_from() {
    let mut natted = member(2, 2);
    natted.attrs.extra = Some(Extra {
        sources: vec![[10, 9, 9, 9].into()],
        ..Extra::default()
    });
    let guard = plan(&inputs(VXLAN, vec![natted])).firewall.guard;
    let from = guard.expect("a guard").from;
    for ip in ["192.168.0.2", "fd90::2", "10.9.9.9"] {
        assert!(from.contains(&ip.parse().expect("an address")), "{ip}");
    }
}

#[test]
fn one_node_whose_source_nobody_knows_turns_the_guard_off() {
    let mut unknown = member(2, 2);
    unknown.attrs.extra = Some(Extra {
        overwritten: true,
        ..Extra::default()
    });
    let desired = plan(&inputs(VXLAN, vec![unknown, member(3, 3)]));
    assert_eq!(desired.firewall.guard, None);
}

const UDP: &str = r#"{"Type":"udp"}"#;

/// As flannel's udp backend publishes itself.
fn plain(n: u8) -> Lease {
    let mut lease = member(n, n);
    lease.attrs.backend = Published::Nothing;
    lease
}

/// As ours does.
fn listening(n: u8, port: u16) -> Lease {
    let mut lease = plain(n);
    lease.attrs.extra = Some(Extra {
        udp_port: Some(port),
        ..Extra::default()
    });
    lease
}

#[test]
fn udp_is_one_device_and_one_route_a_network_and_a_table_of_peers() {
    let desired = plan(&inputs(UDP, vec![plain(2), listening(3, 8285)]));
    let [device] = &desired.devices[..] else {
        panic!("{:?}", desired.devices)
    };
    assert_eq!((device.name.as_str(), device.mtu), ("flannel0", 1472));
    assert_eq!(device.addresses.len(), 2);
    assert_eq!((desired.mtu, desired.routes.len()), (1472, 2));
    assert!(desired.routes.iter().all(|route| route.by == By::Overlay));
    assert_eq!(desired.firewall.guard, None);
    let overlay = desired.overlay.expect("a packet path");
    assert_eq!((overlay.port, overlay.locals.len()), (8285, 2));
    let marks: Vec<bool> = overlay.peers.iter().map(|peer| peer.carries_ecn).collect();
    assert_eq!(marks, [false, true]);
    for peer in &overlay.peers {
        assert!(peer.address.is_ipv4() && peer.subnets.len() == 2);
        assert!(peer.also_from.iter().all(IpAddr::is_ipv6));
    }
}

#[test]
fn without_ipv4_on_the_ground_udp_goes_over_ipv6() {
    let mut inputs = inputs(UDP, vec![plain(2)]);
    inputs.ground.v4 = None;
    let desired = plan(&inputs);
    assert_eq!(desired.mtu, 1452);
    let overlay = desired.overlay.expect("a packet path");
    assert!(overlay.locals.iter().all(IpAddr::is_ipv6));
    assert!(overlay.peers[0].address.is_ipv6());
}

#[test]
fn peers_of_other_ports_and_backends_are_told_of() {
    let why = |lease: Lease| {
        let desired = plan(&inputs(UDP, vec![lease]));
        assert!(
            desired
                .overlay
                .is_some_and(|overlay| overlay.peers.is_empty())
        );
        assert_eq!(desired.skipped.len(), 2);
        desired.skipped[0].why.clone()
    };
    let other_port = why(listening(9, 9999));
    assert!(other_port.contains("UDP port 9999") && other_port.contains("8285"));
    assert!(why(member(9, 9)).contains("its backend is vxlan"));
    assert!(why(plain(1)).contains("our own address"));
}

#[test]
fn an_underlay_too_narrow_for_ip_is_told_with_what_it_needs() {
    let mut inputs = inputs(UDP, vec![]);
    let check = |inputs: &Inputs| plan(inputs).check_mtu(&inputs.conf, &inputs.ground);
    assert_eq!(check(&inputs), Ok(()));
    inputs.ground.mtu = 1300;
    let why = check(&inputs).expect_err("too narrow");
    assert!(why.contains("1300") && why.contains("mtu 1308"), "{why}");
}

proptest! {
    #[test]
    fn every_udp_peer_is_in_the_table_or_told_of(
        peers in prop::collection::vec((2..40u8, 0..4u8), 0..30)
    ) {
        let lease = |(n, kind): &(u8, u8)| match kind {
            0 => plain(*n),
            1 => listening(*n, 8285),
            2 => listening(*n, 8286),
            _ => member(*n, *n),
        };
        let leases: Vec<Lease> = peers.iter().map(lease).collect();
        let desired = plan(&inputs(UDP, leases.clone()));
        let overlay = desired.overlay.expect("a packet path");
        for lease in &leases {
            let subnet = lease.subnets.v4.map(IpNetwork::V4).expect("a subnet");
            let has = |peer: &weft_dataplane::Peer| peer.subnets.contains(&subnet);
            let told = desired.skipped.iter().any(|skipped| skipped.subnet == subnet);
            prop_assert!(overlay.peers.iter().any(has) || told);
        }
        let mut subnets: Vec<_> = overlay.peers.iter().flat_map(|peer| &peer.subnets).collect();
        let all = subnets.len();
        subnets.sort();
        subnets.dedup();
        prop_assert_eq!(subnets.len(), all);
    }

    #[test]
    fn every_peer_is_reached_or_told_of_and_no_key_is_wanted_twice(
        peers in prop::collection::vec((2..40u8, 1..6u8), 0..30)
    ) {
        let leases: Vec<Lease> = peers.iter().map(|(n, mac)| member(*n, *mac)).collect();
        let desired = plan(&inputs(VXLAN, leases.clone()));
        for lease in &leases {
            let subnet = lease.subnets.v4.map(IpNetwork::V4).expect("a subnet");
            let reached = desired.routes.iter().any(|route| route.destination == subnet);
            let told = desired.skipped.iter().any(|skipped| skipped.subnet == subnet);
            prop_assert!(reached || told);
        }
        prop_assert!(desired.routes.is_sorted_by(|a, b| a.key() < b.key()));
        prop_assert!(desired.neighbours.is_sorted_by(|a, b| a.key() < b.key()));
        prop_assert!(desired.fdb.is_sorted_by(|a, b| a.key() < b.key()));
        prop_assert_eq!(desired.routes.len(), desired.fdb.len());
    }
}
