//! For programs: keys are stable, and present even where there is nothing to say.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Status, path};
use crate::conf::Backend;
use crate::firewall::{ForwardHook, Passage};
use crate::plan::Skipped;
use crate::reconcile::{Repaired, Standing};
use crate::rfc3339::Utc;
use crate::store::Rubbish;

impl Status {
    pub fn to_json(&self, now: Instant) -> Value {
        let Self {
            about,
            view,
            report,
            ..
        } = self;
        let peers = view.peers.as_ref();
        let rubbish = peers.map_or(&[][..], |peers| &peers.rubbish);
        json!({
            "version": about.version,
            "node": about.node,
            "started": Utc::of(about.started).to_string(),
            "uptime_seconds": seconds(self.uptime(now)),
            "ready": self.ready().is_ok(),
            "not_ready_because": self.ready().err(),
            "backend": self.conf().map(|conf| backend(&conf.backend)),
            "networks": texts(self.networks()),
            "configuration_error": view.conf.as_ref().and_then(|conf| conf.as_ref().err()),
            "configuration_changed": view.conf_changed,
            "lease": {
                "state": self.lease_state().name(),
                "why": self.lease_state().why(),
                "subnets": texts(self.subnets()),
                "expires_seconds": self.lease_expires_in(now).map(seconds),
            },
            "public_addresses": texts(self.public_addresses()),
            "interface": report.standing.as_ref().map(interface),
            "devices": report.devices.iter()
                .map(|(name, mtu)| json!({"name": name, "mtu": mtu})).collect::<Vec<_>>(),
            "pod_mtu": (report.mtu > 0).then_some(report.mtu),
            "routes": report.routes,
            "peers": self.peers(),
            "peers_skipped": report.skipped.iter().map(skipped).collect::<Vec<_>>(),
            "leases_unreadable": rubbish.iter().map(unreadable).collect::<Vec<_>>(),
            "kernel_refusals": report.failed,
            "store": self.store(),
            "rounds": {
                "count": report.rounds,
                "last_seconds": seconds(report.last_took),
                "longest_seconds": seconds(report.longest),
                "total_seconds": seconds(report.spent),
            },
            "repairs": report.repairs.iter().map(|((kind, command), count)| {
                json!({"kind": kind, "command": command, "count": count})
            }).collect::<Vec<_>>(),
            "last_repairs": report.last_repairs.iter().map(repaired).collect::<Vec<_>>(),
            "notes": view.notes.iter().chain(&report.notes).collect::<Vec<_>>(),
            "forward_hooks": report.hooks.iter().map(hook).collect::<Vec<_>>(),
            "packet_path": self.packet_path().as_ref().map(path::to_json),
            "guard": {"on": report.guard, "dropped_packets": report.guard_dropped},
        })
    }

    fn store(&self) -> Value {
        let health = &self.view.health;
        json!({
            "name": self.about.store,
            "trouble": health.trouble,
            "calls": health.calls,
            "failures": health.failures,
            "reconnects": health.reconnects,
            "total_seconds": seconds(health.spent),
            "slowest_seconds": seconds(health.slowest),
        })
    }
}

fn backend(backend: &Backend) -> Value {
    match backend {
        Backend::Vxlan(vxlan) => json!({
            "type": "vxlan",
            "vni": vxlan.vni,
            "port": vxlan.port,
            "gbp": vxlan.gbp,
            "learning": vxlan.learning,
            "direct_routing": vxlan.direct_routing,
        }),
        Backend::HostGw => json!({"type": "host-gw"}),
        Backend::Udp(udp) => json!({"type": "udp", "port": udp.port}),
        Backend::Alloc => json!({"type": "alloc"}),
    }
}

fn interface(standing: &Standing) -> Value {
    let ground = &standing.ground;
    json!({
        "name": standing.name,
        "index": ground.link,
        "mtu": ground.mtu,
        "ipv4": ground.v4,
        "ipv6": ground.v6,
    })
}

