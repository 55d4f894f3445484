//! The udp backend: a TUN, sockets and the packet path in the daemon itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use weft_netns::{Need, in_world, skip_unless, wait_until};

use crate::harness::{Cluster, DUAL_UDP, LIMIT, Node, UDP, VXLAN, lease_with, vxlan_lease};
use crate::wire::{Flannel, PORT, echo_reply_ttl, echo_request};

/// What flannel's udp backend publishes.
fn plain_lease(n: u8) -> String {
    format!(r#"{{"PublicIP":"192.168.9.{n}","PublicIPv6":null}}"#)
}

fn drops(node: &Node<'_>, reason: &str) -> u64 {
    let status = node.status();
    let received = &status["packet_path"]["received"]["dropped"];
    received[reason].as_u64().unwrap_or(0)
}

#[test]
fn the_device_the_route_and_the_lease_are_as_flannel_has_them() {
    in_world(|world| {
        let cluster = Cluster::new(world, r#"{"Network":"10.244.0.0/16"}"#);
        let (nodes, _pods) = cluster.of(2);
        let node = &nodes[0];
        let own = node.subnet_address();
        node.until_says("ip -o addr show flannel0", &format!("{own}/32"), true);
        node.until_says("ip -o link show flannel0", "mtu 1472", true);
        node.until_says("ip route", "10.244.0.0/16 dev flannel0", true);
        assert_eq!(node.subnet_env()["FLANNEL_MTU"], "1472");
        let lease = cluster.store.get(&cluster.key_of(node)).unwrap();
        let wanted = r#"{"PublicIP":"192.168.9.1","PublicIPv6":null,"Weft":"#;
        assert!(lease.starts_with(wanted), "{lease}");
        assert_eq!(
            node.status()["packet_path"]["missing"],
            serde_json::json!([])
        );
    });
}

/// Whatever is taken away of the device is back; the device itself too, and packets move again.
#[test]
fn drift_of_the_device_is_repaired_and_its_author_named() {
    in_world(|world| {
        let cluster = Cluster::new(world, DUAL_UDP);
        let (nodes, pods) = cluster.of(2);
        let node = &nodes[0];
        let whole = node.state();
        let index = || node.netns.exec("ip -o link show flannel0 | cut -d: -f1");
        let before = index();
        let own = node.subnet_address();
        for deed in [
            &format!("ip addr del {own}/32 dev flannel0"),
            "ip addr flush dev flannel0",
            "ip route del 10.244.0.0/16",
            "ip -6 route del fd05::/48 dev flannel0",
            "ip link set flannel0 mtu 1300",
            "ip link set flannel0 down",
        ] {
            node.netns.exec(deed);
            node.until_state(&whole);
            pods[0].until_reaches(&pods[1]);
        }
        assert_eq!(index(), before);
        node.netns.exec("ip link del flannel0");
        node.until_state(&whole);
        pods[0].until_reaches(&pods[1]);
        assert_ne!(index(), before);
        node.netns.exec(&format!(
            "kill -STOP {pid}; ip link del flannel0; ip link add flannel0 type bridge; \
                 kill -CONT {pid}",
            pid = node.pid()
        ));
        node.until_state(&whole);
        pods[1].until_reaches(&pods[0]);
        let kinds = node.status()["repairs"].to_string();
        for kind in ["address", "route", "device"] {
            assert!(kinds.contains(kind), "{kinds}");
        }
        node.until_ready();
    });
}

#[test]
fn an_underlay_that_changes_is_followed() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        for (mtu, inner) in [(1400, "1372"), (1500, "1472")] {
            nodes[0].netns.exec(&format!("ip link set eth0 mtu {mtu}"));
            nodes[0].until_says("ip link show flannel0", &format!("mtu {inner}"), true);
            wait_until("subnet.env follows", LIMIT, || {
                nodes[0].subnet_env().get("FLANNEL_MTU").map(String::as_str) == Some(inner)
            });
        }
        nodes[1].netns.exec(
            "ip addr add 192.168.9.102/24 dev eth0; ip addr del 192.168.9.2/24 dev eth0; \
             ip addr replace 192.168.9.102/24 dev eth0",
        );
        nodes[1].until_says("ss -lun", &format!("192.168.9.102:{PORT}"), true);
        nodes[1].until_says("ss -lun", &format!("192.168.9.2:{PORT}"), false);
        pods[0].until_reaches(&pods[1]);
        nodes[1].until_ready();
    });
}

