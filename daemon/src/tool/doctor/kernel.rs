//! Settings, chains and devices that pods' packets pass.

use std::net::IpAddr;

use weft_net::route::Link;

use super::Finding;
use super::facts::{Facts, Links};

pub(super) fn forwards(facts: &Facts) -> Vec<Finding> {
    let networks = facts.networks();
    let settings = &facts.settings;
    let is_off = |setting: &Option<String>| setting.as_deref().is_some_and(|value| value == "0");
    let has6 = networks.iter().any(|network| network.is_ipv6());
    let has4 = networks.is_empty() || networks.iter().any(|network| network.is_ipv4());
    let v4 = (has4 && is_off(&settings.forward4)).then_some("net.ipv4.ip_forward");
    let v6 = (has6 && is_off(&settings.forward6)).then_some("net.ipv6.conf.all.forwarding");
    let off = v4.into_iter().chain(v6);
    off.map(|key| {
        Finding::wrong(
            format!("{key} is 0"),
            "the kernel drops every packet between pods and anything outside of this node",
            format!("sysctl -w {key}=1; echo {key}=1 > /etc/sysctl.d/90-{key}.conf"),
        )
    })
    .collect()
}

pub(super) fn bridge_netfilter(facts: &Facts) -> Vec<Finding> {
    let why = "answers of a pod to another on the same node that called it by a service's \
               address do not pass the rules that turn addresses back (kube-proxy)";
    let settings = &facts.settings;
    let Some(v4) = settings.bridge4.as_deref() else {
        return vec![Finding::advice(
            "the module br_netfilter is not loaded",
            why,
            "modprobe br_netfilter; echo br_netfilter > /etc/modules-load.d/br_netfilter.conf",
        )];
    };
    let has6 = facts.networks().iter().any(|network| network.is_ipv6());
    let v6 = settings.bridge6.as_deref().filter(|_| has6);
    let keys = [
        ("net.bridge.bridge-nf-call-iptables", Some(v4)),
        ("net.bridge.bridge-nf-call-ip6tables", v6),
    ];
    keys.into_iter()
        .filter(|(_, value)| *value == Some("0"))
        .map(|(key, _)| Finding::advice(format!("{key} is 0"), why, format!("sysctl -w {key}=1")))
        .collect()
}

pub(super) fn forward_hooks(facts: &Facts) -> Vec<Finding> {
    let hooks = match &facts.hooks {
        Ok(hooks) => hooks,
        Err(why) => {
            return vec![Finding::unseen("the firewall cannot be looked at", why)];
        }
    };
    let why = "an accept ends only the chain it stands in, and a drop is the end: no rule elsewhere \
               can prevent it";
    hooks
        .iter()
        .filter_map(|hook| Some(Finding::wrong(hook.complaint()?, why, hook.remedy())))
        .collect()
}

pub(super) fn devices(facts: &Facts) -> Vec<Finding> {
    let links = match &facts.links {
        Ok(links) => links,
        Err(why) => return vec![Finding::unseen("the links cannot be listed", why)],
    };
    let mut findings = missing(facts, links);
    for device in links.links.iter().filter(|link| is_tunnel(link)) {
        if !device.up {
            findings.push(Finding::wrong(
                format!("the tunnel device {} is down", device.name),
                "no packet for another node's pods gets through it",
                format!(
                    "ip link set {} up (weftd does so by itself, if it runs)",
                    device.name
                ),
            ));
        }
        findings.extend(too_large(device, links));
    }
    findings.extend(bridge_above_pods(facts, links));
    findings
}

/// What weftd says it has, and is not there.
fn missing(facts: &Facts, links: &Links) -> Vec<Finding> {
    let devices = facts
        .running()
        .and_then(|status| status["devices"].as_array());
    let names = devices
        .into_iter()
        .flatten()
        .filter_map(|device| device["name"].as_str());
    names
        .filter(|name| links.named(name).is_none())
        .map(|name| {
            Finding::wrong(
                format!("the tunnel device {name} is gone"),
                "no packet for another node's pods gets through",
                "weftd makes it again at once: if not, see weft status; run weft doctor in the \
                 host's network namespace",
            )
        })
        .collect()
}

fn is_tunnel(link: &Link) -> bool {
    (link.vxlan.is_some() || link.is_tun()) && link.name.starts_with("flannel")
}

fn too_large(device: &Link, links: &Links) -> Option<Finding> {
    let vxlan = device.vxlan?;
    let lower = links.numbered(vxlan.lower?)?;
    let headers = match vxlan.local {
        Some(IpAddr::V6(_)) => HEADERS_V6,
        Some(IpAddr::V4(_)) | None => HEADERS_V4,
    };
    let most = lower.mtu.saturating_sub(headers);
    (device.mtu > most).then(|| {
        Finding::wrong(
            format!(
                "{} has MTU {}, but {} carries {}, which leaves {most}",
                device.name, device.mtu, lower.name, lower.mtu
            ),
            "large packets between nodes are lost or cut up: connections open, and then hang",
            format!(
                "ip link set {} mtu {most}; then restart weftd, and pods with the old MTU",
                device.name
            ),
        )
    })
}

/// A bridge's MTU is its ports' smallest: then all pods there were made with a larger one.
fn bridge_above_pods(facts: &Facts, links: &Links) -> Option<Finding> {
    let mtu = facts.file()?.mtu?;
    let bridge = links.named("cni0").filter(|bridge| bridge.mtu > mtu)?;
    let has_pods = links
        .links
        .iter()
        .any(|link| link.master == Some(bridge.index));
    has_pods.then(|| {
        Finding::wrong(
            format!("cni0 and its pods have MTU {}, but {mtu} fits", bridge.mtu),
            "large packets to other nodes are lost: connections open, and then hang",
            "restart the pods of this node: the plugin gives new ones what fits",
        )
    })
}

/// Outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
const HEADERS_V4: u32 = 50;
/// The same with an outer IPv6 header of 40.
const HEADERS_V6: u32 = 70;
