//! A node on which plugins are killed, again and again, and which must stay clean.
//!
//! ```text
//!   a verb of the chain ──┤ killed before its n-th system call
//!                         └─ what a runtime does next ── is the node as before? ── does an ADD work?
//! ```
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use weft_netns::{Attachment, Chain, Cni, Netns, Run, Snapshot, Verb, Watch, World};

use crate::node::{add, ip_of, reaches};

/// What a runtime still knows when it says DEL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The path of the namespace, as containerd and CRI-O say it.
    Path,
    /// Nothing: CNI_NETNS is empty, as ctr and nerdctl have it.
    Nothing,
    /// A path that leads nowhere any more.
    Gone,
}

impl Told {
    const ALL: [Self; 3] = [Self::Path, Self::Nothing, Self::Gone];

    fn of(self, who: &Attachment) -> Attachment {
        match self {
            Self::Path => who.clone(),
            Self::Nothing => who.clone().netns(""),
            Self::Gone => who.clone().netns("/run/netns/gone"),
        }
    }
}

/// How much of the matrix is walked. Every extent kills at every system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Looks at the node wherever the last system call made may have left a trace.
    WhereItMatters,
    /// Looks at the node after each system call.
    Everywhere,
    /// The same, with every way of telling DEL whom it is about.
    InEveryWay,
}

impl Extent {
    /// The ways of telling DEL that are tried where the chain was killed.
    fn ways(self, death: &Death) -> Vec<Told> {
        match self {
            Self::InEveryWay => Told::ALL.to_vec(),
            Self::WhereItMatters if !death.in_vain => Told::ALL.to_vec(),
            _ => vec![Told::ALL[usize::try_from(death.syscall).unwrap_or(0) % Told::ALL.len()]],
        }
    }

    fn looks(self, death: &Death) -> bool {
        self != Self::WhereItMatters || !death.in_vain
    }
}

/// Where the chain was killed.
#[derive(Clone, Debug)]
struct Death {
    verb: Verb,
    plugin: String,
    /// Over all plugins of the chain.
    syscall: u64,
    in_vain: bool,
}

impl Death {
    /// Nothing if the verb ended before it could be killed.
    fn of(verb: Verb, syscall: u64, run: &Run) -> Option<Self> {
        if run.killed_in.is_none() {
            assert!(
                run.failed().is_none(),
                "{}",
                run.failed().map(|call| call.describe()).unwrap_or_default()
            );
        }
        Some(Self {
            verb,
            plugin: run.killed_in.clone()?,
            syscall,
            in_vain: run.killed_in_vain,
        })
    }

    fn describe(&self) -> String {
        let (verb, syscall, plugin) = (self.verb.name(), self.syscall, &self.plugin);
        format!("{verb} killed at system call {syscall}, in {plugin}")
    }
}

/// A node with one living pod that no crash may harm, and one namespace for the pods that crash.
pub(crate) struct Node<'a> {
    chain: Chain,
    /// A runtime that has forgotten all pods: one that has not says DEL before GC.
    collector: Chain,
    extent: Extent,
    pod: &'a Netns,
    neighbour: Option<Neighbour>,
    before: Snapshot,
}

struct Neighbour {
    who: Attachment,
    ip: String,
}

impl<'a> Node<'a> {
    /// The tables and chains that pods share are made by the first pod and stay: it is gone
    /// again when the node is looked at first.
    pub(crate) fn new(
        conflist: &Value,
        extent: Extent,
        pod: &'a Netns,
        neighbour: Option<&Netns>,
    ) -> Self {
        let chain = || Chain::new(&Cni::weft(), conflist.clone());
        let (chain, collector) = (chain(), chain());
        let warm = with_port(&Attachment::new("warm", pod), 7000);
        add(&chain, &warm);
        chain.del(&warm).ok();
        let neighbour = neighbour.map(|netns| {
            let who = with_port(&Attachment::new("neighbour", netns), 8000);
            let ip = ip_of(&add(&chain, &who), 0);
            Neighbour { who, ip }
        });
        let mut node = Self {
            chain,
            collector,
            extent,
            pod,
            neighbour,
            before: Watch::node().take(),
        };
        if node.has_gc() {
            // It takes the chains of subnets that no pod uses.
            node.gc();
            node.before = Watch::node().take();
        }
        node
    }

