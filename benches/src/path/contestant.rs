//! The ways to join the pods of two nodes.
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use weft_netns::{Cmd, World};

use super::site::WIRE_MTU;
use super::tun::lacks_tun;
use super::{Daemon, Family, Setting, Side};

/// Everybody's UDP port: their nodes do not see each other's.
pub(super) const PORT: u16 = 8285;
const VXLAN_PORT: u16 = 8472;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// Plain routing: what joining costs nothing looks like.
    HostGw,
    /// The kernel's, no outer checksum, nothing learnt.
    Vxlan,
    /// Ours, from the rung of the ladder that it is told to begin on.
    Ours(&'static str),
    /// One packet a system call, one thread.
    Naive,
    WireguardGo,
}

pub const DEFAULT: [Contestant; 6] = [
    Contestant::HostGw,
    Contestant::Vxlan,
    Contestant::Ours("fast"),
    Contestant::Ours("plain"),
    Contestant::Naive,
    Contestant::WireguardGo,
];
/// Where ours may be told to begin; the first and the last take part unasked.
const RUNGS: [&str; 8] = [
    "fast", "no-uso", "no-tso", "no-gro", "no-gso", "no-mmsg", "no-vnet", "plain",
];

impl Contestant {
    pub fn named(name: &str) -> Option<Self> {
        let rungs = RUNGS.into_iter().map(Self::Ours);
        rungs.chain(DEFAULT).find(|known| known.name() == name)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::HostGw => "host-gw",
            Self::Vxlan => "vxlan",
            Self::Ours(rung) => rung,
            Self::Naive => "naive",
            Self::WireguardGo => "wireguard",
        }
    }

    /// What it takes of every packet's 1500 bytes.
    pub fn overhead(self, outer: Family) -> u16 {
        let ip = match outer {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        match self {
            Self::HostGw => 0,
            Self::Vxlan => ip + 8 + 8 + 14,
            Self::Ours(_) | Self::Naive => ip + 8,
            // Its own default, which leaves room for IPv6.
            Self::WireguardGo => 80,
        }
    }

    /// Of its device and of the pods.
    pub fn mtu(self, outer: Family) -> u16 {
        WIRE_MTU - self.overhead(outer)
    }

    pub fn carries(self, setting: Setting) -> bool {
        let plain_old = setting.inner == Family::V4 && setting.outer == Family::V4;
        self != Self::Naive || plain_old
    }

    /// What runs on each node, if anything does. `WEFT_NODE` names another of ours than was built.
    pub fn executable(self) -> Option<PathBuf> {
        match self {
            Self::HostGw | Self::Vxlan => None,
            Self::Ours(_) => {
                let named = std::env::var_os("WEFT_NODE").map(PathBuf::from);
                Some(named.unwrap_or_else(|| built("node", "examples")))
            }
            Self::Naive => Some(built("naive", ".")),
            Self::WireguardGo => Some("/usr/bin/wireguard-go".into()),
        }
    }

    /// What it cannot do without and does not find, with what would bring it.
    pub fn lacks(self) -> Option<String> {
        let missing = self.executable().filter(|path| !path.is_file());
        let remedy = match self {
            Self::WireguardGo if !Path::new("/usr/bin/wg").is_file() => {
                return Some("wg (Debian package wireguard-tools)".to_owned());
            }
            Self::WireguardGo => "Debian package wireguard-go",
            _ => "make bench-path builds it",
        };
        let missing = missing.map(|path| format!("{} ({remedy})", path.display()));
        missing.or_else(|| self.executable().and_then(|_| lacks_tun()))
    }

    /// Joins the nodes; the programs that do it, if any.
    #[track_caller]
    pub(crate) fn join(self, world: &World, sides: [&Side; 2], mtu: u16) -> Vec<Daemon> {
        let [one, two] = sides;
        let both = [(one, two), (two, one)];
        let executable = self.executable().unwrap_or_default();
        match self {
            Self::HostGw => {
                both.iter().for_each(|(here, there)| route(here, there));
                Vec::new()
            }
            Self::Vxlan => {
                let macs = [one, two].map(|side| add_vxlan(side, mtu));
                reach_by_vxlan(one, two, &macs[1]);
                reach_by_vxlan(two, one, &macs[0]);
                Vec::new()
            }
            Self::Ours(rung) => both
                .map(|(here, there)| ours([here, there], mtu, &["--rung", rung]))
                .into(),
            Self::Naive => both
                .map(|(here, there)| {
                    let command = as_node(&executable, here, there, mtu);
                    Daemon::start("naive", command, &here.node, "ready")
                })
                .into(),
            Self::WireguardGo => join_by_wireguard(world, &executable, sides, mtu),
        }
    }
}

