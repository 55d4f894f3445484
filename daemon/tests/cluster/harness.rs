//! Clusters, nodes and pods.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnetwork::Ipv4Network;
use serde_json::Value;
use weft_netns::{Cmd, Done, Netns, Running, World, ping, wait_for, wait_until};

use crate::etcd::Etcd;
use crate::store::Store;
use crate::strip::Strip;

/// A busy machine is slow, not wrong.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const VXLAN: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
pub(crate) const HOST_GW: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#;
pub(crate) const UDP: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}"#;
pub(crate) const DUAL_UDP: &str = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"udp"}}"#;
pub(crate) const DUAL_VXLAN: &str = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"vxlan"}}"#;
pub(crate) const DUAL_NFTABLES: &str = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
pub(crate) const DUAL_HOST_GW: &str = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"host-gw"}}"#;

/// Everything of ours that the kernel holds, in a form that two moments can be compared by.
/// A device may go while it is looked at.
const STATE: &str = "(ip -o route show table all; ip -o -6 route show table all) \
    | grep -v -e cni0 -e 'dev lo' -e 'dev eth0 proto kernel' -e 'dev eth0.*fe80' -e 'table local' \
        -e 'multicast' -e 'dev flannel.*proto kernel' -e 'dev pod' \
    | sed -e 's/ proto [0-9a-z]*//' -e 's/ expires [0-9a-z]*//' | sort; \
    for dev in $(ls /proc/sys/net/ipv4/conf | grep flannel); do \
        echo $dev; ip neigh show dev $dev nud permanent | sort; \
        ip -6 neigh show dev $dev nud permanent | sort; \
        bridge fdb show dev $dev | sort; ip -o addr show dev $dev scope global | cut -d: -f2- ; \
        ip link show $dev | grep -o -e 'mtu [0-9]*' -e ether.* || :; done; \
    nft list tables | sort | while read table; do nft list $table; done \
    | sed -e 's/counter packets [0-9]* bytes [0-9]*/counter/' -e 's/ expires [0-9a-z]*//'";

pub(crate) struct Cluster<'w> {
    pub(crate) world: &'w World,
    pub(crate) store: Store,
}

impl<'w> Cluster<'w> {
    /// On an embedded store.
    pub(crate) fn new(world: &'w World, conf: &str) -> Self {
        lay_wires(world);
        let store = Store::Directory(world.scratch("store"));
        store.put("config", conf);
        Self { world, store }
    }

    pub(crate) fn on_etcd(world: &'w World, conf: &str, members: usize) -> Self {
        lay_wires(world);
        let cluster = Self {
            world,
            store: Store::Etcd(Etcd::of(world, members)),
        };
        cluster.store.put("config", conf);
        cluster
    }

    pub(crate) fn etcd(&self) -> &Etcd {
        match &self.store {
            Store::Etcd(etcd) => etcd,
            Store::Directory(_) | Store::Kube(_) => panic!("this cluster has no etcd"),
        }
    }