#[test]
fn an_underlay_too_narrow_is_told_with_the_remedy() {
    in_world(|world| {
        let cluster = Cluster::new(world, DUAL_UDP);
        let node = cluster.node(1);
        node.netns.exec("ip link set eth0 mtu 1300");
        node.start();
        node.until_told(&["MTU of 1300", "IPv6 needs 1280", "mtu 1308"]);
        assert!(node.lives() && !node.is_ready());
        node.netns.exec("ip link set eth0 mtu 1500");
        node.until_ready();
    });
}

/// One that never heard of weft: it is reached, reaches us, and needs no particular port of ours.
#[test]
fn a_node_with_flannel_s_own_proxy_is_a_peer() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(1);
        let machine = cluster.node(66);
        let flannel = Flannel::on(&machine, &nodes[0]);
        cluster.put_peer(166, &plain_lease(66));
        let pod: Ipv4Addr = pods[0].ip().to_string().parse().unwrap();
        let theirs = Ipv4Addr::new(10, 244, 166, 9);
        let mut ttl = None;
        wait_until("the pod's answer", LIMIT, || {
            flannel.send(&echo_request(theirs, pod, 64));
            ttl = flannel
                .receive()
                .and_then(|(packet, _)| echo_reply_ttl(&packet));
            ttl.is_some()
        });
        // The node's own hop, and the packet path's.
        assert_eq!(ttl, Some(62));
        let received = nodes[0].status()["packet_path"]["peers"].to_string();
        assert!(received.contains("192.168.9.66"), "{received}");
    });
}

#[test]
fn forged_packets_end_at_the_packet_path_and_are_counted_by_reason() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(1);
        let node = &nodes[0];
        let machine = cluster.node(66);
        let flannel = Flannel::on(&machine, node);
        cluster.put_peer(166, &plain_lease(66));
        cluster.put_peer(167, &plain_lease(67));
        let pod: Ipv4Addr = pods[0].ip().to_string().parse().unwrap();
        let theirs = Ipv4Addr::new(10, 244, 166, 9);
        wait_until("a peer is let in", LIMIT, || {
            flannel.send(&echo_request(theirs, pod, 64));
            flannel.receive().is_some()
        });
        let forged: &[(&str, Vec<u8>)] = &[
            (
                "foreign_source",
                echo_request([10, 244, 167, 9].into(), pod, 64),
            ),
            ("foreign_source", echo_request([8, 8, 8, 8].into(), pod, 64)),
            (
                "foreign_destination",
                echo_request(theirs, [10, 244, 167, 9].into(), 64),
            ),
            ("malformed", b"rubbish".to_vec()),
            ("expired", echo_request(theirs, pod, 1)),
        ];
        for (reason, packet) in forged {
            while flannel.receive().is_some() {}
            let before = drops(node, reason);
            wait_until(reason, LIMIT, || {
                flannel.send(packet);
                drops(node, reason) > before
            });
            let answers = std::iter::from_fn(|| flannel.receive());
            let reached = answers.filter(|(packet, _)| echo_reply_ttl(packet).is_some());
            assert_eq!(reached.count(), 0, "{reason}: the pod has answered");
        }
        // A stranger's are dropped by the kernel, before they take anybody's place.
        let stranger = cluster.node(68);
        let stranger = Flannel::on(&stranger, node);
        let unheard = || node.status()["packet_path"]["unheard"].as_u64().unwrap();
        let before = unheard();
        wait_until("a stranger's packets are counted", LIMIT, || {
            stranger.send(&echo_request(theirs, pod, 64));
            unheard() > before
        });
        let metrics = node.ask("/metrics").unwrap().1;
        let counted = r#"weft_udp_dropped_packets_total{direction="received",reason="malformed"}"#;
        assert!(metrics.contains(counted), "{metrics}");
    });
}

