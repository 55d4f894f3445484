//! The nodes, what is on the wire, and what must be true in the end.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::world::{Owner, World, Writer};
use super::{NODES, SUBNETS, Turn};
use crate::conf::{Checks, NetConf};
use crate::lease::{Attrs, Identity, Subnets};
use crate::store::leasing::table::{Table, key_of};
use crate::store::leasing::{Leasing, Step, Terms};
use crate::store::registry::{Change, Outcome, Trouble};
use crate::store::{Claim, Offer, Own};

pub(super) struct Cluster {
    world: World,
    nodes: Vec<Node>,
    /// Writes that may still arrive though nobody waits for their answer.
    late: Vec<(Change, Writer)>,
    seed: u64,
}

struct Node {
    leasing: Leasing,
    table: Table,
    claim: Claim,
    /// What the subnet file says.
    file: Option<Subnets>,
    /// Who its disk says that it was.
    was: Option<Identity>,
    heard: usize,
    /// Of this process.
    addresses: BTreeSet<Ipv4Addr>,
    wire: Option<Sent>,
    /// As long as the process lives, its pods' subnet is one.
    held: Option<Subnets>,
    /// The first listing found the previous subnet still ours: it must be that one.
    bound: Option<Subnets>,
}

struct Sent {
    change: Change,
    at: Duration,
    who: Writer,
    outcome: Option<Outcome>,
}

impl Cluster {
    pub(super) fn new(seed: u64) -> Self {
        let nodes = (0..NODES).map(|number| {
            let claim = claim(number);
            Node::start(claim, None, None, seed.wrapping_add(number as u64))
        });
        Self {
            world: World::default(),
            nodes: nodes.collect(),
            late: Vec::new(),
            seed,
        }
    }

    pub(super) fn play(&mut self, turn: Turn) {
        match turn {
            Turn::Step(node) => self.step(node),
            Turn::Arrive(node) => self.arrive(node),
            Turn::Answer(node) => self.answer(node),
            Turn::LoseAnswer(node) => self.lose_answer(node),
            Turn::ArriveLate => {
                if let Some((change, who)) = self.late.pop() {
                    self.world.commit(&change, &who);
                }
            }
            Turn::Hear(node, count) => self.hear(node, count),
            Turn::Miss(node) => {
                self.nodes[node].leasing.missed();
            }
            Turn::Restart(node) => self.restart(node, self.nodes[node].claim.clone()),
            Turn::Reinstall(node, keep) => {
                let at = &mut self.nodes[node];
                at.file = at.file.filter(|_| keep);
                at.was = at.was.take().filter(|_| keep);
                let mut claim = at.claim.clone();
                claim.identity.machine += "'";
                self.restart(node, claim);
            }
            Turn::Rename(node) => {
                let mut claim = self.nodes[node].claim.clone();
                claim.identity.node += "'";
                self.restart(node, claim);
            }
            Turn::Move(node, ip) => self.shift(node, address(ip)),
            Turn::Overwrite(node, spoil) => self.overwrite(node, spoil),
            Turn::Revoke(subnet) => {
                self.world.delete(&key(subnet));
            }
            Turn::MakeLast(node) => self.make_last(node),
            Turn::Reserve(node, subnet, named) => self.reserve(node, subnet, named),
            Turn::Foreign(subnet, ip) => self.foreign(subnet, address(ip)),
            Turn::Minutes(minutes) => {
                self.world
                    .pass(Duration::from_secs(60) * u32::from(minutes));
            }
        }
    }

    /// The world leaves them in peace, for as long as the longest of their patiences.
    pub(super) fn settle_down(&mut self) {
        for (change, who) in std::mem::take(&mut self.late) {
            self.world.commit(&change, &who);
        }
        let mut quiet = 0;
        while quiet < 120 {
            for node in 0..NODES {
                self.hear(node, usize::MAX);
                self.step(node);
                self.arrive(node);
                self.answer(node);
            }
            let ended = self.world.pass(Duration::from_secs(1));
            quiet = if ended { 0 } else { quiet + 1 };
        }
    }

