//! A restart where all is as it should be: nothing is changed, and nobody notices.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use weft_benches::report::{Bound, Report, Unit};
use weft_net::watch::{Filter, RulesetWatch};
use weft_netns::{Running, wait_for, wait_until};

use crate::Bench;
use crate::field::Node;
use crate::listener::Listener;
use crate::weftd::{self, Leases, Way, Weftd};

pub(super) const NAME: &str = "restart";

const PEERS: u32 = 5000;
const PATIENCE: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(500);
const PING_EVERY: &str = "0.005";

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let field = bench.field();
    let prefix = field.prefix();
    field.store().found(&prefix, 0..PEERS);
    let leases = Leases::Etcd {
        endpoint: field.endpoint(),
        prefix,
    };
    let nodes = [field.node(), field.node()];
    let mut listener = Listener::open(&nodes[0].netns);
    let mut weftd = Weftd::start(&nodes[0], &leases);
    let other = Weftd::start(&nodes[1], &leases);
    // The other real node is a peer, too.
    let all = listener.until(PATIENCE, |heard| heard.all_of(PEERS as usize + 1));
    assert!(all.is_some(), "{}", weftd.running.said_so_far());
    other.until_serving(&nodes[1]);

    let ping = start_pings(&nodes);
    let mut rulesets = nodes[0]
        .netns
        .enter(|| RulesetWatch::open(&Filter::default(), &[]));
    let rulesets = rulesets.as_mut().expect("listen to nftables");
    for round in 0..bench.rounds(8) {
        let signal = [Signal::SIGTERM, Signal::SIGKILL][usize::from(round % 2)];
        listener.until_quiet(QUIET, PATIENCE);
        listener.begin();
        rulesets.read(&mut Vec::new()).expect("listen to nftables");
        weftd.stop(signal);
        weftd = Weftd::start(&nodes[0], &leases);
        weftd.until_ready(&nodes[0]);
        let mut told = listener.until_quiet(QUIET, PATIENCE);
        let mut commits = Vec::new();
        rulesets.read(&mut commits).expect("listen to nftables");
        told += commits.len();
        report.sample(NAME, "changes heard of", "weft", Unit::Count, whole(told));
    }
    listener.until_quiet(QUIET, PATIENCE);
    weftd.stop(Signal::SIGTERM);
    let said = messages(&nodes[0], &leases);
    let (answered, lost) = summary(ping);
    report.note(format!(
        "restart, every netlink message under strace: {said:?}; {answered} pings answered"
    ));
    let changes = said.iter().filter(|kind| !is_question(kind)).count();
    let heard = report.median(NAME, "changes heard of", "weft");
    for (claim, value) in [
        ("changes heard of (routes, neighbours, links, rules)", heard),
        (
            "kinds of messages under strace that are no question",
            whole(changes),
        ),
        ("pings lost, one every 5 ms", whole(lost)),
    ] {
        report.judge(NAME, claim, value, Bound::AtMost(0.0));
    }
}

fn start_pings(nodes: &[Node; 2]) -> Running {
    let far = wait_for("the tunnel has its address", PATIENCE, || {
        nodes[1].device_address()
    });
    let far = far.to_string();
    wait_until("a ping comes through", PATIENCE, || {
        let ping = nodes[0].command("ping").args(["-n", "-c1", "-W1", &far]);
        ping.run().success()
    });
    let ping = nodes[0].command("ping");
    ping.args(["-n", "-i", PING_EVERY, &far]).spawn()
}

/// How many were answered, and how many before the last of these were not: what is on its way
/// when ping is told to end does not count.
fn summary(ping: Running) -> (usize, usize) {
    ping.signal(Signal::SIGINT);
    let said = ping.finish().stdout;
    let answered: BTreeSet<usize> = said
        .split("icmp_seq=")
        .skip(1)
        .filter_map(|rest| rest.split(' ').next()?.parse().ok())
        .collect();
    let last = answered.last().copied().unwrap_or(0);
    assert!(last > 100, "{said}");
    (answered.len(), last - answered.len())
}

/// The kinds of netlink messages that a restart sends.
fn messages(node: &Node, leases: &Leases) -> BTreeSet<String> {
    let log = node.dir.join("strace");
    let command = weftd::command(
        node,
        leases,
        Way::Traced {
            calls: "sendto,sendmsg,sendmmsg",
            log: &log,
        },
    );
    let weftd = Weftd::run(&command);
    weftd.until_ready(node);
    std::thread::sleep(QUIET);
    weftd.stop(Signal::SIGTERM);
    kinds(&log)
}

fn kinds(log: &Path) -> BTreeSet<String> {
    let log = fs::read(log).expect("read what strace wrote");
    let log = String::from_utf8_lossy(&log);
    let after = log.split("nlmsg_type=").skip(1);
    after
        .filter_map(|rest| rest.split([',', '}']).next())
        .map(|kind| kind.trim().to_owned())
        .collect()
}

/// How strace calls them: `RTM_GETROUTE`, `NFNL_SUBSYS_NFTABLES<<8|NFT_MSG_GETTABLE`.
fn is_question(kind: &str) -> bool {
    kind.contains("_GET") || kind.contains("nlctrl")
}

fn whole(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_told_from_changes() {
        assert!(is_question("RTM_GETROUTE"));
        assert!(is_question("NFNL_SUBSYS_NFTABLES<<8|NFT_MSG_GETTABLE"));
        assert!(!is_question("RTM_NEWROUTE"));
        assert!(!is_question("NFNL_MSG_BATCH_BEGIN"));
    }
}
