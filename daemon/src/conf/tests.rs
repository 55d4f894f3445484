use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<NetConf, Error> {
    NetConf::parse(text, Checks::Leases)
}

fn good(text: &str) -> NetConf {
    parse(text).unwrap()
}

#[track_caller]
fn assert_told(text: &str, parts: &[&str]) {
    let told = parse(text).unwrap_err().to_string();
    for part in parts {
        assert!(told.contains(part), "{part:?} is not in {told:?}");
    }
}

fn v4(text: &str) -> Pool4 {
    good(text).v4.unwrap()
}

fn v6(text: &str) -> Pool6 {
    good(text).v6.unwrap()
}

const ALLOC: &str = r#""Backend": {"Type": "alloc"}"#;

/// As written on a real node: a comma is missing, and a key's case is not the documentation's.
const FIELD_SAMPLE: &str = r#"{
  "Network": "172.20.0.0/16",
  "Backend": {
    "Type": "vxlan"
    "Directrouting": true
  }
}
"#;

#[test]
fn the_field_sample_lacks_a_comma() {
    assert_eq!(
        parse(FIELD_SAMPLE).unwrap_err().to_string(),
        "line 4, column 20: a comma is missing after \"vxlan\", before \"Directrouting\"; \
         put a comma there"
    );
}

#[test]
fn the_field_sample_corrected_has_direct_routing_on() {
    let conf = good(&FIELD_SAMPLE.replace("\"vxlan\"", "\"vxlan\","));
    let Backend::Vxlan(vxlan) = conf.backend else {
        panic!("{conf:?}")
    };
    assert!(vxlan.direct_routing);
    assert_eq!((vxlan.vni, vxlan.port, vxlan.mtu), (1, 8472, None));
    let pool = conf.v4.unwrap();
    assert_eq!(pool.network.to_string(), "172.20.0.0/16");
    assert_eq!(
        (pool.min.to_string(), pool.max.to_string()),
        ("172.20.1.0".into(), "172.20.255.0".into())
    );
    assert_eq!((pool.subnet_len, conf.v6), (24, None));
}