    /// Plugged in, with no daemon yet.
    pub(crate) fn node(&self, number: u8) -> Node<'w> {
        self.node_on(0, number)
    }

    pub(crate) fn node_on(&self, wire: u8, number: u8) -> Node<'w> {
        let node = self.unplugged(wire, number);
        node.plug_in();
        node
    }

    /// Without its interface.
    pub(crate) fn unplugged(&self, wire: u8, number: u8) -> Node<'w> {
        let name = format!("node-{wire}-{number}");
        let netns = self.world.netns(&name);
        netns.exec(
            "ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; \
             echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; \
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        );
        let dir = self.world.scratch(&name);
        let mut flags = self.store.flags();
        flags.extend([
            "--iface=eth0".to_owned(),
            "--ip-masq".to_owned(),
            format!("--node-name={name}"),
            format!("--machine-id=machine-{wire}-{number}"),
            format!("--run-dir={}", dir.join("run").display()),
            format!("--state-dir={}", dir.join("state").display()),
            format!("--subnet-file={}", dir.join("subnet.env").display()),
        ]);
        Node {
            world: self.world,
            name,
            netns,
            wire,
            number,
            dir,
            flags,
            pods: Cell::new(0),
            running: RefCell::new(None),
            earlier: RefCell::new(String::new()),
        }
    }

    /// So many, up and ready, with a pod each, and all of them have heard of each other.
    pub(crate) fn of(&self, count: u8) -> (Vec<Node<'w>>, Vec<Pod>) {
        let nodes: Vec<_> = (1..=count).map(|number| self.node(number)).collect();
        nodes.iter().for_each(Node::start);
        nodes.iter().for_each(Node::until_ready);
        let pods: Vec<_> = nodes.iter().map(Node::pod).collect();
        for one in &pods {
            pods.iter().for_each(|other| one.until_reaches(other));
        }
        (nodes, pods)
    }

    /// The key of the lease of `node`.
    pub(crate) fn key_of(&self, node: &Node<'_>) -> String {
        let subnet = node.subnet();
        let keys = self.store.leases();
        let own = keys.iter().find(|key| {
            key.strip_prefix("subnets/")
                .is_some_and(|key| key.split('&').next() == Some(&*subnet.replace('/', "-")))
        });
        own.unwrap_or_else(|| panic!("no lease of {subnet} in {keys:?}"))
            .clone()
    }

    /// A node that exists in the store alone.
    pub(crate) fn put_peer(&self, n: u8, value: &str) -> String {
        let key = format!("subnets/10.244.{n}.0-24");
        self.store.put(&key, value);
        key
    }
}

/// What node n of the wire publishes, as flanneld writes it.
pub(crate) fn vxlan_lease(n: u8) -> String {
    lease_with(
        &format!("192.168.9.{n}"),
        &format!("02:00:00:00:00:{n:02x}"),
    )
}

