//! A migration in words: what stays, what changes, and why.

use std::fmt::{self, Display};

use serde_json::{Value, json};

use super::{Holding, Migration};
use crate::conflist;
use crate::device::{Differences, Step};
use crate::diff::{Change, Whose};

/// By subject, a line for each thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    subjects: Vec<(&'static str, Vec<String>)>,
}

impl Migration {
    pub fn told(&self) -> Told {
        Told {
            subjects: vec![
                ("flanneld", self.flanneld()),
                ("underlay", vec![self.underlay()]),
                ("lease", vec![self.lease()]),
                ("devices", self.device_lines()),
                ("routes", self.routes()),
                (
                    "neighbours",
                    vec![self.entries(is_neighbour, self.actual.neighbours.len())],
                ),
                (
                    "forwarding entries",
                    vec![self.entries(is_forward, self.actual.fdb.len())],
                ),
                ("firewall", self.firewall_lines()),
                ("subnet file", vec![self.subnet_file()]),
                ("runtime", vec![self.runtime()]),
                ("left out", self.left_out()),
            ],
        }
    }

    fn flanneld(&self) -> Vec<String> {
        vec![match self.flanneld {
            Some(pid) => format!(
                "runs here (process {pid}): stop it for good, and start weftd at once; what it has \
                 programmed stays meanwhile, and pods' packets flow on"
            ),
            None => "is not seen running here; from a pod of its own process namespace it could \
                     not be seen"
                .into(),
        }]
    }

    fn underlay(&self) -> String {
        let standing = &self.standing;
        let v4 = standing.public_ip.map(|ip| format!(", {ip} published"));
        let v6 = standing.public_ipv6.map(|ip| format!(", {ip} published"));
        format!(
            "{}, MTU {}{}{}",
            standing.name,
            standing.ground.mtu,
            v4.unwrap_or_default(),
            v6.unwrap_or_default()
        )
    }

    fn lease(&self) -> String {
        match &self.holding {
            Holding::Lease(lease, true) => {
                format!("{} is this node's by its identity, and kept", lease.subnets)
            }
            Holding::Lease(lease, false) => format!(
                "{} is this node's by its address: taken over, MAC addresses and all, and marked \
                 with the node's identity in a key that flanneld passes over",
                lease.subnets
            ),
            Holding::Earlier(subnets) => format!(
                "there is none; {subnets}, which the subnet file names, is free and leased again"
            ),
            Holding::Assigned(lease) => format!("{} is assigned to this node", lease.subnets),
        }
    }

    fn device_lines(&self) -> Vec<String> {
        let line = |(device, step): &(crate::plan::Device, Step)| {
            let name = &device.name;
            match step {
                Step::Keep => format!("{name} is kept as it is"),
                Step::Change(differences) => format!(
                    "{name} is kept, and changed in place: {}; its entries stay",
                    differences.told()
                ),
                Step::Make => format!("{name} is made"),
                Step::MakeAnew { why } => format!(
                    "{name} is made anew, since {why} and that cannot change on a living device: \
                     packets in flight at that moment are lost"
                ),
            }
        };
        self.devices.iter().map(line).collect()
    }

    fn routes(&self) -> Vec<String> {
        let (mut taken, mut made, mut changed) = (0, 0, 0);
        let mut lines = Vec::new();
        for change in &self.difference.changes {
            match change {
                Change::SetRoute(route) => match self.actual.routes.get(&route.key()) {
                    None => made += 1,
                    Some(seen) if seen.by == Some(route.by) && seen.whose != Whose::Ours => {
                        taken += 1;
                    }
                    Some(_) => changed += 1,
                },
                Change::RemoveRoute((destination, _), _) => {
                    lines.push(format!(
                        "{destination} is removed: no node has a lease for it"
                    ));
                }
                _ => {}
            }
        }
        lines.extend(self.difference.in_the_way.iter().map(|obstacle| {
            format!(
                "{} is another program's (protocol {}) and left alone: the peer is not reached",
                obstacle.key.0, obstacle.protocol
            )
        }));
        lines.insert(
            0,
            format!(
                "{taken} taken over in place, {made} made, {changed} changed, {} as they should be",
                self.kept_routes()
            ),
        );
        lines
    }