    /// ADD is killed, then DEL runs.
    pub(crate) fn kill_add_then_del(&self) {
        self.kill_then_del(Verb::Add, |n, who, _| self.chain.killed_at(n).add(who));
    }

    /// DEL is killed, then DEL runs again.
    pub(crate) fn kill_del_then_del(&self) {
        self.kill_then_del(Verb::Del, |n, who, told| {
            add(&self.chain, who);
            self.chain.killed_at(n).del(&told.of(who))
        });
    }

    fn kill_then_del(&self, verb: Verb, kill: impl Fn(u64, &Attachment, Told) -> Run) {
        self.walk(verb, |n, who| {
            let run = kill(n, who, Told::Path);
            let death = Death::of(verb, n, &run)?;
            for (number, told) in self.extent.ways(&death).into_iter().enumerate() {
                if number > 0 {
                    Death::of(verb, n, &kill(n, who, told))?;
                }
                self.chain.del(&told.of(who)).ok();
                if self.extent.looks(&death) {
                    self.is_as_before(&format!("{}, then DEL ({told:?})", death.describe()));
                    self.can_add(&death, who);
                }
            }
            Some(())
        });
        self.is_as_before("in the end");
    }

    /// ADD is killed, then GC runs.
    pub(crate) fn kill_add_then_gc(&self) {
        self.kill_then_gc(Verb::Add, |n, who| self.chain.killed_at(n).add(who));
    }

    /// DEL is killed, then GC runs.
    pub(crate) fn kill_del_then_gc(&self) {
        self.kill_then_gc(Verb::Del, |n, who| {
            add(&self.chain, who);
            self.chain.killed_at(n).del(who)
        });
    }

    /// GC of a pod that is gone is killed, then GC runs again.
    pub(crate) fn kill_gc_then_gc(&self) {
        self.kill_then_gc(Verb::Gc, |n, who| {
            add(&self.chain, who);
            self.collector.killed_at(n).gc(&self.living())
        });
    }

    fn kill_then_gc(&self, verb: Verb, kill: impl Fn(u64, &Attachment) -> Run) {
        self.walk(verb, |n, who| {
            let death = Death::of(verb, n, &kill(n, who))?;
            self.gc();
            if self.extent.looks(&death) {
                self.is_as_before(&format!("{}, then GC", death.describe()));
                self.can_add(&death, who);
            }
            Some(())
        });
        self.is_as_before("in the end");
    }

    /// ADD is killed, and tried again in the same namespace with no DEL between: it works, or it
    /// says why not. DEL cleans up in any case.
    pub(crate) fn kill_add_then_add(&self) {
        self.walk(Verb::Add, |n, who| {
            let death = Death::of(Verb::Add, n, &self.chain.killed_at(n).add(who))?;
            let retried = self.chain.add(who);
            match retried.failed() {
                Some(call) => drop(call.failure()),
                None => reaches(&ip_of(&retried.result(), 0)),
            }
            self.chain.del(who).ok();
            // Whether flannel's file of the ADD that died is another interface's cannot be told
            // while there are two; the second DEL finds it alone.
            self.chain.del(who).ok();
            if self.extent.looks(&death) {
                self.is_as_before(&format!("{}, then ADD and DEL", death.describe()));
            }
            Some(())
        });
        self.is_as_before("in the end");
    }

    /// ADD is killed on a node that has no network yet: the bridge and the tables are made by the
    /// very ADD that dies. They may stay; nothing of the pod may.
    pub(crate) fn kill_first_add(&self, world: &World) {
        let first = |n, who: &Attachment| {
            forget_network(world);
            Death::of(Verb::Add, n, &self.chain.killed_at(n).add(who))
        };
        self.walk(Verb::Add, |n, who| {
            let death = first(n, who)?;
            for (number, told) in self.extent.ways(&death).into_iter().enumerate() {
                if number > 0 {
                    first(n, who)?;
                }
                self.chain.del(&told.of(who)).ok();
                if self.extent.looks(&death) {
                    self.has_nothing_but_what_is_shared(&death);
                    self.can_add(&death, who);
                }
            }
            Some(())
        });
    }

