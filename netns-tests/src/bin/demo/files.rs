//! What a node of flannel's would hold, file by file.
use std::fs;
use std::net::IpAddr;

use crate::cluster::{Cluster, Member};
use crate::node::{Node, SUBNET_FILE};
use crate::paint;

const RESERVED: &str = "/var/lib/cni/networks/cbr0";
const SCRATCH: &str = "/var/lib/cni/flannel";

pub(crate) fn show(cluster: &Cluster) {
    let member = &cluster.members[0];
    let node = &member.node;
    println!("    {}", prompt(member, &format!("cat {SUBNET_FILE}")));
    print_lines(&node.read(SUBNET_FILE).unwrap_or_default());
    println!("    {}", prompt(member, "ip route"));
    print_lines(&node.exec("ip -4 route"));
    let container = &member.pods[0].name;
    let path = node
        .file_named(SCRATCH, container)
        .unwrap_or_else(|| panic!("the flannel plugin wrote no {SCRATCH}/{container}"));
    let path = path.display().to_string();
    println!("    {}", prompt(member, &format!("cat {path}")));
    let scratch = node.read(&path).unwrap_or_default();
    for line in wrapped(&scratch, 84) {
        println!("      {line}");
    }
}

/// Addresses that are reserved, and scratch files.
pub(crate) fn left_by_pods(node: &Node) -> Vec<String> {
    let look = || {
        let reserved = names_in(RESERVED).into_iter();
        let reserved = reserved.filter(|name| name.parse::<IpAddr>().is_ok());
        reserved.chain(names_in(SCRATCH)).collect()
    };
    node.enter(look)
}

fn names_in(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn prompt(member: &Member, line: &str) -> String {
    paint::dim(&format!("{} $ {line}", member.node.name))
}

fn print_lines(text: &str) {
    for line in text.lines() {
        println!("      {}", line.trim_end());
    }
}

/// JSON on one line, broken behind commas.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for piece in text.trim_end().split_inclusive(',') {
        match lines.last_mut() {
            Some(line) if line.is_empty() || line.len() + piece.len() <= width => {
                line.push_str(piece);
            }
            _ => lines.push(piece.to_owned()),
        }
    }
    lines
}