#[test]
fn a_port_that_is_taken_is_told_and_the_rest_stands() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (others, pods) = cluster.of(1);
        let node = cluster.node(7);
        let local = format!("{}:{PORT}", node.underlay());
        let squatter = node
            .netns
            .enter(|| std::net::UdpSocket::bind(&local))
            .unwrap();
        node.start();
        node.until_told(&[&local, "another program has the port", "Backend.Port"]);
        node.until_says("ip route", "10.244.0.0/16 dev flannel0", true);
        node.until_says("nft list ruleset", "masquerade", true);
        assert!(node.lives() && !node.is_ready());
        drop(squatter);
        node.until_ready();
        node.pod().until_reaches(&pods[0]);
        others[0].until_ready();
    });
}

/// Of another port or backend: told by whoever sees it, and no harm to the others.
#[test]
fn nodes_that_disagree_are_told_of() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let other =
            r#"{"PublicIP":"192.168.9.66","PublicIPv6":null,"Weft":{"Node":"n","UdpPort":9999}}"#;
        cluster.put_peer(166, other);
        cluster.put_peer(167, &vxlan_lease(67));
        nodes[0].until_told(&["10.244.166.0/24", "UDP port 9999", "8285"]);
        nodes[0].until_told(&["10.244.167.0/24", "its backend is vxlan"]);
        strip.ends_whole();
    });
}

/// The node has no /dev/net/tun, or may not use it; once it may, it goes on by itself.
#[test]
fn a_missing_tun_is_told_and_taken_once_it_is_there() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (_others, pods) = cluster.of(1);
        let node = cluster.node(7);
        let hidden = node.dir.join("hidden");
        std::fs::create_dir_all(&hidden).unwrap();
        let dir = hidden.display();
        let line = format!(
            "mount --rbind /dev/net {dir} && mount -t tmpfs none /dev/net && exec {} {}",
            env!("CARGO_BIN_EXE_weftd"),
            node.flags.join(" ")
        );
        node.start_as(&[
            "unshare",
            "-m",
            "--propagation",
            "unchanged",
            "sh",
            "-c",
            &line,
        ]);
        node.until_told(&["open /dev/net/tun", "load the module tun"]);
        assert!(node.lives() && !node.is_ready());
        let pid = node.pid();
        world.exec(&format!("nsenter -t {pid} -m umount /dev/net"));
        node.until_ready();
        node.pod().until_reaches(&pods[0]);
    });
}

/// As in a container of runc 1.2.0 to 1.2.3: the device is mounted, and not among those that the
/// container may open.
#[test]
fn a_tun_that_the_cgroup_denies_is_told_and_taken_once_it_is_allowed() {
    const DEVICES: &str = "/sys/fs/cgroup/devices";
    let group = format!("{DEVICES}/weft-{}", std::process::id());
    let made = std::fs::create_dir(&group).and_then(|()| std::fs::remove_dir(&group));
    let denies = made.is_ok();
    if !skip_unless(&[Need::Other("the devices of cgroup v1, as root", denies)]) {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (_others, pods) = cluster.of(1);
        let node = cluster.node(7);
        let group = format!("{DEVICES}/weft-{}", std::process::id());
        let line = format!(
            "mkdir {group} && echo 'c 10:200 rwm' > {group}/devices.deny && \
             echo $$ > {group}/cgroup.procs && exec {} {}",
            env!("CARGO_BIN_EXE_weftd"),
            node.flags.join(" ")
        );
        node.start_as(&["sh", "-c", &line]);
        node.until_told(&[
            "open /dev/net/tun: Operation not permitted",
            "let the container use the device 10:200",
        ]);
        assert!(node.lives() && !node.is_ready());
        world.exec(&format!("echo 'c 10:200 rwm' > {group}/devices.allow"));
        node.until_ready();
        node.pod().until_reaches(&pods[0]);
        node.terminate();
        world.exec(&format!("rmdir {group}"));
    });
}

