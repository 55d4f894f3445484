//! What flanneld left in iptables: which chains and rules are its own, and whether they go. Pure but
//! for a look at the processes.
//!
//! They go when they are found, at the start or later, once ours stand; but never while a flanneld
//! is seen to run. One that cannot be seen, as in another pod, puts back within seconds what it
//! keeps: so what is there again soon after it was removed is removed ever less often.

use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use super::passage::{End, FLANNEL_FORWARD, Match, Step, Then, When};
use super::wanted::groups;
use crate::lock;

/// Its chains: the table, the chain of iptables that jumps there, the chain.
pub(super) const CHAINS: [(&str, &str, &str); 2] = [
    ("nat", "POSTROUTING", "FLANNEL-POSTRTG"),
    ("filter", "FORWARD", FLANNEL_FORWARD),
];

/// What became of it lately.
#[derive(Debug, Default)]
pub(super) struct Flannels {
    removed: Option<Removal>,
    /// Of this run, once something was found.
    verdict: Option<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Removal {
    at: Instant,
    /// What is there again sooner, somebody keeps.
    wait: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Goes,
    /// As long as this process lives.
    Runs(u32),
    /// Until then.
    Returned(Instant),
}

impl Flannels {
    pub(super) fn begin(&mut self) {
        self.verdict = None;
    }

    /// Asked when something of it was found.
    pub(super) fn may_go(&mut self) -> bool {
        let removed = self.removed;
        let verdict = self
            .verdict
            .get_or_insert_with(|| judge(removed, Instant::now(), lock::living_flanneld));
        *verdict == Verdict::Goes
    }

    /// After all that may go has gone.
    pub(super) fn end(&mut self) {
        if self.verdict == Some(Verdict::Goes) {
            self.removed = Some(Removal::after(self.removed, Instant::now()));
        }
    }

    /// When what stays is to be looked at again.
    pub(super) fn look_again(&self) -> Option<Instant> {
        match self.verdict? {
            Verdict::Goes => None,
            Verdict::Runs(_) => Some(Instant::now() + LOOK_AGAIN),
            Verdict::Returned(until) => Some(until),
        }
    }

    /// What the operator should know of something that stays.
    pub(super) fn note(&self, what: &str) -> Option<String> {
        let why = match self.verdict? {
            Verdict::Goes => return None,
            Verdict::Runs(pid) => format!(
                "flanneld runs beside weftd (process {pid}): stop it (systemctl disable --now \
                 flanneld), then weftd removes it"
            ),
            Verdict::Returned(_) => "either flanneld runs beside weftd, where it cannot be seen, \
                 as in another pod: stop it; or somebody restores saved rules; weftd removes it \
                 again, but less often each time"
                .into(),
        };
        Some(format!("{what} of flanneld is there again: {why}"))
    }
}

fn judge(removed: Option<Removal>, now: Instant, living: impl FnOnce() -> Option<u32>) -> Verdict {
    match removed {
        Some(removed) if now < removed.at + removed.wait => {
            Verdict::Returned(removed.at + removed.wait)
        }
        Some(_) | None => living().map_or(Verdict::Goes, Verdict::Runs),
    }
}

impl Removal {
    fn after(before: Option<Self>, now: Instant) -> Self {
        let wait = match before {
            Some(before) if now < before.at + 2 * before.wait => (2 * before.wait).min(LONGEST),
            Some(_) | None => SHORTEST,
        };
        Self { at: now, wait }
    }
}

/// Its rules in a chain of iptables' own, where those before 0.20 stood; those of 0.14 bear no
/// comment. Accepts without one stay: they do no harm, and may be an operator's.
pub(super) fn rules<'a>(table: &str, steps: &'a [Step], networks: &[IpNetwork]) -> Vec<&'a Step> {
    let of_masquerading = |step: &&Step| {
        let is_old = step.comment.is_empty()
            && steps.iter().any(|step| leaves(step, networks))
            && (leaves(step, networks) || keeps_or_enters(step, networks));
        let decides = matches!(step.then, Then::Return | Then::Masquerade);
        is_old || (step.comment == "flanneld masq" && decides)
    };
    match table {
        "nat" => steps.iter().filter(of_masquerading).collect(),
        _ => {
            let accepts = |step: &&Step| step.is_accept_of_flannel();
            steps.iter().filter(accepts).collect()
        }
    }
}

/// The rule that only flanneld writes: pods' packets are masqueraded, but for those to groups.
fn leaves(step: &Step, networks: &[IpNetwork]) -> bool {
    let says = |network: &IpNetwork| {
        let to_nobody = Match {
            end: End::Destination,
            inside: false,
            network: groups(network.is_ipv6()),
        };
        step.then == Then::Masquerade
            && step.when == When::All(vec![Match::inside(End::Source, *network), to_nobody])
    };
    networks.iter().any(says)
}

