//! A flanneld for tests: there is none to be had, so `flanneld.sh` does what it does.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weft_netns::{Cmd, Running, World, wait_until};

use crate::harness::{LIMIT, Node};
use crate::store::Store;

/// What it has programmed stays when it ends.
pub(crate) struct Flanneld {
    running: Running,
    conf: Value,
}

impl Flanneld {
    /// On a node whose daemon does not run. Until it serves: its rules, its file, all peers.
    pub(crate) fn start(world: &World, node: &Node<'_>, store: &Store, conf: &str) -> Self {
        let flanneld = Self::begin(world, node, store, conf);
        flanneld.until_it_serves(node, store);
        flanneld
    }

    /// On each of the nodes, until every one reaches all others.
    pub(crate) fn start_on_all<const N: usize>(
        world: &World,
        nodes: &[Node<'_>; N],
        store: &Store,
        conf: &str,
    ) -> [Self; N] {
        let all = nodes
            .each_ref()
            .map(|node| Self::start(world, node, store, conf));
        for (node, flanneld) in nodes.iter().zip(&all) {
            flanneld.until_it_serves(node, store);
        }
        all
    }

    /// Where somebody else may undo what it does.
    pub(crate) fn begin(world: &World, node: &Node<'_>, store: &Store, conf: &str) -> Self {
        let conf = serde_json::from_str(conf).unwrap();
        Self {
            running: command(world, node, store, &conf).spawn(),
            conf,
        }
    }

    /// It ends between two things that it does.
    pub(crate) fn stop(self) {
        let pid = Pid::from_raw(i32::try_from(self.running.pid()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).expect("a flanneld that lives");
        self.running.finish();
    }

    /// Every other node's routes stand, of those that have a lease by then.
    pub(crate) fn until_it_serves(&self, node: &Node<'_>, store: &Store) {
        wait_until("flanneld serves", LIMIT, || {
            let said = || self.running.said_so_far();
            assert!(!self.running.ends_within(Default::default()), "{}", said());
            let env = node.subnet_env();
            let Some(own) = env.get("FLANNEL_SUBNET") else {
                return false;
            };
            let own = own.replace(".1/24", ".0");
            let routes = "ip route show proto boot; ip -6 route show proto boot";
            let routes = node.netns.exec(routes);
            let mut peers = store.leases();
            peers.retain(|key| !key.contains(&own));
            let mut subnets = peers.iter().flat_map(|key| subnets_in(key));
            self.has_made_its_rules(node) && subnets.all(|subnet| routes.contains(&subnet))
        });
    }

    /// By the last that it makes for a family, and that none of ours looks like.
    fn has_made_its_rules(&self, node: &Node<'_>) -> bool {
        let families = 1 + usize::from(self.conf["EnableIPv6"] == true);
        let (list, rule, of_a_family) = match self.conf["EnableNFTables"] == true {
            true => ("nft list ruleset", "saddr != ", 2),
            false => ("iptables-nft-save; ip6tables-nft-save", "-j FLANNEL-FWD", 1),
        };
        node.netns.exec(list).matches(rule).count() == families * of_a_family
    }
}

/// Of `subnets/10.244.7.0-24&fd05:0:0:7::-64`.
fn subnets_in(key: &str) -> impl Iterator<Item = String> {
    let subnets = key.trim_start_matches("subnets/").split('&');
    subnets.map(|subnet| subnet.replace('-', "/"))
}

fn command(world: &World, node: &Node<'_>, store: &Store, conf: &Value) -> Cmd {
    // A process is called after the file it was started from.
    let program = world.scratch("bin").join("flanneld");
    fs::write(&program, include_str!("flanneld.sh")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let number = 10 + node.number;
    let mut command = Cmd::new(program)
        .args([conf["Backend"]["Type"].as_str().unwrap(), &node.underlay()])
        .arg(node.subnet_file())
        .arg(format!("10.244.{number}.0"))
        .arg(match store {
            Store::Directory(dir) => dir.display().to_string(),
            Store::Etcd(etcd) => etcd.endpoints(),
            Store::Kube(kube) => format!("kube={}", kube.url()),
        })
        .env("NODE_NAME", &node.name);
    if conf["EnableIPv6"] == true {
        command = command
            .env("ADDRESS6", node.underlay6())
            .env("OWN_SUBNET6", format!("fd05:0:0:{number:x}::"));
    }
    if conf["EnableNFTables"] == true {
        command = command.env("NFTABLES", "true");
    }
    command.inside(&node.netns)
}
