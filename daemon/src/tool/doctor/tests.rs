use std::io;
use std::path::PathBuf;
use std::time::Duration;

use weft_net::route::{Address, Link, OperState, Vxlan};

use super::cni::{Conf, Confs};
use super::facts::{Links, Settings};
use super::*;
use crate::firewall::{ForwardHook, Passage};
use crate::status::testing;
use crate::subnet_file::Found;

/// A node on which all is well.
fn well() -> Facts {
    let (status, now) = testing::serving();
    let mut status = status.to_json(now + Duration::from_secs(1));
    for (key, nothing) in [
        ("kernel_refusals", json!([])),
        ("peers_skipped", json!([])),
        ("leases_unreadable", json!([])),
        ("configuration_changed", Value::Null),
    ] {
        status[key] = nothing;
    }
    let on = || Some("1".to_owned());
    Facts {
        status: Ok(status),
        subnet_path: "/run/flannel/subnet.env".into(),
        subnet_file: Ok(Some(Found::parse(SUBNET_FILE))),
        links: Ok(Links {
            links: vec![
                link(2, "eth0", 1500),
                tunnel(3, 1450),
                link(4, "cni0", 1450),
            ],
            addresses: vec![Address::new(4, "10.5.63.1/24".parse().unwrap())],
        }),
        hooks: Ok(Vec::new()),
        settings: Settings {
            forward4: on(),
            forward6: on(),
            bridge4: on(),
            bridge6: on(),
        },
        confs: Confs {
            directory: "/etc/cni/net.d".into(),
            files: Ok(vec![conf("10-flannel.conflist", CONFLIST)]),
            plugins: "/opt/cni/bin".into(),
            present: Ok(["bridge", "host-local", "flannel", "portmap"]
                .map(str::to_owned)
                .into()),
        },
    }
}

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link {
        index,
        name: name.into(),
        kind: None,
        mac: None,
        mtu,
        txqlen: 0,
        alias: None,
        up: true,
        lower_up: true,
        promisc: false,
        loopback: false,
        point_to_point: false,
        operstate: OperState::Up,
        master: None,
        link: None,
        link_namespace: None,
        port: None,
        bridge: None,
        vxlan: None,
        tun: None,
    }
}

fn tunnel(index: u32, mtu: u32) -> Link {
    Link {
        vxlan: Some(Vxlan {
            vni: 1,
            local: Some("192.168.9.181".parse().unwrap()),
            remote: None,
            lower: Some(2),
            port: 8472,
            learning: false,
            gbp: false,
            gpe: false,
            udp_checksum: true,
            zero_checksum6_tx: false,
            zero_checksum6_rx: false,
            proxy: false,
            l2miss: false,
            l3miss: false,
            collect_metadata: false,
            ttl: 0,
            ageing: 300,
        }),
        ..link(index, "flannel.1", mtu)
    }
}

fn conf(name: &str, text: &str) -> Conf {
    Conf::parse(PathBuf::from("/etc/cni/net.d").join(name), text)
}

/// All that is found, each in one line.
fn found(facts: &Facts) -> Vec<String> {
    let checks = judge(facts);
    let findings = checks.into_iter().flat_map(|check| check.findings);
    findings
        .map(|finding| {
            let Finding {
                grade,
                what,
                why,
                cure,
            } = finding;
            assert!(!why.is_empty() && !cure.is_empty(), "{what}");
            format!("{grade:?}: {what} → {cure}")
        })
        .collect()
}

#[track_caller]
fn assert_found(facts: &Facts, parts: &[&str]) {
    let found = found(facts);
    assert_eq!(found.len(), 1, "{found:#?}");
    for part in parts {
        assert!(found[0].contains(part), "{part}: {found:#?}");
    }
}

fn links(facts: &mut Facts) -> &mut Links {
    facts.links.as_mut().unwrap()
}

fn status(facts: &mut Facts) -> &mut Value {
    facts.status.as_mut().unwrap()
}

#[test]
fn nothing_is_found_where_all_is_well() {
    let facts = well();
    assert_eq!(found(&facts), Vec::<String>::new());
    assert!(is_well(&judge(&facts)));
    let mut out = Vec::new();
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut io::sink(),
        colours: false,
    };
    write(&judge(&facts), &mut terminal).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.lines().all(|line| line.starts_with("ok      ")),
        "{text}"
    );
}

