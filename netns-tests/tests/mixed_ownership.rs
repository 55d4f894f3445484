//! One node, two sets of plugins: pods that Debian's Go plugins (1.1.1) added are checked, deleted
//! and collected by ours, and the other way round, as while a node is upgraded or rolled back.
//!
//! ```text
//!   data directory, lock, bridge, iptables chains: shared
//!   ADD by one ── CHECK, DEL or GC by the other ── is the node as before?
//! ```
//! What one side cannot know of the other's is in the table, with the reason and with who takes it.
//! Debian has no flannel plugin: what that leaves on disk is tried beside ours, in its own tests.
mod node;

use std::collections::BTreeSet;
use std::thread;

use node::{GO, SECOND, add, ip_of, reaches};
use serde_json::{Value, json};
use weft_netns::{
    Attachment, Chain, Cni, Netns, Snapshot, TcpResponder, Watch, World, ask_tcp, in_world,
    skip_unless, wait_until,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Go,
    Weft,
}

use Side::{Go, Weft};

impl Side {
    fn cni(self) -> Cni {
        match self {
            Go => Cni::debian(),
            Weft => Cni::weft(),
        }
    }

    fn other(self) -> Self {
        match self {
            Go => Weft,
            Weft => Go,
        }
    }
}

/// What the other side can do with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Can {
    Everything,
    /// Not this, for a reason.
    Not(&'static str),
}

use Can::{Everything, Not};

/// A kind of network, and what each side can do with the other's pods on it.
struct Row {
    name: &'static str,
    plugins: fn() -> Value,
    /// CHECK, and DEL, of Go's pods by ours.
    ours: [Can; 2],
    /// CHECK, and DEL, of our pods by Go's.
    theirs: [Can; 2],
    /// What the DEL that can't leaves behind; our GC takes it.
    left: &'static [&'static str],
}

const GO_KNOWS_NO_NFTABLES: Can = Not(
    "Debian's plugins know iptables alone: our nftables elements stay until our GC, and its \
     bridge says that the chain it would have made is missing",
);
const GO_CHECKS_IPV6_RULES: Can =
    Not("Debian's portmap misses IPv6 rules that no ADD makes, its own neither");

const TABLE: [Row; 7] = [
    Row {
        name: "bridge",
        plugins: || json!([bridge(json!({"ipMasq": false}))]),
        ours: [Everything, Everything],
        theirs: [Everything, Everything],
        left: &[],
    },
    Row {
        name: "bridge with IPv6",
        plugins: || json!([bridge(json!({"ipMasq": false, "ipam": dual_stack()}))]),
        ours: [Everything, Everything],
        theirs: [Everything, Everything],
        left: &[],
    },
    Row {
        name: "masquerading by iptables",
        plugins: || json!([bridge(json!({"ipMasqBackend": "iptables"}))]),
        ours: [Everything, Everything],
        theirs: [Everything, Everything],
        left: &[],
    },
    Row {
        name: "masquerading by whatever is the default",
        plugins: || json!([bridge(json!({"ipam": dual_stack()}))]),
        ours: [Everything, Everything],
        theirs: [Everything, GO_KNOWS_NO_NFTABLES],
        left: &["masquerade4", "masquerade6"],
    },
    Row {
        name: "ports by iptables",
        plugins: || {
            json!([
                bridge(json!({"ipMasqBackend": "iptables"})),
                portmap(json!({"backend": "iptables"}))
            ])
        },
        ours: [Everything, Everything],
        theirs: [GO_CHECKS_IPV6_RULES, Everything],
        left: &[],
    },
    Row {
        name: "ports by whatever is the default",
        plugins: || {
            json!([
                bridge(json!({"ipMasqBackend": "iptables"})),
                portmap(json!({}))
            ])
        },
        ours: [Everything, Everything],
        theirs: [GO_CHECKS_IPV6_RULES, GO_KNOWS_NO_NFTABLES],
        left: &["weft_hostports"],
    },
    Row {
        name: "loopback",
        plugins: || json!([{"type": "loopback"}]),
        ours: [Everything, Everything],
        theirs: [Everything, Everything],
        left: &[],
    },
];

fn bridge(change: Value) -> Value {
    node::bridge_conf("1.0.0", change)
}

fn portmap(change: Value) -> Value {
    let mut conf = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    for (key, value) in change.as_object().expect("an object") {
        conf[key] = value.clone();
    }
    conf
}

fn dual_stack() -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd22::/64"}]]})
}

