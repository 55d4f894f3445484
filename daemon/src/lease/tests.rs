use proptest::prelude::*;

use super::*;

fn subnets(v4: &str, v6: Option<&str>) -> Subnets {
    Subnets {
        v4: Some(v4.parse().unwrap()),
        v6: v6.map(|v6| v6.parse().unwrap()),
    }
}

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

#[test]
fn keys_are_read_as_flanneld_writes_them() {
    assert_eq!(
        Subnets::from_key("10.5.63.0-24"),
        Ok(subnets("10.5.63.0/24", None))
    );
    let dual = "10.5.63.0-24&fd05:0:0:2::-64";
    let both = subnets("10.5.63.0/24", Some("fd05:0:0:2::/64"));
    assert_eq!(Subnets::from_key(dual), Ok(both));
    assert_eq!(both.to_key().unwrap(), dual);
}

#[test]
fn keys_that_are_none_say_why() {
    for (key, why) in [
        ("", "not of the form"),
        ("10.5.63.0", "not of the form"),
        ("10.5.63-24", "not of the form"),
        ("10.5.63.0-", "not of the form"),
        ("10.5.63.0-+24", "not of the form"),
        ("10.5.63.0-24/x", "not of the form"),
        ("10.5.63.0-32", "no length of an IPv4"),
        ("10.5.63.1-24", "not a subnet's first address"),
        ("fd05:0:0:2::-64", "not of the form"),
        ("10.5.63.0-24&", "not of the form"),
        ("10.5.63.0-24&fd05::-128", "no length of an IPv6"),
        ("10.5.63.0-24&fd05::1-64", "not a subnet's first address"),
    ] {
        let told = Subnets::from_key(key).unwrap_err();
        assert!(told.contains(why), "{key:?}: {told:?}");
    }
}

/// Values that flanneld was seen to write.
const SEEN: [&str; 4] = [
    r#"{"PublicIP":"192.168.90.10","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"fa:83:f7:ef:a6:90"}}"#,
    r#"{"PublicIP":"192.168.90.10","PublicIPv6":"fd90::10","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"fa:83:f7:ef:a6:90"},"BackendV6Data":{"VNI":1,"VtepMAC":"6e:38:ae:13:6b:ea"}}"#,
    r#"{"PublicIP":"192.168.90.10","PublicIPv6":null,"BackendType":"host-gw"}"#,
    r#"{"PublicIP":"172.16.0.3","PublicIPv6":null}"#,
];

#[test]
fn what_flanneld_writes_is_read_and_written_byte_for_byte() {
    for text in SEEN {
        assert_eq!(Attrs::parse(text).unwrap().to_json(), text);
    }
}

#[test]
fn our_own_key_comes_last_and_holds_what_is_set() {
    let mut attrs = Attrs::parse(SEEN[2]).unwrap();
    let identity = Identity {
        machine: "0123".into(),
        node: "node-1".into(),
    };
    attrs.extra = Some(Extra {
        identity: Some(identity),
        sources: vec!["192.168.90.10".parse().unwrap()],
        overwritten: false,
        udp_port: Some(8285),
    });
    let text = attrs.to_json();
    assert_eq!(
        text,
        r#"{"PublicIP":"192.168.90.10","PublicIPv6":null,"BackendType":"host-gw","Weft":{"Node":"node-1","Machine":"0123","Sources":["192.168.90.10"],"UdpPort":8285}}"#
    );
    assert_eq!(Attrs::parse(&text), Ok(attrs));
}

#[test]
fn readers_bear_any_case_a_missing_vni_and_keys_that_nobody_knows() {
    let text = r#"{"publicip":"192.168.90.10","colour":"blue","BACKENDTYPE":"vxlan","backenddata":{"vtepmac":"fa:83:f7:ef:a6:90"}}"#;
    let attrs = Attrs::parse(text).unwrap();
    let v4 = Some(Vtep {
        vni: None,
        mac: mac("fa:83:f7:ef:a6:90"),
    });
    assert_eq!(attrs.backend, Published::Vxlan { v4, v6: None });
    assert_eq!((attrs.public_ipv6, attrs.extra), (None, None));
}

#[test]
fn a_backend_that_is_not_ours_is_named() {
    let text = r#"{"PublicIP":"192.168.90.10","PublicIPv6":null,"BackendType":"extension","BackendData":"text"}"#;
    assert_eq!(
        Attrs::parse(text).unwrap().backend,
        Published::Other("extension".into())
    );
}

#[test]
fn rubbish_says_why() {
    for (text, why) in [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "not a JSON object"),
        (
            r#"{"PublicIP":"nowhere"}"#,
            "\"PublicIP\" is \"nowhere\", not an IPv4 address",
        ),
        (r#"{"PublicIP":7}"#, "\"PublicIP\" must be a text"),
        (
            r#"{"PublicIP":"10.0.0.1","BackendType":"vxlan"}"#,
            "without a \"VtepMAC\"",
        ),
        (
            r#"{"PublicIP":"10.0.0.1","BackendType":"vxlan","BackendData":{"VNI":1}}"#,
            "\"VtepMAC\" is missing",
        ),
        (
            r#"{"PublicIP":"10.0.0.1","BackendType":"vxlan","BackendData":{"VtepMAC":"fa:83:f7:ef:a6"}}"#,
            "\"fa:83:f7:ef:a6\", not an Ethernet address",
        ),
        (
            r#"{"PublicIP":"10.0.0.1","BackendType":"vxlan","BackendData":{"VtepMAC":"00:00:00:00:00:00"}}"#,
            "no single device's",
        ),
        (
            r#"{"PublicIP":"10.0.0.1","BackendType":"vxlan","BackendData":{"VtepMAC":"01:00:5e:00:00:01"}}"#,
            "no single device's",
        ),
        (
            r#"{"PublicIP":"10.0.0.1","Weft":{"Sources":["x"]}}"#,
            "\"Sources\" holds \"x\"",
        ),
    ] {
        let told = Attrs::parse(text).unwrap_err();
        assert!(told.contains(why), "{text}: {told}");
    }
}