#[test]
fn a_missing_backend_is_udp() {
    let udp = |port| Backend::Udp(Udp { port });
    assert_eq!(good(r#"{"Network": "10.5.0.0/16"}"#).backend, udp(8285));
    assert_eq!(
        good(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "UDP", "port": 9000}}"#).backend,
        udp(9000)
    );
}

#[test]
fn a_backend_without_a_type_is_told_which_there_are() {
    let text = r#"{"Network": "10.5.0.0/16", "Backend": {}}"#;
    assert_told(text, &["no \"Type\"", "vxlan, host-gw, udp, alloc"]);
    let text = r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlam"}}"#;
    assert_told(
        text,
        &[
            "\"vxlam\", which is no backend",
            "vxlan, host-gw, udp, alloc",
        ],
    );
}

#[test]
fn a_backend_of_flanneld_alone_is_told_to_be_that() {
    for kind in ["wireguard", "ipip", "IPsec", "extension", "tencent-vpc"] {
        let text = format!(r#"{{"Network": "10.5.0.0/16", "Backend": {{"Type": "{kind}"}}}}"#);
        assert_told(
            &text,
            &[kind, "weft does not support", "vxlan, host-gw, udp, alloc"],
        );
    }
}

#[test]
fn keys_may_be_in_any_case_and_unknown_ones_are_passed_over() {
    let conf = good(
        r#"{"NETWORK": "10.5.0.0/16", "subnetlen": 26, "colour": "blue",
            "BACKEND": {"TYPE": "VxLAN", "vni": 4097, "PORT": 4789, "mtu": 9000, "gbp": true, "learning": true}}"#,
    );
    assert_eq!(conf.v4.unwrap().subnet_len, 26);
    let wanted = Vxlan {
        vni: 4097,
        port: 4789,
        mtu: Some(9000),
        gbp: true,
        learning: true,
        direct_routing: false,
    };
    assert_eq!(conf.backend, Backend::Vxlan(wanted));
}

#[test]
fn a_zero_means_the_default() {
    let conf = good(
        r#"{"Network": "10.5.0.0/16", "SubnetLen": 0, "Backend": {"Type": "vxlan", "Port": 0, "MTU": 0}}"#,
    );
    let Backend::Vxlan(vxlan) = conf.backend else {
        panic!()
    };
    assert_eq!(
        (conf.v4.unwrap().subnet_len, vxlan.port, vxlan.mtu),
        (24, 8472, None)
    );
}

#[test]
fn numbers_out_of_range_and_of_a_wrong_type_name_key_value_and_remedy() {
    let with = |option: &str| {
        format!(r#"{{"Network": "10.5.0.0/16", "Backend": {{"Type": "vxlan", {option}}}}}"#)
    };
    assert_told(
        &with(r#""VNI": 16777216"#),
        &["\"VNI\"", "16777216", "0 to 16777215"],
    );
    assert_told(&with(r#""VNI": -1"#), &["\"VNI\"", "-1"]);
    assert_told(
        &with(r#""VNI": "1""#),
        &["\"VNI\"", "\"1\"", "without quotation marks"],
    );
    assert_told(&with(r#""Port": 65536"#), &["\"Port\"", "65536", "65535"]);
    assert_told(&with(r#""MTU": 100"#), &["\"MTU\" is 100", "at least 118"]);
    assert_told(&with(r#""MTU": 1.5"#), &["\"MTU\"", "1.5"]);
    assert_told(
        &with(r#""DirectRouting": "yes""#),
        &["\"DirectRouting\"", "\"yes\"", "true or false"],
    );
    assert_told(
        r#"{"Network": "10.5.0.0/16", "EnableNFTables": 1}"#,
        &["EnableNFTables", "true or false"],
    );
    assert_told(
        r#"{"Network": 10}"#,
        &["\"Network\"", "10", "10.244.0.0/16"],
    );
    assert_told(
        r#"{"Network": "10.5.0.0/16", "Backend": "vxlan"}"#,
        &["\"Backend\"", "\"vxlan\"", "{\"Type\""],
    );
    assert_told("[1]", &["not a JSON object"]);
}

#[test]
fn ipv6_asks_more_of_the_mtu() {
    let text = |mtu| {
        format!(
            r#"{{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd05::/48", "Backend": {{"Type": "vxlan", "MTU": {mtu}}}}}"#
        )
    };
    assert_told(&text(1349), &["1349", "at least 1350"]);
    good(&text(1350));
}

#[test]
fn host_bits_of_a_network_are_masked_off() {
    let pool = v4(&format!(r#"{{"Network": "10.5.3.7/16", {ALLOC}}}"#));
    assert_eq!(pool.network.to_string(), "10.5.0.0/16");
    assert_eq!(pool.min, Ipv4Addr::new(10, 5, 1, 0));
}

#[test]
fn a_network_that_is_missing_or_none_is_told_with_an_example() {
    assert_told("{}", &["\"Network\" is missing", "10.244.0.0/16"]);
    assert_told(r#"{"Network": "auto"}"#, &["\"auto\"", "10.244.0.0/16"]);
    assert_told(r#"{"Network": "10.5.0.0"}"#, &["\"10.5.0.0\""]);
    assert_told(r#"{"Network": "10.5.0.0/33"}"#, &["\"10.5.0.0/33\""]);
    assert_told(
        r#"{"Network": "10.5.0.0/16", "EnableIPv6": true}"#,
        &["\"IPv6Network\" is missing", "fd05::/48"],
    );
}

#[test]
fn networks_of_the_other_family_are_told_their_place() {
    assert_told(
        r#"{"Network": "fd05::/48"}"#,
        &["other family", "\"IPv6Network\""],
    );
    let text = r#"{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "10.6.0.0/16"}"#;
    assert_told(text, &["\"IPv6Network\"", "other family"]);
}

#[test]
fn a_network_of_neither_family_is_none() {
    assert_told(
        r#"{"EnableIPv4": false, "Network": "10.5.0.0/16"}"#,
        &["no network is left"],
    );
    let text = r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd05::/48"}"#;
    assert_told(
        text,
        &["key begins with its IPv4 subnet", "--kube-subnet-mgr"],
    );
}

#[test]
fn a_subnet_length_is_two_more_than_the_networks_and_at_most_30() {
    let len = |network: &str, len: &str| {
        parse(&format!(r#"{{"Network": "{network}" {len}, {ALLOC}}}"#))
            .map(|c| c.v4.unwrap().subnet_len)
    };
    assert_eq!(len("10.5.0.0/22", "").unwrap(), 24);
    assert_eq!(len("10.5.0.0/23", "").unwrap(), 25);
    assert_eq!(len("10.5.0.0/28", "").unwrap(), 30);
    assert_eq!(len("10.5.0.0/8", ", \"SubnetLen\": 10").unwrap(), 10);
    assert_eq!(len("10.5.0.0/28", ", \"SubnetLen\": 30").unwrap(), 30);
    for (network, given, told) in [
        ("10.5.0.0/29", "", "too small"),
        ("10.5.0.0/29", ", \"SubnetLen\": 31", "too small"),
        ("10.5.0.0/16", ", \"SubnetLen\": 17", "\"SubnetLen\" is 17"),
        ("10.5.0.0/16", ", \"SubnetLen\": 31", "\"SubnetLen\" is 31"),
        (
            "10.5.0.0/16",
            ", \"SubnetLen\": 300",
            "\"SubnetLen\" is 300",
        ),
        ("10.5.0.0/16", ", \"SubnetLen\": -3", "\"SubnetLen\" is -3"),
        (
            "10.5.0.0/16",
            ", \"SubnetLen\": \"24\"",
            "\"SubnetLen\" must be a whole number",
        ),
    ] {
        let why = len(network, given).unwrap_err().to_string();
        assert!(why.contains(told), "{why}");
    }
}

#[test]
fn the_pool_begins_with_the_second_subnet_and_ends_with_the_last() {
    let pool = v4(&format!(r#"{{"Network": "10.5.0.0/22", {ALLOC}}}"#));
    assert_eq!(
        (pool.min.to_string(), pool.max.to_string()),
        ("10.5.1.0".into(), "10.5.3.0".into())
    );
    let pool = v4(&format!(
        r#"{{"Network": "0.0.0.0/0", "SubnetLen": 2, {ALLOC}}}"#
    ));
    assert_eq!(
        (pool.min.to_string(), pool.max.to_string()),
        ("64.0.0.0".into(), "192.0.0.0".into())
    );
}

#[test]
fn bounds_lie_inside_at_a_subnets_start_and_in_order() {
    let with = |bounds: &str| format!(r#"{{"Network": "10.5.0.0/16", {bounds}, {ALLOC}}}"#);
    let pool = v4(&with(r#""SubnetMin": "10.5.0.0", "SubnetMax": "10.5.7.0""#));
    assert_eq!(
        (pool.min, pool.max),
        (Ipv4Addr::new(10, 5, 0, 0), Ipv4Addr::new(10, 5, 7, 0))
    );
    assert_told(
        &with(r#""SubnetMin": "10.6.0.0""#),
        &["\"SubnetMin\"", "outside", "10.5.0.0", "10.5.255.255"],
    );
    assert_told(
        &with(r#""SubnetMax": "10.5.7.1""#),
        &[
            "\"SubnetMax\"",
            "10.5.7.1",
            "not the first address",
            "10.5.7.0 is",
        ],
    );
    assert_told(
        &with(r#""SubnetMin": "10.5.9.0", "SubnetMax": "10.5.7.0""#),
        &["\"SubnetMin\" is 10.5.9.0", "behind"],
    );
    assert_told(
        &with(r#""SubnetMax": "10.5.0.0""#),
        &["\"SubnetMin\" is 10.5.1.0 (the second subnet"],
    );
    assert_told(
        &with(r#""SubnetMin": "fd05::""#),
        &["\"SubnetMin\"", "an IPv4 address"],
    );
}

#[test]
fn ipv6_has_the_same_rules() {
    let with = |more: &str| {
        format!(r#"{{"Network": "10.5.0.0/16", "EnableIPv6": true, {more}, {ALLOC}}}"#)
    };
    let pool = v6(&with(r#""IPv6Network": "fd05::/48""#));
    assert_eq!(
        (pool.subnet_len, pool.min.to_string(), pool.max.to_string()),
        (64, "fd05:0:0:1::".into(), "fd05:0:0:ffff::".into())
    );
    assert_eq!(v6(&with(r#""IPv6Network": "fd05::/62""#)).subnet_len, 64);
    assert_eq!(v6(&with(r#""IPv6Network": "fd05::/63""#)).subnet_len, 65);
    assert_eq!(v6(&with(r#""IPv6Network": "fd05::/124""#)).subnet_len, 126);
    assert_eq!(
        v6(&with(r#""IPv6Network": "::/0""#)).max.to_string(),
        "ffff:ffff:ffff:ffff::"
    );
    assert_told(
        &with(r#""IPv6Network": "fd05::/125""#),
        &["\"IPv6Network\" is a /125", "too small"],
    );
    assert_told(
        &with(r#""IPv6Network": "fd05::/48", "IPv6SubnetLen": 127"#),
        &["\"IPv6SubnetLen\" is 127"],
    );
    assert_told(
        &with(r#""IPv6Network": "fd05::/48", "IPv6SubnetLen": 49"#),
        &["\"IPv6SubnetLen\" is 49"],
    );
    assert_told(
        &with(r#""IPv6Network": "fd05::/48", "IPv6SubnetMin": "fd06::""#),
        &["\"IPv6SubnetMin\"", "outside"],
    );
    assert_told(
        &with(r#""IPv6Network": "fd05::/48", "IPv6SubnetMax": "fd05::1""#),
        &["\"IPv6SubnetMax\"", "not the first"],
    );
}

#[test]
fn where_subnets_are_assigned_nothing_is_judged_and_the_network_may_be_found_elsewhere() {
    let found = Checks::Assigned {
        found: &["10.9.0.0/16".parse().unwrap()],
    };
    for text in [
        r#"{"Backend": {"Type": "host-gw"}}"#,
        r#"{"network": "Auto", "SubnetLen": 7, "Backend": {"Type": "host-gw"}}"#,
    ] {
        let conf = NetConf::parse(text, found).unwrap();
        assert_eq!(conf.v4.unwrap().network.to_string(), "10.9.0.0/16");
    }
    let none = Checks::Assigned { found: &[] };
    assert!(
        NetConf::parse("{}", none)
            .unwrap_err()
            .to_string()
            .contains("\"Network\" is missing")
    );
    // What nobody switched off is on if it was found.
    let found = ["10.9.0.0/16", "fd09::/56"].map(|net| net.parse().unwrap());
    let both =
        NetConf::parse(r#"{"Network": "auto"}"#, Checks::Assigned { found: &found }).unwrap();
    assert!(both.v4.is_some() && both.v6.is_some());
    let v6 = NetConf::parse("{}", Checks::Assigned { found: &found[1..] }).unwrap();
    assert!(v6.v4.is_none() && v6.v6.is_some());
    assert_eq!(both.networks, found);
    let several = NetConf::parse(r#"{"Network": "10.1.0.0/16, 10.7.0.0/16"}"#, none).unwrap();
    assert_eq!(several.networks.len(), 2);
    assert!(parse(r#"{"Network": "10.1.0.0/16,10.7.0.0/16"}"#).is_err());
    let v6_alone = r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd05::/48"}"#;
    let conf = NetConf::parse(v6_alone, none).unwrap();
    assert!(conf.v4.is_none() && conf.v6.is_some());
}

proptest! {
    #[test]
    fn every_pool_lies_in_its_network_at_subnets_starts(
        base: u32, base6: u128, len in 0u8..=32, len6 in 0u8..=128, sub in 0u8..=32, sub6 in 0u8..=128, judged: bool,
    ) {
        let text = format!(
            r#"{{"Network": "{}/{len}", "SubnetLen": {sub}, "EnableIPv6": true, "IPv6Network": "{}/{len6}", "IPv6SubnetLen": {sub6}, {ALLOC}}}"#,
            Ipv4Addr::from(base), Ipv6Addr::from(base6),
        );
        let checks = if judged { Checks::Leases } else { Checks::Assigned { found: &[] } };
        let Ok(conf) = NetConf::parse(&text, checks) else { return Ok(()) };
        if judged {
            let (v4, v6) = (conf.v4.unwrap(), conf.v6.unwrap());
            prop_assert!(v4.min <= v4.max && v4.network.contains(v4.min) && v4.network.contains(v4.max));
            prop_assert!(v6.min <= v6.max && v6.network.contains(v6.min) && v6.network.contains(v6.max));
            prop_assert_eq!(Ipv4Network::new(v4.max, v4.subnet_len).unwrap().network(), v4.max);
            prop_assert_eq!(Ipv6Network::new(v6.min, v6.subnet_len).unwrap().network(), v6.min);
        }
    }

    #[test]
    fn nothing_that_is_written_breaks_the_parser(text in r#"\{("(Network|SubnetLen|SubnetMin|Backend|Type|MTU|EnableIPv6|IPv6Network)":("10.5.0.0/16"|"fd05::/48"|-?[0-9]{1,20}|true|null|\{\}|\[\]),?){0,6}\}"#) {
        let _ = parse(&text);
        let _ = NetConf::parse(&text, Checks::Assigned { found: &[] });
    }
}
