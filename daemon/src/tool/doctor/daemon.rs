//! The daemon, and what it leaves for pods' plugins.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::facts::{Facts, networks_by, networks_in, subnets_of};
use super::{Finding, Grade};

pub(super) fn runs(facts: &Facts) -> Vec<Finding> {
    let status = match &facts.status {
        Ok(status) => status,
        Err(silence) => {
            return vec![Finding::wrong(
                silence.to_string(),
                "what stands in the kernel stays, but nobody follows other nodes that come and \
                 go, renews the lease or repairs anything",
                format!(
                    "{} (under systemd: systemctl start weftd)",
                    silence.remedy()
                ),
            )];
        }
    };
    let mut findings = Vec::new();
    if status["ready"] != true {
        let because = status["not_ready_because"]
            .as_str()
            .unwrap_or("for no reason told");
        findings.push(Finding::wrong(
            format!("weftd is not ready: {because}"),
            "pods of this node may have no way to those of others",
            "weft status tells more, and weftd's log (journalctl -u weftd) what led there",
        ));
    }
    if let Some(trouble) = status["store"]["trouble"].as_str() {
        findings.push(Finding::wrong(
            format!(
                "weftd's store ({}) has trouble: {trouble}",
                told(&status["store"]["name"])
            ),
            "other nodes that come and go are not noticed, and the lease cannot be renewed",
            "see that it is up and reachable from here; weftd tries again by itself",
        ));
    }
    findings.extend(listed(
        &status["kernel_refusals"],
        "the kernel refuses what weftd programs",
        "pods behind it cannot be reached from here",
        "read the reason: modules that are missing, or rules and routes of others in the way",
        told,
    ));
    findings.extend(listed(
        &status["peers_skipped"],
        "peers are left out",
        "their pods cannot be reached from here",
        "put right what they publish: restart the daemon on those nodes",
        |peer| format!("{}: {}", told(&peer["subnet"]), told(&peer["why"])),
    ));
    findings.extend(listed(
        &status["leases_unreadable"],
        "leases cannot be read",
        "pods of the nodes that they belong to cannot be reached from here",
        "restart the daemon on those nodes, or delete the keys if the nodes are gone",
        |lease| format!("{}: {}", told(&lease["name"]), told(&lease["why"])),
    ));
    let degraded = listed(
        &status["packet_path"]["missing"],
        "the packet path does without what the kernel does not grant",
        "packets move, but take more of the processor's time or are told of less",
        "what can be granted is named there; weftd looks again when it is restarted",
        |lack| told(&lack["what"]),
    );
    findings.extend(degraded.map(|finding| Finding {
        grade: Grade::Advice,
        ..finding
    }));
    if let Some(changed) = status["configuration_changed"].as_str() {
        findings.push(Finding::advice(
            changed,
            "the daemon goes on as it was started",
            "restart weftd when it suits (systemctl restart weftd): traffic goes on meanwhile",
        ));
    }
    findings
}

/// One finding for all that are in a list, with the first of them.
fn listed(
    list: &Value,
    what: &str,
    why: &str,
    cure: &str,
    tell: impl Fn(&Value) -> String,
) -> Option<Finding> {
    let list = list.as_array().filter(|list| !list.is_empty())?;
    let first: Vec<String> = list.iter().take(SHOWN).map(tell).collect();
    let more = match list.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more (weft status --json)"),
    };
    let what = format!("{what} ({}): {}{more}", list.len(), first.join("; "));
    Some(Finding::wrong(what, why, cure))
}

fn told(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(super) fn subnet_file(facts: &Facts) -> Vec<Finding> {
    let path = facts.subnet_path.display();
    let why_needed = "the flannel plugin reads there which subnet pods are in: no pod can start";
    let file = match &facts.subnet_file {
        Err(why) => return vec![Finding::unseen(format!("{path} cannot be read"), why)],
        Ok(None) => {
            return vec![Finding::wrong(
                format!("there is no {path}"),
                why_needed,
                "weftd writes it when it is ready: see why it is not, with weft status",
            )];
        }
        Ok(Some(file)) => file,
    };
    if subnets_of(file).is_empty() || networks_by(file).is_empty() || file.mtu.is_none() {
        return vec![Finding::wrong(
            format!("{path} lacks FLANNEL_NETWORK, FLANNEL_SUBNET or FLANNEL_MTU"),
            why_needed,
            format!("rm {path} and restart weftd, which writes it whole"),
        )];
    }
    let Some(status) = facts.running() else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let cure = "restart weftd (systemctl restart weftd), which writes it as things are";
    let held = firsts(&networks_in(&status["lease"]["subnets"]));
    let written = firsts(&subnets_of(file));
    if !held.is_empty() && held != written {
        findings.push(Finding::wrong(
            format!(
                "{path} says {}, but weftd holds {}",
                list(&written),
                list(&held)
            ),
            "new pods get addresses that other nodes send elsewhere",
            cure,
        ));
    }
    if let (Some(mtu), Some(written)) = (status["pod_mtu"].as_u64(), file.mtu)
        && mtu != u64::from(written)
    {
        findings.push(Finding::wrong(
            format!("{path} says MTU {written}, but weftd's devices carry {mtu}"),
            "new pods send packets that do not fit",
            cure,
        ));
    }
    findings
}

/// The networks that these addresses are in.
fn firsts(networks: &[IpNetwork]) -> BTreeSet<IpNetwork> {
    let first = |network: &IpNetwork| IpNetwork::new(network.network(), network.prefix()).ok();
    networks.iter().filter_map(first).collect()
}

fn list(networks: &BTreeSet<IpNetwork>) -> String {
    let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

const SHOWN: usize = 5;