/// A node on which both sides have had a pod: what each makes once for all pods is there.
struct Shared {
    list: Value,
    pod: Netns,
    neighbours: [(Attachment, String); 2],
    before: Snapshot,
}

impl Shared {
    fn new(world: &World, number: usize, row: &Row) -> Self {
        let list = json!({"name": "net", "cniVersion": "1.0.0", "plugins": (row.plugins)()});
        let pod = world.netns(&format!("pod{number}"));
        let neighbours = [(Go, 9001), (Weft, 9002)].map(|(side, port)| {
            let chain = Chain::new(&side.cni(), list.clone());
            let warm = attachment("warm", &pod, port);
            chain.add(&warm).ok();
            chain.del(&warm).ok();
            let netns = Box::leak(Box::new(world.netns(&format!("{side:?}{number}"))));
            let who = attachment(netns.name(), netns, port);
            let result = add(&chain, &who);
            let ip = if row.name == "loopback" {
                "127.0.0.1".to_owned()
            } else {
                ip_of(&result, 0)
            };
            (who, ip)
        });
        // Go's gateway addresses are looked for on the bridge before they are used.
        wait_until("no address is tentative", SECOND * 10, || {
            !world.exec("ip -6 address").contains("tentative")
        });
        let before = Watch::node().take();
        Self {
            list,
            pod,
            neighbours,
            before,
        }
    }

    /// A fresh runtime's view of the network, in the hands of one side.
    fn chain(&self, side: Side) -> Chain {
        Chain::new(&side.cni(), self.list.clone())
    }

    /// GC needs a version that knows it; only ours does.
    fn collect(&self, living: &[Attachment]) {
        let mut list = self.list.clone();
        list["cniVersion"] = "1.1.0".into();
        Chain::new(&Cni::weft(), list).gc(living).ok();
    }

    fn living(&self) -> Vec<Attachment> {
        self.neighbours.iter().map(|(who, _)| who.clone()).collect()
    }

    fn left(&self) -> weft_netns::Difference {
        let kept = |fact: &str| fact.contains("last_reserved_ip") || fact.contains("/.weft");
        self.before.difference(&Watch::node().take()).except(kept)
    }

    #[track_caller]
    fn is_as_before(&self, when: &str) {
        let left = self.left();
        assert!(left.is_empty(), "{when}, this has changed:\n{left}");
        for (_, ip) in &self.neighbours {
            reaches(ip);
        }
    }
}

fn attachment(id: &str, netns: &Netns, port: u16) -> Attachment {
    let mapping = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
    Attachment::new(id, netns).capability("portMappings", mapping)
}

fn on_each_network(story: impl Fn(&Row, &Shared)) {
    if !skip_unless(&GO) {
        return;
    }
    in_world(|world| {
        for (number, row) in TABLE.iter().enumerate() {
            eprintln!("{}", row.name);
            let shared = Shared::new(world, number, row);
            story(row, &shared);
            // The neighbours' links end with their namespaces.
            world.exec(
                "ip link del cni0 2>/dev/null || true; nft flush ruleset; rm -rf /var/lib/cni/*",
            );
        }
    });
}

#[test]
fn each_side_checks_and_deletes_the_pods_of_the_other() {
    on_each_network(|row, shared| {
        for (adder, cans) in [(Go, row.ours), (Weft, row.theirs)] {
            let [check, del] = cans;
            let who = attachment("c", &shared.pod, 8080);
            let chain = shared.chain(adder);
            add(&chain, &who);
            let when = format!("{}: added by {adder:?}", row.name);

            let other = chain.by(&adder.other().cni());
            let checked = other.check(&who);
            match (check, checked.failed()) {
                (Everything, Some(failed)) => panic!("{when}, checked: {}", failed.describe()),
                (Not(why), None) => panic!("{when}, CHECK can do it, though it was said: {why}"),
                _ => {}
            }
            let deleted = other.del(&who);
            match del {
                Everything => {
                    deleted.ok();
                    shared.is_as_before(&format!("{when}, deleted"));
                }
                Not(why) => {
                    // Whether it says so or not.
                    let left = shared.left();
                    let known = |fact: &str| row.left.iter().any(|word| fact.contains(word));
                    assert!(
                        !left.is_empty(),
                        "{when}, DEL can do it, though it was said: {why}"
                    );
                    let strange = left.except(known);
                    assert!(strange.is_empty(), "{when}, deleted:\n{strange}");
                    shared.collect(&shared.living());
                    shared.is_as_before(&format!("{when}, deleted, collected"));
                }
            }
        }
    });
}