/// As a container without the device among those that it may use.
#[test]
fn a_tun_that_may_not_be_used_is_told_and_taken_once_it_may() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (_others, pods) = cluster.of(1);
        let node = cluster.node(7);
        let line = format!(
            "mount --bind /dev/net/tun /dev/net/tun && \
             mount -o remount,bind,nodev /dev/net/tun && exec {} {}",
            env!("CARGO_BIN_EXE_weftd"),
            node.flags.join(" ")
        );
        node.start_as(&["unshare", "-m", "sh", "-c", &line]);
        node.until_told(&["open /dev/net/tun", "let the container use the device"]);
        assert!(node.lives() && !node.is_ready());
        let pid = node.pid();
        world.exec(&format!("nsenter -t {pid} -m umount /dev/net/tun"));
        node.until_ready();
        node.pod().until_reaches(&pods[0]);
    });
}

/// What becomes of a node's address on the way, it cannot tell; that is said, and nobody let in.
#[test]
fn a_node_whose_address_is_translated_is_told_of() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, _pods) = cluster.of(1);
        let mut behind = cluster.node(2);
        behind.flags.push("--public-ip=203.0.113.7".to_owned());
        behind.start();
        behind.until_ready();
        nodes[0].until_told(&[&behind.subnet(), "not its interface's"]);
    });
}

/// What the kernel does not grant is told once, shown, and done without.
#[test]
fn what_the_packet_path_has_to_do_without_is_shown() {
    if !skip_unless(&[Need::Tool("setpriv")]) {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (_others, pods) = cluster.of(1);
        let node = cluster.node(7);
        let line = format!(
            "exec setpriv --bounding-set=-net_raw --inh-caps=-net_raw {} {}",
            env!("CARGO_BIN_EXE_weftd"),
            node.flags.join(" ")
        );
        node.start_as(&["sh", "-c", &line]);
        node.until_ready();
        node.pod().until_reaches(&pods[0]);
        let missing = node.status()["packet_path"]["missing"].to_string();
        assert!(missing.contains("answers_refused"), "{missing}");
        assert!(missing.contains("CAP_NET_RAW"), "{missing}");
        let metrics = node.ask("/metrics").unwrap().1;
        let lacks = r#"weft_udp_degraded{what="answers_refused"} 1"#;
        assert!(metrics.contains(lacks), "{metrics}");
        assert_eq!(node.log().matches("no raw socket").count(), 1);
    });
}

/// An older kernel (make test-vm brings one) has no UDP superpackets: that is said once, and packets
/// take the next best way.
#[test]
fn what_an_older_kernel_lacks_is_told_once_and_done_without() {
    in_world(|world| {
        let cluster = Cluster::new(world, DUAL_UDP);
        let (nodes, pods) = cluster.of(2);
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy().into_owned();
        let mut numbers = release.split(['.', '-', '+']).map_while(|n| n.parse().ok());
        let kernel: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
        let lacks = u32::from(kernel < (6, 2));
        for node in &nodes {
            let missing = node.status()["packet_path"]["missing"].to_string();
            assert_eq!(missing.contains("uso_refused"), lacks == 1, "{missing}");
            let metrics = node.ask("/metrics").unwrap().1;
            let metric = format!(r#"weft_udp_degraded{{what="uso_refused"}} {lacks}"#);
            assert!(metrics.contains(&metric), "{metrics}");
            let told = node.log().matches("refuses UDP superpackets").count();
            assert_eq!(told, lacks as usize, "{}", node.log());
        }
        nodes[0].is_taken_over();
        pods[0].until_reaches(&pods[1]);
        pods[1].until_reaches(&pods[0]);
    });
}

/// From vxlan to udp and back, one run after the other: nothing of the other is left.
#[test]
fn a_change_of_the_backend_between_runs_leaves_nothing() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let vxlan = nodes[0].state();
        let change = |conf: &str| {
            nodes.iter().for_each(|node| drop(node.terminate()));
            cluster.store.put("config", conf);
            nodes.iter().for_each(Node::start);
            nodes.iter().for_each(Node::until_ready);
            pods[0].until_reaches(&pods[1]);
        };
        change(UDP);
        nodes[0].until_says("ip -o link", "flannel.1", false);
        nodes[0].until_says("ip route", "flannel.1", false);
        assert!(nodes[0].netns.exec("ip route").contains("dev flannel0"));
        change(VXLAN);
        nodes[0].until_says("ip -o link", "flannel0", false);
        nodes[0].until_state(&vxlan);
    });
}