/// For a test, what cargo has built beside it; for the benchmark, what make has.
fn built(name: &str, place: &str) -> PathBuf {
    let ourselves = std::env::current_exe().unwrap_or_default();
    let deps = ourselves.parent().filter(|dir| dir.ends_with("deps"));
    if let Some(profile) = deps.and_then(Path::parent) {
        return profile.join(place).join(name);
    }
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("dist/bench")
        .join(name)
}

/// Our engine's executable on the first of two nodes.
#[track_caller]
pub(crate) fn ours([here, there]: [&Side; 2], mtu: u16, options: &[&str]) -> Daemon {
    let executable = Contestant::Ours("fast").executable().unwrap_or_default();
    let command = as_node(&executable, here, there, mtu).args(options);
    Daemon::start("ours", command, &here.node, "ready")
}

/// The command line that our engine's executable and the naive loop have in common.
fn as_node(executable: &Path, here: &Side, there: &Side, mtu: u16) -> Cmd {
    Cmd::new(executable)
        .args(["--tun", "flannel0"])
        .args([
            "--address",
            &format!("{}/{}", here.overlay(), here.inner_bits()),
        ])
        .args(["--network", here.network()])
        .args(["--local", &here.underlay().to_string()])
        .args(["--port", &PORT.to_string()])
        .args(["--own", &here.subnet()])
        .args([
            "--peer",
            &format!("{}={}", there.subnet(), there.underlay()),
        ])
        .args(["--mtu", &mtu.to_string()])
}

fn route(here: &Side, there: &Side) {
    let (subnet, via) = (there.subnet(), there.node_address(there.setting.inner));
    here.node
        .exec(&format!("ip route add {subnet} via {via} dev eth0"));
}

/// Its MAC address.
fn add_vxlan(side: &Side, mtu: u16) -> String {
    let no_checksum = match side.setting.outer {
        Family::V4 => "noudpcsum",
        Family::V6 => "udp6zerocsumtx udp6zerocsumrx",
    };
    let local = side.underlay();
    let (overlay, bits) = (side.overlay(), side.inner_bits());
    side.node.exec(&format!(
        "ip link add flannel.1 mtu {mtu} type vxlan id 1 dev eth0 local {local} \
             dstport {VXLAN_PORT} nolearning {no_checksum}
         ip link set flannel.1 up
         ip addr add {overlay}/{bits} dev flannel.1"
    ));
    let mac = side
        .node
        .exec("ip -o link show flannel.1 | sed 's,.*link/ether ,,; s, .*,,'");
    mac.trim().to_owned()
}

fn reach_by_vxlan(here: &Side, there: &Side, mac: &str) {
    let (subnet, overlay, node) = (there.subnet(), there.overlay(), there.underlay());
    here.node.exec(&format!(
        "bridge fdb append {mac} dev flannel.1 dst {node}
         ip neigh add {overlay} lladdr {mac} dev flannel.1 nud permanent
         ip route add {subnet} via {overlay} dev flannel.1 onlink"
    ));
}

fn join_by_wireguard(world: &World, executable: &Path, sides: [&Side; 2], mtu: u16) -> Vec<Daemon> {
    // Its control socket is named after the device, in a directory that all nodes share.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let names = [(); 2].map(|()| format!("wg{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let keys = [(); 2].map(|()| world.exec("wg genkey"));
    let public = [0, 1].map(|at| {
        let done = world.command("wg").arg("pubkey").stdin(keys[at].clone());
        done.run().ok().stdout.trim().to_owned()
    });
    let directory = world.scratch("wireguard");
    [0, 1]
        .map(|at| {
            let (here, there) = (sides[at], sides[1 - at]);
            let name = &names[at];
            let command = Cmd::new(executable)
                .args(["-f", name])
                .env("LOG_LEVEL", "verbose");
            let daemon =
                Daemon::start("wireguard-go", command, &here.node, "UAPI listener started");
            let key = directory.join(name);
            std::fs::write(&key, &keys[at]).expect("write a private key");
            let endpoint = std::net::SocketAddr::new(there.underlay(), PORT);
            here.node.exec(&format!(
                "wg set {name} private-key {} listen-port {PORT} \
                     peer {} allowed-ips {} endpoint {endpoint}
                 ip link set {name} mtu {mtu} up
                 ip route add {} dev {name}",
                key.display(),
                public[1 - at],
                there.subnet(),
                there.subnet(),
            ));
            daemon
        })
        .into()
}