#[test]
fn a_daemon_that_is_not_ready_is_told_with_its_reason() {
    let mut facts = well();
    status(&mut facts)["ready"] = false.into();
    status(&mut facts)["not_ready_because"] = "no subnet is left".into();
    assert_found(
        &facts,
        &[
            "Wrong: weftd is not ready: no subnet is left",
            "weft status",
        ],
    );
}

#[test]
fn what_the_daemon_complains_of_is_repeated() {
    let mut facts = well();
    status(&mut facts)["peers_skipped"] =
        json!([{"subnet": "10.5.7.0/24", "why": "it publishes no address"}]);
    assert_found(
        &facts,
        &["left out (1): 10.5.7.0/24: it publishes no address"],
    );
    let mut facts = well();
    status(&mut facts)["packet_path"] =
        json!({"missing": [{"name": "answers_refused", "what": "grant CAP_NET_RAW"}]});
    assert_found(
        &facts,
        &["Advice: the packet path does without", "grant CAP_NET_RAW"],
    );
    let mut facts = well();
    status(&mut facts)["configuration_changed"] = "another network is configured".into();
    assert_found(
        &facts,
        &["Advice: another network", "systemctl restart weftd"],
    );
}

#[test]
fn a_subnet_file_of_another_lease_is_told() {
    let mut facts = well();
    let other = SUBNET_FILE.replace("10.5.63.1/24", "10.5.62.1/24");
    facts.subnet_file = Ok(Some(Found::parse(&other)));
    let found = found(&facts);
    assert!(
        found[0].contains("says 10.5.62.0/24, but weftd holds 10.5.63.0/24"),
        "{found:#?}"
    );

    facts.subnet_file = Ok(None);
    assert_found(&facts, &["there is no /run/flannel/subnet.env"]);
    facts.subnet_file = Ok(Some(Found::parse("FLANNEL_MTU=x")));
    assert_found(&facts, &["lacks FLANNEL_NETWORK"]);
}

#[test]
fn a_kernel_that_forwards_nothing_is_told_with_the_command() {
    let mut facts = well();
    facts.settings.forward4 = Some("0".into());
    assert_found(
        &facts,
        &[
            "Wrong: net.ipv4.ip_forward is 0",
            "sysctl -w net.ipv4.ip_forward=1",
        ],
    );
    let mut facts = well();
    facts.settings.forward6 = Some("0".into());
    assert_eq!(found(&facts).len(), 0, "there is no IPv6 network");
}

#[test]
fn br_netfilter_missing_is_no_more_than_advice() {
    let mut facts = well();
    facts.settings.bridge4 = None;
    assert_found(
        &facts,
        &["Advice: the module br_netfilter", "modprobe br_netfilter"],
    );
    assert!(is_well(&judge(&facts)));
}

#[test]
fn a_chain_that_drops_is_told_with_its_remedy() {
    let mut facts = well();
    facts.hooks = Ok(vec![ForwardHook {
        table: "inet custom".into(),
        chain: "forward".into(),
        priority: 0,
        leaving: Passage::Dropped("its policy".into()),
        arriving: Passage::Dropped("its policy".into()),
        networks: vec!["10.5.0.0/16".parse().unwrap()],
    }]);
    assert_found(
        &facts,
        &[
            "dropped by chain forward of table inet custom (its policy)",
            "nft insert rule inet custom forward ip saddr 10.5.0.0/16 accept",
        ],
    );
    facts.hooks = Err("operation not permitted".into());
    assert_found(&facts, &["cannot be looked at", "as root"]);
}

#[test]
fn a_tunnel_too_wide_for_what_carries_it_is_told() {
    let mut facts = well();
    links(&mut facts).links[0].mtu = 1400;
    assert_found(
        &facts,
        &[
            "flannel.1 has MTU 1450, but eth0 carries 1400, which leaves 1350",
            "mtu 1350",
        ],
    );
}

#[test]
fn a_tunnel_that_is_down_or_gone_is_told() {
    let mut facts = well();
    links(&mut facts).links[1].up = false;
    assert_found(&facts, &["flannel.1 is down", "ip link set flannel.1 up"]);
    links(&mut facts).links.remove(1);
    assert_found(&facts, &["flannel.1 is gone"]);
}

#[test]
fn pods_with_packets_too_large_are_told() {
    let mut facts = well();
    links(&mut facts).links[2].mtu = 1500;
    assert_eq!(
        found(&facts).len(),
        0,
        "a bridge without pods takes its MTU from the first"
    );
    let mut pod = link(5, "veth1", 1500);
    pod.master = Some(4);
    links(&mut facts).links.push(pod);
    assert_found(&facts, &["cni0 and its pods have MTU 1500, but 1450 fits"]);
}

