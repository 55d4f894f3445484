//! One node whose store is the test.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use weft_daemon::conf::{Checks, NetConf};
use weft_daemon::lease::{Attrs, Identity, Lease, Subnets};
use weft_daemon::overlay::Path;
use weft_daemon::plan::{Ground, Wishes};
use weft_daemon::reconcile::{
    Beginning, Outbox, Post, Reconciler, Report, Serving, Settings, Standing,
};
use weft_daemon::store::{Chosen, Claim, Own, Peers, View};
use weft_netns::{World, wait_until};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// eth0 of 192.168.9.181/24 and a loop that owns 172.20.1.0/24.
pub(crate) struct Node<'w> {
    pub(crate) world: &'w World,
    post: Post,
    view: View,
    report: Arc<Mutex<Report>>,
    served: Arc<Mutex<Option<Serving>>>,
    claimed: Arc<Mutex<Option<Claim>>>,
    looping: Option<JoinHandle<()>>,
}

/// The underlay, without any loop yet.
pub(crate) fn underlay(world: &World) {
    world.exec("ip link add eth0 type veth peer name wire");
    world.exec("ip link set wire up && ip link set eth0 up");
    world.exec("ip addr add 192.168.9.181/24 dev eth0");
    world.exec("ip addr add fd90::181/64 dev eth0 nodad");
    world.exec("ip link set lo up");
}

pub(crate) fn conf(text: &str) -> Arc<NetConf> {
    Arc::new(NetConf::parse(text, Checks::Leases).unwrap())
}

pub(crate) const VXLAN: &str = r#"{"Network":"172.20.0.0/16","Backend":{"Type":"vxlan"}}"#;
pub(crate) const HOST_GW: &str = r#"{"Network":"172.20.0.0/16","Backend":{"Type":"host-gw"}}"#;

pub(crate) fn index(world: &World) -> String {
    world.exec("ip -o link show flannel.1 | cut -d: -f1")
}

/// A lease as it stands in etcd.
pub(crate) fn lease(key: &str, value: &str) -> Arc<Lease> {
    Arc::new(Lease {
        subnets: Subnets::from_key(key).unwrap(),
        attrs: Attrs::parse(value).unwrap(),
    })
}

/// Node n of a vxlan network: 172.20.n.0/24 at 192.168.9.n.
pub(crate) fn peer(n: u8) -> Arc<Lease> {
    peer_with(n, &format!("02:00:00:00:00:{n:02x}"))
}

