use weft_netns::in_world;

use crate::node::{HOST_GW, Node, VXLAN, conf, gateway, index, peer, underlay};

/// What flanneld leaves on a node of 172.20.1.0/24, with peers 2 and 9.
fn flannel_node(world: &weft_netns::World) {
    underlay(world);
    world.exec(
        "ip link add flannel.1 address aa:bb:cc:dd:ee:01 type vxlan id 1 local 192.168.9.181 \
         dev eth0 dstport 8472 nolearning && ip link set flannel.1 mtu 1450 up && \
         ip addr add 172.20.1.0/32 dev flannel.1",
    );
    for n in [2, 9] {
        world.exec(&format!(
            "ip neigh add 172.20.{n}.0 lladdr 02:00:00:00:00:0{n} dev flannel.1 nud permanent && \
             bridge fdb append 02:00:00:00:00:0{n} dev flannel.1 dst 192.168.9.{n} self permanent && \
             ip route add 172.20.{n}.0/24 via 172.20.{n}.0 dev flannel.1 onlink"
        ));
    }
}

/// Defect R1 of flanneld: who left while the daemon was down keeps its entries for ever.
#[test]
fn r1_a_peer_that_left_while_we_were_down_is_forgotten() {
    in_world(|world| {
        flannel_node(world);
        let before = index(world);
        let node = Node::start(world, conf(VXLAN), peer(1), &[peer(2)]);
        node.wait_for(
            "ip -o route show dev flannel.1 | sed 's/ proto [0-9]*//'",
            "172.20.2.0/24 via 172.20.2.0 onlink",
        );
        node.wait_for(
            "bridge fdb show dev flannel.1",
            "02:00:00:00:00:02 dst 192.168.9.2 self permanent",
        );
        node.wait_for(
            "ip neigh show dev flannel.1 nud permanent",
            "172.20.2.0 lladdr 02:00:00:00:00:02 PERMANENT",
        );
        assert_eq!(index(world), before, "made anew");
    });
}

#[test]
fn the_same_holds_for_a_peer_that_left_between_two_runs_of_ours() {
    in_world(|world| {
        underlay(world);
        drop(Node::start(
            world,
            conf(VXLAN),
            peer(1),
            &[peer(2), peer(3)],
        ));
        let node = Node::start(world, conf(VXLAN), peer(1), &[peer(2)]);
        node.wait_for(
            "ip -o route show dev flannel.1 | sed 's/ proto [0-9]*//'",
            "172.20.2.0/24 via 172.20.2.0 onlink",
        );
    });
}

#[test]
fn host_gw_leftovers_go_at_the_first_takeover_and_what_looks_like_them_stays_afterwards() {
    in_world(|world| {
        underlay(world);
        world.exec("ip route add 172.20.2.0/24 via 192.168.9.2 dev eth0");
        world.exec("ip route add 172.20.9.0/24 via 192.168.9.9 dev eth0");
        world.exec("ip route add 10.99.0.0/24 via 192.168.9.9 dev eth0");
        world.exec("ip route add 172.20.64.0/20 via 192.168.9.9 dev eth0");
        let routes = "ip -o route show | grep -v kernel | sed 's/ proto [0-9]*//'";
        let kept = "10.99.0.0/24 via 192.168.9.9 dev eth0
                    172.20.64.0/20 via 192.168.9.9 dev eth0";
        let node = Node::start(world, conf(HOST_GW), gateway(1), &[gateway(2)]);
        node.wait_for(
            routes,
            &format!("172.20.2.0/24 via 192.168.9.2 dev eth0\n{kept}"),
        );
        drop(node);
        world.exec("ip route add 172.20.9.0/24 via 192.168.9.9 dev eth0");
        let node = Node::start(world, conf(HOST_GW), gateway(1), &[gateway(3)]);
        node.wait_for(
            routes,
            &format!(
                "172.20.3.0/24 via 192.168.9.3 dev eth0
                 172.20.9.0/24 via 192.168.9.9 dev eth0\n{kept}"
            ),
        );
    });
}

/// A route of the operator's own may look like one of host-gw's.
#[test]
fn where_no_flanneld_ran_what_looks_like_its_host_gw_s_routes_stays() {
    in_world(|world| {
        underlay(world);
        world.exec("ip route add 172.20.9.0/24 via 192.168.9.9 dev eth0");
        let own = gateway(1);
        let node = Node::start_after(world, None, conf(HOST_GW), own, &[gateway(2)]);
        node.wait_for(
            "ip -o route show | grep -v kernel | sed 's/ proto [0-9]*//'",
            "172.20.2.0/24 via 192.168.9.2 dev eth0
             172.20.9.0/24 via 192.168.9.9 dev eth0",
        );
    });
}

#[test]
fn a_route_of_another_program_is_left_alone_and_told() {
    in_world(|world| {
        underlay(world);
        world.exec("ip route add 172.20.2.0/24 via 192.168.9.2 dev eth0 proto static");
        let node = Node::start(world, conf(VXLAN), peer(1), &[peer(2), peer(3)]);
        node.wait_for(
            "ip -o route show | grep ^172.20 | sed 's/ proto 2[0-9]*//'",
            "172.20.2.0/24 via 192.168.9.2 dev eth0 proto static
             172.20.3.0/24 via 172.20.3.0 dev flannel.1 onlink",
        );
        let notes = node.report().notes;
        assert!(
            notes.iter().any(|note| note.contains("172.20.2.0/24")),
            "{notes:?}"
        );
    });
}

#[test]
fn a_device_of_another_backend_goes_once_nothing_leads_into_it() {
    in_world(|world| {
        underlay(world);
        drop(Node::start(world, conf(VXLAN), peer(1), &[peer(2)]));
        let node = Node::start(world, conf(HOST_GW), gateway(1), &[gateway(2)]);
        node.wait_for(
            "ip -o route show | grep ^172.20 | sed 's/ proto [0-9]*//'",
            "172.20.2.0/24 via 192.168.9.2 dev eth0",
        );
        node.wait_for("ip -o link show | grep flannel || true", "");
    });
}