pub(crate) fn lease_with(public: &str, mac: &str) -> String {
    format!(
        r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

/// Two segments, with the world as the router between them.
pub(crate) fn lay_wires(world: &World) {
    world.exec(
        "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; \
         echo 1 > /proc/sys/net/ipv4/ip_forward; \
         echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; \
         for w in 0 1; do \
            ip link add wire-$w type bridge mcast_snooping 0; ip link set wire-$w up; \
            ip addr add 192.168.$((9 + w)).254/24 dev wire-$w; \
            ip addr add fd90:0:0:$w::fe/64 dev wire-$w nodad; \
         done",
    );
}

pub(crate) struct Node<'w> {
    world: &'w World,
    pub(crate) name: String,
    pub(crate) netns: Netns,
    wire: u8,
    pub(crate) number: u8,
    pub(crate) dir: PathBuf,
    pub(crate) flags: Vec<String>,
    pods: Cell<u8>,
    running: RefCell<Option<Running>>,
    earlier: RefCell<String>,
}

impl Node<'_> {
    pub(crate) fn plug_in(&self) {
        let Self {
            name, wire, number, ..
        } = self;
        let net = 9 + wire;
        self.world.exec(&format!(
            "ip link add w-{wire}-{number} type veth peer name eth0 netns {name}; \
             ip link set w-{wire}-{number} master wire-{wire} up"
        ));
        self.netns.exec(&format!(
            "ip link set eth0 up; \
             ip addr add 192.168.{net}.{number}/24 dev eth0; \
             ip addr add fd90:0:0:{wire}::{number:x}/64 dev eth0 nodad; \
             ip route add default via 192.168.{net}.254; \
             ip -6 route add default via fd90:0:0:{wire}::fe"
        ));
    }

    pub(crate) fn command(&self) -> Cmd {
        Cmd::new(env!("CARGO_BIN_EXE_weftd"))
            .args(&self.flags)
            .inside(&self.netns)
    }

    pub(crate) fn start(&self) {
        self.run(&self.command());
    }

    pub(crate) fn start_with(&self, flags: &[&str]) {
        self.run(&self.command().args(flags));
    }

    /// By a successor: the one that runs ends by itself, and well.
    #[track_caller]
    pub(crate) fn is_taken_over(&self) {
        let before = self.running.take().expect("a daemon that runs");
        self.start_with(&["--take-over"]);
        assert!(before.ends_within(LIMIT), "{}", self.log());
        let done = before.finish();
        assert_eq!(done.code(), Some(0), "{}", done.stderr);
        self.until_ready();
    }

    /// The daemon, which has ended by itself.
    pub(crate) fn has_ended(&self) -> Done {
        let running = self.running.take().expect("a daemon that ran");
        running.finish()
    }

    /// A daemon that was started otherwise, and is this node's by now.
    pub(crate) fn is_now(&self, running: Running) {
        let before = self.running.replace(Some(running));
        assert!(before.is_none(), "{} runs already", self.name);
    }

    /// By another command than its own, which becomes the daemon.
    pub(crate) fn start_as(&self, words: &[&str]) {
        let command = Cmd::new(words[0]).args(&words[1..]);
        self.run(&command.inside(&self.netns));
    }

    fn run(&self, command: &Cmd) {
        let before = self.running.replace(Some(command.spawn()));
        assert!(before.is_none(), "{} runs already", self.name);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.borrow().as_ref().map_or(0, Running::pid)
    }

    /// It has not ended by itself.
    pub(crate) fn lives(&self) -> bool {
        let running = self.running.borrow();
        running
            .as_ref()
            .is_some_and(|running| !running.ends_within(Duration::ZERO))
    }

    pub(crate) fn kill9(&self) -> Done {
        self.end(rustix::process::Signal::KILL)
    }

    pub(crate) fn terminate(&self) -> Done {
        self.end(rustix::process::Signal::TERM)
    }

    pub(crate) fn end(&self, signal: rustix::process::Signal) -> Done {
        let running = self.running.take().expect("a daemon that runs");
        let pid = i32::try_from(running.pid()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).expect("a daemon that lives");
        let done = running.finish();
        self.earlier
            .borrow_mut()
            .push_str(&format!("{}{}", done.stdout, done.stderr));
        done
    }

    pub(crate) fn restart(&self) {
        self.terminate();
        self.start();
        self.until_ready();
    }

    /// What the daemon that runs has logged.
    pub(crate) fn log(&self) -> String {
        let running = self.running.borrow();
        running.as_ref().map_or(String::new(), Running::said_so_far)
    }

    #[track_caller]
    pub(crate) fn until_ready(&self) {
        wait_until(&format!("{} is ready", self.name), LIMIT, || {
            assert!(self.lives(), "{} has ended:\n{}", self.name, self.log());
            self.is_ready()
        });
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ask("/readyz").is_some_and(|(code, _)| code == 200)
    }

    pub(crate) fn status(&self) -> Value {
        let (_, text) = wait_for("the status", LIMIT, || self.ask("/status"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("the status is no JSON: {e}\n{text}"))
    }

    /// Over the socket in its run directory: the code and what was answered.
    pub(crate) fn ask(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.dir.join("run/weftd.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: weftd\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    }

    /// Until log and status together hold all of `parts`.
    #[track_caller]
    pub(crate) fn until_told(&self, parts: &[&str]) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.ask("/status").map_or(String::new(), |(_, text)| text);
            // The same text is quoted differently in JSON.
            let told = format!("{}{}", self.log(), status.replace("\\\"", "\""));
            let Some(part) = parts.iter().find(|part| !told.contains(**part)) else {
                return;
            };
            assert!(self.lives(), "{} has ended:\n{told}", self.name);
            assert!(Instant::now() < deadline, "{part:?} is not told:\n{told}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn subnet_file(&self) -> PathBuf {
        self.dir.join("subnet.env")
    }

    pub(crate) fn subnet_env(&self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.subnet_file()).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// As 10.244.7.0/24.
    pub(crate) fn subnet(&self) -> String {
        let env = self.subnet_env();
        let first: Ipv4Network = env["FLANNEL_SUBNET"].parse().expect("a subnet");
        format!("{}/{}", first.network(), first.prefix())
    }

    /// The address of the tunnel's end, as 10.244.7.0.
    pub(crate) fn subnet_address(&self) -> String {
        self.subnet().split('/').next().unwrap().to_owned()
    }

    pub(crate) fn underlay(&self) -> String {
        format!("192.168.{}.{}", 9 + self.wire, self.number)
    }

    pub(crate) fn underlay6(&self) -> String {
        let Self { wire, number, .. } = *self;
        Ipv6Addr::new(0xfd90, 0, 0, wire.into(), 0, 0, 0, number.into()).to_string()
    }

    pub(crate) fn state(&self) -> String {
        self.netns.exec(STATE)
    }

    /// Until what the kernel holds is `wanted`.
    #[track_caller]
    pub(crate) fn until_state(&self, wanted: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let state = self.state();
            if state == wanted {
                return;
            }
            let log = self.log();
            assert!(
                Instant::now() < deadline,
                "{} holds\n{state}\nand not\n{wanted}\n{log}",
                self.name
            );
        }
    }

    /// Until a command's output holds, or lacks, a text.
    #[track_caller]
    pub(crate) fn until_says(&self, command: &str, text: &str, holds: bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let said = self.netns.exec(command);
            if said.contains(text) == holds {
                return;
            }
            let log = self.log();
            let lacks = if holds { "" } else { " to go" };
            assert!(
                Instant::now() < deadline,
                "{command}: waited for {text:?}{lacks}\n{said}\n{log}"
            );
        }
    }

    /// Behind cni0, as the bridge plugin would set it up from subnet.env.
    pub(crate) fn pod(&self) -> Pod {
        let number = self.pods.get();
        self.pods.set(number + 1);
        let name = format!("pod-{}-{}-{number}", self.wire, self.number);
        let netns = self.world.netns(&name);
        let env = self.subnet_env();
        let mtu = &env["FLANNEL_MTU"];
        self.netns.exec(&format!(
            "ip link show cni0 >/dev/null 2>&1 || ip link add cni0 type bridge mcast_snooping 0; \
             ip link set cni0 mtu {mtu} up; \
             ip link add pod{number} type veth peer name eth0 netns {name}; \
             ip link set pod{number} mtu {mtu} master cni0 up"
        ));
        netns.exec(&format!(
            "echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; ip link set lo up; \
             ip link set eth0 mtu {mtu} up"
        ));
        let mut addresses = Vec::new();
        for key in ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"] {
            let Some((gateway, len)) = env.get(key).and_then(|net| net.split_once('/')) else {
                continue;
            };
            let address = later(gateway.parse().unwrap(), 9 + number);
            self.netns
                .exec(&format!("ip addr replace {gateway}/{len} dev cni0 nodad"));
            netns.exec(&format!(
                "ip addr add {address}/{len} dev eth0 nodad; ip route add default via {gateway}"
            ));
            addresses.push(address);
        }
        Pod { netns, addresses }
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (earlier, log) = (self.earlier.borrow(), self.log());
            eprintln!("--- {} said\n{earlier}--- and last\n{log}", self.name);
        }
    }
}

pub(crate) struct Pod {
    pub(crate) netns: Netns,
    /// IPv4, and IPv6 where there is.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Pod {
    pub(crate) fn ip(&self) -> IpAddr {
        self.addresses[0]
    }

    /// In every family both have.
    #[track_caller]
    pub(crate) fn until_reaches(&self, other: &Self) {
        for address in &other.addresses {
            let what = format!("{} reaches {address}", self.netns.name());
            wait_until(&what, LIMIT, || self.answers(*address));
        }
    }

    pub(crate) fn answers(&self, address: IpAddr) -> bool {
        let attempt = Duration::from_millis(300);
        self.netns.enter(|| ping(address, attempt).is_ok())
    }

    pub(crate) fn strip_to(&self, other: &Self) -> Strip {
        self.until_reaches(other);
        Strip::start(&self.netns, other.ip())
    }

    /// In every family both have.
    pub(crate) fn strips_to(&self, other: &Self) -> Vec<Strip> {
        self.until_reaches(other);
        let addresses = other.addresses.iter();
        addresses
            .map(|address| Strip::start(&self.netns, *address))
            .collect()
    }
}

fn later(address: IpAddr, by: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) + u32::from(by)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) + u128::from(by)).into(),
    }
}
