//! A node on which plugins are killed, again and again, and which must stay clean.
//!
//! ```text
//!   ADD of the chain ──┤ killed before its n-th system call
//!                      └─ what a runtime does next ── is the node as before? ── does an ADD work?
//! ```
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use weft_netns::{
    Attachment, Chain, Cmd, Cni, Netns, Outcome, Snapshot, Verb, Watch, World, kill_at_syscall,
};

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
    pub(crate) const ALL: [Self; 3] = [Self::Path, Self::Nothing, Self::Gone];

    fn apply(self, who: &Attachment) -> Attachment {
        match self {
            Self::Path => who.clone(),
            Self::Nothing => who.clone().netns(""),
            Self::Gone => who.clone().netns("/run/netns/gone"),
        }
    }
}

/// How much of the matrix is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Every system call, each with one of the remedies in turn.
    InTurn,
    /// Every system call with every remedy.
    Full,
}

impl Extent {
    fn remedies<T: Copy>(self, all: &[T], point: u64) -> Vec<T> {
        match self {
            Self::Full => all.to_vec(),
            Self::InTurn => {
                let turn = usize::try_from(point).unwrap_or(0) % all.len();
                vec![all[turn]]
            }
        }
    }
}

/// One place to die at.
#[derive(Clone, Debug)]
struct Point {
    verb: Verb,
    /// In the order in which the verb is run through the chain.
    plugin: usize,
    syscall: u64,
}