    pub(super) fn judge_the_end(&mut self) {
        let free = (0..SUBNETS).filter(|subnet| !self.world.rows.contains_key(&key(*subnet)));
        let free = free.count();
        let mut seen = BTreeSet::new();
        for node in &self.nodes {
            let row = |subnets: &Subnets| self.world.rows.get(&key_of(subnets).unwrap());
            match node.leasing.own() {
                Own::Held(lease) => {
                    assert!(
                        seen.insert(lease.subnets),
                        "{} is held twice",
                        lease.subnets
                    );
                    let row = row(&lease.subnets).expect("who holds a lease has its key");
                    assert_eq!(row.entry.value, lease.attrs.to_json());
                    assert_eq!(row.owner.identity.as_ref(), Some(&node.claim.identity));
                }
                Own::Lost { was, .. } => {
                    let row = row(&was.subnets).expect("what is free is taken back");
                    let readable = Attrs::parse(&row.entry.value).is_ok();
                    let ours = row.owner.identity.as_ref() == Some(&node.claim.identity);
                    assert!(!(ours && readable), "{row:?} is not recognised");
                }
                Own::Refused(_) => assert_eq!(free, 0, "refused while there are free subnets"),
                Own::Unclaimed => panic!("{:?} is stuck", node.claim.identity),
            }
        }
    }

    pub(super) fn holders(&self) -> usize {
        let held = self
            .nodes
            .iter()
            .filter(|node| matches!(node.leasing.own(), Own::Held(_)));
        held.count()
    }

    fn step(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.wire.is_some() {
            return;
        }
        match node.leasing.next(&node.table, self.world.now) {
            Step::List => {
                node.table.replace(self.world.entries());
                node.heard = self.world.history.len();
                node.leasing.listed();
                node.bind(&self.world);
                self.step(at);
                return;
            }
            Step::Commit(change) => {
                let who = node.writer();
                node.wire = Some(Sent {
                    change,
                    at: self.world.now,
                    who,
                    outcome: None,
                });
            }
            Step::Wait(until) => {
                assert!(
                    until.is_none_or(|until| until > self.world.now),
                    "it waits for the past"
                );
            }
        }
        node.judge();
    }

    fn arrive(&mut self, at: usize) {
        if let Some(sent) = self.nodes[at]
            .wire
            .as_mut()
            .filter(|sent| sent.outcome.is_none())
        {
            sent.outcome = Some(self.world.commit(&sent.change, &sent.who));
        }
    }

    fn answer(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.wire.as_ref().is_none_or(|sent| sent.outcome.is_none()) {
            return;
        }
        if let Some(Sent {
            at,
            outcome: Some(outcome),
            ..
        }) = node.wire.take()
        {
            node.leasing
                .answered(&mut node.table, Ok(outcome), at, self.world.now);
        }
        node.judge();
    }

    fn lose_answer(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(sent) = node.wire.take() else { return };
        if sent.outcome.is_none() {
            self.late.push((sent.change, sent.who));
        }
        let lost = Err(Trouble::Unreachable("the answer is lost".into()));
        node.leasing
            .answered(&mut node.table, lost, sent.at, self.world.now);
    }

    fn hear(&mut self, at: usize, count: usize) {
        let node = &mut self.nodes[at];
        if node.wire.is_some() {
            return;
        }
        let news: Vec<_> = self
            .world
            .history
            .iter()
            .skip(node.heard)
            .take(count)
            .cloned()
            .collect();
        node.heard += news.len();
        for event in news {
            node.table.apply(event);
        }
    }

    fn restart(&mut self, at: usize, claim: Claim) {
        if let Some(sent) = self.nodes[at]
            .wire
            .take()
            .filter(|sent| sent.outcome.is_none())
        {
            self.late.push((sent.change, sent.who));
        }
        self.seed = self.seed.wrapping_add(1);
        let Node { file, was, .. } = &self.nodes[at];
        self.nodes[at] = Node::start(claim, *file, was.clone(), self.seed);
    }

    fn shift(&mut self, at: usize, ip: Ipv4Addr) {
        if self
            .nodes
            .iter()
            .any(|node| node.claim.public_ip == Some(ip))
        {
            return;
        }
        let node = &mut self.nodes[at];
        node.claim.public_ip = Some(ip);
        node.addresses.insert(ip);
        node.leasing.claimed(Some(node.claim.clone()));
    }

    fn overwrite(&mut self, at: usize, spoil: bool) {
        let identity = Some(&self.nodes[at].claim.identity);
        let Some(row) = self
            .world
            .rows
            .values()
            .find(|row| row.owner.identity.as_ref() == identity)
        else {
            return;
        };
        let (mut value, owner) = (row.entry.value.clone(), row.owner.clone());
        let lasts = (!row.entry.lasts).then_some(DAY);
        match spoil {
            true => value.truncate(value.len() - 1),
            false => value = value.replace("host-gw", "vxlam"),
        }
        let key = row.entry.key.clone();
        self.world.put(&key, &value, owner, lasts);
    }

