use std::fs;
use std::path::Path;
use std::time::Duration;

use weft_daemon::cleanup::{Outcome, Places, clean_up, clean_up_with};
use weft_daemon::firewall::{Firewall, Masquerade, Spec};
use weft_daemon::lock::{Error, Lock};
use weft_netns::{Need, Watch, World, in_world, skip_unless, wait_until};

fn places() -> Places {
    Places {
        subnet_file: "/run/flannel/subnet.env".into(),
        run_dir: "/run/weft".into(),
        state_dir: "/run/weft-state".into(),
    }
}

/// A node with a life of its own: much of it looks like ours, and none of it is.
fn furnish(world: &World) {
    world.exec(
        "ip link add eth0 type veth peer name far0; ip link set eth0 up; ip link set far0 up
         ip address add 192.168.90.10/24 dev eth0; ip address add fd90::10/64 dev eth0 nodad
         ip route add default via 192.168.90.1
         ip route add 10.5.77.0/24 via 192.168.90.77
         ip route add 10.5.78.0/24 via 192.168.90.78 proto 207
         ip route add 10.5.79.0/24 via 192.168.90.79 proto 224
         ip route add 10.5.80.0/24 via 192.168.90.80 proto 208 table 100
         ip link add vxlan100 type vxlan id 100 dstport 4789 dev eth0
         ip link add flannel.7 type vxlan id 9 dstport 4789 dev eth0
         ip link add flannel.8 type bridge
         ip link add cni0 type bridge; ip address add 10.5.1.1/24 dev cni0; ip link set cni0 up
         nft add table ip theirs; nft add chain ip theirs c '{ type filter hook forward priority 0; }'
         mkdir -p /run/flannel /run/weft /run/weft-state
         echo kept > /run/flannel/other; echo kept > /run/weft/other",
    );
}

/// What the loop leaves in the kernel, and the daemon in files.
fn as_weftd_leaves_it(world: &World) {
    world.exec(
        "ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0 local 192.168.90.10 nolearning
         ip address add 10.5.1.0/32 dev flannel.1; ip link set flannel.1 up
         ip link add flannel-v6.1 type vxlan id 1 dstport 8472 dev eth0 local fd90::10 nolearning
         ip address add fd05:0:0:1::/128 dev flannel-v6.1 nodad; ip link set flannel-v6.1 up
         ip link add tunnel.of.old type vxlan id 4000 dstport 8473 dev eth0
         ip tuntap add flannel0 mode tun
         ip route add 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink proto 210
         ip neigh add 10.5.2.0 lladdr 02:00:00:00:00:02 nud permanent dev flannel.1
         bridge fdb append 02:00:00:00:00:02 dev flannel.1 dst 192.168.90.12
         ip route add 10.5.3.0/24 via 192.168.90.13 proto 211
         ip route add blackhole 10.5.1.0/24 metric 1000 proto 209
         ip -6 route add fd05:0:0:2::/64 via fd05:0:0:2:: dev flannel-v6.1 onlink proto 210 metric 1024
         ip -6 route add fd05:0:0:3::/64 via fd90::13 proto 223
         ip -6 route add blackhole fd05:0:0:1::/64 proto 208
         printf 'FLANNEL_SUBNET=10.5.1.1/24\\n' > /run/flannel/subnet.env
         printf 'flannel.1\\nflannel-v6.1\\ntunnel.of.old\\neth0\\n' > /run/weft/devices
         echo made > /run/weft-state/machine-id; echo > /run/weft-state/machine-id.4711",
    );
    let list = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    let spec = Spec {
        networks: list(["10.5.0.0/16", "fd05::/48"]),
        own: list(["10.5.1.0/24", "fd05:0:0:1::/64"]),
        masquerade: Some(Masquerade {
            random_fully: true,
            spared: vec![],
        }),
        forward: true,
        guard: None,
    };
    Firewall::open().unwrap().reconcile(&spec).unwrap();
}

#[track_caller]
fn assert_removed(outcome: &Outcome, what: &str) {
    let removed = &outcome.removed;
    assert!(
        removed.iter().any(|line| line.contains(what)),
        "{what:?} is not among {removed:#?}"
    );
}

#[test]
fn all_that_is_ours_goes_and_nothing_else() {
    in_world(|world| {
        furnish(world);
        let watch = Watch::node().dir("/run/weft").dir("/run/weft-state");
        let before = watch.take();
        as_weftd_leaves_it(world);
        let outcome = clean_up(&places()).unwrap();
        assert_eq!(outcome.problems, [""; 0]);
        for what in [
            "device flannel.1",
            "device flannel-v6.1",
            "device flannel0",
            "device tunnel.of.old",
            "route 10.5.2.0/24",
            "route 10.5.3.0/24",
            "route 10.5.1.0/24",
            "route fd05:0:0:2::/64",
            "route fd05:0:0:3::/64",
            "route fd05:0:0:1::/64",
            "flannel-ipv4",
            "flannel-ipv6",
            "/run/flannel/subnet.env",
            "/run/weft/devices",
            "machine-id",
        ] {
            assert_removed(&outcome, what);
        }
        let difference = before.difference(&watch.take());
        // An empty directory says nothing, so it goes too.
        let difference = difference.except(|fact| fact.contains("/run/weft-state"));
        assert!(difference.is_empty(), "{difference}");
        assert!(!Path::new("/run/weft-state").exists());

        let again = clean_up(&places()).unwrap();
        assert_eq!((again.removed, again.problems), (vec![], vec![]));
    });
}