/// Debian's plugins leak the rules of a pod of their own then (P4).
#[test]
fn our_del_without_a_namespace_takes_the_pods_of_the_other() {
    on_each_network(|row, shared| {
        let who = attachment("c", &shared.pod, 8080);
        add(&shared.chain(Go), &who);
        // What Go's bridge made is found from the pod's end alone: the runtime ends the namespace.
        shared.pod.exec("ip link del eth0 2>/dev/null || true");
        shared.chain(Weft).del(&who.clone().netns("")).ok();
        shared.is_as_before(&format!("{}: deleted without a namespace", row.name));
    });
}

#[test]
fn our_gc_takes_the_pods_of_either() {
    on_each_network(|row, shared| {
        for side in [Go, Weft] {
            let who = attachment("c", &shared.pod, 8080);
            add(&shared.chain(side), &who);
            if side == Go {
                // Nothing tells whose a link of Go's is. The runtime ends the namespace.
                shared.pod.exec("ip link del eth0 2>/dev/null || true");
            }
            shared.collect(&shared.living());
            shared.is_as_before(&format!("{}: added by {side:?}, collected", row.name));
        }
    });
}

/// As while files are replaced one after the other.
#[test]
fn plugins_of_both_sides_work_in_one_chain() {
    if !skip_unless(&GO) {
        return;
    }
    in_world(|world| {
        let list = json!({"name": "net", "cniVersion": "1.0.0", "plugins": [
            bridge(json!({"ipMasqBackend": "iptables"})), portmap(json!({})),
        ]});
        let pod = world.netns("pod");
        let who = attachment("c", &pod, 8080);
        for side in [Go, Weft] {
            for plugin in ["bridge", "host-local", "portmap"] {
                let cni = side.cni().with(world, plugin, &side.other().cni());
                let chain = Chain::new(&cni, list.clone());
                let warm = chain.add(&who).ok().result();
                chain.del(&who).ok();
                let before = Watch::node().take();
                let ip = ip_of(&add(&chain, &who), 0);
                reaches(&ip);
                let server = pod.enter(|| TcpResponder::bind("0.0.0.0:80"));
                if let Err(why) = ask_tcp("10.22.0.1:8080") {
                    panic!("{plugin} of {side:?} replaced: {why}");
                }
                drop(server);
                chain.del(&who).ok();
                let kept =
                    |fact: &str| fact.contains("last_reserved_ip") || fact.contains("/.weft");
                let left = before.difference(&Watch::node().take()).except(kept);
                assert!(
                    left.is_empty(),
                    "{plugin} of {side:?} replaced: {warm}\n{left}"
                );
            }
        }
    });
}

/// One data directory, one lock, and whoever comes first.
#[test]
fn thirty_two_pods_at_once_of_both_sides_share_the_addresses() {
    if !skip_unless(&GO) {
        return;
    }
    in_world(|world| {
        let pods = world.many_netns("pod", 32);
        let list = json!({"name": "net", "cniVersion": "1.0.0", "plugins": [bridge(json!({"ipMasqBackend": "iptables"}))]});
        let chains = [Go, Weft].map(|side| Chain::new(&side.cni(), list.clone()));
        let all = |run: &(dyn Fn(usize, &Attachment) -> Option<String> + Sync)| {
            thread::scope(|scope| {
                let started: Vec<_> = (pods.iter().enumerate())
                    .map(|(i, pod)| scope.spawn(move || run(i, &Attachment::new(pod.name(), pod))))
                    .collect();
                let ended = started.into_iter().map(|one| one.join().expect("a pod"));
                ended.flatten().collect::<Vec<_>>()
            })
        };
        let ips = all(&|i, who| Some(ip_of(&add(&chains[i % 2], who), 0)));
        let different: BTreeSet<_> = ips.iter().collect();
        assert_eq!((ips.len(), different.len()), (32, 32), "{ips:?}");
        ips.iter().for_each(|ip| reaches(ip));
        let rules = world.exec("iptables-save -t nat");
        assert_eq!(rules.matches("-A POSTROUTING").count(), 32, "{rules}");

        // Each is deleted by the other side, all at once again.
        all(&|i, who| {
            let adder = [Go, Weft][i % 2];
            chains[i % 2].by(&adder.other().cni()).del(who).ok();
            None
        });
        let left = world.exec("ip -br link; ls /var/lib/cni/networks/net; iptables-save -t nat");
        for gone in ["veth", "10.22.0.", "-A POSTROUTING"] {
            assert!(
                !left
                    .lines()
                    .any(|line| line.contains(gone) && !line.contains("last_reserved")),
                "{gone}: {left}"
            );
        }
    });
}
