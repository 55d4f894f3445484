//! One file of the runtime's. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde_json::Value;
use weft_cni::{Object, Version};

use super::super::Finding;
use crate::conf::{Error, explain};

pub(in super::super) struct Conf {
    pub(super) path: PathBuf,
    /// Each with its line, and the cure.
    faults: Vec<Error>,
    /// What is in it, with the faults put right as far as that can be guessed.
    value: Option<Value>,
    /// Of its plugins, in order.
    pub(super) types: Vec<String>,
    /// Those that its plugins run.
    helpers: Vec<String>,
    /// Bridges with the address that they shall have.
    pub(super) bridges: Vec<(String, IpNetwork)>,
    /// The bridge of the node's share of weftd's network.
    pub(super) flannel_bridge: Option<String>,
}

impl Conf {
    pub(in super::super) fn parse(path: PathBuf, text: &str) -> Self {
        let (value, faults) = read(text);
        let mut conf = Self {
            path,
            faults,
            value: None,
            types: Vec::new(),
            helpers: Vec::new(),
            bridges: Vec::new(),
            flannel_bridge: None,
        };
        if let Some(object) = value.as_ref().and_then(|value| Object::of(value, "").ok()) {
            let listed = object.objects("plugins").ok().flatten();
            let plugins = listed.unwrap_or_else(|| vec![object]);
            plugins.iter().for_each(|plugin| conf.take(plugin));
        }
        conf.value = value;
        conf
    }

    fn take(&mut self, plugin: &Object<'_>) {
        let Some(kind) = text(plugin, "type") else {
            return;
        };
        self.types.push(kind.to_owned());
        let ipam = plugin.object("ipam").ok().flatten();
        self.helpers.extend(
            ipam.as_ref()
                .and_then(|ipam| text(ipam, "type"))
                .map(str::to_owned),
        );
        match kind {
            "bridge" => {
                let gateway = truth(plugin, "isGateway") || truth(plugin, "isDefaultGateway");
                let addresses = ipam.as_ref().filter(|_| gateway).map(gateways);
                let name = text(plugin, "bridge").unwrap_or(BRIDGE);
                let named = addresses
                    .into_iter()
                    .flatten()
                    .map(|address| (name.to_owned(), address));
                self.bridges.extend(named);
            }
            "flannel" => {
                let delegate = plugin.object("delegate").ok().flatten();
                let of_delegate = |key| delegate.as_ref().and_then(|delegate| text(delegate, key));
                let helper = of_delegate("type").unwrap_or("bridge");
                self.helpers
                    .extend([helper.to_owned(), "host-local".to_owned()]);
                if helper == "bridge" {
                    self.flannel_bridge = Some(of_delegate("bridge").unwrap_or(BRIDGE).to_owned());
                }
            }
            _ => {}
        }
    }

    /// All that a runtime has to find.
    pub(super) fn plugins(&self) -> impl Iterator<Item = &str> {
        self.types.iter().chain(&self.helpers).map(String::as_str)
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let path = self.path.display();
        let mut findings: Vec<Finding> = self
            .faults
            .iter()
            .map(|fault| self.of_fault(fault))
            .collect();
        let Some(value) = &self.value else {
            return findings;
        };
        let Ok(object) = Object::of(value, "") else {
            findings.push(self.refused("it is not a JSON object", "begin it with {"));
            return findings;
        };
        if text(&object, "name").is_none() {
            findings.push(self.refused(
                "it has no \"name\"",
                "add \"name\": \"cbr0\", or another name, at its top",
            ));
        }
        match text(&object, "cniVersion") {
            None => findings.push(Finding::advice(
                format!("{path} has no \"cniVersion\""),
                "it is taken for 0.1.0, the oldest, whose results have no room for what came later",
                "add \"cniVersion\": \"1.0.0\" at its top",
            )),
            Some(version) if Version::parse(version).is_none() => {
                let known = Version::ALL.map(Version::text).join(", ");
                findings.push(self.refused(
                    &format!("its cniVersion {version:?} does not exist"),
                    &format!("write one of {known}"),
                ));
            }
            Some(_) => {}
        }
        let is_list = self
            .path
            .extension()
            .is_some_and(|extension| extension == "conflist");
        let plugins = object.objects("plugins").ok().flatten();
        if is_list && plugins.as_ref().is_none_or(Vec::is_empty) {
            findings.push(self.refused(
                "it lists no \"plugins\"",
                "add \"plugins\": [{\"type\": \"flannel\"}]",
            ));
        } else if self.types.len() < plugins.map_or(1, |plugins| plugins.len()) {
            findings.push(self.refused(
                "a plugin in it has no \"type\"",
                "write which plugin is meant",
            ));
        }
        findings
    }