fn skipped(peer: &Skipped) -> Value {
    json!({"subnet": peer.subnet.to_string(), "why": peer.why})
}

fn unreadable(rubbish: &Rubbish) -> Value {
    json!({"name": rubbish.name, "why": rubbish.why})
}

fn repaired(repaired: &Repaired) -> Value {
    let by = repaired.by.as_ref();
    json!({
        "when": Utc::of(repaired.when).to_string(),
        "what": repaired.what,
        "pid": by.map(|culprit| culprit.pid).filter(|pid| *pid != 0),
        "command": by.and_then(|culprit| culprit.command.as_deref()),
        "after_seconds": repaired.after.map(seconds),
    })
}

fn hook(hook: &ForwardHook) -> Value {
    let dropped_by = |passage: &Passage| match passage {
        Passage::Passes => None,
        Passage::Dropped(by) => Some(by.clone()),
    };
    json!({
        "table": hook.table,
        "chain": hook.chain,
        "priority": hook.priority,
        "from_pods_dropped_by": dropped_by(&hook.leaving),
        "to_pods_dropped_by": dropped_by(&hook.arriving),
        "note": hook.note(),
    })
}

fn texts<T: ToString>(values: impl IntoIterator<Item = T>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}

/// To the microsecond: what is beyond that is noise of the conversion.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_node_that_serves_tells_all_there_is() {
        let (status, now) = testing::serving();
        let told = status.to_json(now + Duration::from_secs(100));
        assert_eq!(told["ready"], true);
        assert_eq!(told["not_ready_because"], Value::Null);
        assert_eq!(told["backend"]["type"], "vxlan");
        assert_eq!(told["networks"], json!(["10.5.0.0/16"]));
        assert_eq!(told["lease"]["state"], "held");
        assert_eq!(told["lease"]["subnets"], json!(["10.5.63.0/24"]));
        assert_eq!(told["public_addresses"], json!(["192.168.9.181"]));
        assert_eq!(told["interface"]["name"], "eth0");
        assert_eq!(told["devices"], json!([{"name": "flannel.1", "mtu": 1450}]));
        assert_eq!(told["peers"], 1);
        assert_eq!(told["leases_unreadable"][0]["name"], "subnets/10.5.9.0-24");
        assert_eq!(told["peers_skipped"][0]["subnet"], "10.5.7.0/24");
        let repair = &told["last_repairs"][0];
        assert_eq!(
            (&repair["pid"], &repair["command"]),
            (&json!(4711), &json!("NetworkManager"))
        );
        assert_eq!(repair["after_seconds"], 0.004);
        assert_eq!(told["repairs"][0]["count"], 3);
    }

    #[test]
    fn a_packet_path_is_told_in_numbers() {
        let (status, now) = testing::forwarding();
        let told = &status.to_json(now)["packet_path"];
        assert_eq!(told["sent"]["packets"], 12);
        assert_eq!(told["sent"]["calls_by_packets"]["2"], 6);
        assert_eq!(told["received"]["dropped"]["foreign_source"], 0);
        assert_eq!(told["peers"][0]["address"], "192.168.9.3");
        assert_eq!(told["peers"].as_array().unwrap().len(), 1);
        assert_eq!(told["missing"][0]["name"], "gso_refused");
    }

    #[test]
    fn a_lease_runs_out_while_no_news_comes() {
        let (status, now) = testing::serving();
        let later = status.to_json(now + Duration::from_secs(1000));
        let left = later["lease"]["expires_seconds"].as_f64().unwrap();
        assert!((85_399.0..=85_400.0).contains(&left), "{left}");
    }

    #[test]
    fn every_key_is_there_from_the_start() {
        let (full, now) = testing::serving();
        let (empty, _) = testing::starting();
        let keys = |value: Value| {
            let keys = value.as_object().unwrap().keys().cloned();
            keys.collect::<Vec<_>>()
        };
        assert_eq!(keys(full.to_json(now)), keys(empty.to_json(now)));
    }
}