#[test]
fn a_bridge_with_another_subnets_address_is_told() {
    let mut facts = well();
    links(&mut facts).addresses[0].address = "10.5.9.1/24".parse().unwrap();
    assert_found(
        &facts,
        &[
            "cni0 has the address 10.5.9.1/24, but /etc/cni/net.d/10-flannel.conflist wants 10.5.63.1/24",
            "ip link delete cni0",
        ],
    );
}

/// A node that was flannel's, and is given a network of its own on the same bridge.
#[test]
fn a_plain_bridge_after_flannel_is_told() {
    let mut facts = well();
    facts.confs.files = Ok(vec![conf("10-mynet.conf", MYNET)]);
    assert_found(
        &facts,
        &[
            "cni0 has the address 10.5.63.1/24, but",
            "10-mynet.conf wants 10.244.0.1/16",
        ],
    );
}

#[test]
fn a_conflist_as_people_write_it_is_explained_line_by_line() {
    let mut facts = well();
    facts.confs.files = Ok(vec![conf("10-flannel.conflist", AS_WRITTEN)]);
    let found = found(&facts);
    let expected = [
        "10-flannel.conflist, line 6, column 26: a comment, which JSON does not know → take it out",
        "10-flannel.conflist, line 7, column 38: a comment, which JSON does not know → take it out",
        "10-flannel.conflist, line 14, column 37: a comma before }, with nothing after it → take the comma out",
        "10-flannel.conflist has no \"cniVersion\" → add \"cniVersion\"",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn a_configuration_without_a_name_or_a_type_is_told() {
    let mut facts = well();
    let files = [
        conf("10-flannel.conflist", CONFLIST),
        conf(
            "99-loopback.conf",
            "{\"cniVersion\": \"0.3.0\", \"type\": \"bridge\"}",
        ),
    ];
    facts.confs.files = Ok(files.into());
    assert_found(&facts, &["99-loopback.conf: it has no \"name\""]);
    for (text, told) in [
        (
            "{\"cniVersion\": \"1.0.0\", \"name\": \"a\"}",
            "a plugin in it has no \"type\"",
        ),
        (
            "{\"cniVersion\": \"1.0\", \"name\": \"a\", \"type\": \"bridge\"}",
            "does not exist",
        ),
        ("[]", "not a JSON object"),
    ] {
        let files = [
            conf("10-flannel.conflist", CONFLIST),
            conf("20-a.conf", text),
        ];
        facts.confs.files = Ok(files.into());
        assert_found(&facts, &[told]);
    }
}

#[test]
fn a_file_that_hides_flannels_is_told() {
    let mut facts = well();
    let files = [
        conf(
            "05-other.conf",
            "{\"cniVersion\": \"1.0.0\", \"name\": \"a\", \"type\": \"portmap\"}",
        ),
        conf("10-flannel.conflist", CONFLIST),
    ];
    facts.confs.files = Ok(files.into());
    assert_found(
        &facts,
        &["Advice: /etc/cni/net.d/05-other.conf comes before"],
    );
    facts.confs.files = Ok(Vec::new());
    assert_found(&facts, &["there is no CNI configuration in /etc/cni/net.d"]);
}

#[test]
fn plugins_that_are_missing_are_told_with_those_they_run() {
    let mut facts = well();
    facts.confs.present = Ok(["flannel", "portmap"].map(str::to_owned).into());
    let found = found(&facts);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains("no CNI plugin bridge") && found[0].contains("make install"));
    assert!(found[1].contains("no CNI plugin host-local"));
}

const SUBNET_FILE: &str = "\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.63.1/24
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
";

const CONFLIST: &str = r#"{"cniVersion": "1.0.0", "name": "cbr0", "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;

const MYNET: &str = r#"{"cniVersion": "0.3.0", "name": "mynet", "type": "bridge", "bridge": "cni0",
    "isGateway": true, "ipMasq": true, "ipam": {"type": "host-local", "subnet": "10.244.0.0/16",
    "routes": [{"dst": "0.0.0.0/0"}]}}"#;

const AS_WRITTEN: &str = r#"{
    "name": "cbr0",
    "plugins": [
        {
            "type": "flannel",
            "delegate":{ //...
                "hairpinMode": true, //...
                "isDefaultGateway": true
            }
        },
     	{
            "type": "portmap",
            "capabilities":{
                "portMappings": true,
            }
        }
    ]
}
"#;