#[test]
fn what_flanneld_left_in_iptables_goes_where_weftd_never_ran() {
    if !skip_unless(&[Need::Tool("iptables-nft")]) {
        return;
    }
    in_world(|world| {
        let saved = || {
            let saved = world.exec("iptables-nft-save; ip6tables-nft-save");
            let lines = saved.lines().filter(|line| !line.starts_with('#'));
            lines
                .map(|l| l.split(" [").next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        world.exec(
            "for program in iptables-nft ip6tables-nft; do
                $program -A FORWARD -i lo -j ACCEPT; $program -t nat -P OUTPUT ACCEPT
             done",
        );
        let before = saved();
        world.exec(
            "for program in iptables-nft ip6tables-nft; do
                $program -N FLANNEL-FWD; $program -A FLANNEL-FWD -j ACCEPT
                $program -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD
                $program -t nat -N FLANNEL-POSTRTG
                $program -t nat -A POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG
             done",
        );
        let outcome = clean_up(&places()).unwrap();
        assert_eq!(outcome.problems, [""; 0]);
        assert_removed(
            &outcome,
            "chain FLANNEL-POSTRTG of table ip6 nat, which was flanneld's",
        );
        assert_eq!(saved(), before);
    });
}

#[test]
fn a_clean_node_stays_clean() {
    in_world(|world| {
        world.exec("rm -rf /run/weft");
        let outcome = clean_up(&places()).unwrap();
        assert_eq!((outcome.removed, outcome.problems), (vec![], vec![]));
        assert!(!Path::new("/run/weft").exists());
    });
}

#[test]
fn beside_a_living_daemon_nothing_is_touched() {
    in_world(|world| {
        furnish(world);
        as_weftd_leaves_it(world);
        let before = Watch::node().take();
        let lock = Lock::take(&places().run_dir).unwrap();
        let refused = clean_up(&places()).unwrap_err();
        assert!(matches!(refused, Error::Held { .. }), "{refused}");
        before.assert_same(&Watch::node().take(), "after a refused cleanup");
        let own = clean_up_with(lock, &places());
        assert_removed(&own, "device flannel.1");
        assert!(!places().run_dir.join("weftd.lock").exists());
    });
}

#[test]
fn what_cannot_be_removed_is_told_and_the_rest_goes() {
    in_world(|world| {
        furnish(world);
        as_weftd_leaves_it(world);
        fs::remove_file("/run/flannel/subnet.env").unwrap();
        fs::create_dir("/run/flannel/subnet.env").unwrap();
        let outcome = clean_up(&places()).unwrap();
        assert_eq!(outcome.problems.len(), 1, "{:?}", outcome.problems);
        assert!(outcome.problems[0].contains("remove /run/flannel/subnet.env"));
        assert_removed(&outcome, "file /run/weft/devices");
        assert_removed(&outcome, "flannel-ipv4");
    });
}

#[test]
fn a_node_that_weftd_has_run_on_is_as_it_was() {
    in_world(|world| {
        furnish(world);
        // On a node that no weftd has run on before, it looks just like one of flanneld's host-gw.
        world.exec("ip route del 10.5.77.0/24");
        let leases = world.scratch("leases");
        fs::create_dir_all(leases.join("subnets")).unwrap();
        fs::write(
            leases.join("config"),
            r#"{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd05::/48",
                "Backend": {"Type": "vxlan", "VNI": 3}}"#,
        )
        .unwrap();
        fs::write(
            leases.join("subnets/10.5.2.0-24&fd05:0:0:2::-64"),
            r#"{"PublicIP": "192.168.90.12", "PublicIPv6": "fd90::12", "BackendType": "vxlan",
                "BackendData": {"VNI": 3, "VtepMAC": "02:00:00:00:00:02"},
                "BackendV6Data": {"VNI": 3, "VtepMAC": "02:00:00:00:00:06"}}"#,
        )
        .unwrap();
        let watch = Watch::node().dir("/run/weft");
        let before = watch.take();
        let weftd = world.spawn(&format!(
            "{} -embedded-dir={} -iface=eth0 -ip-masq -ip-blackhole-route -state-dir=/run/weft-state",
            env!("CARGO_BIN_EXE_weftd"),
            leases.display()
        ));
        wait_until("the node to serve", Duration::from_secs(20), || {
            Path::new("/run/flannel/subnet.env").exists()
        });
        clean_up(&places()).unwrap_err();
        world.exec(&format!("kill -9 {}", weftd.pid()));
        assert!(weftd.ends_within(Duration::from_secs(10)));
        let outcome = clean_up(&places()).unwrap();
        assert_eq!(outcome.problems, [""; 0]);
        for what in [
            "device flannel.3",
            "device flannel-v6.3",
            "route 10.5.2.0/24",
            "route fd05:0:0:2::/64",
            "flannel-ipv4",
        ] {
            assert_removed(&outcome, what);
        }
        let difference = before
            .difference(&watch.take())
            // A forwarding node answers its networks' anycast addresses.
            .except(|fact| fact.contains("sysctl ") || fact.contains("\"anycast\""));
        assert!(
            difference.is_empty(),
            "{difference}\n{}",
            weftd.said_so_far()
        );
    });
}