    fn refused(&self, what: &str, cure: &str) -> Finding {
        let path = self.path.display();
        Finding::wrong(
            format!("{path}: {what}"),
            REFUSED,
            format!("{cure} (edit {path})"),
        )
    }

    fn of_fault(&self, fault: &Error) -> Finding {
        let path = self.path.display();
        match fault {
            Error::Syntax {
                line,
                column,
                what,
                remedy,
            } => Finding::wrong(
                format!("{path}, line {line}, column {column}: {what}"),
                REFUSED,
                format!("{remedy} (edit {path}, line {line})"),
            ),
            Error::Value { what, remedy } => self.refused(what, remedy),
        }
    }
}

/// What a text says, and all that is wrong with it: a fault that can be taken out without harm is,
/// so that the next is found as well.
fn read(text: &str) -> (Option<Value>, Vec<Error>) {
    let mut text = text.to_owned();
    let mut faults = Vec::new();
    loop {
        let why = match serde_json::from_str(&text) {
            Ok(value) => return (Some(value), faults),
            Err(why) => why,
        };
        let fault = explain(&text, &why);
        let without = match &fault {
            Error::Syntax { line, column, .. } => blanked(&text, *line, *column),
            Error::Value { .. } => None,
        };
        faults.push(fault);
        match without.filter(|_| faults.len() < MOST_FAULTS) {
            Some(without) => text = without,
            None => return (None, faults),
        }
    }
}

/// The text with the comment or the comma at that place made blank, so that all else keeps its
/// line and column.
fn blanked(text: &str, line: usize, column: usize) -> Option<String> {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.checked_sub(1)?)
        .map(str::len)
        .sum();
    let (offset, _) = text
        .get(start..)?
        .char_indices()
        .nth(column.checked_sub(1)?)?;
    let (before, rest) = text.split_at(start + offset);
    let length = if rest.starts_with("/*") {
        rest.find("*/")? + 2
    } else if rest.starts_with("//") || rest.starts_with('#') {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with(',') {
        1
    } else {
        return None;
    };
    let (fault, after) = rest.split_at(length);
    let blank: String = fault
        .chars()
        .map(|c| if c == '\n' { c } else { ' ' })
        .collect();
    Some(format!("{before}{blank}{after}"))
}

/// The addresses that host-local gives a bridge, as far as they are written down.
fn gateways(ipam: &Object<'_>) -> Vec<IpNetwork> {
    if text(ipam, "type") != Some("host-local") {
        return Vec::new();
    }
    let sets = ipam.list("ranges").ok().flatten().unwrap_or_default();
    let ranges = sets.iter().filter_map(|set| set.as_array()?.first());
    let ranges = ranges.filter_map(|range| gateway(&Object::of(range, "").ok()?));
    gateway(ipam).into_iter().chain(ranges).collect()
}

fn gateway(range: &Object<'_>) -> Option<IpNetwork> {
    let subnet: IpNetwork = text(range, "subnet")?.parse().ok()?;
    match text(range, "gateway").and_then(|gateway| gateway.parse().ok()) {
        Some(said) => IpNetwork::new(said, subnet.prefix()).ok(),
        None => first_address(subnet),
    }
}

/// What a bridge gets where nothing else is said.
pub(super) fn first_address(subnet: IpNetwork) -> Option<IpNetwork> {
    let first = match subnet.network() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().checked_add(1)?).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().checked_add(1)?).into(),
    };
    IpNetwork::new(first, subnet.prefix()).ok()
}

fn text<'a>(object: &Object<'a>, key: &str) -> Option<&'a str> {
    object
        .text(key)
        .ok()
        .flatten()
        .filter(|text| !text.is_empty())
}

fn truth(object: &Object<'_>, key: &str) -> bool {
    object.truth(key).ok().flatten().unwrap_or(false)
}

const BRIDGE: &str = "cni0";
const REFUSED: &str = "the runtime passes the file over, and pods of its network cannot start";
const MOST_FAULTS: usize = 50;
