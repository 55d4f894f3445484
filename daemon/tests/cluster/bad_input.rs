//! What people get wrong: it is told so that they can put it right, it harms nobody else, and
//! once it is right the daemon goes on without a restart.

use std::fs;
use std::path::Path;

use weft_netns::{Cmd, Need, in_world, skip_unless, wait_until};

use crate::etcd::{Etcd, absolute, etcd_is_here};
use crate::harness::{Cluster, LIMIT, Node, VXLAN, lay_wires, lease_with, vxlan_lease};
use crate::store::Store;

/// A configuration, and what is said of it.
const WRONG: &[(&str, &[&str])] = &[
    (
        r#"{"Network": "10.244.0.0/16" "Backend": {}}"#,
        &["line 1, column", "a comma is missing"],
    ),
    (r#"{"Network": "10.244.0.0/16","#, &["line 1, column"]),
    ("", &["configuration", "write it with"]),
    ("[1]", &["not a JSON object"]),
    (
        r#"{"Backend": {"Type": "vxlan"}}"#,
        &["\"Network\" is missing"],
    ),
    (
        r#"{"Network": "10.244.0.0", "Backend": {"Type": "vxlan"}}"#,
        &["\"10.244.0.0\""],
    ),
    (
        r#"{"Network": "10.244.0.0/16", "SubnetLen": 31, "Backend": {"Type": "vxlan"}}"#,
        &["\"SubnetLen\" is 31"],
    ),
    (
        r#"{"Network": "10.244.0.0/16", "SubnetMin": "10.9.0.0", "Backend": {"Type": "vxlan"}}"#,
        &["\"SubnetMin\"", "outside"],
    ),
    (
        r#"{"Network": "10.244.0.0/16", "SubnetMax": "10.244.7.1", "Backend": {"Type": "vxlan"}}"#,
        &["\"SubnetMax\"", "10.244.7.0"],
    ),
    (
        r#"{"Network": "10.244.0.0/16", "EnableIPv6": true, "Backend": {"Type": "vxlan"}}"#,
        &["\"IPv6Network\" is missing"],
    ),
    (
        r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlam"}}"#,
        &["\"vxlam\"", "vxlan, host-gw, udp, alloc"],
    ),
    (
        r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "wireguard"}}"#,
        &["wireguard", "vxlan, host-gw, udp, alloc"],
    ),
    (
        r#"{"Network": "10.244.0.0/16", "Backend": {}}"#,
        &["no \"Type\""],
    ),
    (
        r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": "1"}}"#,
        &["\"VNI\"", "without quotation marks"],
    ),
];

#[test]
fn each_wrong_configuration_is_explained_and_the_right_one_taken_without_a_restart() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (others, pods) = cluster.of(1);
        let whole = others[0].state();
        let node = cluster.node(7);
        cluster.store.put("config", WRONG[0].0);
        node.start();
        for (conf, parts) in WRONG {
            cluster.store.put("config", conf);
            until_waits_for(&node, parts);
        }
        // The others go on with what they know, and say that it is another by now.
        others[0].until_told(&["would not start with this"]);
        assert_eq!(others[0].state(), whole);
        assert!(others[0].is_ready() && node.lives());
        cluster.store.put("config", VXLAN);
        node.until_ready();
        node.pod().until_reaches(&pods[0]);
    });
}

/// Not ready, for a reason that holds all of `parts`; the log has it too.
#[track_caller]
fn until_waits_for(node: &Node<'_>, parts: &[&str]) {
    let mut last = String::new();
    wait_until(&format!("{parts:?} are told"), LIMIT, || {
        assert!(node.lives(), "{}", node.log());
        let why = node.status()["not_ready_because"].clone();
        last = why.as_str().unwrap_or_default().to_owned();
        parts.iter().all(|part| last.contains(part))
    });
    node.until_told(parts);
}

#[test]
fn a_missing_configuration_is_told_with_the_command_that_writes_it() {
    if !etcd_is_here() {
        return;
    }
    in_world(|world| {
        lay_wires(world);
        let cluster = Cluster {
            world,
            store: Store::Etcd(Etcd::of(world, 1)),
        };
        let node = cluster.node(1);
        node.start();
        until_waits_for(&node, &["etcdctl", "put", &absolute("config")]);
        // The very command that is told is one that works.
        let why = node.status()["not_ready_because"].clone();
        let why = why.as_str().unwrap();
        let command = &why[why.find("etcdctl").unwrap()..];
        Cmd::shell(command).env("ETCDCTL_API", "3").run().ok();
        node.until_ready();
    });
}