fn claim(offer: Offer) -> Claim {
    Claim {
        identity: Identity {
            machine: "0123".into(),
            node: "node-1".into(),
        },
        public_ip: Some(Ipv4Addr::new(192, 168, 90, 10)),
        public_ipv6: None,
        sources: Vec::new(),
        overwritten: false,
        previous: None,
        formerly: None,
        offer,
    }
}

fn published(claim: &Claim, existing: Option<&Attrs>) -> Mac {
    match claim.attrs(subnets("10.5.63.0/24", None), existing).backend {
        Published::Vxlan {
            v4: Some(vtep),
            v6: None,
        } => vtep.mac,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_mac_is_the_leases_else_the_devices_else_derived() {
    let device = mac("02:00:00:00:00:01");
    let with = claim(Offer::Vxlan {
        vni: 1,
        v4: Some(device),
        v6: None,
    });
    let without = claim(Offer::Vxlan {
        vni: 1,
        v4: None,
        v6: None,
    });
    let existing = Attrs::parse(SEEN[0]).unwrap();
    assert_eq!(published(&with, Some(&existing)), mac("fa:83:f7:ef:a6:90"));
    assert_eq!(published(&with, None), device);
    assert_eq!(
        published(&without, None),
        derived_mac("10.5.63.0/24".parse().unwrap(), 1)
    );
}

#[test]
fn a_derived_mac_is_one_devices_own_and_differs_by_subnet_and_vni() {
    let one = derived_mac("10.5.63.0/24".parse().unwrap(), 1);
    assert_eq!(one, derived_mac("10.5.63.0/24".parse().unwrap(), 1));
    assert_ne!(one, derived_mac("10.5.64.0/24".parse().unwrap(), 1));
    assert_ne!(one, derived_mac("10.5.63.0/24".parse().unwrap(), 2));
    assert_eq!(one.0[0] & 0b11, 0b10);
}

fn attrs() -> impl Strategy<Value = Attrs> {
    let vtep = || proptest::option::of((proptest::option::of(0u32..1 << 24), any::<[u8; 6]>()));
    let vtep = move || {
        vtep().prop_map(|vtep| {
            vtep.map(|(vni, mut mac)| {
                mac[0] = (mac[0] | 2) & !1;
                Vtep { vni, mac: Mac(mac) }
            })
        })
    };
    let backend = prop_oneof![
        Just(Published::Nothing),
        Just(Published::HostGw),
        "[a-z]{3,9}x".prop_map(Published::Other),
        (vtep(), vtep())
            .prop_filter("one at least", |(v4, v6)| v4.is_some() || v6.is_some())
            .prop_map(|(v4, v6)| Published::Vxlan { v4, v6 }),
    ];
    let identity = proptest::option::of(
        ("\\PC{0,9}", "\\PC{0,9}").prop_map(|(machine, node)| Identity { machine, node }),
    );
    let extra = (
        identity,
        proptest::collection::vec(any::<IpAddr>(), 0..3),
        any::<bool>(),
        any::<Option<u16>>(),
    )
        .prop_map(|(identity, sources, overwritten, udp_port)| Extra {
            identity,
            sources,
            overwritten,
            udp_port,
        });
    (
        1u32..,
        proptest::option::of(any::<Ipv6Addr>()),
        backend,
        proptest::option::of(extra),
    )
        .prop_map(|(public_ip, public_ipv6, backend, extra)| Attrs {
            public_ip: Some(public_ip.into()),
            public_ipv6,
            backend,
            extra,
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read(attrs in attrs()) {
        prop_assert_eq!(Attrs::parse(&attrs.to_json()), Ok(attrs));
    }

    #[test]
    fn keys_written_are_read(ip: u32, len in 0u8..32, ip6: u128, len6 in 0u8..128, dual: bool) {
        let v4 = Ipv4Network::new(ip.into(), len).unwrap();
        let v6 = Ipv6Network::new(ip6.into(), len6).unwrap();
        let subnets = Subnets {
            v4: Ipv4Network::new(v4.network(), len).ok(),
            v6: dual.then(|| Ipv6Network::new(v6.network(), len6).unwrap()),
        };
        prop_assert_eq!(Subnets::from_key(&subnets.to_key().unwrap()), Ok(subnets));
    }

    #[test]
    fn no_key_and_no_value_breaks_the_readers(key in "[0-9a-f.:&/-]{0,40}", value in r#"\{("(PublicIP|PublicIPv6|BackendType|BackendData|VtepMAC|Weft|Sources)":("10.5.0.1"|"vxlan"|7|null|\{\}|\["x"\]),?){0,5}\}"#, noise in "\\PC{0,40}") {
        let _ = (Subnets::from_key(&key), Subnets::from_key(&noise));
        let _ = (Attrs::parse(&value), Attrs::parse(&noise));
    }
}
