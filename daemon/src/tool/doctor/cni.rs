//! What the container runtime reads, the plugins that it names, and the bridges that they want.

mod conf;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

use super::super::suite::PLUGINS;
use super::Finding;
use super::facts::{Facts, subnets_of};
use crate::subnet_file::Found;
pub(super) use conf::Conf;

/// The directory that the runtime reads, and the one that the plugins are in.
pub(super) struct Confs {
    pub(super) directory: PathBuf,
    /// In the order of their names, as runtimes sort them.
    pub(super) files: io::Result<Vec<Conf>>,
    pub(super) plugins: PathBuf,
    /// The plugins that can be run.
    pub(super) present: io::Result<BTreeSet<String>>,
}

impl Confs {
    pub(super) fn read(directory: &Path, plugins: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            files: read_confs(directory),
            plugins: plugins.to_owned(),
            present: read_plugins(plugins),
        }
    }

    fn readable(&self) -> impl Iterator<Item = &Conf> {
        self.files.iter().flatten()
    }
}

fn read_confs(directory: &Path) -> io::Result<Vec<Conf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("conf" | "conflist" | "json")) {
            names.push(path);
        }
    }
    names.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path)?;
        Ok(Conf::parse(path, &String::from_utf8_lossy(&bytes)))
    };
    names.into_iter().map(read).collect()
}

fn read_plugins(directory: &Path) -> io::Result<BTreeSet<String>> {
    let mut present = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // Plugins may be links to one program.
        let runs = fs::metadata(&path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        if let Some(name) = path.file_name().filter(|_| runs) {
            present.insert(name.to_string_lossy().into_owned());
        }
    }
    Ok(present)
}

pub(super) fn configurations(facts: &Facts) -> Vec<Finding> {
    let confs = &facts.confs;
    let directory = confs.directory.display();
    let files = match &confs.files {
        Ok(files) => files,
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            return vec![Finding::unseen(format!("{directory} cannot be read"), why)];
        }
        Err(_) => &Vec::new(),
    };
    let Some(first) = files.first() else {
        return vec![Finding::wrong(
            format!("there is no CNI configuration in {directory}"),
            "the runtime has no network for pods (\"cni plugin not initialized\"): none can start",
            format!("write into {directory}/10-flannel.conflist: {CONFLIST}"),
        )];
    };
    let mut findings: Vec<Finding> = files.iter().flat_map(Conf::findings).collect();
    let is_flannels = |conf: &&Conf| conf.types.iter().any(|kind| kind == "flannel");
    if let Some(hidden) = files
        .iter()
        .find(is_flannels)
        .filter(|_| !is_flannels(&first))
    {
        findings.push(Finding::advice(
            format!(
                "{} comes before {}, which leads to weftd's network",
                first.path.display(),
                hidden.path.display()
            ),
            "runtimes that take one network take the first file: pods get another network",
            format!(
                "if that is not meant: mv {} out of {directory}",
                first.path.display()
            ),
        ));
    }
    findings
}

pub(super) fn plugins(facts: &Facts) -> Vec<Finding> {
    let confs = &facts.confs;
    let directory = confs.plugins.display();
    let wanted: BTreeSet<&str> = confs.readable().flat_map(Conf::plugins).collect();
    let why = "pods of the networks that name it can be neither started nor removed";
    match &confs.present {
        Err(error) if !wanted.is_empty() => {
            vec![Finding::wrong(
                format!("{directory} cannot be read: {error}"),
                why,
                install(confs),
            )]
        }
        Err(_) => Vec::new(),
        Ok(present) => {
            let missing = wanted.into_iter().filter(|name| !present.contains(*name));
            missing
                .map(|name| {
                    let ours = PLUGINS.contains(&name);
                    let cure = match ours {
                        true => install(confs),
                        false => format!(
                            "put it there, or take it out of {}",
                            confs.directory.display()
                        ),
                    };
                    let what =
                        format!("there is no CNI plugin {name} that can be run in {directory}");
                    Finding::wrong(what, why, cure)
                })
                .collect()
        }
    }
}

/// A bridge that already has another address is refused by the plugin.
pub(super) fn bridges(facts: &Facts) -> Vec<Finding> {
    let links = match &facts.links {
        Ok(links) => links,
        Err(why) => return vec![Finding::unseen("the links cannot be listed", why)],
    };
    let mut findings = Vec::new();
    for conf in facts.confs.readable() {
        for (name, wanted) in bridges_of(conf, facts.file()) {
            let Some(bridge) = links.named(&name) else {
                continue;
            };
            let held = links.addresses_of(bridge);
            if let Some(other) = rival(&held, wanted) {
                findings.push(Finding::wrong(
                    format!(
                        "{name} has the address {other}, but {} wants {wanted}",
                        conf.path.display()
                    ),
                    "the bridge plugin refuses a bridge with another network's address: no pod \
                     of that network can start",
                    format!(
                        "drain the node, then `ip link delete {name}`: the next pod's plugin makes \
                         it anew (or give each network a bridge of its own)"
                    ),
                ));
            }
        }
    }
    findings
}

/// Each bridge with an address that it shall have.
fn bridges_of(conf: &Conf, file: Option<&Found>) -> Vec<(String, IpNetwork)> {
    let mut wanted = conf.bridges.clone();
    if let Some(name) = &conf.flannel_bridge {
        let subnets = file.into_iter().flat_map(subnets_of);
        let addresses = subnets.filter_map(conf::first_address);
        wanted.extend(addresses.map(|address| (name.clone(), address)));
    }
    wanted
}

/// An address that keeps `wanted` from being given.
fn rival(held: &[IpNetwork], wanted: IpNetwork) -> Option<IpNetwork> {
    if held.contains(&wanted) {
        return None;
    }
    let in_the_way = |address: &IpNetwork| match wanted {
        IpNetwork::V4(_) => address.is_ipv4(),
        IpNetwork::V6(_) => address.contains(wanted.ip()) || wanted.contains(address.ip()),
    };
    held.iter().copied().find(in_the_way)
}

fn install(confs: &Confs) -> String {
    let directory = confs.plugins.display();
    format!("in Weft's sources: make install BINDIR={directory}")
}

/// What a node of a flannel network is usually given.
const CONFLIST: &str = r#"{"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}}, {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;
