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

proptest! {
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
