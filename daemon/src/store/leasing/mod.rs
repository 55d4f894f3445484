//! Getting a lease and keeping it: a state machine without clock, chance or network. It is told
//! what the store's keys are and how its writes ended, and says what to do next. It decides anew
//! from the table of keys each time, so that it matters little which news came in which order.

pub mod backoff;
pub mod choice;
pub mod dice;
pub mod owner;
pub mod peers;
pub mod table;

use std::sync::Arc;
use std::time::Duration;

use crate::conf::NetConf;
use crate::lease::{Attrs, Lease, Subnets};
use crate::store::registry::{Change, Entry, Expected, Outcome, Trouble, Write};
use crate::store::{Claim, Own};
use backoff::Backoff;
use choice::Taken;
use dice::Dice;
use owner::{Ours, holder, ours};
use table::{Row, Table, key_of};

#[derive(Debug)]
pub struct Leasing {
    terms: Terms,
    dice: Dice,
    conf: Option<Arc<NetConf>>,
    claim: Option<Claim>,
    hold: Option<Hold>,
    /// What we gave up because the configuration forbids it: the next choice leans on it.
    former: Option<Subnets>,
    refused: Option<String>,
    asked: Option<Asked>,
    /// The table may be wrong about us: list before the next write.
    doubtful: bool,
    list_at: Duration,
    /// A list for good measure.
    refresh_at: Option<Duration>,
    write_at: Duration,
    failing: Backoff,
    losing_races: Backoff,
    disturbed: Disturbed,
}

/// How long a lease lasts, and how long before its end it is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub lasts: Duration,
    pub margin: Duration,
}

/// Times are counted from any fixed moment on, and never go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// List all keys, and say so with [`Leasing::listed`].
    List,
    /// Commit, and say how it ended with [`Leasing::answered`].
    Commit(Change),
    /// Nothing to do until then, or until something is known that was not.
    Wait(Option<Duration>),
}

/// The subnets that our pods have. Nothing but the configuration of a later start takes them away.
#[derive(Debug)]
struct Hold {
    key: String,
    /// As we want it: what the key should say.
    lease: Arc<Lease>,
    /// What the key says and its version, as far as we know; None if it is not there or not ours.
    stored: Option<Stored>,
    renew_at: Option<Duration>,
    /// Somebody else has it: who. Until we have it back, not just until it is free.
    lost: Option<String>,
    /// Somebody else has it at this very moment.
    occupied: bool,
}

#[derive(Debug)]
struct Stored {
    version: i64,
    lasts: bool,
    attrs: Attrs,
}

/// A write whose answer is out.
#[derive(Debug)]
struct Asked {
    change: Change,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    Acquire(Lease),
    Keep(Attrs),
    GiveUp(Subnets),
}

/// Somebody else writes or deletes our key. The first time it is put right at once; then with
/// growing patience, so that two who disagree do not write in turns as fast as they can.
#[derive(Debug)]
struct Disturbed {
    backoff: Backoff,
    last: Option<Duration>,
    repeatedly: bool,
    told: Option<String>,
}

