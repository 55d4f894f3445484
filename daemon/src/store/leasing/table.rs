//! The keys under `subnets/`, as far as they are known here, parsed once.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lease::{Attrs, Lease, Subnets};
use crate::store::registry::{Entry, Event};

#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: BTreeMap<String, Row>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub version: i64,
    pub lasts: bool,
    /// None if the key is none.
    pub subnets: Option<Subnets>,
    /// The error says what is wrong with key or value.
    pub lease: Result<Arc<Lease>, String>,
}

impl Table {
    /// What was known before counts no more. Whether anything is different.
    pub fn replace(&mut self, entries: Vec<Entry>) -> bool {
        let mut old = std::mem::take(&mut self.rows);
        let mut changed = false;
        for entry in entries {
            let known = old.remove(&entry.key);
            changed |= self.insert(known, entry);
        }
        changed | !old.is_empty()
    }

    /// Whether anything is different but a version.
    pub fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Put(entry) => self.put(entry),
            Event::Gone { key } => self.remove(&key),
        }
    }

    /// Of the past it takes nothing: the answer to a write may come before what was told earlier.
    pub fn put(&mut self, entry: Entry) -> bool {
        let known = self.rows.get(&entry.key);
        if !entry.key.starts_with(PREFIX) || known.is_some_and(|row| entry.version < row.version) {
            return false;
        }
        let known = self.rows.remove(&entry.key);
        self.insert(known, entry)
    }

    pub fn remove(&mut self, key: &str) -> bool {
        self.rows.remove(key).is_some()
    }

    pub fn get(&self, key: &str) -> Option<&Row> {
        self.rows.get(key)
    }

    pub fn rows(&self) -> impl Iterator<Item = (&str, &Row)> {
        self.rows.iter().map(|(key, row)| (key.as_str(), row))
    }

    /// What of it `other` has not.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        self.rows.retain(|key, _| !other.rows.contains_key(key));
        self
    }

    /// With what `other` has beyond it.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        for (key, row) in other.rows {
            self.rows.entry(key).or_insert(row);
        }
        self
    }

    pub fn count(&self) -> usize {
        self.rows.len()
    }

    fn insert(&mut self, known: Option<Row>, entry: Entry) -> bool {
        let Entry {
            key,
            value,
            version,
            lasts,
        } = entry;
        if let Some(row) = known
            .as_ref()
            .filter(|row| row.version == version && row.lasts == lasts)
        {
            self.rows.insert(key, row.clone());
            return false;
        }
        let mut row = Row::parse(&key, &value, version, lasts);
        let mut changed = true;
        if let Some(known) = known {
            changed = known.lease != row.lease || known.lasts != lasts;
            if !changed {
                // Readers who compare by pointer see that it is the same.
                row.lease = known.lease;
            }
        }
        self.rows.insert(key, row);
        changed
    }
}

impl Row {
    pub fn parse(key: &str, value: &str, version: i64, lasts: bool) -> Self {
        let subnets = Subnets::from_key(key.strip_prefix(PREFIX).unwrap_or(key));
        let lease = subnets.clone().and_then(|subnets| {
            let attrs = Attrs::parse(value)?;
            Ok(Arc::new(Lease { subnets, attrs }))
        });
        Self {
            version,
            lasts,
            subnets: subnets.ok(),
            lease,
        }
    }
}

/// The key of a lease on these subnets.
pub fn key_of(subnets: &Subnets) -> Option<String> {
    subnets.to_key().map(|key| format!("{PREFIX}{key}"))
}

const PREFIX: &str = "subnets/";
