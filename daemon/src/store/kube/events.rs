//! What an operator must know, as Events of this node: `kubectl describe node` shows them. Each
//! thing is one Event, counted up while it goes on, and a storm of things is not a storm of Events.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::api::Api;
use super::condition::shortened;
use super::fault::Fault;
use crate::reconcile::Report;
use crate::rfc3339::Utc;
use crate::store::{Own, View};

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matter {
    pub(super) reason: &'static str,
    /// What makes it another matter than those of the same reason.
    pub(super) about: String,
    pub(super) message: String,
    /// How often it happened, as far as it happens and not lasts.
    pub(super) times: u64,
    pub(super) is_warning: bool,
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Telling {
    pub(super) matter: Matter,
    /// Of the Event.
    pub(super) name: String,
    pub(super) count: u64,
    pub(super) first: SystemTime,
    pub(super) last: SystemTime,
}

/// Remembers what was told.
#[derive(Debug)]
pub(super) struct Teller {
    told: BTreeMap<(&'static str, String), Told>,
    /// How many new Events may be made.
    allowance: u32,
    granted: Duration,
    number: u64,
    seed: u64,
}

#[derive(Debug)]
struct Told {
    name: String,
    first: SystemTime,
    at: Duration,
    count: u64,
    times: u64,
    message: String,
}

impl Teller {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            told: BTreeMap::new(),
            allowance: BURST,
            granted: Duration::ZERO,
            number: 0,
            seed,
        }
    }

    /// What of `matters` is to be told. `now` counts from the start, `clock` is what it says.
    pub(super) fn due(
        &mut self,
        matters: Vec<Matter>,
        now: Duration,
        clock: SystemTime,
    ) -> Vec<Telling> {
        let grants = now.saturating_sub(self.granted).as_secs() / EACH.as_secs();
        if grants > 0 {
            self.granted = now;
            let grants = u32::try_from(grants).unwrap_or(BURST);
            self.allowance = self.allowance.saturating_add(grants).min(BURST);
        }
        // What is over and happens anew is told anew.
        self.told.retain(|(reason, about), told| {
            now.saturating_sub(told.at) < APART
                || matters
                    .iter()
                    .any(|m| m.reason == *reason && m.about == *about)
        });
        matters
            .into_iter()
            .filter_map(|matter| self.tell(matter, now, clock))
            .collect()
    }

    fn tell(&mut self, matter: Matter, now: Duration, clock: SystemTime) -> Option<Telling> {
        let key = (matter.reason, matter.about.clone());
        if let Some(told) = self.told.get_mut(&key) {
            let quiet = now.saturating_sub(told.at);
            let is_news = told.message != matter.message || told.times != matter.times;
            if !(is_news && quiet >= APART || quiet >= AGAIN) {
                return None;
            }
            told.count += matter.times.saturating_sub(told.times).max(1);
            (told.at, told.times) = (now, matter.times);
            told.message.clone_from(&matter.message);
            return Some(Telling {
                name: told.name.clone(),
                count: told.count,
                first: told.first,
                last: clock,
                matter,
            });
        }
        self.allowance = self.allowance.checked_sub(1)?;
        self.number += 1;
        let told = Told {
            name: format!("{:016x}", self.seed.wrapping_add(self.number)),
            first: clock,
            at: now,
            count: matter.times.max(1),
            times: matter.times,
            message: matter.message.clone(),
        };
        let telling = Telling {
            name: told.name.clone(),
            count: told.count,
            first: clock,
            last: clock,
            matter,
        };
        self.told.insert(key, told);
        Some(telling)
    }
}

/// What there is to tell of how things stand. That the node is not ready is told once it `lasts`.
pub(super) fn matters(view: &View, report: &Report, lasts: bool) -> Vec<Matter> {
    let mut matters = Vec::new();
    let mut warn = |reason, about: &str, message: String| {
        matters.push(Matter {
            reason,
            about: about.to_owned(),
            message,
            times: 1,
            is_warning: true,
        });
    };
    match &view.own {
        Own::Lost { why, .. } => warn("LeaseLost", "", why.clone()),
        Own::Refused(why) => warn("NoSubnet", "", why.clone()),
        Own::Unclaimed | Own::Held(_) => {}
    }
    if let Some(Err(why)) = &view.conf {
        warn("ConfigurationWrong", "", why.clone());
    }
    if let Some(changed) = &view.conf_changed {
        warn("ConfigurationChanged", "", changed.clone());
    }
    for note in view.notes.iter().chain(&report.notes) {
        warn("Notice", note, note.clone());
    }
    let rubbish = view.peers.iter().flat_map(|peers| &peers.rubbish);
    let rubbish: Vec<_> = rubbish.map(|r| format!("{}: {}", r.name, r.why)).collect();
    if let Some(told) = several(&rubbish) {
        warn("PeerUnreadable", "", told);
    }
    let skipped: Vec<_> = report
        .skipped
        .iter()
        .map(|s| format!("{}: {}", s.subnet, s.why))
        .collect();
    if let Some(told) = several(&skipped) {
        warn("PeerLeftOut", "", told);
    }
    if let Err(why) = &report.ready
        && lasts
    {
        warn("NotReady", "", why.clone());
    }
    matters.extend(drift(report));
    matters
}

