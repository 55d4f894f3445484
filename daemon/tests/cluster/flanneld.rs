//! A flanneld for tests: there is none to be had, so `flanneld.sh` does what it does.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};
use weft_netns::{Cmd, Running, World, wait_until};

use crate::harness::{HOST_GW, LIMIT, Node, VXLAN};
use crate::store::Store;

/// What it has programmed stays when it ends.
pub(crate) struct Flanneld {
    running: Running,
}

impl Flanneld {
    /// On a node whose daemon does not run. Until it serves: its rules, its file, all peers.
    pub(crate) fn start(world: &World, node: &Node<'_>, store: &Store, conf: &str) -> Self {
        let flanneld = Self {
            running: command(world, node, store, conf).spawn(),
        };
        flanneld.until_it_serves(node, store);
        flanneld
    }

    /// It ends between two things that it does.
    pub(crate) fn stop(self) {
        let pid = Pid::from_raw(i32::try_from(self.running.pid()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).expect("a flanneld that lives");
        self.running.finish();
    }

    /// Every other node's route stands, of those that have a lease by then.
    pub(crate) fn until_it_serves(&self, node: &Node<'_>, store: &Store) {
        wait_until("flanneld serves", LIMIT, || {
            let said = || self.running.said_so_far();
            assert!(!self.running.ends_within(Default::default()), "{}", said());
            let env = node.subnet_env();
            let Some(own) = env.get("FLANNEL_SUBNET") else {
                return false;
            };
            let own = own.replace(".1/24", ".0");
            let routes = node.netns.exec("ip route show proto boot");
            let rules = node.netns.exec("iptables-nft-save -t nat");
            let mut peers = store.leases();
            peers.retain(|key| !key.contains(&own));
            let has_route = |key: &String| routes.contains(&subnet_in(key));
            rules.contains("-j FLANNEL-POSTRTG") && peers.iter().all(has_route)
        });
    }
}

/// Of `subnets/10.244.7.0-24`.
fn subnet_in(key: &str) -> String {
    key.trim_start_matches("subnets/").replace('-', "/")
}

fn command(world: &World, node: &Node<'_>, store: &Store, conf: &str) -> Cmd {
    let backend = match conf {
        VXLAN => "vxlan",
        HOST_GW => "host-gw",
        other => panic!("flanneld.sh does not know {other}"),
    };
    // A process is called after the file it was started from.
    let program = world.scratch("bin").join("flanneld");
    fs::write(&program, include_str!("flanneld.sh")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Cmd::new(program)
        .args([backend, &node.underlay()])
        .arg(node.subnet_file())
        .arg(format!("10.244.{}.0", 10 + node.number))
        .arg(match store {
            Store::Directory(dir) => dir.display().to_string(),
            Store::Etcd(etcd) => etcd.endpoints(),
            Store::Kube(kube) => format!("kube={}", kube.url()),
        })
        .env("NODE_NAME", &node.name)
        .inside(&node.netns)
}
