//! Getting a lease and keeping it: a state machine without clock, chance or network. It is told
//! what the store's keys are and how its writes ended, and says what to do next. It decides anew
//! from the table of keys each time, so that it matters little which news came in which order.

pub mod backoff;
pub mod choice;
pub mod dice;
pub(in crate::store) mod disturbed;
mod hold;
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
use disturbed::Disturbed;
use hold::{Hold, Stored};
use owner::own_leases;
use table::{Table, key_of};

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
            disturbed: Disturbed::new(),
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
        let put_right = self.hold.as_ref().is_some_and(Hold::is_as_wanted);
        self.disturbed.told(put_right, now)
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

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
