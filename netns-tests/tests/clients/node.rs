//! The node the containers run on, with a neighbour beyond it, and what must
//! hold there while a container runs and after it is gone.
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use weft_netns::{
    Cni, Need, Netns, Snapshot, TcpResponder, Watch, World, ask_tcp, ask_udp, skip_unless, wait_for,
};

/// One wire, and on it the node and its neighbour.
const IPV4: Wire = Wire {
    node: "192.0.2.1",
    neighbour: "192.0.2.2",
};
const IPV6: Wire = Wire {
    node: "2001:db8::1",
    neighbour: "2001:db8::2",
};

struct Wire {
    node: &'static str,
    neighbour: &'static str,
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The suite, and where Debian's Go plugins are.
pub(crate) const OURS: [&str; 5] = ["bridge", "host-local", "portmap", "loopback", "flannel"];
pub(crate) const DEBIANS: &str = "/usr/lib/cni";

/// The container's ports, and those of the node that lead to them.
pub(crate) const SERVED: u16 = 80;
pub(crate) const TCP: u16 = 8080;
pub(crate) const UDP: u16 = 8053;

/// The node's ports that lead to a container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped {
    pub(crate) tcp: u16,
    pub(crate) udp: u16,
    /// Whether the container's network has IPv6 too.
    pub(crate) ipv6: bool,
}

pub(crate) struct Node<'w> {
    pub(crate) world: &'w World,
    neighbour: Netns,
    plugins: PathBuf,
}

/// Whether clients can run here: they need the machine's own root.
pub(crate) fn can_run(tools: &[Need]) -> bool {
    let asked_for_less = std::env::var_os("WEFT_ROOTLESS").is_some_and(|value| !value.is_empty());
    let root = if asked_for_less {
        Need::Kernel("its own root (not WEFT_ROOTLESS)", false)
    } else {
        Need::Root
    };
    let cgroups = Need::Kernel("cgroups that may be made", may_make_cgroups());
    skip_unless(&[root]) && skip_unless(tools) && skip_unless(&[cgroups])
}

fn may_make_cgroups() -> bool {
    static PROBED: OnceLock<bool> = OnceLock::new();
    let probe = format!("weft-probe-{}", std::process::id());
    let can_make = |hierarchy: &str| {
        let dir = Path::new("/sys/fs/cgroup").join(hierarchy).join(&probe);
        let is_cgroup = fs::create_dir(&dir).is_ok() && dir.join("cgroup.procs").exists();
        let _ = fs::remove_dir(dir);
        is_cgroup
    };
    // Version 2 alone, or a hierarchy of version 1.
    *PROBED.get_or_init(|| can_make("") || can_make("pids"))
}

impl<'w> Node<'w> {
    /// A node with our plugins where runtimes look for them, and `others` of
    /// Debian's beside them.
    pub(crate) fn new(world: &'w World, others: &[&str]) -> Self {
        let neighbour = world.netns("neighbour");
        world.exec("ip link add name uplink type veth peer name eth0 netns neighbour");
        world.exec("ip link set uplink up");
        neighbour.exec("ip link set eth0 up");
        for (wire, bits) in [(IPV4, "24"), (IPV6, "64 nodad")] {
            world.exec(&format!("ip address add {}/{bits} dev uplink", wire.node));
            neighbour.exec(&format!(
                "ip address add {}/{bits} dev eth0",
                wire.neighbour
            ));
        }
        let node = Self {
            world,
            neighbour,
            plugins: world.private_dir("/opt/cni/bin"),
        };
        node.install(&Cni::weft_dir(), &OURS);
        node.install(Path::new(DEBIANS), others);
        node
    }

    /// Puts plugins in their place, or in that of others of their names.
    pub(crate) fn install(&self, from: &Path, plugins: &[&str]) {
        for plugin in plugins {
            let (file, link) = (from.join(plugin), self.plugins.join(plugin));
            assert!(
                file.is_file(),
                "no {} (ours are made by `make build`)",
                file.display()
            );
            let _ = fs::remove_file(&link);
            symlink(file, link).expect("link a plugin");
        }
    }

    pub(crate) fn plugins(&self) -> String {
        self.plugins.display().to_string()
    }

    /// The only network configuration of the node.
    pub(crate) fn configure(&self, file: &str, conflist: &Value) {
        let dir = self.world.private_dir("/etc/cni/net.d");
        fs::write(dir.join(file), conflist.to_string()).expect("write a configuration");
    }

    /// Whether packets between the ports of a bridge pass through netfilter.
    pub(crate) fn bridge_netfilter(&self, on: bool) {
        for family in ["iptables", "ip6tables"] {
            let file = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
            // Without the module they never do.
            if fs::exists(&file).unwrap_or(false) {
                fs::write(file, if on { "1" } else { "0" }).expect("set bridge netfilter");
            }
        }
    }

    /// The mapped ports answer the node, its neighbour, and by way of `run_inside`
    /// the container itself, which finds its way out too.
    pub(crate) fn assert_mapped(&self, ports: Mapped, run_inside: impl Fn(&[&str]) -> String) {
        ask(|| ask_tcp(&format!("127.0.0.1:{}", ports.tcp)));
        self.assert_mapped_on(IPV4, ports, &run_inside);
        if ports.ipv6 {
            self.assert_mapped_on(IPV6, ports, &run_inside);
        }
    }

