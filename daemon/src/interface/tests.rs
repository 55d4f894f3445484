use proptest::prelude::*;

use super::*;
use crate::interface::landscape::Reach;

const V4: Families = Families {
    v4: true,
    v6: false,
};
const V6: Families = Families {
    v4: false,
    v6: true,
};
const BOTH: Families = Families { v4: true, v6: true };

fn face(index: u32, name: &str, addresses: &[&str]) -> Face {
    Face {
        index,
        name: name.into(),
        mtu: 1500,
        of_pods: name.starts_with("flannel") || name == "cni0",
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

/// eth0 leads to the world, eth1 to the other nodes.
fn land() -> Landscape {
    Landscape {
        faces: vec![
            face(1, "lo", &[]),
            face(2, "eth0", &["192.168.90.10", "fd90::10"]),
            face(3, "eth1", &["10.1.0.5", "10.1.0.6", "fd01::5"]),
            face(4, "eth2", &["10.2.0.5"]),
            face(5, "flannel.1", &["10.5.1.0"]),
            face(6, "cni0", &["10.5.1.1"]),
        ],
        default_v4: vec![2],
        default_v6: vec![2],
        reach: None,
    }
}

fn named(name: &str) -> Wanted {
    Wanted {
        names: vec![name.into()],
        ..Wanted::default()
    }
}

fn regex(pattern: &str) -> Wanted {
    Wanted {
        regexes: vec![pattern.parse().unwrap()],
        ..Wanted::default()
    }
}

/// "eth0 192.168.90.10 -"
#[track_caller]
fn chosen(wanted: &Wanted, families: Families, land: &Landscape) -> String {
    let underlay = choose(wanted, families, land).unwrap();
    let text = |ip: Option<String>| ip.unwrap_or_else(|| "-".into());
    format!(
        "{} {} {}",
        underlay.name,
        text(underlay.v4.map(|ip| ip.to_string())),
        text(underlay.v6.map(|ip| ip.to_string()))
    )
}

#[track_caller]
fn refused(wanted: &Wanted, families: Families, land: &Landscape, says: &[&str]) {
    let why = choose(wanted, families, land).unwrap_err();
    for part in says {
        assert!(why.contains(part), "{why:?} does not say {part:?}");
    }
    assert!(why.contains("-iface"), "no remedy in {why:?}");
}

#[test]
fn without_flags_it_is_the_default_routes() {
    let none = Wanted::default();
    assert_eq!(chosen(&none, V4, &land()), "eth0 192.168.90.10 -");
    assert_eq!(chosen(&none, V6, &land()), "eth0 - fd90::10");
    assert_eq!(chosen(&none, BOTH, &land()), "eth0 192.168.90.10 fd90::10");
}

#[test]
fn the_preferred_default_route_counts_and_one_through_our_own_device_never() {
    let two = Landscape {
        default_v4: vec![5, 99, 3, 2],
        ..land()
    };
    assert_eq!(chosen(&Wanted::default(), V4, &two), "eth1 10.1.0.5 -");
}

#[test]
fn both_families_need_one_interface_with_a_default_route_of_each() {
    let none = Wanted::default();
    let split = Landscape {
        default_v6: vec![3],
        ..land()
    };
    refused(
        &none,
        BOTH,
        &split,
        &["IPv4's through eth0", "IPv6's through eth1"],
    );
    let one_in_common = Landscape {
        default_v6: vec![3, 2],
        ..land()
    };
    assert_eq!(
        chosen(&none, BOTH, &one_in_common),
        "eth0 192.168.90.10 fd90::10"
    );
    let no_v6 = Landscape {
        default_v6: vec![],
        ..land()
    };
    refused(&none, BOTH, &no_v6, &["no IPv6 default route"]);
    assert_eq!(chosen(&none, V4, &no_v6), "eth0 192.168.90.10 -");
}

#[test]
fn an_interface_is_named_by_name_or_by_address() {
    assert_eq!(chosen(&named("eth1"), V4, &land()), "eth1 10.1.0.5 -");
    assert_eq!(chosen(&named("10.1.0.6"), V4, &land()), "eth1 10.1.0.6 -");
    assert_eq!(
        chosen(&named("10.1.0.6"), BOTH, &land()),
        "eth1 10.1.0.6 fd01::5"
    );
    assert_eq!(
        chosen(&named("fd01::5"), BOTH, &land()),
        "eth1 10.1.0.5 fd01::5"
    );
    assert_eq!(
        chosen(&named("flannel.1"), V4, &land()),
        "flannel.1 10.5.1.0 -"
    );
}

#[test]
fn names_come_before_expressions_and_those_before_the_way_somewhere() {
    let mut wanted = Wanted {
        names: vec!["eth9".into(), "eth2".into(), "eth1".into()],
        regexes: vec!["eth1".parse().unwrap()],
        can_reach: Some("192.168.90.1".parse().unwrap()),
        ..Wanted::default()
    };
    let reach = Reach {
        link: 2,
        source: Some("192.168.90.10".parse().unwrap()),
        is_local: false,
    };
    let land = Landscape {
        reach: Some(reach),
        ..land()
    };
    assert_eq!(chosen(&wanted, V4, &land), "eth2 10.2.0.5 -");
    wanted.names = vec!["eth9".into()];
    assert_eq!(chosen(&wanted, V4, &land), "eth1 10.1.0.5 -");
    wanted.regexes = vec!["^wlan".parse().unwrap()];
    assert_eq!(chosen(&wanted, V4, &land), "eth0 192.168.90.10 -");
}

#[test]
fn one_that_lacks_an_address_is_passed_over_for_the_next() {
    let wanted = Wanted {
        names: vec!["eth2".into(), "eth1".into()],
        ..Wanted::default()
    };
    assert_eq!(chosen(&wanted, BOTH, &land()), "eth1 10.1.0.5 fd01::5");
    refused(
        &named("eth2"),
        BOTH,
        &land(),
        &["-iface=eth2", "eth2 has no IPv6"],
    );
}

#[test]
fn an_expression_matches_addresses_before_names() {
    assert_eq!(
        chosen(&regex(r"^10\.1\.0\.6$"), V4, &land()),
        "eth1 10.1.0.6 -"
    );
    assert_eq!(
        chosen(&regex(r"^10\.|eth0"), V4, &land()),
        "eth1 10.1.0.5 -"
    );
    assert_eq!(chosen(&regex("eth[2-9]"), V4, &land()), "eth2 10.2.0.5 -");
    assert_eq!(chosen(&regex("^fd01"), V6, &land()), "eth1 - fd01::5");
    assert_eq!(
        chosen(&regex("eth1|fd90"), V4, &land()),
        "eth1 10.1.0.5 -",
        "an address of a family that is not asked for does not count"
    );
}

#[test]
fn for_both_families_an_expression_must_match_both_addresses_of_one_interface() {
    assert_eq!(
        chosen(&regex(r"^10\.|^fd01"), BOTH, &land()),
        "eth1 10.1.0.5 fd01::5"
    );
    refused(&regex(r"^10\.1"), BOTH, &land(), &["matches no interface"]);
    assert_eq!(
        chosen(&regex(r"^eth0$"), BOTH, &land()),
        "eth0 192.168.90.10 fd90::10"
    );
}

#[test]
fn an_expression_never_chooses_a_device_of_the_pods() {
    refused(&regex(r"^10\.5\."), V4, &land(), &["matches no interface"]);
    refused(
        &regex("flannel|cni"),
        V4,
        &land(),
        &["-iface-regex=flannel|cni"],
    );
}

#[test]
fn the_way_somewhere_gives_the_interface_and_the_address_it_sends_from() {
    let wanted = Wanted {
        can_reach: Some("10.1.0.99".parse().unwrap()),
        ..Wanted::default()
    };
    let reaching = |link, source: Option<&str>, is_local| Landscape {
        reach: Some(Reach {
            link,
            source: source.map(|ip| ip.parse().unwrap()),
            is_local,
        }),
        ..land()
    };
    let by_eth1 = reaching(3, Some("10.1.0.6"), false);
    assert_eq!(chosen(&wanted, V4, &by_eth1), "eth1 10.1.0.6 -");
    assert_eq!(chosen(&wanted, BOTH, &by_eth1), "eth1 10.1.0.6 fd01::5");
    let from_elsewhere = reaching(3, Some("172.16.0.1"), false);
    assert_eq!(chosen(&wanted, V4, &from_elsewhere), "eth1 10.1.0.5 -");
    refused(&wanted, V4, &land(), &["10.1.0.99", "no route"]);

    let itself = Wanted {
        can_reach: Some("10.2.0.5".parse().unwrap()),
        ..Wanted::default()
    };
    let by_loopback = reaching(1, Some("10.2.0.5"), true);
    assert_eq!(chosen(&itself, V4, &by_loopback), "eth2 10.2.0.5 -");
}

#[test]
fn a_public_address_alone_names_the_interface_that_has_it() {
    let public = |v4: Option<&str>, v6: Option<&str>| Wanted {
        public_ip: v4.map(|ip| ip.parse().unwrap()),
        public_ipv6: v6.map(|ip| ip.parse().unwrap()),
        ..Wanted::default()
    };
    let v4 = public(Some("10.1.0.6"), None);
    assert_eq!(chosen(&v4, V4, &land()), "eth1 10.1.0.6 -");
    assert_eq!(chosen(&v4, BOTH, &land()), "eth1 10.1.0.6 fd01::5");
    let v6 = public(None, Some("fd01::5"));
    assert_eq!(chosen(&v6, V6, &land()), "eth1 - fd01::5");
    refused(
        &public(Some("203.0.113.7"), None),
        V4,
        &land(),
        &[
            "-public-ip=203.0.113.7",
            "no interface has this address",
            "eth1 (10.1.0.5, 10.1.0.6, fd01::5)",
        ],
    );
}

#[test]
fn what_is_published_is_the_interfaces_address_unless_told_otherwise() {
    let own = choose(&named("eth0"), BOTH, &land()).unwrap();
    assert_eq!((own.public_ip, own.public_ipv6), (own.v4, own.v6));
    let wanted = Wanted {
        public_ip: Some("203.0.113.7".parse().unwrap()),
        ..named("eth0")
    };
    let translated = choose(&wanted, BOTH, &land()).unwrap();
    assert_eq!(translated.public_ip, wanted.public_ip);
    assert_eq!(translated.v4, own.v4);
    assert_eq!(translated.public_ipv6, own.v6);
    let v6_only = choose(&wanted, V6, &land()).unwrap();
    assert_eq!(
        v6_only.public_ip, None,
        "nothing of a family there is no pod network of"
    );
}

#[test]
fn host_gw_publishes_nothing_but_the_interfaces_own_address() {
    let mut underlay = choose(&named("eth0"), BOTH, &land()).unwrap();
    assert_eq!(check_host_gw(&underlay), Ok(()));
    underlay.public_ip = Some("203.0.113.7".parse().unwrap());
    let why = check_host_gw(&underlay).unwrap_err();
    for part in [
        "host-gw",
        "203.0.113.7",
        "-public-ip",
        "192.168.90.10",
        "eth0",
    ] {
        assert!(why.contains(part), "{why:?} does not say {part:?}");
    }
}

#[test]
fn nothing_to_choose_from_is_told_as_such() {
    let mut land = land();
    land.faces[1].mtu = 0;
    refused(&named("eth0"), V4, &land, &["eth0 has no MTU"]);
    refused(
        &named("eth7"),
        V4,
        &Landscape::default(),
        &[
            "-iface=eth7",
            "no interface of this name",
            "with an address",
        ],
    );
    refused(
        &named("lo"),
        V4,
        &land,
        &["lo has no IPv4 address, other than for loopback"],
    );
}

#[test]
fn an_address_that_comes_besides_does_not_move_the_node() {
    let none = Wanted::default();
    let standing = choose(&none, BOTH, &land()).unwrap();
    let mut later = land();
    later.faces[1]
        .addresses
        .insert(0, "fd90::ff".parse().unwrap());
    later.faces[1]
        .addresses
        .insert(0, "192.168.90.200".parse().unwrap());
    assert_eq!(
        choose_again(&none, BOTH, &later, &standing),
        Ok(standing.clone())
    );
    let told = choose_again(&named("192.168.90.200"), BOTH, &later, &standing).unwrap();
    assert_eq!(told.v4, Some("192.168.90.200".parse().unwrap()));
    later.faces[1]
        .addresses
        .retain(|ip| ip.to_string() != "192.168.90.10");
    let moved = choose_again(&none, BOTH, &later, &standing).unwrap();
    assert_eq!(moved.v4, Some("192.168.90.200".parse().unwrap()));
    assert_eq!(moved.public_ip, moved.v4);
    assert_eq!(moved.v6, standing.v6);
}

proptest! {
    #[test]
    fn whatever_is_chosen_has_what_the_network_needs(
        names in proptest::collection::vec("eth[0-3]|flannel.1|10.1.0.[4-7]", 0..3),
        pattern in proptest::option::of("eth[0-3]|fd0|10\\.1|\\^f"),
        defaults in proptest::collection::vec(0u32..8, 0..4),
        v4: bool,
        again: bool,
    ) {
        let families = Families { v4, v6: again || !v4 };
        let land = Landscape { default_v4: defaults.clone(), default_v6: defaults, ..land() };
        let wanted = Wanted {
            names: names.clone(),
            regexes: pattern.iter().filter_map(|text| text.parse().ok()).collect(),
            ..Wanted::default()
        };
        match choose(&wanted, families, &land) {
            Ok(underlay) => {
                prop_assert_eq!(underlay.v4.is_some(), families.v4);
                prop_assert_eq!(underlay.v6.is_some(), families.v6);
                let face = land.faces.iter().find(|face| face.index == underlay.index).unwrap();
                prop_assert!(!face.of_pods || names.contains(&face.name));
                prop_assert!(underlay.v4.is_none_or(|ip| face.addresses.contains(&ip.into())));
                prop_assert_eq!(choose_again(&wanted, families, &land, &underlay), Ok(underlay));
            }
            Err(why) => prop_assert!(why.contains("-iface")),
        }
    }

    #[test]
    fn no_expression_panics(text: String) {
        let _ = text.parse::<Pattern>();
    }
}
