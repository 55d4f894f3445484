use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
struct Packet {
    mark: u32,
    from: IpAddr,
    to: IpAddr,
}

/// What flanneld's iptables rules do to the packet: a transcript of its six rules.
fn is_masqueraded_by_flannel(packet: &Packet, net: IpNetwork, pod: IpNetwork) -> bool {
    let (s, d) = (
        |n: IpNetwork| n.contains(packet.from),
        |n: IpNetwork| n.contains(packet.to),
    );
    let multicast = groups(net.is_ipv6());
    let kept = packet.mark & 0x4000 == 0x4000
        || (s(pod) && d(net))
        || (s(net) && d(pod))
        || (!s(net) && d(pod));
    !kept && ((s(net) && !d(multicast)) || (!s(net) && d(net)))
}

fn is_masqueraded(packet: &Packet, rules: &[Rule]) -> bool {
    let holds = |when: &When| match when {
        When::Marked => packet.mark & 0x4000 == 0x4000,
        When::From(network) => network.contains(packet.from),
        When::To(network) => network.contains(packet.to),
        When::NotTo(network) => !network.contains(packet.to),
        When::Stranger { .. } => false,
    };
    let mut hit = rules.iter().filter(|rule| rule.when.iter().all(holds));
    hit.next()
        .is_some_and(|rule| matches!(rule.then, Then::Masquerade { .. }))
}

fn rules_of(spec: &Spec, v6: bool) -> Vec<Rule> {
    let tables = wanted(&spec.canonical());
    let table = if v6 { TABLE6 } else { TABLE4 };
    let table = tables.into_iter().find(|wanted| wanted.table == table);
    table.map_or_else(Vec::new, |table| table.chains[0].rules.clone())
}

fn spec(networks: &[&str], own: &[&str], spared: &[&str]) -> Spec {
    let parse = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
    Spec {
        networks: parse(networks),
        own: parse(own),
        masquerade: Some(Masquerade {
            random_fully: true,
            spared: parse(spared),
        }),
        ..Spec::default()
    }
}

/// Addresses of the node's own pods, of others', of groups and of the rest of the world.
fn address(v6: bool) -> impl Strategy<Value = IpAddr> {
    let v4 = |a: u8, b: u8, c: u8| move |last: u8| IpAddr::from([a, b, c, last]);
    let long =
        |a: u16, b: u16| move |last: u8| IpAddr::from([a, b, 0, 0, 0, 0, 0, u16::from(last)]);
    match v6 {
        false => prop_oneof![
            any::<u8>().prop_map(v4(10, 1, 3)),
            any::<u8>().prop_map(v4(10, 1, 9)),
            any::<u8>().prop_map(v4(10, 2, 0)),
            any::<u8>().prop_map(v4(192, 0, 2)),
            any::<u8>().prop_map(v4(224, 0, 0)),
            any::<u32>().prop_map(|ip| IpAddr::from(ip.to_be_bytes())),
        ]
        .boxed(),
        true => prop_oneof![
            any::<u8>().prop_map(long(0xfd10, 3)),
            any::<u8>().prop_map(long(0xfd10, 9)),
            any::<u8>().prop_map(long(0x2001, 0xdb8)),
            any::<u8>().prop_map(long(0xff02, 0)),
            any::<u128>().prop_map(|ip| IpAddr::from(ip.to_be_bytes())),
        ]
        .boxed(),
    }
}

fn packet(v6: bool) -> impl Strategy<Value = Packet> {
    let mark = prop_oneof![
        Just(0),
        Just(0x4000),
        Just(0xc001),
        Just(0x8000),
        any::<u32>()
    ];
    (mark, address(v6), address(v6)).prop_map(|(mark, from, to)| Packet { mark, from, to })
}

proptest! {
    #[test]
    fn every_ipv4_packet_meets_the_same_fate_as_under_flannel(packet in packet(false)) {
        let rules = rules_of(&spec(&["10.1.0.0/16"], &["10.1.3.0/24"], &[]), false);
        let (net, pod) = ("10.1.0.0/16".parse().unwrap(), "10.1.3.0/24".parse().unwrap());
        prop_assert_eq!(
            is_masqueraded(&packet, &rules), is_masqueraded_by_flannel(&packet, net, pod)
        );
    }

    #[test]
    fn every_ipv6_packet_meets_the_same_fate_as_under_flannel(packet in packet(true)) {
        let rules = rules_of(&spec(&["fd10::/16"], &["fd10:3::/32"], &[]), true);
        let (net, pod) = ("fd10::/16".parse().unwrap(), "fd10:3::/32".parse().unwrap());
        prop_assert_eq!(
            is_masqueraded(&packet, &rules), is_masqueraded_by_flannel(&packet, net, pod)
        );
    }

    #[test]
    fn pods_reach_what_is_spared_under_their_own_address(packet in packet(false)) {
        let plain = rules_of(&spec(&["10.1.0.0/16"], &["10.1.3.0/24"], &[]), false);
        let sparing =
            rules_of(&spec(&["10.1.0.0/16"], &["10.1.3.0/24"], &["192.0.2.0/24"]), false);
        let from: IpNetwork = "10.1.0.0/16".parse().unwrap();
        let to: IpNetwork = "192.0.2.0/24".parse().unwrap();
        let is_spared = from.contains(packet.from) && to.contains(packet.to);
        prop_assert_eq!(
            is_masqueraded(&packet, &sparing), !is_spared && is_masqueraded(&packet, &plain)
        );
    }

    #[test]
    fn several_networks_are_one_to_own_pods(packet in packet(false)) {
        let both = ["10.1.0.0/16", "10.2.0.0/16"];
        let rules = rules_of(&spec(&both, &["10.1.3.0/24"], &[]), false);
        let pods = |ip| both.iter().any(|n| n.parse::<IpNetwork>().unwrap().contains(ip));
        let own: IpNetwork = "10.1.3.0/24".parse().unwrap();
        if own.contains(packet.from) && pods(packet.to) || own.contains(packet.to) {
            prop_assert!(!is_masqueraded(&packet, &rules));
        }
        if packet.mark & 0x4000 == 0 && !pods(packet.from) && pods(packet.to)
            && !own.contains(packet.to)
        {
            prop_assert!(is_masqueraded(&packet, &rules));
        }
    }
}

#[test]
fn a_family_without_a_network_has_no_table() {
    let tables = wanted(&spec(&["10.1.0.0/16"], &["10.1.3.0/24"], &[]).canonical());
    assert_eq!(tables.len(), 1);
    assert_eq!(tables[0].table, TABLE4);
    assert_eq!(wanted(&Spec::default()), []);
}

#[test]
fn specs_that_ask_for_the_same_are_equal() {
    let a = spec(&["10.2.0.0/16", "10.1.7.9/16"], &[], &[]).canonical();
    let b = spec(&["10.1.0.0/16", "10.2.0.0/16", "10.1.0.0/16"], &[], &[]).canonical();
    assert_eq!(a, b);
}