impl Leasing {
    pub fn new(terms: Terms, seed: u64) -> Self {
        Self {
            terms,
            dice: Dice::new(seed),
            conf: None,
            claim: None,
            hold: None,
            former: None,
            refused: None,
            asked: None,
            doubtful: true,
            list_at: Duration::ZERO,
            refresh_at: None,
            write_at: Duration::ZERO,
            failing: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
            losing_races: Backoff::new(Duration::from_millis(4), Duration::from_millis(500)),
            disturbed: Disturbed {
                backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(60)),
                last: None,
                repeatedly: false,
                told: None,
            },
        }
    }

    pub fn configured(&mut self, conf: Arc<NetConf>) {
        self.conf = Some(conf);
    }

    pub fn claimed(&mut self, claim: Option<Claim>) {
        self.claim = claim;
        if let (Some(claim), Some(hold)) = (&self.claim, &mut self.hold) {
            hold.aspire(claim);
        }
    }

    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    pub fn own(&self) -> Own {
        match (&self.hold, &self.refused) {
            (
                Some(Hold {
                    lease, lost: None, ..
                }),
                _,
            ) => Own::Held(lease.clone()),
            (
                Some(Hold {
                    lease,
                    lost: Some(why),
                    ..
                }),
                _,
            ) => Own::Lost {
                was: lease.clone(),
                why: why.clone(),
            },
            (None, Some(why)) => Own::Refused(why.clone()),
            (None, None) => Own::Unclaimed,
        }
    }

    /// The subnets that are ours, whoever has the key.
    pub fn subnets(&self) -> Option<Subnets> {
        self.hold.as_ref().map(|hold| hold.lease.subnets)
    }

    /// Somebody else writes our key: what to tell.
    pub fn disturbance(&self, now: Duration) -> Option<&str> {
        let recent = self
            .disturbed
            .last
            .is_some_and(|last| now.saturating_sub(last) < TOLD_FOR);
        let put_right = self.hold.as_ref().is_some_and(Hold::is_as_wanted);
        let over = !recent || (put_right && !self.disturbed.repeatedly);
        self.disturbed.told.as_deref().filter(|_| !over)
    }

    /// For how long the store keeps our lease if we are not heard of again. None for a
    /// reservation, which lasts, and while we have no lease.
    pub fn expires_in(&self, now: Duration) -> Option<Duration> {
        let hold = self.hold.as_ref()?;
        hold.stored.as_ref().filter(|stored| !stored.lasts)?;
        Some((hold.renew_at? + self.terms.margin).saturating_sub(now))
    }

    /// Changes were missed: the table cannot be relied on.
    pub fn missed(&mut self) {
        self.doubtful = true;
    }

    /// The table is as the store was a moment ago.
    pub fn listed(&mut self) {
        self.doubtful = false;
        self.refresh_at = None;
        self.list_at = Duration::ZERO;
        self.failing.reset();
    }

    pub fn list_failed(&mut self, now: Duration) {
        self.list_at = now + self.failing.patient(&mut self.dice);
    }

    pub fn next(&mut self, table: &Table, now: Duration) -> Step {
        if self.doubtful || self.refresh_at.is_some_and(|at| at <= now) {
            match self.list_at <= now {
                true => return Step::List,
                false => return Step::Wait(Some(self.list_at)),
            }
        }
        let (Some(conf), Some(claim)) = (self.conf.clone(), self.claim.clone()) else {
            return Step::Wait(None);
        };
        if self.hold.is_none() {
            self.adopt(table, &conf, &claim, now);
        }
        self.settle(table, &claim, now);
        if now < self.write_at {
            return Step::Wait(self.refresh_at.into_iter().chain([self.write_at]).min());
        }
        let asked = match &self.hold {
            Some(hold) => hold.keep(self.terms, now),
            None => self.acquire(table, &conf, &claim, now),
        };
        let Some(asked) = asked else {
            let stored = self.hold.as_ref().filter(|hold| hold.stored.is_some());
            let renew_at = stored.and_then(|hold| hold.renew_at);
            return Step::Wait(self.refresh_at.into_iter().chain(renew_at).min());
        };
        let change = asked.change.clone();
        self.asked = Some(asked);
        Step::Commit(change)
    }

    /// `asked_at` is when the commit was begun: the store counts from then on or later.
    /// In between the table is left alone: news of what followed the write would be undone by it.
    pub fn answered(
        &mut self,
        table: &mut Table,
        answer: Result<Outcome, Trouble>,
        asked_at: Duration,
        now: Duration,
    ) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        match answer {
            Ok(Outcome::Done(version)) => self.done(table, asked, version, asked_at),
            Ok(Outcome::Otherwise(entry)) => self.beaten(table, asked, entry, now),
            // It may have happened or not.
            Err(_) => {
                self.doubtful = true;
                self.list_at = now + self.failing.patient(&mut self.dice);
            }
        }
    }

    /// Makes a lease that is ours already the one that we hold.
    fn adopt(&mut self, table: &Table, conf: &NetConf, claim: &Claim, now: Duration) {
        let own = own_leases(table, claim);
        let fit = own.filter(|own| choice::compatible(conf, &own.lease.subnets));
        let Some(best) = fit.max_by_key(|own| own.rank(claim)) else {
            return;
        };
        let mut hold = Hold {
            key: best.key.to_owned(),
            lease: best.lease.clone(),
            stored: Some(Stored::of(best.row, best.lease)),
            // How much of its time is left, nobody says.
            renew_at: (!best.row.lasts).then_some(now),
            lost: None,
            occupied: false,
        };
        hold.aspire(claim);
        self.refused = None;
        self.hold = Some(hold);
    }

    /// Compares what we hold with what the table says.
    fn settle(&mut self, table: &Table, claim: &Claim, now: Duration) {
        let Some(hold) = &mut self.hold else { return };
        let told = match table.get(&hold.key) {
            None => hold.miss(table, claim),
            Some(row) => hold.compare(row, claim),
        };
        if let Some(told) = told {
            let write_at = self.disturbed.until(told, now, &mut self.dice);
            self.write_at = self.write_at.max(write_at);
        }
    }

    fn acquire(
        &mut self,
        table: &Table,
        conf: &NetConf,
        claim: &Claim,
        now: Duration,
    ) -> Option<Asked> {
        // As the contract has it: what the configuration forbids is deleted first. A reservation
        // is the operator's, who may change the configuration back.
        if let Some(unfit) = own_leases(table, claim).find(|own| !own.row.lasts) {
            let purpose = Purpose::GiveUp(unfit.lease.subnets);
            let expected = Expected::Version(unfit.row.version);
            let change = Change {
                key: unfit.key.to_owned(),
                expected,
                write: Write::Delete,
            };
            return Some(Asked { change, purpose });
        }
        let taken = Taken::by(table.rows().filter_map(|(_, row)| row.subnets.as_ref()));
        let preferred: Vec<Subnets> = claim.previous.into_iter().chain(self.former).collect();
        let chosen = choice::choose(conf, &preferred, &taken, &mut self.dice);
        let chosen = chosen.and_then(|subnets| match key_of(&subnets) {
            Some(key) => Ok((key, subnets)),
            None => Err("a lease in this store needs an IPv4 subnet".to_owned()),
        });
        match chosen {
            Ok((key, subnets)) => {
                self.refused = None;
                let attrs = claim.attrs(subnets, None);
                let change = put(key, Expected::Absent, &attrs, Some(self.terms.lasts));
                Some(Asked {
                    change,
                    purpose: Purpose::Acquire(Lease { subnets, attrs }),
                })
            }
            Err(why) => {
                self.refused = Some(why);
                let wait = REFRESH / 2 + self.dice.within(REFRESH / 2);
                self.refresh_at.get_or_insert(now + wait);
                None
            }
        }
    }

    fn done(&mut self, table: &mut Table, asked: Asked, version: i64, asked_at: Duration) {
        self.failing.reset();
        self.losing_races.reset();
        let Asked { change, purpose } = asked;
        let (value, lasts) = match change.write {
            Write::Put { value, expires } => (value, expires.is_none()),
            Write::Delete => {
                table.remove(&change.key);
                if let Purpose::GiveUp(subnets) = purpose {
                    self.former = Some(subnets);
                }
                return;
            }
        };
        let key = change.key;
        table.put(Entry {
            key: key.clone(),
            value,
            version,
            lasts,
        });
        let renew_after = self.terms.lasts.saturating_sub(self.terms.margin);
        let renew_at = (!lasts).then(|| asked_at + renew_after);
        match purpose {
            Purpose::Acquire(lease) => {
                let stored = Some(Stored {
                    version,
                    lasts,
                    attrs: lease.attrs.clone(),
                });
                let lease = Arc::new(lease);
                let mut hold = Hold {
                    key,
                    lease,
                    stored,
                    renew_at,
                    lost: None,
                    occupied: false,
                };
                if let Some(claim) = &self.claim {
                    hold.aspire(claim);
                }
                self.hold = Some(hold);
            }
            Purpose::Keep(attrs) => {
                if let Some(hold) = &mut self.hold {
                    hold.stored = Some(Stored {
                        version,
                        lasts,
                        attrs,
                    });
                    hold.renew_at = renew_at;
                    hold.lost = None;
                }
            }
            Purpose::GiveUp(_) => {}
        }
    }

    /// Somebody was faster. The entry is what the store has by now.
    fn beaten(&mut self, table: &mut Table, asked: Asked, entry: Option<Entry>, now: Duration) {
        match entry {
            Some(entry) => table.put(entry),
            None => table.remove(&asked.change.key),
        };
        let wait = self.losing_races.scattered(&mut self.dice);
        match asked.purpose {
            // Whoever lost one race knows little of the others: list, then choose again.
            Purpose::Acquire(_) => {
                self.doubtful = true;
                self.list_at = now + wait;
            }
            Purpose::Keep(_) | Purpose::GiveUp(_) => self.write_at = self.write_at.max(now + wait),
        }
    }
}

