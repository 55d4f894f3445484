//! Where nodes stand: a bridge in the world's own namespace, and etcd beside it.
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use weft_netns::{Cmd, Netns, Running, World, wait_until};

use super::store::Store;

/// The bridge's own address: etcd and what stands before it are there, and the way out.
pub(crate) const CENTRE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const PREFIX_LEN: u8 = 12;
pub(crate) const ETCD_PORT: u16 = 2379;

pub(crate) struct Field<'w> {
    pub(crate) world: &'w World,
    nodes: AtomicU32,
    prefixes: AtomicU32,
    _etcd: Running,
}

/// A machine with one interface, eth0.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    /// For what its programs keep.
    pub(crate) dir: PathBuf,
}

impl<'w> Field<'w> {
    pub(crate) fn lay(world: &'w World) -> Self {
        world.exec(&format!(
            "ip link add centre type bridge && ip link set centre up
             ip addr add {CENTRE}/{PREFIX_LEN} dev centre"
        ));
        let etcd = etcd(world, &world.scratch("etcd"));
        let field = Self {
            world,
            nodes: AtomicU32::new(0),
            prefixes: AtomicU32::new(0),
            _etcd: etcd,
        };
        wait_until("etcd answers", Duration::from_secs(30), || {
            Store::try_connect(&field.endpoint()).is_some()
        });
        field
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{CENTRE}:{ETCD_PORT}")
    }

    pub(crate) fn store(&self) -> Store {
        Store::try_connect(&self.endpoint()).expect("etcd answers")
    }

    /// A key prefix that nobody has used.
    pub(crate) fn prefix(&self) -> String {
        format!("/bench/{}", next(&self.prefixes))
    }

    pub(crate) fn node(&self) -> Node {
        let number = next(&self.nodes);
        let name = format!("node-{number}");
        let netns = self.world.netns(&name);
        let address = Ipv4Addr::from_bits(CENTRE.to_bits() + number);
        // The kernel sees to addresses of IPv6 in the background, which nobody here needs.
        self.world.exec(&format!(
            "ip link add v{number} type veth peer name eth0 netns {name}
             ip link set v{number} master centre up"
        ));
        netns.exec(&format!(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
             ip link set lo up && ip link set eth0 up
             ip addr add {address}/{PREFIX_LEN} dev eth0
             ip route add default via {CENTRE}"
        ));
        let dir = self.world.scratch(&name);
        Node {
            netns,
            name,
            address,
            dir,
        }
    }
}

fn etcd(world: &World, dir: &Path) -> Running {
    let (client, peer) = (
        format!("http://{CENTRE}:{ETCD_PORT}"),
        "http://127.0.0.1:2380",
    );
    // It does not outlive us, whatever ends us.
    let command = world.command("setpriv").args(["--pdeathsig=KILL", "etcd"]);
    command
        .arg(format!("--data-dir={}", dir.display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"))
        .args(["--logger=zap", "--log-level=error"])
        .env("GOMAXPROCS", "2")
        .spawn()
}

impl Node {
    pub(crate) fn command(&self, program: &str) -> Cmd {
        Cmd::new(program).inside(&self.netns)
    }

    pub(crate) fn device_address(&self) -> Option<Ipv4Addr> {
        let shown = self
            .netns
            .exec("ip -o -4 addr show dev flannel.1 2>/dev/null || true");
        let word = shown
            .split_whitespace()
            .skip_while(|word| *word != "inet")
            .nth(1)?;
        word.split('/').next()?.parse().ok()
    }
}

fn next(counter: &AtomicU32) -> u32 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

pub(crate) fn ms_between(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}