pub(crate) fn peer_with(n: u8, mac: &str) -> Arc<Lease> {
    lease(
        &format!("172.20.{n}.0-24"),
        &format!(
            r#"{{"PublicIP":"192.168.9.{n}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        ),
    )
}

pub(crate) fn gateway(n: u8) -> Arc<Lease> {
    lease(
        &format!("172.20.{n}.0-24"),
        &format!(r#"{{"PublicIP":"192.168.9.{n}","PublicIPv6":null,"BackendType":"host-gw"}}"#),
    )
}

impl<'w> Node<'w> {
    /// Starts a loop in the world's own namespace, and waits until all is programmed.
    pub(crate) fn start(
        world: &'w World,
        conf: Arc<NetConf>,
        own: Arc<Lease>,
        peers: &[Arc<Lease>],
    ) -> Self {
        let previous = Some(own.subnets);
        Self::start_after(world, previous, conf, own, peers)
    }

    /// On a node whose subnet file names what an earlier run held, or that has none.
    pub(crate) fn start_after(
        world: &'w World,
        previous: Option<Subnets>,
        conf: Arc<NetConf>,
        own: Arc<Lease>,
        peers: &[Arc<Lease>],
    ) -> Self {
        let view = View {
            conf: Some(Ok(conf)),
            own: Own::Held(own),
            peers: Some(Arc::new(Peers {
                leases: peers.to_vec(),
                rubbish: Vec::new(),
            })),
            ..View::default()
        };
        let report = Arc::new(Mutex::new(Report::default()));
        let served = Arc::new(Mutex::new(None));
        let claimed = Arc::new(Mutex::new(None));
        let outbox = Outbox {
            claim: keeper(&claimed),
            report: {
                let report = Arc::clone(&report);
                Box::new(move |newest| newest.clone_into(&mut report.lock().unwrap()))
            },
            serve: {
                let served = Arc::clone(&served);
                Box::new(move |serving: &Serving| {
                    *served.lock().unwrap() = Some(serving.clone());
                    Ok(())
                })
            },
            begin: Box::new(|| Ok(Beginning::with(None))),
        };
        let choose = Box::new(|rtnl: &mut weft_net::Rtnl, conf: &NetConf, _: Chosen| {
            let link = rtnl.link("eth0").map_err(|e| e.to_string())?;
            Ok(Standing {
                name: link.name,
                ground: Ground {
                    link: link.index,
                    mtu: link.mtu,
                    v4: conf.v4.map(|_| "192.168.9.181".parse().unwrap()),
                    v6: Some("fd90::181".parse().unwrap()),
                },
                public_ip: conf.v4.map(|_| "192.168.9.181".parse().unwrap()),
                public_ipv6: Some("fd90::181".parse().unwrap()),
            })
        });
        let (mut reconciler, post) =
            Reconciler::open(settings(previous), choose, outbox, Path::default()).unwrap();
        let looping = std::thread::spawn(move || drop(reconciler.run().unwrap()));
        let node = Self {
            world,
            post,
            view,
            report,
            served,
            claimed,
            looping: Some(looping),
        };
        node.post.send(node.view.clone());
        wait_until("the node to be ready", LIMIT, || {
            node.report().ready.is_ok()
        });
        node
    }

    pub(crate) fn with_peers(&mut self, peers: &[Arc<Lease>]) {
        self.view.peers = Some(Arc::new(Peers {
            leases: peers.to_vec(),
            rubbish: Vec::new(),
        }));
        self.post.send(self.view.clone());
    }

    pub(crate) fn with_own(&mut self, own: Own) {
        self.view.own = own;
        self.post.send(self.view.clone());
    }

    pub(crate) fn report(&self) -> Report {
        self.report.lock().unwrap().clone()
    }

    pub(crate) fn served(&self) -> Option<Serving> {
        self.served.lock().unwrap().clone()
    }

    pub(crate) fn claimed(&self) -> Option<Claim> {
        self.claimed.lock().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, command: &str, expected: &str) {
        let lines = |text: &str| -> Vec<String> {
            let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
            lines.retain(|line| !line.is_empty());
            lines.sort();
            lines
        };
        let mut last = String::new();
        let deadline = std::time::Instant::now() + LIMIT;
        while std::time::Instant::now() < deadline {
            last = self.world.exec(command);
            if lines(&last) == lines(expected) {
                return;
            }
            std::thread::yield_now();
        }
        panic!(
            "{command} says\n{last}\nand not\n{expected}\n{:?}",
            self.report()
        );
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        self.post.stop();
        if let Some(looping) = self.looping.take() {
            let ended = looping.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn keeper(place: &Arc<Mutex<Option<Claim>>>) -> Box<dyn FnMut(Claim) + Send> {
    let place = Arc::clone(place);
    Box::new(move |claim| *place.lock().unwrap() = Some(claim))
}

fn settings(previous: Option<Subnets>) -> Settings {
    // Of the world, so that two loops one after the other share it.
    let memory = PathBuf::from("/run/weft-test/memory/devices");
    Settings {
        identity: Identity {
            machine: "machine".into(),
            node: "node".into(),
        },
        wishes: Wishes {
            masquerade: true,
            random_fully: true,
            forward: true,
            guard: true,
            spared: Vec::new(),
            tunnel_checksums: true,
            blackhole: false,
        },
        previous,
        formerly: None,
        resync: Duration::from_secs(3600),
        memory,
    }
}