    fn assert_mapped_on(&self, wire: Wire, ports: Mapped, run_inside: impl Fn(&[&str]) -> String) {
        let tcp = on(wire.node, ports.tcp);
        let udp = on(wire.node, ports.udp);
        ask(|| ask_tcp(&tcp));
        ask(|| ask_udp(&udp));
        for seen in [
            ask(|| self.neighbour.enter(|| ask_tcp(&tcp))),
            ask(|| self.neighbour.enter(|| ask_udp(&udp))),
        ] {
            assert_eq!(
                seen.to_string(),
                wire.neighbour,
                "the neighbour is seen as itself"
            );
        }
        address(&run_inside(&["ask", &tcp]));

        let outside = on(wire.neighbour, 7000);
        let _responder = self.neighbour.enter(|| TcpResponder::bind(&outside));
        let seen = address(&run_inside(&["ask", &outside]));
        assert_eq!(
            seen.to_string(),
            wire.node,
            "the container is seen as the node"
        );
    }

    /// Nobody answers at these ports any more, and nothing is tracked to them.
    pub(crate) fn assert_unmapped(&self, ports: Mapped) {
        ask_tcp(&on(IPV4.node, ports.tcp)).expect_err("the port is free again");
        for family in ["ipv4", "ipv6"] {
            let conntrack = self.world.command("conntrack").args(["-L", "-f", family]);
            let udp = ["-p", "udp", "--orig-port-dst", &ports.udp.to_string()];
            let tracked = conntrack.args(udp).run().ok().stdout;
            assert_eq!(tracked, "", "flows to the removed container");
        }
    }

    pub(crate) fn look(&self) -> Snapshot {
        Watch::node().dir("/run/netns").take()
    }

    /// What `life` does, done once, leaves no trace of the containers (whose names
    /// it returns); and done once more on a network that is settled, nothing at all.
    pub(crate) fn assert_leaves_nothing(&self, life: impl Fn() -> Vec<String>) {
        let before = self.look();
        let names = life();
        self.assert_no_trace(&before, &names);

        // An empty bridge has the kernel's MTU until a second container comes.
        life();
        let settled = self.look();
        life();
        let changed = settled.difference(&self.look());
        let changed = changed.except(is_remembered_on_purpose);
        assert!(changed.is_empty(), "after one life more:\n{changed}");
    }

    /// Since `before`, nothing has come that belongs to containers.
    pub(crate) fn assert_no_trace(&self, before: &Snapshot, names: &[String]) {
        let left = before.difference(&self.look());
        let left = left.except(is_remembered_on_purpose);
        let of_containers = |fact: &&String| is_trace(fact, names);
        let traces: Vec<_> = left.came.iter().filter(of_containers).collect();
        assert!(traces.is_empty(), "left behind: {traces:#?}");
    }
}

/// A fact that belongs to containers and not to their network.
fn is_trace(fact: &str, names: &[String]) -> bool {
    const KINDS: [&str; 4] = [
        "\"info_kind\":\"veth\"",
        "\"elem\":",
        "CNI-DN-",
        "file /run/netns/",
    ];
    let is_of = |name: &String| fact.contains(name.as_str());
    names.iter().any(is_of) || KINDS.iter().any(|kind| fact.contains(kind))
}

/// Which address was given out last, and what spares host-local a look at them all.
fn is_remembered_on_purpose(fact: &str) -> bool {
    fact.contains("/last_reserved_ip.") || fact.contains("/var/lib/cni/networks/.weft/")
}

/// Asks until there is an answer: a container that has been started serves, and
/// an address of IPv6 works, a little later. Whom the answer names.
#[track_caller]
fn ask(mut question: impl FnMut() -> io::Result<SocketAddr>) -> IpAddr {
    wait_for("the mapped port answers", PATIENCE, || question().ok()).ip()
}

fn on(address: &str, port: u16) -> String {
    let ip: IpAddr = address.parse().expect("an address");
    SocketAddr::new(ip, port).to_string()
}

/// The address in an answer.
#[track_caller]
fn address(answer: &str) -> IpAddr {
    let parsed = answer.trim().parse::<SocketAddr>();
    parsed
        .unwrap_or_else(|e| panic!("no address ({e}): {answer:?}"))
        .ip()
}

/// A parent for the cgroups of one test's containers. Cgroups are the machine's:
/// no world hides them.
pub(crate) fn unique_cgroup() -> String {
    format!("/weft-test-{}", std::process::id())
}

/// Removes it from every hierarchy, once it is empty.
pub(crate) fn remove_cgroup(cgroup: &str) {
    let name = cgroup.trim_start_matches('/');
    for hierarchy in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        remove_empty_tree(&hierarchy.path().join(name));
    }
    remove_empty_tree(&Path::new("/sys/fs/cgroup").join(name));
}

/// Where a container is still alive, the failure of its test says so.
fn remove_empty_tree(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_empty_tree(&entry.path());
    }
    let _ = fs::remove_dir(dir);
}