    fn make_last(&mut self, at: usize) {
        let identity = Some(&self.nodes[at].claim.identity);
        let row = self
            .world
            .rows
            .values()
            .find(|row| row.owner.identity.as_ref() == identity);
        if let Some(row) = row.cloned() {
            self.world
                .put(&row.entry.key, &row.entry.value, row.owner, None);
        }
    }

    fn reserve(&mut self, at: usize, subnet: usize, named: bool) {
        if self.world.rows.contains_key(&key(subnet)) {
            return;
        }
        let address = self.nodes[at].claim.public_ip.filter(|_| named);
        let value = address.map_or_else(
            || "{}".to_owned(),
            |ip| format!("{{\"PublicIP\":\"{ip}\"}}"),
        );
        self.world.put(
            &key(subnet),
            &value,
            Owner {
                identity: None,
                address,
            },
            None,
        );
    }

    fn foreign(&mut self, subnet: usize, ip: Ipv4Addr) {
        let in_use = self
            .nodes
            .iter()
            .any(|node| node.claim.public_ip == Some(ip));
        if in_use || self.world.rows.contains_key(&key(subnet)) {
            return;
        }
        let value =
            format!("{{\"PublicIP\":\"{ip}\",\"PublicIPv6\":null,\"BackendType\":\"host-gw\"}}");
        let owner = Owner {
            identity: None,
            address: Some(ip),
        };
        self.world.put(&key(subnet), &value, owner, Some(DAY));
    }
}

impl Node {
    fn start(mut claim: Claim, file: Option<Subnets>, was: Option<Identity>, seed: u64) -> Self {
        (claim.previous, claim.formerly) = (file, was.clone());
        let margin = Duration::from_secs(3600);
        let mut leasing = Leasing::new(Terms { lasts: DAY, margin }, seed);
        leasing.configured(Arc::new(conf()));
        leasing.claimed(Some(claim.clone()));
        let table = Table::default();
        let addresses = claim.public_ip.into_iter().collect();
        Self {
            leasing,
            table,
            claim,
            file,
            was,
            heard: 0,
            addresses,
            wire: None,
            held: None,
            bound: None,
        }
    }

    fn writer(&self) -> Writer {
        Writer {
            identity: self.claim.identity.clone(),
            formerly: self.claim.formerly.clone(),
            addresses: self.addresses.clone(),
        }
    }

    fn bind(&mut self, world: &World) {
        let Some(file) = self
            .file
            .filter(|_| self.held.is_none() && self.bound.is_none())
        else {
            return;
        };
        let row = world.rows.get(&key_of(&file).unwrap());
        let readable = row.filter(|row| Attrs::parse(&row.entry.value).is_ok());
        let ours =
            readable.is_some_and(|row| row.owner.identity.as_ref() == Some(&self.claim.identity));
        self.bound = ours.then_some(file);
    }

    fn judge(&mut self) {
        let held = self.leasing.subnets();
        if let Some(before) = self.held {
            assert_eq!(held, Some(before), "pods lost their subnet");
        }
        if let (Some(bound), Some(held)) = (self.bound, held) {
            assert_eq!(held, bound, "a restart changed the subnet");
        }
        self.held = held;
        if let Own::Held(lease) = self.leasing.own() {
            self.file = Some(lease.subnets);
            self.was = Some(self.claim.identity.clone());
        }
    }
}

fn conf() -> NetConf {
    let max = subnet(SUBNETS - 1).v4.unwrap().ip();
    let text = format!(
        r#"{{"Network": "10.5.0.0/16", "SubnetMax": "{max}", "Backend": {{"Type": "host-gw"}}}}"#
    );
    NetConf::parse(&text, Checks::Leases).unwrap()
}

/// All of one image, so with one machine-id: they differ by name.
fn claim(number: usize) -> Claim {
    Claim {
        identity: Identity {
            machine: "cloned".into(),
            node: format!("node-{number}"),
        },
        public_ip: Some(address(u8::try_from(number).unwrap())),
        public_ipv6: None,
        sources: Vec::new(),
        overwritten: false,
        previous: None,
        formerly: None,
        offer: Offer::HostGw,
    }
}

fn subnet(number: usize) -> Subnets {
    let v4 = format!("10.5.{}.0/24", number + 1).parse().unwrap();
    Subnets {
        v4: Some(v4),
        v6: None,
    }
}

fn key(number: usize) -> String {
    key_of(&subnet(number)).unwrap()
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 90, number + 1)
}

const DAY: Duration = Duration::from_secs(86_400);
