//! From what is planned to what the kernel holds: devices, then tables, then the ruleset.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;
use weft_net::ethtool::{Ethtool, TX_CHECKSUM};
use weft_net::route::{Address, Link, Requests};
use weft_net::sysctl;

use super::{Reconciler, networks};
use crate::device::{self, Step};
use crate::diff::{Change, Difference, diff};
use crate::drift::{Object, Verdict};
use crate::kernel::{self, Marks};
use crate::lease::Lease;
use crate::plan::{Desired, Device, Family, Kind};

impl Reconciler {
    /// Whatever can be done is; the error is the first thing that could not, and keeps the node
    /// from being ready only where it concerns all of it.
    pub(super) fn program(&mut self, desired: &Desired, may_look: bool) -> Result<(), String> {
        self.report.skip(&desired.skipped);
        self.report.mtu = desired.mtu;
        let must_look = !self.knows || self.devices != desired.devices;
        self.links_before = self.links;
        if must_look || (self.dirty.tables && may_look) {
            self.dirty.tables = false;
            self.looked = Some(Instant::now());
            self.mend_devices(desired)?;
            let moves = self.mend_path(desired);
            self.mend_tables(desired)?;
            self.mend_ruleset(desired)?;
            moves
        } else {
            let moves = self.mend_path(desired);
            self.follow(desired)?;
            self.mend_ruleset(desired)?;
            moves
        }
    }

    fn mend_devices(&mut self, desired: &Desired) -> Result<(), String> {
        self.report.devices = named(desired);
        self.devices.clear();
        let mut links = self.links;
        (links.v4, links.v6) = (None, None);
        for wanted in &desired.devices {
            let index = self.mend_device(wanted).map_err(|why| {
                format!(
                    "tunnel device {}: {why}; packets to other nodes wait for it",
                    wanted.name
                )
            })?;
            for family in wanted.families() {
                match family {
                    Family::V4 => links.v4 = Some(index),
                    Family::V6 => links.v6 = Some(index),
                }
            }
        }
        self.links = links;
        self.devices.clone_from(&desired.devices);
        self.eyes.follow(links).map_err(|e| e.to_string())
    }

    /// Packets move before anything else is seen to. What stands in the way keeps the node from
    /// being ready, and nothing else from being programmed.
    fn mend_path(&mut self, desired: &Desired) -> Result<(), String> {
        let device = desired.devices.first();
        let links = [self.links.v4, self.links.v6];
        let link = links.into_iter().flatten().next();
        let (Some(overlay), Some(device), Some(link)) = (&desired.overlay, device, link) else {
            self.path.rest();
            return Ok(());
        };
        let addresses = device.addresses.iter().map(IpNetwork::ip).collect();
        self.path.serve(overlay, addresses, link)?;
        self.tell_of_translated();
        Ok(())
    }

    /// What a translation on the way makes of a node's address, it cannot publish.
    fn tell_of_translated(&mut self) {
        let leases = self.view.peers.iter().flat_map(|peers| &peers.leases);
        let is_translated = |lease: &&Arc<Lease>| {
            let extra = lease.attrs.extra.as_ref();
            extra.is_some_and(|extra| extra.overwritten)
        };
        let translated: Vec<String> = leases
            .filter(is_translated)
            .map(|lease| lease.subnets.to_string())
            .take(FEW)
            .collect();
        if !translated.is_empty() {
            self.report.note(format!(
                "the node of {} publishes an address that is not its interface's: its packets are \
                 taken from that address and from its interface's, and from nowhere else; if they \
                 come from another, have the translation on the way use the published one",
                translated.join(", ")
            ));
        }
    }

    fn mend_device(&mut self, wanted: &Device) -> Result<u32, String> {
        let held = self.device(wanted).map_err(|e| e.to_string())?;
        let step = device::step(wanted, held.as_ref());
        if let Step::MakeAnew { why } = &step {
            self.report.note(format!(
                "{} was made anew, since {why} and that cannot change on a living device; \
                 packets in flight at that moment are lost",
                wanted.name
            ));
        }
        let family = wanted.families().next();
        let was_ours = family.is_some_and(|family| self.links.of(family).is_some());
        if let Some(family) = family.filter(|_| was_ours && step != Step::Keep) {
            self.hear_the_rest().map_err(|e| e.to_string())?;
            self.blame(&Object::Device(family));
        }
        if wanted.kind == Kind::Tun {
            self.hold_queues(wanted, held.as_ref(), &step)?;
        }
        self.set_device(wanted, held.as_ref(), &step, was_ours)
            .map_err(|e| e.to_string())
    }

