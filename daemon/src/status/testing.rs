//! Two nodes for tests: one that serves, with something of everything, and one that starts.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use weft_dataplane::stats::PeerStats;
use weft_dataplane::{Notice, Stats};

use super::{About, Status};
use crate::conf::{Checks, NetConf};
use crate::drift::Culprit;
use crate::firewall::{ForwardHook, Passage};
use crate::lease::{Attrs, Lease, Published, Subnets};
use crate::overlay::Window;
use crate::plan::{Ground, Skipped};
use crate::reconcile::{Repaired, Report, Standing};
use crate::store::{Health, Own, Peers, Rubbish, View};

pub(crate) fn starting() -> (Status, Instant) {
    let about = About::starting("0.1.0", "etcd", "node-1");
    let now = about.since;
    let status = Status::of(View::default(), Report::default(), about);
    (status, now)
}

pub(crate) fn serving() -> (Status, Instant) {
    let about = About::starting("0.1.0", "etcd", "node-1");
    let status = Status::of(view(), report(), about);
    let now = status.viewed;
    (status, now)
}

/// The one that serves, with a packet path of its own.
pub(crate) fn forwarding() -> (Status, Instant) {
    let (mut status, now) = serving();
    status.window = Window::new(|| Some(stats()));
    (status, now)
}

fn stats() -> Stats {
    let peer = |address: &str, packets| PeerStats {
        address: address.parse().unwrap(),
        sent_packets: packets,
        sent_bytes: packets * 100,
        received_packets: 0,
        received_bytes: 0,
    };
    let mut stats = Stats {
        unheard: 5,
        peers: vec![peer("192.168.9.3", 12), peer("192.168.9.4", 0)],
        notices: vec![Notice::DeviceGone, Notice::GsoRefused],
        ..Stats::default()
    };
    (stats.sent.packets, stats.sent.bytes) = (12, 1200);
    stats.sent.batches[1] = 6;
    stats
}

pub(crate) fn lease(subnet: &str, address: &str) -> Arc<Lease> {
    Arc::new(Lease {
        subnets: Subnets {
            v4: Some(subnet.parse().unwrap()),
            v6: None,
        },
        attrs: Attrs {
            public_ip: Some(address.parse().unwrap()),
            public_ipv6: None,
            backend: Published::HostGw,
            extra: None,
        },
    })
}

fn view() -> View {
    let conf = r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#;
    View {
        conf: Some(Ok(Arc::new(NetConf::parse(conf, Checks::Leases).unwrap()))),
        conf_changed: Some("the configuration changed".into()),
        own: Own::Held(lease("10.5.63.0/24", "192.168.9.181")),
        peers: Some(Arc::new(Peers {
            leases: vec![lease("10.5.3.0/24", "192.168.9.3")],
            rubbish: vec![Rubbish {
                name: "subnets/10.5.9.0-24".into(),
                why: "its value is no JSON".into(),
            }],
        })),
        health: Health {
            trouble: None,
            calls: 120,
            failures: 2,
            reconnects: 1,
            spent: Duration::from_millis(240),
            slowest: Duration::from_millis(14),
            expires_in: Some(Duration::from_secs(86_400)),
        },
        ..View::default()
    }
}

fn report() -> Report {
    let mut report = Report::default();
    report.ready = Ok(());
    report.standing = Some(Standing {
        name: "eth0".into(),
        ground: Ground {
            link: 2,
            mtu: 1500,
            v4: Some("192.168.9.181".parse().unwrap()),
            v6: None,
        },
        public_ip: Some("192.168.9.181".parse().unwrap()),
        public_ipv6: None,
    });
    report.devices = vec![("flannel.1".into(), 1450)];
    report.mtu = 1450;
    report.routes = 1;
    report.skipped = vec![Skipped {
        subnet: "10.5.7.0/24".parse().unwrap(),
        why: "it publishes no public address".into(),
    }];
    report.failed = vec!["route 10.5.8.0/24: no such device".into()];
    report.rounds = 12;
    report.last_took = Duration::from_millis(4);
    report.longest = Duration::from_millis(13);
    report.spent = Duration::from_millis(40);
    report.hooks = vec![ForwardHook {
        table: "ip filter".into(),
        chain: "FORWARD".into(),
        priority: 0,
        leaving: Passage::Dropped("its policy".into()),
        arriving: Passage::Passes,
        networks: vec!["10.5.0.0/16".parse().unwrap()],
    }];
    report.guard = true;
    report.guard_dropped = 7;
    report.notes.insert("br_netfilter is not loaded".into());
    report.repairs.insert(("route", "NetworkManager".into()), 3);
    report.last_repairs.push_back(Repaired {
        when: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        what: "route 10.5.3.0/24".into(),
        by: Some(Culprit {
            pid: 4711,
            command: Some("NetworkManager".into()),
        }),
        after: Some(Duration::from_millis(4)),
    });
    report
}