impl Hold {
    /// Follows what the node claims. The MAC addresses stay as they were published.
    fn aspire(&mut self, claim: &Claim) {
        let Lease { subnets, attrs } = &*self.lease;
        let wanted = claim.attrs(*subnets, Some(attrs));
        if wanted != *attrs {
            self.lease = Arc::new(Lease {
                subnets: *subnets,
                attrs: wanted,
            });
        }
    }

    fn is_as_wanted(&self) -> bool {
        let stored = self.stored.as_ref();
        stored.is_some_and(|stored| stored.attrs == self.lease.attrs)
    }

    /// The key is not there.
    fn miss(&mut self, table: &Table, claim: &Claim) -> Option<String> {
        let rival = table.rows().find(|(_, row)| {
            let overlaps = |subnets: &Subnets| subnets.overlaps(&self.lease.subnets);
            row.subnets.as_ref().is_some_and(overlaps) && ours(claim, row).is_none()
        });
        self.occupied = rival.is_some();
        if let Some((_, row)) = rival {
            self.lost = Some(self.lost_to(row));
        }
        let gone = self.stored.take().is_some() && !self.occupied;
        gone.then(|| format!("{} was revoked or had expired; it is taken back", self.key))
    }

    /// The key is there: ours as we know it, ours and changed, or somebody else's.
    fn compare(&mut self, row: &Row, claim: &Claim) -> Option<String> {
        let known = self.stored.as_ref();
        if known.is_some_and(|known| known.version == row.version) {
            return None;
        }
        // Nor is a key ours that cannot be read: others may have had it since we looked.
        let Some(lease) = ours(claim, row).and_then(|_| row.lease.as_ref().ok()) else {
            (self.stored, self.occupied) = (None, true);
            self.lost = Some(self.lost_to(row));
            return None;
        };
        let found = Stored::of(row, lease);
        let as_wanted = found.attrs == self.lease.attrs;
        let foreign = known.is_some_and(|known| !as_wanted && known.attrs != found.attrs);
        if self.renew_at.is_none() && !found.lasts {
            // Somebody made a lease of our reservation, and we don't know when it ends.
            self.renew_at = Some(Duration::ZERO);
        }
        self.stored = Some(found);
        (self.lost, self.occupied) = (None, false);
        foreign.then(|| {
            format!(
                "{} is overwritten by somebody else: does another weftd or flanneld run with this \
                 node's name and machine-id, or with its public address?",
                self.key
            )
        })
    }