#[test]
fn a_changed_configuration_is_told_and_taken_at_the_next_start() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, _pods) = cluster.of(1);
        let whole = nodes[0].state();
        let other = VXLAN.replace("\"vxlan\"", "\"vxlan\",\"VNI\":7");
        cluster.store.put("config", &other);
        nodes[0].until_told(&["counts from the next start"]);
        assert_eq!(nodes[0].state(), whole);
        assert!(nodes[0].is_ready());
        nodes[0].restart();
        nodes[0].until_says("ip link", "flannel.7", true);
        nodes[0].until_says("ip link", "flannel.1:", false);
    });
}

#[test]
fn an_interface_that_is_not_there_is_told_by_its_name_with_those_that_are() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let mut node = cluster.node(1);
        node.flags.push("--iface=eth7".to_owned());
        node.flags.retain(|flag| flag != "--iface=eth0");
        node.start();
        until_waits_for(&node, &["eth7", "eth0"]);
        node.netns
            .exec("ip link set eth0 down; ip link set eth0 name eth7; ip link set eth7 up");
        node.until_ready();
    });
}

#[test]
fn host_gw_with_a_public_address_that_is_not_the_interface_s_is_explained() {
    in_world(|world| {
        let cluster = Cluster::new(world, crate::harness::HOST_GW);
        let mut node = cluster.node(1);
        node.flags.push("--public-ip=203.0.113.1".to_owned());
        node.start();
        until_waits_for(&node, &["203.0.113.1", "192.168.9.1", "host-gw"]);
        node.netns.exec("ip addr add 203.0.113.1/32 dev lo");
        assert!(node.lives());
    });
}

/// Pods whose addresses are also the nodes' would cut the node off.
#[test]
fn a_pod_network_that_overlaps_the_underlay_is_told() {
    in_world(|world| {
        let cluster = Cluster::new(
            world,
            r#"{"Network":"192.168.0.0/16","Backend":{"Type":"vxlan"}}"#,
        );
        let node = cluster.node(1);
        node.start();
        node.until_told(&["192.168.0.0/16 overlaps the underlay", "192.168.9.1"]);
        assert!(node.lives());
        cluster.store.put("config", VXLAN);
    });
}

/// Bad JSON, a MAC address too short, a subnet of elsewhere, our own subnet, no list, no address,
/// a tunnel of another number.
#[test]
fn peers_that_publish_rubbish_are_skipped_told_and_harm_nobody() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let whole = nodes[0].state();
        let own = nodes[0].subnet();
        let overlapping = format!("subnets/{}", own.replace("/24", "-25"));
        let short = lease_with("192.168.9.211", "02:00:00");
        let other_vni = vxlan_lease(215).replace("\"VNI\":1", "\"VNI\":9");
        let rubbish: &[(&str, &str)] = &[
            ("subnets/10.244.210.0-24", "{\"PublicIP\": "),
            ("subnets/10.244.211.0-24", &short),
            ("subnets/10.99.0.0-24", &vxlan_lease(212)),
            (&overlapping, &vxlan_lease(213)),
            ("subnets/10.244.215.0-24", &other_vni),
            ("subnets/rubbish", "rubbish"),
            ("subnets/10.244.216.0-24", "[1, 2]"),
            (
                "subnets/10.244.217.0-24",
                &lease_with("nowhere", "02:00:00:00:00:07"),
            ),
        ];
        for (key, value) in rubbish {
            cluster.store.put(key, value);
        }
        for (key, _) in rubbish {
            let name = key.trim_start_matches("subnets/");
            let subnet = name.replace('-', "/");
            wait_until(&format!("{name} is told"), LIMIT, || {
                let status = nodes[0].status();
                let told = format!("{}{}", status["leases_unreadable"], status["peers_skipped"]);
                told.contains(name) || told.contains(&subnet)
            });
        }
        // One that is in order arrives among them.
        cluster.put_peer(220, &vxlan_lease(220));
        nodes[0].until_says("ip route", "10.244.220.0/24", true);
        assert!(nodes.iter().all(|node| node.is_ready()));
        let metrics = nodes[0].ask("/metrics").unwrap().1;
        println!("{metrics}");

        // Corrected, it is a peer like any other.
        cluster.put_peer(211, &lease_with("192.168.9.211", "02:00:00:00:00:d3"));
        nodes[0].until_says("ip route", "10.244.211.0/24", true);
        for key in cluster.store.leases() {
            if rubbish.iter().any(|(bad, _)| *bad == key) || key.contains("10.244.220.0") {
                cluster.store.delete(&key);
            }
        }
        nodes[0].until_state(&whole);
        pods[1].until_reaches(&pods[0]);
        strip.ends_whole();
    });
}

