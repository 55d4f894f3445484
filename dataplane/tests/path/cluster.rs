//! ```text
//!  pod a            node a                  node b            pod b
//!  10.1.1.2 ─ veth ─ 10.1.1.1   192.0.2.1 ─ 192.0.2.2   10.1.2.1 ─ veth ─ 10.1.2.2
//!  fd10:0:0:1::2     flannel0   2001:db8::1             flannel0     fd10:0:0:2::2
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weft_dataplane::{Config, Engine, Notice, Notices, Peer, PeerTable, Rungs, Sockets, Tun};
use weft_netns::{Netns, World, wait_until_answers};

pub(crate) const PORT: u16 = 8285;
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) a: Node,
    pub(crate) b: Node,
}

pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) netns: Netns,
    pub(crate) pod: Netns,
}

/// What of the underlay the overlay goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outer {
    V4,
    V6,
}

impl Cluster {
    pub(crate) fn new(world: &World) -> Self {
        let [a, b] = [1, 2].map(|number| Node {
            number,
            netns: world.netns(&format!("node-{number}")),
            pod: world.netns(&format!("pod-{number}")),
        });
        world.exec("ip link add wire netns node-1 type veth peer name wire netns node-2");
        for node in [&a, &b] {
            node.set_up();
        }
        Self { a, b }
    }

    /// Both nodes' engines, and the first packet through them in both families.
    pub(crate) fn start(&self, outer: Outer, a: Rungs, b: Rungs) -> [Engine; 2] {
        let engines = [
            self.a.start(outer, a, &Notices::default()),
            self.b.start(outer, b, &Notices::default()),
        ];
        for address in [self.b.pod_v4(), self.b.pod_v6()] {
            self.a.pod.enter(|| wait_until_answers(address));
        }
        engines
    }
}

impl Node {
    fn set_up(&self) {
        let (n, pod) = (self.number, self.pod.name());
        self.netns.exec(&format!(
            "ip link add pod0 type veth peer name eth0 netns {pod};
             for i in lo wire pod0; do ip link set $i up; done
             ip address add 192.0.2.{n}/24 dev wire
             ip address add 2001:db8::{n}/64 dev wire nodad
             ip address add 10.1.{n}.1/24 dev pod0
             ip address add fd10:0:0:{n}::1/64 dev pod0 nodad
             echo 1 >/proc/sys/net/ipv4/ip_forward
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
        ));
        self.pod.exec(&format!(
            "ip link set lo up; ip link set eth0 mtu 1452 up
             ip address add 10.1.{n}.2/24 dev eth0
             ip address add fd10:0:0:{n}::2/64 dev eth0 nodad
             ip route add default via 10.1.{n}.1
             ip route add default via fd10:0:0:{n}::1"
        ));
    }

    pub(crate) fn start(&self, outer: Outer, rungs: Rungs, notices: &Notices) -> Engine {
        let tun = self.tun(rungs, notices);
        let sockets = self.sockets(outer, rungs, notices);
        self.engine(tun, sockets, rungs, notices, outer)
    }

    pub(crate) fn tun(&self, rungs: Rungs, notices: &Notices) -> Tun {
        let open = || Tun::open("flannel0", 1, &rungs, notices);
        let tun = self.netns.enter(open).expect("open a TUN");
        self.tun_addresses();
        tun
    }

    pub(crate) fn tun_addresses(&self) {
        let n = self.number;
        self.netns.exec(&format!(
            "ip link set flannel0 mtu 1452 up
             ip address replace 10.1.{n}.0/32 dev flannel0
             ip address replace fd10:0:0:{n}::/128 dev flannel0
             ip route replace 10.1.0.0/16 dev flannel0
             ip route replace fd10::/48 dev flannel0"
        ));
    }

    pub(crate) fn sockets(&self, outer: Outer, rungs: Rungs, notices: &Notices) -> Sockets {
        let open = || Sockets::open(&[self.underlay(outer)], PORT, 1, &rungs, notices);
        self.netns.enter(open).expect("open the sockets")
    }

    pub(crate) fn engine(
        &self,
        tun: Tun,
        sockets: Sockets,
        rungs: Rungs,
        notices: &Notices,
        outer: Outer,
    ) -> Engine {
        let n = self.number;
        let own = [format!("10.1.{n}.0"), format!("fd10:0:0:{n}::")];
        let config = Config {
            device_addresses: own.map(|text| ip(&text)).to_vec(),
            rungs,
            notices: notices.clone(),
            ..Config::default()
        };
        let start = || Engine::start(config, tun, sockets, self.table(outer));
        self.netns.enter(start).expect("start an engine")
    }

    /// The other node as its only peer.
    pub(crate) fn table(&self, outer: Outer) -> PeerTable {
        let net = |text: String| text.parse().expect("a subnet");
        let subnets = |n| {
            vec![
                net(format!("10.1.{n}.0/24")),
                net(format!("fd10:0:0:{n}::/64")),
            ]
        };
        let other = 3 - self.number;
        let peer = Peer {
            subnets: subnets(other),
            address: underlay(outer, other),
            also_from: vec![],
            carries_ecn: true,
        };
        PeerTable::new(&subnets(self.number), PORT, &[peer])
    }

    pub(crate) fn underlay(&self, outer: Outer) -> IpAddr {
        underlay(outer, self.number)
    }

    pub(crate) fn pod_v4(&self) -> IpAddr {
        ip(&format!("10.1.{}.2", self.number))
    }

    pub(crate) fn pod_v6(&self) -> IpAddr {
        ip(&format!("fd10:0:0:{}::2", self.number))
    }

    pub(crate) fn socket(&self, address: IpAddr) -> UdpSocket {
        let bind = || UdpSocket::bind(SocketAddr::new(address, 0));
        let socket = self.pod.enter(bind).expect("bind a pod's socket");
        socket
            .set_read_timeout(Some(LIMIT))
            .expect("set a time limit");
        socket
    }
}

/// Notices, and a look at which were given.
pub(crate) fn noted() -> (Notices, Arc<Mutex<Vec<Notice>>>) {
    let told = Arc::<Mutex<Vec<Notice>>>::default();
    let notices = Notices::new({
        let told = Arc::clone(&told);
        move |notice| told.lock().expect("nobody panics with it").push(notice)
    });
    (notices, told)
}

/// Sends `length` bytes from a pod to another by TCP, and holds what arrives against them.
pub(crate) fn transfer(from: &Node, to: &Node, address: IpAddr, length: usize) {
    let bytes = bytes(length);
    let listen = || TcpListener::bind(SocketAddr::new(address, 0));
    let listener = to.pod.enter(listen).expect("listen in a pod");
    let server = listener.local_addr().expect("the listener's address");
    let sent = bytes.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = from
                .pod
                .enter(|| TcpStream::connect_timeout(&server, LIMIT))
                .expect("connect");
            stream
                .set_write_timeout(Some(LIMIT))
                .expect("set a time limit");
            stream.write_all(&sent).expect("send");
        });
        let (mut stream, _) = listener.accept().expect("accept");
        stream
            .set_read_timeout(Some(LIMIT))
            .expect("set a time limit");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("receive");
        assert!(got == bytes, "{} of {length} bytes, or others", got.len());
    });
}

/// The same without a pattern that a wrong offset would hide behind.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(next).collect()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn underlay(outer: Outer, number: u8) -> IpAddr {
    match outer {
        Outer::V4 => ip(&format!("192.0.2.{number}")),
        Outer::V6 => ip(&format!("2001:db8::{number}")),
    }
}