/// The three that go with it: what stays among pods, what comes for this node's, what comes for
/// others'.
fn keeps_or_enters(step: &Step, networks: &[IpNetwork]) -> bool {
    let When::All(matches) = &step.when else {
        return false;
    };
    let [from, to] = matches.as_slice() else {
        return false;
    };
    let ends = (from.end, to.end, to.inside);
    if ends != (End::Source, End::Destination, true) || !networks.contains(&from.network) {
        return false;
    }
    let (network, part) = (from.network, to.network);
    match step.then {
        Then::Masquerade => !from.inside && part == network,
        Then::Return if from.inside => part == network,
        Then::Return => part.prefix() > network.prefix() && network.contains(part.network()),
        _ => false,
    }
}

/// How soon it is seen that a flanneld that ran has ended.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Several times what flanneld takes to put back what is missing.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::super::save::Saved;
    use super::*;

    #[test]
    fn what_a_living_flanneld_keeps_stays() {
        let now = Instant::now();
        assert_eq!(judge(None, now, || Some(7)), Verdict::Runs(7));
        assert_eq!(judge(None, now, || None), Verdict::Goes);
    }

    /// Back within seconds each time, for a day.
    #[test]
    fn one_that_cannot_be_seen_is_fought_ever_less_often() {
        let begun = Instant::now();
        let mut now = begun;
        let mut removed = Some(Removal::after(None, now));
        let mut removals = Vec::new();
        while now < begun + Duration::from_secs(86_400) {
            now += Duration::from_secs(5);
            if judge(removed, now, || None) == Verdict::Goes {
                removed = Some(Removal::after(removed, now));
                removals.push(now - begun);
            }
        }
        let seconds: Vec<u64> = removals.iter().map(Duration::as_secs).take(4).collect();
        assert_eq!(seconds, [60, 180, 420, 900]);
        assert!(removals.len() < 32, "{removals:?}");
    }

    #[test]
    fn what_comes_back_long_after_goes_at_once() {
        let now = Instant::now();
        let long_ago = Removal::after(None, now);
        let now = now + Duration::from_secs(600);
        assert_eq!(judge(Some(long_ago), now, || None), Verdict::Goes);
        assert_eq!(Removal::after(Some(long_ago), now).wait, SHORTEST);
    }

    fn found(table: &str, base: &str, saved: &str) -> Vec<String> {
        let networks: Vec<IpNetwork> = vec!["10.244.0.0/16".parse().unwrap()];
        let saved = Saved::parse(&format!(":{base} ACCEPT [0:0]\n{saved}"));
        let steps = saved.filter(base).unwrap().chains[base].clone();
        let lines = rules(table, &steps, &networks).into_iter();
        lines.map(|step| format!("{:?}", step.handle)).collect()
    }

    const OF_0_14: &str = "-A POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN\n\
        -A POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully\n\
        -A POSTROUTING ! -s 10.244.0.0/16 -d 10.244.3.0/24 -j RETURN\n\
        -A POSTROUTING ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully\n";

    #[test]
    fn rules_of_0_14_are_known_by_all_that_they_say() {
        assert_eq!(found("nat", "POSTROUTING", OF_0_14).len(), 4);
        // Without the one that only flanneld writes, they may be anybody's.
        let others: Vec<&str> = OF_0_14.lines().filter(|l| !l.contains("224")).collect();
        assert_eq!(found("nat", "POSTROUTING", &others.join("\n")), [""; 0]);
        let anothers = OF_0_14.replace("10.244.", "10.99.");
        assert_eq!(found("nat", "POSTROUTING", &anothers), [""; 0]);
        let docker = "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
            -A POSTROUTING -s 10.244.0.0/16 -d 10.9.0.0/16 -j RETURN\n\
            -A POSTROUTING -s 10.244.0.0/16 -o eth1 -j MASQUERADE\n";
        let mixed = format!("{docker}{OF_0_14}");
        assert_eq!(
            found("nat", "POSTROUTING", &mixed),
            found("nat", "POSTROUTING", OF_0_14)
        );
    }

    #[test]
    fn rules_with_its_comment_are_its_own_and_accepts_without_one_are_not() {
        let masq = "-m comment --comment \"flanneld masq\"";
        let saved = format!(
            "-A POSTROUTING -m mark --mark 0x4000/0x4000 {masq} -j RETURN\n\
             -A POSTROUTING -s 10.99.0.0/16 ! -d 224.0.0.0/4 {masq} -j MASQUERADE\n\
             -A POSTROUTING {masq} -j FLANNEL-POSTRTG\n"
        );
        assert_eq!(found("nat", "POSTROUTING", &saved).len(), 2);
        let forward = "-m comment --comment \"flanneld forward\"";
        let saved = format!(
            "-A FORWARD -s 10.244.0.0/16 {forward} -j ACCEPT\n\
             -A FORWARD -d 10.244.0.0/16 {forward} -j ACCEPT\n\
             -A FORWARD -d 10.244.0.0/16 -j ACCEPT\n\
             -A FORWARD -i lo {forward} -j ACCEPT\n"
        );
        assert_eq!(found("filter", "FORWARD", &saved).len(), 2);
    }
}