    /// Whoever holds its queues makes the device, and it is gone with the last of them unless
    /// told otherwise.
    fn hold_queues(
        &mut self,
        wanted: &Device,
        held: Option<&Link>,
        step: &Step,
    ) -> Result<(), String> {
        let mut link = held.map(|link| link.index);
        if matches!(step, Step::MakeAnew { .. }) {
            let removed = self.rtnl.one(|r| r.delete_link(wanted.name.as_str()));
            removed.map_err(|e| e.to_string())?;
            link = None;
        }
        self.path.attach(&wanted.name, link)?;
        if link.is_none() {
            self.set_sysctls(wanted);
        }
        Ok(())
    }

    fn set_device(
        &mut self,
        wanted: &Device,
        held: Option<&Link>,
        step: &Step,
        was_ours: bool,
    ) -> weft_net::Result<u32> {
        device::carry_out(&mut self.rtnl, wanted, step)?;
        let link = match (held, step) {
            (Some(link), Step::Keep | Step::Change(_)) => link.index,
            _ => self.rtnl.link(wanted.name.as_str())?.index,
        };
        if matches!(step, Step::Make | Step::MakeAnew { .. }) {
            self.set_sysctls(wanted);
        }
        self.mend_checksums(wanted, link);
        self.mend_addresses(wanted, link, was_ours && *step == Step::Keep)?;
        Ok(link)
    }