    /// Calls `visit` for one system call after the other until there is none.
    fn walk(&self, verb: Verb, visit: impl Fn(u64, &Attachment) -> Option<()>) {
        let id = |n: u64| format!("{}-{n}", verb.name().to_ascii_lowercase());
        let visited = (1..).map_while(|n| {
            visit(n, &with_port(&Attachment::new(&id(n), self.pod), 8080)).map(|()| n)
        });
        let last = visited.last().unwrap_or(0);
        assert!(last > 50, "{last} system calls can't be all of a chain's");
        let whole = with_port(&Attachment::new(&id(last + 1), self.pod), 8080);
        self.chain.del(&whole).ok();
    }

    fn living(&self) -> Vec<Attachment> {
        self.neighbour.iter().map(|n| n.who.clone()).collect()
    }

    fn gc(&self) {
        if self.neighbour.is_some() {
            self.collector.gc(&self.living()).ok();
            return;
        }
        // Nobody lives: CRI-O says so with null.
        let nobody = Attachment::new("", self.pod).netns("").ifname("");
        for plugin in self.chain.plugins() {
            let mut config = self.chain.gc_config(plugin, &[]);
            for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                config[key] = Value::Null;
            }
            let kind = plugin["type"].as_str().expect("a type");
            Cni::weft().call(kind, Verb::Gc, &nobody, &config).ok();
        }
    }

    fn has_gc(&self) -> bool {
        let plugin = self.chain.plugins().next().expect("a plugin");
        self.chain.config(plugin, None, None)["cniVersion"] == "1.1.0"
    }

    #[track_caller]
    fn is_as_before(&self, when: &str) {
        let left = self.before.difference(&Watch::node().take());
        let left = left.except(remembered);
        assert!(left.is_empty(), "{when}, this has changed:\n{left}");
        if let Some(neighbour) = &self.neighbour {
            reaches(&neighbour.ip);
        }
    }

    #[track_caller]
    fn has_nothing_but_what_is_shared(&self, death: &Death) {
        let expected = |fact: &str| {
            // A new bridge has a new MAC; its ports are named after something else.
            let is_bridge = fact.contains("cni0") && !fact.contains("veth");
            is_bridge || fact.contains("forward") || remembered(fact)
        };
        let mut left = self
            .before
            .difference(&Watch::node().take())
            .except(expected);
        left.gone.clear();
        assert!(
            left.is_empty(),
            "{}, then DEL, this is left:\n{left}",
            death.describe()
        );
    }

    /// The same pod again, or another one in its place.
    fn can_add(&self, death: &Death, who: &Attachment) {
        let mut who = who.clone();
        if death.syscall.is_multiple_of(2) {
            who.container_id.push_str("-next");
        }
        let added = self.chain.add(&who);
        if let Some(failed) = added.failed() {
            panic!(
                "{}, the next ADD fails: {}",
                death.describe(),
                failed.describe()
            );
        }
        let result = added.result();
        for number in 0..result["ips"].as_array().map_or(0, Vec::len) {
            reaches(&ip_of(&result, number));
        }
        self.chain.del(&who).ok();
    }
}

/// Which address is next is remembered, and shall be; so is the index of the reservations.
fn remembered(fact: &str) -> bool {
    fact.contains("last_reserved_ip") || fact.contains("/networks/.weft")
}

fn forget_network(world: &World) {
    world.exec("ip link del cni0 2>/dev/null || true; nft flush ruleset; rm -rf /var/lib/cni/*");
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(Path::new("/proc/sys/net").join(key), "0").expect("set a sysctl");
    }
}

fn with_port(who: &Attachment, port: u16) -> Attachment {
    let mapping = json!([
        {"hostPort": port, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": port, "containerPort": 53, "protocol": "udp"},
    ]);
    who.clone().capability("portMappings", mapping)
}
