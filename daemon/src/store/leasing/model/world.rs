//! The store as it should be: keys, versions, ends, and a ledger of who may write what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lease::{Attrs, Identity};
use crate::store::registry::{Change, Entry, Event, Expected, Outcome, Write};

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) rows: BTreeMap<String, Row>,
    /// All that ever happened; a node's place in it is what it has heard.
    pub(super) history: Vec<Event>,
    version: i64,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) entry: Entry,
    pub(super) owner: Owner,
    pub(super) ends: Option<Duration>,
}

/// Who a key belongs to, whatever it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// None: a flanneld, or an operator's reservation.
    pub(super) identity: Option<Identity>,
    pub(super) address: Option<Ipv4Addr>,
}

/// A node that writes. What bore its address when the process saw it stays its own, though the
/// node moved since.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) identity: Identity,
    pub(super) formerly: Option<Identity>,
    pub(super) addresses: BTreeSet<Ipv4Addr>,
}

impl Owner {
    /// The one rule: oneself; what bears no name and our address; or our address and our name,
    /// which is us before we were installed anew, or the very name that we had before.
    fn lets(&self, who: &Writer) -> bool {
        let same_address = self
            .address
            .is_some_and(|address| who.addresses.contains(&address));
        match &self.identity {
            Some(identity) if *identity == who.identity => true,
            Some(identity) => {
                let was_ours = who.formerly.as_ref() == Some(identity);
                same_address && (was_ours || identity.node == who.identity.node)
            }
            None => same_address,
        }
    }
}

impl World {
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.rows.values().map(|row| row.entry.clone()).collect()
    }

    /// A node's write. Whatever passes must have been that node's to do.
    pub(super) fn commit(&mut self, change: &Change, who: &Writer) -> Outcome {
        let found = self.rows.get(&change.key);
        let as_expected = match (found, change.expected) {
            (None, Expected::Absent) => true,
            (Some(row), Expected::Version(version)) => row.entry.version == version,
            _ => false,
        };
        if !as_expected {
            return Outcome::Otherwise(found.map(|row| row.entry.clone()));
        }
        if let Some(row) = found {
            assert!(row.owner.lets(who), "{who:?} writes over {row:?}");
        }
        let lasted = found.is_some_and(|row| row.entry.lasts);
        match &change.write {
            Write::Put { value, expires } => {
                assert!(
                    !lasted || expires.is_none(),
                    "{who:?} makes a lease of {found:?}"
                );
                let attrs = Attrs::parse(value).unwrap();
                let identity = attrs.extra.and_then(|extra| extra.identity);
                let owner = Owner {
                    identity,
                    address: attrs.public_ip,
                };
                Outcome::Done(self.put(&change.key, value, owner, *expires))
            }
            Write::Delete => {
                assert!(!lasted, "{who:?} deletes {found:?}");
                Outcome::Done(self.delete(&change.key))
            }
        }
    }

    pub(super) fn put(
        &mut self,
        key: &str,
        value: &str,
        owner: Owner,
        lasts: Option<Duration>,
    ) -> i64 {
        self.version += 1;
        let entry = Entry {
            key: key.to_owned(),
            value: value.to_owned(),
            version: self.version,
            lasts: lasts.is_none(),
        };
        let ends = lasts.map(|lasts| self.now + lasts);
        self.history.push(Event::Put(entry.clone()));
        self.rows.insert(key.to_owned(), Row { entry, owner, ends });
        self.version
    }

    pub(super) fn delete(&mut self, key: &str) -> i64 {
        self.version += 1;
        if self.rows.remove(key).is_some() {
            self.history.push(Event::Gone {
                key: key.to_owned(),
            });
        }
        self.version
    }

    /// Whether a lease ended.
    pub(super) fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        let over = |row: &Row| row.ends.is_some_and(|ends| ends <= self.now);
        let over: Vec<String> = self
            .rows
            .iter()
            .filter(|(_, row)| over(row))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &over {
            self.delete(key);
        }
        !over.is_empty()
    }
}