/// By the one who took it away.
fn drift(report: &Report) -> impl Iterator<Item = Matter> {
    report.repairs.iter().map(|((kind, command), times)| {
        let latest = report.last_repairs.iter().rev().find(|repaired| {
            let by = repaired.by.as_ref().and_then(|by| by.command.as_deref());
            by.unwrap_or("unknown") == command && repaired.what.starts_with(kind)
        });
        let what = latest.map_or_else(|| (*kind).to_owned(), |latest| latest.what.clone());
        let by = match command.as_str() {
            "unknown" => "somebody who cannot be told".to_owned(),
            command => format!("{command:?}"),
        };
        Matter {
            reason: "PutBack",
            about: format!("{kind} {command}"),
            message: format!("put back what {by} took away: {what}"),
            times: *times,
            is_warning: true,
        }
    })
}

fn several(told: &[String]) -> Option<String> {
    let first = told
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    match told.len() {
        0 => None,
        n if n <= SHOWN => Some(first),
        n => Some(format!("{first}; and {} more", n - SHOWN)),
    }
}

/// Sends them, one after the other. What cannot be sent within a while is let go.
pub(super) async fn send(
    node: watch::Receiver<String>,
    mut tellings: mpsc::Receiver<Telling>,
    api: watch::Receiver<Option<Api>>,
) {
    let mut forbidden = false;
    while let Some(telling) = tellings.recv().await {
        for _ in 0..ATTEMPTS {
            let node = node.borrow().clone();
            let ready = api.borrow().clone();
            let sent = match ready {
                Some(api) => post(&api, &node, &telling).await,
                None => Err(Fault::Broken),
            };
            match sent {
                Ok(()) => break,
                Err(Fault::Forbidden(why)) => {
                    if !forbidden {
                        tracing::warn!("no Events can be written: {why}");
                    }
                    forbidden = true;
                    break;
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

async fn post(api: &Api, node: &str, telling: &Telling) -> Result<(), Fault> {
    let event = event(node, telling);
    let first_time = telling.first == telling.last;
    if !first_time {
        let name = event["metadata"]["name"].as_str().unwrap_or_default();
        let patch = json!({
            "count": event["count"], "message": event["message"],
            "lastTimestamp": event["lastTimestamp"],
        });
        match api.patch_event(name, &patch).await {
            // They live for an hour.
            Err(Fault::NotFound(_)) => {}
            done => return done,
        }
    }
    api.post_event(&event).await
}

pub(super) fn event(node: &str, telling: &Telling) -> Value {
    let Telling { matter, name, .. } = telling;
    let time = |moment| Utc::of(moment).to_the_second().to_string();
    json!({
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {"name": format!("{node}.{name}"), "namespace": "default"},
        // kubectl describe looks for the name as uid, as the kubelet has it.
        "involvedObject": {"kind": "Node", "apiVersion": "v1", "name": node, "uid": node},
        "reason": matter.reason,
        "message": shortened(&matter.message, LONGEST),
        "type": if matter.is_warning { "Warning" } else { "Normal" },
        "source": {"component": "weftd", "host": node},
        "reportingComponent": "weftd",
        "reportingInstance": node,
        "firstTimestamp": time(telling.first),
        "lastTimestamp": time(telling.last),
        "count": telling.count,
    })
}

const SHOWN: usize = 3;
const LONGEST: usize = 1000;
const BURST: u32 = 10;
/// How long it takes to be allowed one more.
const EACH: Duration = Duration::from_secs(30);
/// Between two words on one matter.
const APART: Duration = Duration::from_secs(60);
/// When what lasts is told again, for Events are forgotten after an hour.
const AGAIN: Duration = Duration::from_secs(50 * 60);
const ATTEMPTS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn matter(about: &str, times: u64) -> Matter {
        Matter {
            reason: "PutBack",
            about: about.to_owned(),
            message: format!("{about} again"),
            times,
            is_warning: true,
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn at(teller: &mut Teller, now: u64, matters: &[Matter]) -> Vec<(String, u64)> {
        let clock = SystemTime::UNIX_EPOCH + seconds(now);
        let due = teller.due(matters.to_vec(), seconds(now), clock);
        due.into_iter()
            .map(|told| (told.matter.about, told.count))
            .collect()
    }

    #[test]
    fn what_goes_on_is_one_event_that_is_counted_up() {
        let mut teller = Teller::new(1);
        assert_eq!(at(&mut teller, 0, &[matter("a", 1)]), [("a".to_owned(), 1)]);
        assert_eq!(at(&mut teller, 5, &[matter("a", 4)]), []);
        assert_eq!(
            at(&mut teller, 61, &[matter("a", 9)]),
            [("a".to_owned(), 9)]
        );
        assert_eq!(at(&mut teller, 300, &[matter("a", 9)]), []);
        assert_eq!(at(&mut teller, 3200, &[matter("a", 9)]).len(), 1);
    }

    #[test]
    fn a_storm_of_matters_is_ten_events_and_one_more_each_half_minute() {
        let mut teller = Teller::new(1);
        let storm: Vec<_> = (0..100).map(|n| matter(&n.to_string(), 1)).collect();
        assert_eq!(at(&mut teller, 0, &storm).len(), 10);
        assert_eq!(at(&mut teller, 1, &storm).len(), 0);
        assert_eq!(at(&mut teller, 31, &storm).len(), 1);
        assert_eq!(at(&mut teller, 100, &storm).len(), 2);
    }

    #[test]
    fn an_event_is_of_the_node_and_in_the_namespace_that_nodes_have_theirs_in() {
        let clock = SystemTime::UNIX_EPOCH;
        let due = Teller::new(1).due(vec![matter("a", 3)], Duration::ZERO, clock);
        let event = event("node-1", &due[0]);
        assert_eq!(event["metadata"]["namespace"], "default");
        assert_eq!(event["involvedObject"]["name"], "node-1");
        assert_eq!(event["count"], 3);
        assert_eq!(event["lastTimestamp"], "1970-01-01T00:00:00Z");
    }
}
