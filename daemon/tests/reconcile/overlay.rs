//! The packet path over IPv6, for a network that has nothing else.

use std::net::IpAddr;
use std::sync::Arc;

use weft_daemon::conf::{Checks, NetConf};
use weft_daemon::lease::{Attrs, Lease, Published, Subnets};
use weft_dataplane::{Config, Engine, Notices, Peer, PeerTable, Rungs, Sockets, Tun};
use weft_netns::{Netns, in_world, ping, wait_until};

use crate::node::{LIMIT, Node, underlay};

const CONF: &str =
    r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"udp"}}"#;

/// fd05:0:0:n::/64 at fd90::address.
fn member(n: u8, address: &str) -> Arc<Lease> {
    Arc::new(Lease {
        subnets: Subnets {
            v4: None,
            v6: Some(format!("fd05:0:0:{n}::/64").parse().unwrap()),
        },
        attrs: Attrs {
            public_ip: None,
            public_ipv6: Some(address.parse().unwrap()),
            backend: Published::Nothing,
            extra: None,
        },
    })
}

/// Another node's packet path, by the library alone.
fn far_end(peer: &Netns) -> Engine {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let (rungs, notices) = (Rungs::FAST, Notices::default());
    peer.enter(|| {
        let tun = Tun::open("tun0", 1, &rungs, &notices).unwrap();
        let sockets = Sockets::open(&[ip("fd90::2")], 8285, 1, &rungs, &notices).unwrap();
        let near = Peer {
            subnets: vec!["fd05:0:0:1::/64".parse().unwrap()],
            address: ip("fd90::181"),
            also_from: vec![],
            carries_ecn: true,
        };
        let own = ["fd05:0:0:2::/64".parse().unwrap()];
        let table = PeerTable::new(&own, 8285, &[near]);
        Engine::start(Config::default(), tun, sockets, table).unwrap()
    })
}

#[test]
fn ipv6_goes_over_ipv6_where_there_is_nothing_else() {
    in_world(|world| {
        underlay(world);
        let peer = world.netns("peer");
        world.exec("ip link set wire netns peer; ip link set eth0 up");
        peer.exec("ip link set lo up; ip link set wire up; ip addr add fd90::2/64 dev wire nodad");
        let checks = Checks::Assigned { found: &[] };
        let conf = Arc::new(NetConf::parse(CONF, checks).unwrap());
        let _far = far_end(&peer);
        peer.exec(
            "ip link set tun0 up; ip addr add fd05:0:0:2::/128 dev tun0 nodad; \
             ip route add fd05::/48 dev tun0",
        );
        let node = Node::start(world, conf, member(1, "fd90::181"), &[member(2, "fd90::2")]);
        assert_eq!(node.report().devices, [("flannel0".to_owned(), 1452)]);
        assert_eq!(node.served().map(|serving| serving.mtu), Some(1452));
        let near: IpAddr = "fd05:0:0:1::".parse().unwrap();
        wait_until("the near end answers", LIMIT, || {
            peer.enter(|| ping(near, std::time::Duration::from_millis(300)).is_ok())
        });
        let listening = world.exec("ss -Hlun");
        assert!(listening.contains("[fd90::181]:8285"), "{listening}");
        assert!(!listening.contains("192.168.9.181:8285"), "{listening}");
    });
}