    fn lost_to(&self, row: &Row) -> String {
        let subnets = self.lease.subnets;
        let kept = "the pods here keep it, and it is taken back as soon as it is free";
        match &row.lease {
            Ok(lease) => format!(
                "{subnets} is leased to {}; {kept}; to give it up, drain the node and restart weftd",
                holder(lease)
            ),
            Err(why) => format!(
                "whose {subnets} is cannot be told, since {why}; {kept}; if no other node uses it, \
                 delete the key {}",
                self.key
            ),
        }
    }

    /// What it takes to keep it: nothing, mostly.
    fn keep(&self, terms: Terms, now: Duration) -> Option<Asked> {
        let attrs = &self.lease.attrs;
        let (expected, lasts) = match &self.stored {
            None if self.occupied => return None,
            None => (Expected::Absent, false),
            Some(stored) => {
                let due = self.renew_at.is_some_and(|at| at <= now);
                if !due && stored.attrs == *attrs {
                    return None;
                }
                (Expected::Version(stored.version), stored.lasts)
            }
        };
        let expires = (!lasts).then_some(terms.lasts);
        let change = put(self.key.clone(), expected, attrs, expires);
        Some(Asked {
            change,
            purpose: Purpose::Keep(attrs.clone()),
        })
    }
}

impl Stored {
    fn of(row: &Row, lease: &Lease) -> Self {
        Self {
            version: row.version,
            lasts: row.lasts,
            attrs: lease.attrs.clone(),
        }
    }
}

impl Disturbed {
    /// When to put it right.
    fn until(&mut self, told: String, now: Duration, dice: &mut Dice) -> Duration {
        let quiet = self
            .last
            .is_none_or(|last| now.saturating_sub(last) > QUIET);
        self.last = Some(now);
        self.repeatedly = !quiet;
        self.told = Some(told);
        if quiet {
            self.backoff.reset();
            return now;
        }
        now + self.backoff.patient(dice)
    }
}

/// A lease in the table that is ours.
struct OwnLease<'a> {
    key: &'a str,
    row: &'a Row,
    lease: &'a Arc<Lease>,
    ours: Ours,
}

impl OwnLease<'_> {
    /// Pods may still have the previous subnet; a reservation was meant for us.
    fn rank(&self, claim: &Claim) -> (bool, bool, Ours) {
        let previous = claim
            .previous
            .is_some_and(|previous| previous.v4 == self.lease.subnets.v4);
        (previous, self.row.lasts, self.ours)
    }
}

fn own_leases<'a>(table: &'a Table, claim: &'a Claim) -> impl Iterator<Item = OwnLease<'a>> {
    table.rows().filter_map(|(key, row)| {
        let ours = ours(claim, row)?;
        let lease = row.lease.as_ref().ok()?;
        Some(OwnLease {
            key,
            row,
            lease,
            ours,
        })
    })
}

fn put(key: String, expected: Expected, attrs: &Attrs, expires: Option<Duration>) -> Change {
    let value = attrs.to_json();
    Change {
        key,
        expected,
        write: Write::Put { value, expires },
    }
}

/// How often an exhausted pool is looked at, even if no change was told.
const REFRESH: Duration = Duration::from_secs(10);
/// After so long without a disturbance the next one is the first.
const QUIET: Duration = Duration::from_secs(60);
const TOLD_FOR: Duration = Duration::from_secs(600);

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