#[test]
fn of_two_peers_with_one_mac_address_one_is_reached_and_the_other_told() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let key = cluster.key_of(&nodes[1]);
        let lease = cluster.store.get(&key).unwrap();
        let mac = &lease[lease.find("VtepMAC").unwrap() + 10..][..17];
        cluster.put_peer(255, &lease_with("192.168.9.250", mac));
        nodes[0].until_told(&["10.244.255.0/24", mac]);
        pods[0].until_reaches(&pods[1]);
        cluster.store.delete("subnets/10.244.255.0-24");
        wait_until("it is forgotten", LIMIT, || {
            nodes[0].status()["peers_skipped"]
                .as_array()
                .unwrap()
                .is_empty()
        });
    });
}

const PASSWORD: &str = "geheim";

fn secured(world: &weft_netns::World) -> Etcd {
    let mut etcd = Etcd::of(world, 1);
    etcd.put("config", VXLAN);
    etcd.ctl(&["user", "add", &format!("root:{PASSWORD}")]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["auth", "enable"]);
    etcd.access = vec!["--user".into(), format!("root:{PASSWORD}")];
    etcd
}

#[test]
fn a_wrong_password_is_told_and_once_it_is_right_all_goes_on() {
    if !etcd_is_here() {
        return;
    }
    in_world(|world| {
        lay_wires(world);
        let store = Store::Etcd(secured(world));
        let cluster = Cluster { world, store };
        let mut node = cluster.node(1);
        node.flags.push("--etcd-username=root".to_owned());
        node.flags.push("--etcd-password=falsch".to_owned());
        node.start();
        node.until_told(&["wrong user name or password", "--etcd-password"]);
        assert!(!node.is_ready() && node.lives());
        // The operator may put right either side.
        let etcd = cluster.etcd();
        let shell = format!(
            "echo falsch | ETCDCTL_API=3 etcdctl --endpoints {} --user root:{PASSWORD} \
             user passwd root --interactive=false",
            etcd.endpoints()
        );
        Cmd::shell(&shell).run().ok();
        node.until_ready();
        assert!(!node.log().contains("falsch"), "a password is in the log");
    });
}

/// Authorities in `dir`, and what they sign.
fn openssl(dir: &Path, script: &str) {
    let line = format!("cd {}; {script}", dir.display());
    Cmd::shell(&line).run().ok();
}

const AUTHORITIES: &str = "
    authority() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
        -subj /CN=$1 -keyout $1.key -out $1.pem; }
    sign() { # authority, name, subject's other name
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=$2 \
            -keyout $2.key -out $2.csr; echo subjectAltName=$3 > $2.ext; \
        openssl x509 -req -days 2 -in $2.csr -out $2.pem -CA $1.pem -CAkey $1.key \
            -CAcreateserial -extfile $2.ext; }
    authority right; authority wrong
    sign right server IP:192.168.9.240; sign right client DNS:client; sign wrong stranger DNS:stranger";

#[test]
fn wrong_certificates_are_told_and_once_they_are_right_all_goes_on() {
    if !etcd_is_here() || !skip_unless(&[Need::Tool("openssl")]) {
        return;
    }
    in_world(|world| {
        lay_wires(world);
        let dir = world.scratch("tls");
        openssl(&dir, AUTHORITIES);
        let file = |name: &str| dir.join(name).display().to_string();
        let mut etcd = Etcd::stopped(
            world,
            1,
            "https",
            &[
                format!("--cert-file={}", file("server.pem")),
                format!("--key-file={}", file("server.key")),
                format!("--trusted-ca-file={}", file("right.pem")),
                "--client-cert-auth".to_owned(),
            ],
        );
        etcd.access = [
            ("--cacert", "right.pem"),
            ("--cert", "client.pem"),
            ("--key", "client.key"),
        ]
        .iter()
        .flat_map(|(flag, name)| [(*flag).to_owned(), file(name)])
        .collect();
        etcd.start();
        etcd.put("config", VXLAN);
        let cluster = Cluster {
            world,
            store: Store::Etcd(etcd),
        };
        let mut node = cluster.node(1);
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            node.flags.push(format!(
                "--etcd-{}file={}",
                &name[..name.len() - 4],
                file(name)
            ));
        }
        let install = |ca: &str, name: &str| {
            fs::copy(dir.join(format!("{ca}.pem")), dir.join("ca.pem")).unwrap();
            fs::copy(dir.join(format!("{name}.pem")), dir.join("cert.pem")).unwrap();
            fs::copy(dir.join(format!("{name}.key")), dir.join("key.pem")).unwrap();
        };
        // The wrong authority, then a certificate of a stranger, then what is right.
        install("wrong", "client");
        node.start();
        node.until_told(&["the store is in trouble", "--etcd-cafile"]);
        install("right", "stranger");
        node.until_told(&["--etcd-certfile"]);
        assert!(!node.is_ready() && node.lives());
        install("right", "client");
        node.until_ready();
    });
}