    fn device(&mut self, wanted: &Device) -> weft_net::Result<Option<Link>> {
        match self.rtnl.link(wanted.name.as_str()) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set_sysctls(&mut self, wanted: &Device) {
        // A router advertisement that comes through the tunnel is nobody's business, and what
        // the kernel says by itself on a link no peer of a TUN can hear.
        let quiet = ("addr_gen_mode", "1");
        let settings = match wanted.kind {
            Kind::Vxlan(_) => &[("accept_ra", "0")][..],
            Kind::Tun => &[("accept_ra", "0"), quiet],
        };
        for (name, value) in settings {
            let key = sysctl::Key::ipv6_conf(&wanted.name, name);
            if let Some(Err(error)) = key.map(|key| key.set(value)) {
                self.report.note(error.to_string());
            }
        }
    }

    /// The workaround of kernels that compute the outer checksum wrongly where a packet is also
    /// NATed: everything is summed up in software. On a living device it is the only one.
    fn mend_checksums(&mut self, wanted: &Device, link: u32) {
        match &wanted.kind {
            Kind::Vxlan(vxlan) if !vxlan.checksums => {}
            Kind::Vxlan(_) | Kind::Tun => return,
        }
        let switched =
            Ethtool::open().and_then(|mut ethtool| ethtool.set_feature(link, TX_CHECKSUM, false));
        if let Err(error) = switched {
            self.report.note(format!(
                "{}: {error}; if TCP between nodes' pods stalls for 63 seconds: \
                 ethtool -K {} {TX_CHECKSUM} off",
                wanted.name, wanted.name
            ));
        }
    }

    fn mend_addresses(
        &mut self,
        wanted: &Device,
        link: u32,
        was_there: bool,
    ) -> weft_net::Result<()> {
        let held = self.rtnl.addresses_of(link)?;
        let mut requests = Requests::new();
        let mut tickets = Vec::new();
        for own in &wanted.addresses {
            if !held.iter().any(|address| address.address == *own) {
                if was_there {
                    self.blame(&Object::Address(Family::of(own.ip())));
                }
                tickets.push(requests.add_address(&Address::new(link, *own).nodad()));
            }
        }
        let networks = self.networks();
        let stray = held.iter().filter(|address| {
            let ip = address.address.ip();
            !wanted.addresses.contains(&address.address)
                && networks.iter().any(|(net, _)| net.contains(ip))
        });
        for address in stray {
            tickets.push(requests.delete_address(address));
        }
        drop(tickets);
        if requests.is_empty() {
            return Ok(());
        }
        self.rtnl.run(requests)?.all()
    }

    fn mend_tables(&mut self, desired: &Desired) -> Result<(), String> {
        let marks = Marks {
            links: self.links,
            networks: self.networks(),
            first_takeover: self.memory.is_blank() && self.settings.previous.is_some(),
        };
        let actual = kernel::read(&mut self.rtnl, &marks, desired).map_err(|e| e.to_string())?;
        let drift = if self.knows {
            actual.drift_from(&self.believed)
        } else {
            Vec::new()
        };
        if !drift.is_empty() {
            self.hear_the_rest().map_err(|e| e.to_string())?;
        }
        let left_alone = self.judge(&drift);
        self.believed = actual;
        let mut difference = self.difference(desired);
        difference
            .changes
            .retain(|change| !left_alone.contains(&Object::of(change)));
        for obstacle in &difference.in_the_way {
            self.report.note(format!(
                "route {}: one of another program (protocol {}) stands there and is left alone; \
                 delete it to let the peer's pods be reached",
                obstacle.key.0, obstacle.protocol
            ));
        }
        self.carry_out(&difference.changes)?;
        self.knows = true;
        self.retire_devices(desired);
        for change in &drift {
            let object = Object::of(change);
            if !left_alone.contains(&object) && wants(desired, change) {
                self.blame(&object);
            }
        }
        Ok(())
    }

    /// No look at the kernel: what it held after the last round, it holds unless it said so.
    fn follow(&mut self, desired: &Desired) -> Result<(), String> {
        let changes = self.difference(desired).changes;
        self.carry_out(&changes)
    }

    /// Of a peer that is not remembered nobody knows yet whether it has left.
    fn difference(&self, desired: &Desired) -> Difference {
        let mut difference = diff(desired, &self.believed);
        if self.view.remembered.is_some() {
            difference.changes.retain(|change| !change.removes());
        }
        difference
    }

    fn carry_out(&mut self, changes: &[Change]) -> Result<(), String> {
        self.report.failed.clear();
        if changes.is_empty() {
            self.report.routes = self.believed.routes.len();
            return Ok(());
        }
        let mut forwards = changes.iter().filter(|change| is_forward(change));
        let many = forwards.nth(MANY_FORWARDS).is_some();
        if many {
            self.eyes.mute_forwarding(true).map_err(|e| e.to_string())?;
        }
        let results = kernel::apply(&mut self.rtnl, self.links, changes);
        if many {
            self.eyes
                .mute_forwarding(false)
                .map_err(|e| e.to_string())?;
        }
        for (change, result) in changes.iter().zip(results.map_err(|e| e.to_string())?) {
            match result {
                Ok(()) => self.believed.apply(change),
                Err(error) => self.report.failed.push(error.to_string()),
            }
        }
        self.report.routes = self.believed.routes.len();
        for failed in self.report.failed.clone() {
            self.report.note(failed);
        }
        Ok(())
    }

    /// What is not put back this time, because somebody keeps taking it away.
    fn judge(&mut self, drift: &[Change]) -> BTreeSet<Object> {
        let now = Instant::now();
        let mut left_alone = BTreeSet::new();
        for object in drift.iter().map(Object::of) {
            if let Verdict::Later { first, .. } = self.rivalry.found_missing(&object, now) {
                if first {
                    let rival = self.suspects.blame(&object, self.links_before);
                    let rival = rival.map_or_else(|| "somebody".into(), |deed| deed.by.to_string());
                    self.report.note(format!(
                        "{object} is removed again and again by {rival}: it is put back less \
                         often from here on; stop the rival (systemd-networkd: \
                         ManageForeignRoutes=no)"
                    ));
                }
                left_alone.insert(object);
            }
        }
        left_alone
    }

    /// The news that woke us may be the first of several, and the names in the last. What they
    /// call for is being done.
    fn hear_the_rest(&mut self) -> weft_net::Result<()> {
        let dirty = self.dirty;
        self.listen()?;
        self.dirty.tables = dirty.tables;
        Ok(())
    }

    /// Tells who took away what was put back.
    fn blame(&mut self, object: &Object) {
        let deed = self.suspects.blame(object, self.links_before);
        let after = deed.map(|deed| deed.at.elapsed());
        let by = deed.map(|deed| deed.by.clone());
        let who = by
            .as_ref()
            .map_or_else(|| "somebody unknown".into(), ToString::to_string);
        let back = after.map_or_else(String::new, |after| format!(", back after {after:.1?}"));
        if self.report.tells_each() {
            tracing::warn!("{object} deleted or changed by {who}{back}");
        }
        self.report.repaired(object, by, after);
    }

    fn mend_ruleset(&mut self, desired: &Desired) -> Result<(), String> {
        if std::mem::take(&mut self.dirty.ruleset) {
            self.looked = Some(Instant::now());
            self.report.guard_dropped = self.firewall.dropped().unwrap_or_default();
        }
        let done = self
            .firewall
            .reconcile(&desired.firewall)
            .map_err(|e| e.to_string())?;
        self.report.guard_dropped_before = self.firewall.dropped_before();
        for note in done.notes {
            self.report.note(note);
        }
        self.report.hooks = done.hooks;
        self.report.guard = desired.firewall.guard.is_some();
        let in_the_kernel = desired.overlay.is_none() && !desired.devices.is_empty();
        if self.settings.wishes.guard && !self.report.guard && in_the_kernel {
            self.report.note(
                "the peer guard is off: a node publishes an address that its packets do not come \
                 from, so nobody can be told from a stranger; publish interfaces' own addresses \
                 to have it back"
                    .into(),
            );
        }
        if done.is_drift {
            self.blame(&Object::Ruleset);
        }
        for repair in &done.repaired {
            tracing::debug!(table = repair.table, "{}", repair.what);
        }
        Ok(())
    }

    fn networks(&self) -> Vec<(IpNetwork, u8)> {
        let planned = self.planned.as_ref();
        planned.map_or_else(Vec::new, |(inputs, _)| networks(&inputs.conf))
    }

    /// Of whatever backend it had: routes into a device that nobody serves lead nowhere.
    fn left_by_flanneld(&mut self) -> Vec<String> {
        let links = self.rtnl.links().unwrap_or_default();
        let left = links.into_iter().filter(device::is_flannels);
        left.map(|link| link.name).collect()
    }

    /// Devices of an earlier configuration, once nothing leads into them.
    fn retire_devices(&mut self, desired: &Desired) {
        let names: Vec<String> = named(desired).into_iter().map(|(name, _)| name).collect();
        if self.memory.devices() == Some(&names[..]) || self.view.remembered.is_some() {
            return;
        }
        let known = match self.memory.devices() {
            Some(devices) => devices.to_vec(),
            // The backend alloc leaves ways to others.
            None if desired.devices.is_empty() && desired.routes.is_empty() => Vec::new(),
            None => self.left_by_flanneld(),
        };
        for name in known.iter().filter(|name| !names.contains(name)) {
            match self.rtnl.one(|r| r.delete_link(name.as_str())) {
                Ok(()) => tracing::info!("{name} is not wanted by the configuration and removed"),
                Err(error) if error.is_not_found() => {}
                Err(error) => self.report.note(error.to_string()),
            }
        }
        if let Err(error) = self.memory.remember(&names) {
            self.report.note(error);
        }
    }
}

fn named(desired: &Desired) -> Vec<(String, u32)> {
    let devices = desired.devices.iter();
    devices
        .map(|device| (device.name.clone(), device.mtu))
        .collect()
}

fn is_forward(change: &Change) -> bool {
    matches!(change, Change::SetForward(_) | Change::RemoveForward(_))
}

/// What was believed may also be what a peer that left had.
fn wants(desired: &Desired, change: &Change) -> bool {
    match change {
        Change::SetRoute(route) => {
            let key = route.key();
            desired
                .routes
                .binary_search_by_key(&key, |r| r.key())
                .is_ok()
        }
        Change::SetNeighbour(entry) => {
            let key = entry.key();
            desired
                .neighbours
                .binary_search_by_key(&key, |e| e.key())
                .is_ok()
        }
        Change::SetForward(entry) => {
            let key = entry.key();
            desired.fdb.binary_search_by_key(&key, |e| e.key()).is_ok()
        }
        Change::RemoveRoute(..) | Change::RemoveNeighbour(_) | Change::RemoveForward(_) => false,
    }
}

/// Some are enough to know what it is about.
const FEW: usize = 3;
/// Their echoes would only fill a queue.
const MANY_FORWARDS: usize = 64;