/// A device that somebody has left: one that several may hold is taken, others are made anew. Its
/// address is of a subnet that no node chooses: they choose among the first hundred.
#[test]
fn a_device_that_was_left_is_taken_over() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        for (number, kind) in [(1, "multi_queue vnet_hdr"), (2, ""), (3, "multi_queue")] {
            let node = cluster.node(number);
            node.netns.exec(&format!(
                "ip tuntap add mode tun name flannel0 {kind}; ip addr add 10.244.199.0/32 dev flannel0; \
                 ip link set flannel0 up; ip route add 10.244.0.0/16 dev flannel0"
            ));
            let index = || node.netns.exec("ip -o link show flannel0 | cut -d: -f1");
            let before = index();
            node.start();
            node.until_ready();
            assert_eq!(index() == before, kind.contains("multi_queue"));
            node.until_says("ip -o addr show flannel0", "10.244.199.0", false);
            let routes = node.netns.exec("ip route show 10.244.0.0/16");
            assert_eq!(routes.lines().count(), 1, "{routes}");
            node.terminate();
        }
    });
}

/// flanneld had another backend here: its device's routes are narrower than ours, and lead nowhere.
#[test]
fn what_flanneld_s_other_backend_left_is_out_of_the_way() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (others, pods) = cluster.of(1);
        let node = cluster.node(7);
        let end = others[0].subnet_address();
        node.netns.exec(&format!(
            "ip link add flannel.1 type vxlan id 1 local 192.168.9.7 dev eth0 dstport 8472 nolearning; \
             ip link set flannel.1 up; ip route add {end}/24 via {end} dev flannel.1 onlink; \
             ip link add flannel.9 type bridge"
        ));
        node.start();
        node.until_ready();
        node.until_says("ip -o link", "flannel.1", false);
        node.until_says("ip -o link", "flannel.9", true);
        node.pod().until_reaches(&pods[0]);
    });
}

/// Of a node that has been everything, nothing is left.
#[test]
fn a_cleanup_removes_all_of_it() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        for n in [166, 167] {
            cluster.put_peer(n, &plain_lease(n));
        }
        let node = cluster.node(1);
        let fresh = node.state();
        node.start();
        node.until_ready();
        node.terminate();
        node.command().arg("--cleanup").run().ok();
        assert_eq!(node.state(), fresh);
        node.until_says("ip -o link", "flannel", false);
        assert!(!node.dir.join("run").exists());
    });
}

/// Nobody's packets pass, and the processor is left alone.
#[test]
fn an_idle_packet_path_never_wakes() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let pid = nodes[0].pid();
        let wakes = || {
            let line = format!(
                "grep -h ^voluntary $(grep -l weft- /proc/{pid}/task/*/comm | sed 's/comm/status/')"
            );
            world.exec(&line)
        };
        wait_until("nobody wakes for a second", LIMIT, || {
            let before = wakes();
            assert_eq!(before.lines().count(), 2);
            std::thread::sleep(Duration::from_secs(1));
            wakes() == before
        });
        pods[0].until_reaches(&pods[1]);
    });
}

/// What another backend's leases say counts from the next start on, as flannel has it.
#[test]
fn a_peer_that_comes_is_reached_and_one_that_goes_is_a_stranger() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let third = cluster.node(3);
        third.start();
        third.until_ready();
        let pod = third.pod();
        pod.until_reaches(&pods[0]);
        let key = cluster.key_of(&third);
        cluster
            .store
            .put(&key, &lease_with("192.168.9.3", "02:00:00:00:00:03"));
        third.kill9();
        cluster.store.delete(&key);
        wait_until("it is forgotten", LIMIT, || {
            nodes[0].status()["peers"].as_u64() == Some(1)
        });
        strip.ends_whole();
    });
}