/// A node with one living pod that no crash may harm, and one namespace for the pods that crash.
pub(crate) struct Node<'a> {
    chain: Chain,
    cni: Cni,
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
    pub(crate) fn new(chain: Chain, pod: &'a Netns, neighbour: Option<&Netns>) -> Self {
        let cni = Cni::weft();
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
            cni,
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

    /// ADD is killed at every system call of every plugin, then DEL runs.
    pub(crate) fn kill_add_then_del(&self, extent: Extent) {
        self.walk(Verb::Add, |point, who| {
            for told in extent.remedies(&Told::ALL, point.syscall) {
                if !self.add_killed_at(point, who) {
                    return false;
                }
                self.chain.del(&told.apply(who)).ok();
                self.is_as_before(&format!("{}, then DEL ({told:?})", point.describe()));
                self.can_add(point, who);
            }
            true
        });
    }

    /// DEL is killed at every system call of every plugin, then DEL runs again.
    pub(crate) fn kill_del_then_del(&self, extent: Extent) {
        self.walk(Verb::Del, |point, who| {
            for told in extent.remedies(&Told::ALL, point.syscall) {
                if !self.del_killed_at(point, who, told) {
                    return false;
                }
                self.chain.del(&told.apply(who)).ok();
                self.is_as_before(&format!("{}, then DEL ({told:?})", point.describe()));
                self.can_add(point, who);
            }
            true
        });
    }

    /// ADD is killed at every system call of every plugin, then GC runs.
    pub(crate) fn kill_add_then_gc(&self) {
        self.walk(Verb::Add, |point, who| {
            if !self.add_killed_at(point, who) {
                return false;
            }
            self.gc();
            self.is_as_before(&format!("{}, then GC", point.describe()));
            self.can_add(point, who);
            true
        });
    }

    /// DEL is killed at every system call of every plugin, then GC runs.
    pub(crate) fn kill_del_then_gc(&self) {
        self.walk(Verb::Del, |point, who| {
            if !self.del_killed_at(point, who, Told::Path) {
                return false;
            }
            self.gc();
            self.is_as_before(&format!("{}, then GC", point.describe()));
            self.can_add(point, who);
            true
        });
    }

    /// GC of a dead pod is killed at every system call of every plugin, then GC runs again.
    pub(crate) fn kill_gc_then_gc(&self) {
        self.walk(Verb::Gc, |point, who| {
            add(&self.chain, who);
            let killed = die(&self.gc_commands(), point);
            self.gc();
            self.is_as_before(&format!("{}, then GC", point.describe()));
            killed
        });
    }

    /// ADD is killed, and tried again in the same namespace with no DEL between: it works, or it
    /// says why not. DEL cleans up in any case.
    pub(crate) fn kill_add_then_add(&self) {
        self.walk(Verb::Add, |point, who| {
            if !self.add_killed_at(point, who) {
                return false;
            }
            let retried = self.chain.add(who);
            match retried.failed() {
                Some(call) => drop(call.failure()),
                None => reaches(&ip_of(&retried.result(), 0)),
            }
            self.chain.del(who).ok();
            // Flannel's own file of the ADD that died may be that of another interface of the pod
            // for all one can tell while there is a second; the second DEL finds it alone.
            self.chain.del(who).ok();
            self.is_as_before(&format!("{}, then ADD and DEL", point.describe()));
            true
        });
    }

    /// The same on a node that has no network yet: the bridge and the tables are made by the very
    /// ADD that dies. They may stay; nothing of the pod may.
    pub(crate) fn kill_first_add(&self, world: &World, extent: Extent) {
        self.walk(Verb::Add, |point, who| {
            for told in extent.remedies(&Told::ALL, point.syscall) {
                forget_network(world);
                if !self.add_killed_at(point, who) {
                    return false;
                }
                self.chain.del(&told.apply(who)).ok();
                let shared = |fact: &str| {
                    !self.before.matching(fact).is_empty()
                        || is_bridge(fact)
                        || fact.contains("forwarding = 0")
                        || fact.contains("ip_forward = 0")
                };
                let left = Watch::node().take();
                let left = self.before.difference(&left).came;
                let left: Vec<_> = left
                    .iter()
                    .filter(|fact| !shared(fact) && !remembered(fact))
                    .collect();
                assert!(left.is_empty(), "{}: {left:#?}", point.describe());
                self.can_add(point, who);
            }
            true
        });
    }

    /// Calls `visit` for one system call after the other, plugin by plugin, until there is none.
    fn walk(&self, verb: Verb, visit: impl Fn(&Point, &Attachment) -> bool) {
        for plugin in 0..self.chain.plugins().count() {
            let mut points = 0;
            for syscall in 1.. {
                let point = Point {
                    verb,
                    plugin,
                    syscall,
                };
                let id = format!("{}-{plugin}-{syscall}", verb.name().to_ascii_lowercase());
                if !visit(&point, &with_port(&Attachment::new(&id, self.pod), 8080)) {
                    break;
                }
                points = syscall;
            }
            assert!(
                points > 20,
                "{points} system calls cannot be all of a plugin's"
            );
        }
    }

    /// Whether it died: there is an end to every program's system calls.
    fn add_killed_at(&self, point: &Point, who: &Attachment) -> bool {
        let mut previous = None;
        for _ in 0..point.plugin {
            let number = usize::from(previous.is_some());
            let done = self.chain.commands(Verb::Add, who, previous.as_ref())[number].run();
            previous = Some(serde_json::from_str(&done.ok().stdout).expect("a result"));
        }
        let commands = self.chain.commands(Verb::Add, who, previous.as_ref());
        let killed = die_at(&commands[point.plugin], point.syscall);
        if !killed {
            self.chain.del(who).ok();
        }
        killed
    }

    fn del_killed_at(&self, point: &Point, who: &Attachment, told: Told) -> bool {
        add(&self.chain, who);
        let known = self.chain.result_of(who).filter(|_| self.passes_result());
        let commands = self
            .chain
            .commands(Verb::Del, &told.apply(who), known.as_ref());
        let killed = die(&commands, point);
        if !killed {
            self.chain.del(who).ok();
        }
        killed
    }

    fn passes_result(&self) -> bool {
        self.version() != "0.3.1"
    }

    fn has_gc(&self) -> bool {
        self.version() == "1.1.0"
    }

    fn version(&self) -> String {
        let plugin = self.chain.plugins().next().expect("a plugin");
        let config = self.chain.config(plugin, None, None);
        config["cniVersion"].as_str().expect("a version").to_owned()
    }

    fn gc(&self) {
        for command in self.gc_commands() {
            command.run().ok();
        }
    }

    fn gc_commands(&self) -> Vec<Cmd> {
        let valid: Vec<_> = self.neighbour.iter().map(|n| n.who.clone()).collect();
        let nobody = Attachment::new("", self.pod).netns("").ifname("");
        let command = |plugin: &Value| {
            let mut config = self.chain.gc_config(plugin, &valid);
            if valid.is_empty() {
                // As CRI-O says it.
                config["cni.dev/valid-attachments"] = Value::Null;
                config["cni.dev/attachments"] = Value::Null;
            }
            let kind = plugin["type"].as_str().expect("a type");
            self.cni.command(kind, Verb::Gc, &nobody, &config)
        };
        self.chain.plugins().map(command).collect()
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

    /// The same pod again, or another one in its place.
    fn can_add(&self, point: &Point, who: &Attachment) {
        let mut who = who.clone();
        if point.syscall.is_multiple_of(2) {
            who.container_id.push_str("-next");
        }
        let added = self.chain.add(&who);
        if let Some(failed) = added.failed() {
            panic!(
                "{}, the next ADD fails: {}",
                point.describe(),
                failed.describe()
            );
        }
        let result = added.result();
        for number in 0..result["ips"].as_array().map_or(0, Vec::len) {
            let ip = ip_of(&result, number);
            reaches(&ip);
        }
        self.chain.del(&who).ok();
    }
}

impl Point {
    fn describe(&self) -> String {
        let (verb, plugin, syscall) = (self.verb.name(), self.plugin, self.syscall);
        format!("{verb} of plugin {plugin} (from 0) killed at system call {syscall}")
    }
}

/// Runs the plugins before the one that dies, and that one to its death.
fn die(commands: &[Cmd], point: &Point) -> bool {
    for command in &commands[..point.plugin] {
        command.run().ok();
    }
    die_at(&commands[point.plugin], point.syscall)
}

fn die_at(command: &Cmd, syscall: u64) -> bool {
    match kill_at_syscall(command, syscall) {
        Outcome::Killed => true,
        Outcome::Finished(trace) => {
            drop(trace.done.ok());
            false
        }
    }
}

/// Which address is next is remembered, and shall be; so is the index of the reservations.
fn remembered(fact: &str) -> bool {
    fact.contains("last_reserved_ip") || fact.contains("/networks/.weft")
}

/// A new bridge has a new MAC. Its ports are named after something else.
fn is_bridge(fact: &str) -> bool {
    fact.contains("cni0") && !fact.contains("veth")
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
