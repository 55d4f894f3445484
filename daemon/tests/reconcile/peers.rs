use weft_netns::in_world;

use crate::node::{HOST_GW, LIMIT, Node, VXLAN, conf, gateway, lease, peer, peer_with, underlay};
use weft_daemon::store::Own;
use weft_netns::wait_until;

const ROUTES: &str = "ip -o route show dev flannel.1 | sed 's/ proto [0-9]*//'";
const NEIGHBOURS: &str = "ip neigh show dev flannel.1 nud permanent";
const FDB: &str = "bridge fdb show dev flannel.1";

#[test]
fn a_node_s_routes_are_those_of_a_flannel_node() {
    in_world(|world| {
        underlay(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &[peer(0), peer(2), peer(3)]);
        node.wait_for(
            ROUTES,
            "172.20.0.0/24 via 172.20.0.0 onlink
             172.20.2.0/24 via 172.20.2.0 onlink
             172.20.3.0/24 via 172.20.3.0 onlink",
        );
        node.wait_for(
            NEIGHBOURS,
            "172.20.0.0 lladdr 02:00:00:00:00:00 PERMANENT
             172.20.2.0 lladdr 02:00:00:00:00:02 PERMANENT
             172.20.3.0 lladdr 02:00:00:00:00:03 PERMANENT",
        );
        node.wait_for(
            FDB,
            "02:00:00:00:00:00 dst 192.168.9.0 self permanent
             02:00:00:00:00:02 dst 192.168.9.2 self permanent
             02:00:00:00:00:03 dst 192.168.9.3 self permanent",
        );
        node.wait_for(
            "ip -o -4 addr show dev flannel.1 | awk '{print $4}'",
            "172.20.1.0/32",
        );
        let device = world.exec("ip -d link show flannel.1");
        assert!(device.contains("mtu 1450"), "{device}");
        assert!(
            device.contains("vxlan id 1 local 192.168.9.181 dev eth0"),
            "{device}"
        );
        assert!(device.contains("nolearning"), "{device}");
        assert!(device.contains("02:00:00:00:00:01"), "{device}");
        assert_eq!(node.served().map(|serving| serving.mtu), Some(1450));
        assert!(node.claimed().is_some());
    });
}

/// Defect R5 of flanneld: the old forwarding entry stays beside the new one.
#[test]
fn r5_a_peer_that_comes_back_with_another_mac_leaves_no_old_entry() {
    in_world(|world| {
        underlay(world);
        let mut node = Node::start(world, conf(VXLAN), peer(1), &[peer(2)]);
        node.with_peers(&[peer_with(2, "02:00:00:00:00:99")]);
        node.wait_for(FDB, "02:00:00:00:00:99 dst 192.168.9.2 self permanent");
        node.wait_for(NEIGHBOURS, "172.20.2.0 lladdr 02:00:00:00:00:99 PERMANENT");
    });
}

#[test]
fn a_peer_that_moves_to_another_address_is_followed() {
    in_world(|world| {
        underlay(world);
        let mut node = Node::start(world, conf(VXLAN), peer(1), &[peer(2)]);
        let moved = lease(
            "172.20.2.0-24",
            r#"{"PublicIP":"192.168.9.77","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:02"}}"#,
        );
        node.with_peers(&[moved]);
        node.wait_for(FDB, "02:00:00:00:00:02 dst 192.168.9.77 self permanent");
    });
}

#[test]
fn a_peer_that_leaves_takes_its_entries_along() {
    in_world(|world| {
        underlay(world);
        let mut node = Node::start(world, conf(VXLAN), peer(1), &[peer(2), peer(3)]);
        node.with_peers(&[peer(3)]);
        node.wait_for(ROUTES, "172.20.3.0/24 via 172.20.3.0 onlink");
        node.wait_for(FDB, "02:00:00:00:00:03 dst 192.168.9.3 self permanent");
        node.wait_for(NEIGHBOURS, "172.20.3.0 lladdr 02:00:00:00:00:03 PERMANENT");
    });
}

#[test]
fn of_two_peers_with_one_mac_one_is_reached_and_the_other_told() {
    in_world(|world| {
        underlay(world);
        let twins = [
            peer_with(2, "02:00:00:00:00:99"),
            peer_with(3, "02:00:00:00:00:99"),
        ];
        let node = Node::start(world, conf(VXLAN), peer(1), &twins);
        node.wait_for(ROUTES, "172.20.2.0/24 via 172.20.2.0 onlink");
        let skipped = node.report().skipped;
        assert_eq!(skipped.len(), 1);
        assert!(skipped[0].why.contains("02:00:00:00:00:99"), "{skipped:?}");
    });
}

#[test]
fn one_peer_that_the_kernel_refuses_holds_up_nobody() {
    in_world(|world| {
        underlay(world);
        let far = lease(
            "172.20.9.0-24",
            r#"{"PublicIP":"10.99.99.9","BackendType":"host-gw"}"#,
        );
        let node = Node::start(
            world,
            conf(HOST_GW),
            gateway(1),
            &[gateway(2), far, gateway(3)],
        );
        node.wait_for(
            "ip -o route show | grep ^172.20 | sed 's/ proto [0-9]*//'",
            "172.20.2.0/24 via 192.168.9.2 dev eth0
             172.20.3.0/24 via 192.168.9.3 dev eth0",
        );
        assert!(node.served().is_some(), "the subnet file waits for nobody");
        let failed = node.report().failed;
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert!(failed[0].contains("172.20.9.0/24"), "{failed:?}");
    });
}

#[test]
fn a_lost_lease_keeps_the_pods_traffic_and_is_said() {
    in_world(|world| {
        underlay(world);
        let mut node = Node::start(world, conf(VXLAN), peer(1), &[peer(2)]);
        node.with_own(Own::Lost {
            was: peer(1),
            why: "another node holds 172.20.1.0/24".into(),
        });
        wait_until("the node to say so", LIMIT, || node.report().ready.is_err());
        assert!(node.report().ready.unwrap_err().contains("172.20.1.0/24"));
        node.wait_for(ROUTES, "172.20.2.0/24 via 172.20.2.0 onlink");
    });
}

/// Defect R6 of flanneld: the subnet file promises pods more than the IPv6 tunnel carries.
#[test]
fn r6_dual_stack_publishes_the_smaller_mtu() {
    in_world(|world| {
        underlay(world);
        let dual = conf(
            r#"{"Network":"172.20.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"vxlan"}}"#,
        );
        let member = |n: u8| {
            lease(
                &format!("172.20.{n}.0-24&fd05:0:0:{n:x}::-64"),
                &format!(
                    r#"{{"PublicIP":"192.168.9.{n}","PublicIPv6":"fd90::{n:x}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{n:02x}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"02:00:00:00:06:{n:02x}"}}}}"#
                ),
            )
        };
        let node = Node::start(world, dual, member(1), &[member(2)]);
        assert_eq!(node.served().map(|serving| serving.mtu), Some(1430));
        node.wait_for(
            "ip -o -6 route show dev flannel-v6.1 | grep via | sed 's/ proto [0-9]*//'",
            "fd05:0:0:2::/64 via fd05:0:0:2:: metric 1024 onlink pref medium",
        );
        node.wait_for(
            "bridge fdb show dev flannel-v6.1",
            "02:00:00:00:06:02 dst fd90::2 self permanent",
        );
        for (device, mtu) in [("flannel.1", "mtu 1450"), ("flannel-v6.1", "mtu 1430")] {
            node.wait_for(
                &format!("ip link show {device} | grep -o 'mtu [0-9]*'"),
                mtu,
            );
        }
    });
}