    fn kept_routes(&self) -> usize {
        let ours = self
            .actual
            .routes
            .values()
            .filter(|seen| seen.whose == Whose::Ours);
        let touched = self
            .difference
            .changes
            .iter()
            .filter(|change| match change {
                Change::SetRoute(route) => {
                    let seen = self.actual.routes.get(&route.key());
                    seen.is_some_and(|seen| seen.whose == Whose::Ours)
                }
                Change::RemoveRoute(_, seen) => seen.whose == Whose::Ours,
                _ => false,
            });
        ours.count().saturating_sub(touched.count())
    }

    fn entries(&self, of_kind: fn(&Change) -> bool, held: usize) -> String {
        let changes = self
            .difference
            .changes
            .iter()
            .filter(|change| of_kind(change));
        let (removed, set): (Vec<&Change>, Vec<&Change>) =
            changes.partition(|change| change.removes());
        format!(
            "{} set, {} removed of {held} that stand",
            set.len(),
            removed.len()
        )
    }

    fn firewall_lines(&self) -> Vec<String> {
        let repairs = self.firewall.repaired.iter();
        let mut lines: Vec<String> = repairs
            .map(|repair| format!("{}: {}", repair.table, repair.what))
            .collect();
        lines.extend(self.firewall.hooks.iter().filter_map(|hook| hook.note()));
        if lines.is_empty() {
            lines.push("is as it should be".into());
        }
        lines
    }

    fn subnet_file(&self) -> String {
        let (would, does) = &self.file;
        match does {
            None => "is written".into(),
            Some(does) if does == would => "says the same, and is not written".into(),
            Some(does) => {
                let new = would
                    .lines()
                    .filter(|line| !does.lines().any(|l| l == *line));
                format!(
                    "is written anew, with {}",
                    new.collect::<Vec<_>>().join(" ")
                )
            }
        }
    }

    fn runtime(&self) -> String {
        let Some(conflist) = &self.conflist else {
            return "its CNI configuration and plugins stay as they are".into();
        };
        let path = conflist.dir.join(conflist::NAME);
        let same = std::fs::read(&conflist.source)
            .is_ok_and(|wanted| std::fs::read(&path).is_ok_and(|held| held == wanted));
        match same {
            true => format!("{} says the same as its source", path.display()),
            false => format!(
                "{} is put in place once this node serves, as {} says; plugins stay as they are",
                path.display(),
                conflist.source.display()
            ),
        }
    }

    fn left_out(&self) -> Vec<String> {
        let skipped = self.skipped.iter();
        skipped
            .map(|peer| format!("{}: {}", peer.subnet, peer.why))
            .collect()
    }
}

impl Differences {
    fn told(&self) -> String {
        let tunnel = &self.tunnel;
        let parts = [
            tunnel.local.map(|ip| format!("its packets come from {ip}")),
            tunnel.lower.map(|link| format!("over link {link}")),
            tunnel.learning.map(|on| format!("learning {on}")),
            self.mtu.map(|mtu| format!("MTU {mtu}")),
            self.mac.map(|mac| format!("MAC {mac}")),
            self.raise.then(|| "set up".to_owned()),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

impl Told {
    pub fn to_json(&self) -> Value {
        let lines = |(subject, lines): &(&'static str, Vec<String>)| {
            (subject.replace(' ', "_"), json!(lines))
        };
        Value::Object(self.subjects.iter().map(lines).collect())
    }
}

impl Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (subject, lines) in &self.subjects {
            for (number, line) in lines.iter().enumerate() {
                let subject = if number == 0 { subject } else { "" };
                writeln!(f, "{subject:<20}{line}")?;
            }
        }
        writeln!(f, "\nNothing was changed.")
    }
}

fn is_neighbour(change: &Change) -> bool {
    matches!(change, Change::SetNeighbour(_) | Change::RemoveNeighbour(_))
}

fn is_forward(change: &Change) -> bool {
    matches!(change, Change::SetForward(_) | Change::RemoveForward(_))
}
