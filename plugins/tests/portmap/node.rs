//! A node with pods on a bridge, wired by hand, and a machine outside.
//!
//! ```text
//!  pod-a 10.1.0.2 fd01::2 ─┐
//!  pod-b 10.1.0.3 fd01::3 ─┴─ br0 10.1.0.1 fd01::1 [ the world ] out 10.9.0.1 fd09::1
//!                                                                 └── outside 10.9.0.2 fd09::2
//! ```

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};
use weft_netns::{
    Attachment, Call, Cmd, Cni, Netns, TcpResponder, UdpResponder, Verb, World, ping, wait_for,
    wait_until,
};

pub(crate) struct Node<'a> {
    pub(crate) world: &'a World,
    pub(crate) outside: Netns,
    pub(crate) cni: Cni,
    directory: PathBuf,
}

pub(crate) struct Pod {
    pub(crate) netns: Netns,
    pub(crate) who: Attachment,
    number: usize,
    /// What the plugin before us answered.
    prev: Value,
}

impl<'a> Node<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        let directory = world.scratch("bin");
        symlink(env!("CARGO_BIN_EXE_weft-cni"), directory.join("portmap")).unwrap();
        let node = Self {
            world,
            outside: world.netns("outside"),
            cni: Cni::in_dirs(&[&directory]),
            directory,
        };
        node.wire();
        node
    }

    /// A pod with addresses of both families, which answers on TCP and UDP port 80.
    pub(crate) fn pod(&self, number: usize) -> Pod {
        let name = format!("pod-{number}");
        let netns = self.world.netns(&name);
        self.world.exec(&format!(
            "ip link add veth{number} type veth peer name eth0 netns {name}
             ip link set veth{number} master br0 up"
        ));
        netns.exec(&format!(
            "ip link set lo up; ip link set eth0 up
             ip address add 10.1.0.{number}/24 dev eth0
             ip address add fd01::{number}/64 dev eth0 nodad
             ip route add default via 10.1.0.1; ip route add default via fd01::1"
        ));
        // The kernel installs routes of IPv6 addresses when it has noticed that the link is up.
        wait_until(
            "the pod and its node see each other",
            Duration::from_secs(10),
            || {
                let sees = |address: &str| {
                    ping(address.parse().unwrap(), Duration::from_millis(500)).is_ok()
                };
                netns.enter(|| sees("10.1.0.1") && sees("fd01::1"))
            },
        );
        let who = Attachment::new(&name, &netns);
        let path = netns.path().display().to_string();
        let prev = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": format!("veth{number}")}, {"name": "eth0", "sandbox": path}],
            "ips": [{"interface": 2, "address": format!("10.1.0.{number}/24")},
                    {"interface": 2, "address": format!("fd01::{number}/64")}],
        });
        Pod {
            netns,
            who,
            number,
            prev,
        }
    }

    pub(crate) fn call(&self, verb: Verb, pod: &Pod, extra: Value) -> Call {
        self.cni.call("portmap", verb, &pod.who, &pod.config(extra))
    }

    pub(crate) fn command(&self, verb: Verb, pod: &Pod, extra: Value) -> Cmd {
        self.cni
            .command("portmap", verb, &pod.who, &pod.config(extra))
    }

    pub(crate) fn add(&self, pod: &Pod, mappings: Value) -> Call {
        self.call(Verb::Add, pod, mapped(mappings)).ok()
    }

    /// The calls for sockets that the plugin makes, one a line.
    pub(crate) fn socket_calls(&self, verb: Verb, pod: &Pod, extra: Value) -> Vec<String> {
        let (directory, log) = (
            self.world.scratch("traced"),
            self.world.scratch("log").join("log"),
        );
        let (wrapper, real) = (directory.join("portmap"), self.directory.join("portmap"));
        let strace = format!(
            "strace -f -e trace=network -o {} {}",
            log.display(),
            real.display()
        );
        fs::write(&wrapper, format!("#!/bin/sh\nexec {strace}\n")).unwrap();
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        let traced = Cni::in_dirs(&[&directory]);
        traced
            .call("portmap", verb, &pod.who, &pod.config(extra))
            .ok();
        let log = fs::read_to_string(&log).unwrap();
        log.lines()
            .filter(|line| line.contains('('))
            .map(str::to_owned)
            .collect()
    }

    /// As a runtime does that knows nothing: no namespace, no result, no mappings.
    pub(crate) fn del_in_ignorance(&self, pod: &Pod) -> Call {
        let who = pod.who.clone().netns("");
        let config = json!({"cniVersion": "0.3.1", "name": "net", "type": "portmap"});
        self.cni.call("portmap", Verb::Del, &who, &config).ok()
    }

    pub(crate) fn gc(&self, any: &Pod, living: Value) {
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": "portmap"});
        config["cni.dev/valid-attachments"] = living;
        self.cni.call("portmap", Verb::Gc, &any.who, &config).ok();
    }

    /// The mappings' elements that stand, by nft's word.
    pub(crate) fn elements(&self) -> Vec<String> {
        let list = || {
            self.world
                .exec("nft list table inet weft_hostports 2>/dev/null || true")
        };
        // What a killed DEL has retired is listed until the kernel's clock ticks.
        let listing = wait_for("retired elements to go", Duration::from_secs(5), || {
            Some(list()).filter(|listing| !listing.contains(" expires "))
        });
        let comments = listing
            .lines()
            .filter(|line| line.contains("comment \"") && !line.contains("Weft: "))
            .map(str::trim);
        comments.map(str::to_owned).collect()
    }

    fn wire(&self) {
        // A bridge without an address of its own takes one of its ports', and another one later,
        // which its neighbours learn late.
        self.world.exec(
            "ip link add br0 address 02:00:00:00:00:01 type bridge; ip link set br0 up
                 ip address add 10.1.0.1/24 dev br0; ip address add fd01::1/64 dev br0 nodad
                 ip link add out type veth peer name eth0 netns outside; ip link set out up
                 ip address add 10.9.0.1/24 dev out; ip address add fd09::1/64 dev out nodad
                 ip address add 10.9.0.7/24 dev out
                 echo 1 >/proc/sys/net/ipv4/ip_forward
                 echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
                 for call in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do
                     [ ! -e $call ] || echo 0 >$call
                 done",
        );
        self.outside.exec(
            "ip link set lo up; ip link set eth0 up
                 ip address add 10.9.0.2/24 dev eth0; ip address add fd09::2/64 dev eth0 nodad
                 ip route add 10.1.0.0/24 via 10.9.0.1; ip route add fd01::/64 via fd09::1",
        );
        wait_until(
            "the node is seen from outside",
            Duration::from_secs(10),
            || {
                let sees = |address: &str| {
                    ping(address.parse().unwrap(), Duration::from_millis(500)).is_ok()
                };
                self.outside.enter(|| sees("10.9.0.1") && sees("fd09::1"))
            },
        );
    }
}

impl Pod {
    pub(crate) fn config(&self, extra: Value) -> Value {
        let mut config = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap"});
        config["prevResult"] = self.prev.clone();
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    pub(crate) fn v4(&self) -> String {
        format!("10.1.0.{}", self.number)
    }

    pub(crate) fn v6(&self) -> String {
        format!("fd01::{}", self.number)
    }

    pub(crate) fn serve(&self) -> (TcpResponder, UdpResponder) {
        self.netns
            .enter(|| (TcpResponder::bind("[::]:80"), UdpResponder::bind("[::]:80")))
    }
}

pub(crate) fn mapped(mappings: Value) -> Value {
    json!({"runtimeConfig": {"portMappings": mappings}})
}

pub(crate) fn tcp(host_port: u16) -> Value {
    json!([{"hostPort": host_port, "containerPort": 80, "protocol": "tcp"}])
}

pub(crate) fn udp(host_port: u16) -> Value {
    json!([{"hostPort": host_port, "containerPort": 80, "protocol": "udp"}])
}
