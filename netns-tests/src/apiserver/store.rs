//! What there is, each thing with the version of its last change, and the changes themselves.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// In the plural, as paths have it.
    pub kind: String,
    /// Empty for what belongs to the whole cluster.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub fn node(name: &str) -> Self {
        Self::new("nodes", "", name)
    }

    /// Of an object that names its kind.
    pub(super) fn of(object: &Value) -> Self {
        let kind = object["kind"].as_str().expect("an object with a kind");
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        Self::new(
            &format!("{}s", kind.to_lowercase()),
            text("namespace"),
            text("name"),
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Added,
    Modified,
    Deleted,
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) deed: Deed,
    pub(super) key: Key,
    pub(super) object: Value,
}

#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<Key, Value>,
    /// Of everything.
    pub(super) version: u64,
    changes: Vec<Change>,
    /// Changes up to here are forgotten.
    forgotten: u64,
    made: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            // Clients that take it for small are wrong.
            version: 1000,
            changes: Vec::new(),
            forgotten: 1000,
            made: 0,
        }
    }
}

impl Store {
    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.after(&Key::new(kind, "", ""))
            .map(|(_, object)| object)
    }

    /// Of the same kind, in order.
    pub(super) fn after<'a>(
        &'a self,
        key: &Key,
    ) -> impl Iterator<Item = (&'a Key, &'a Value)> + use<'a> {
        let kind = key.kind.clone();
        let range = (Bound::Excluded(key.clone()), Bound::Unbounded);
        let found = self.objects.range::<Key, _>(range);
        found.take_while(move |(key, _)| key.kind == kind)
    }

    /// None if the client has to begin anew.
    pub(super) fn changes_since(&self, version: u64) -> Option<&[Change]> {
        if version < self.forgotten {
            return None;
        }
        let first = self.changes.partition_point(|c| c.version <= version);
        Some(&self.changes[first..])
    }

    /// A change that changes nothing is none.
    pub(super) fn put(&mut self, mut object: Value) -> Value {
        let key = Key::of(&object);
        let before = self.objects.get(&key);
        let metadata = &mut object["metadata"];
        match before {
            Some(before) => {
                for given in ["uid", "creationTimestamp", "resourceVersion"] {
                    metadata[given] = before["metadata"][given].clone();
                }
            }
            None => {
                self.made += 1;
                metadata["uid"] = json!(format!(
                    "7a5f3c1e-0000-4000-8000-{:012x}",
                    self.made + 0x1000
                ));
                metadata["creationTimestamp"] = json!("2026-01-15T08:30:00Z");
            }
        }
        if before == Some(&object) {
            return object;
        }
        let deed = match before {
            Some(_) => Deed::Modified,
            None => Deed::Added,
        };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key.clone(), object.clone());
        self.record(deed, key, object.clone());
        object
    }

    pub(super) fn delete(&mut self, key: &Key) {
        let mut object = self.objects.remove(key).expect("an object to delete");
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.record(Deed::Deleted, key.clone(), object);
    }

    pub(super) fn compact(&mut self) {
        // Even who has seen all has to begin anew: as after a restart of the server's cache.
        self.version += 1;
        self.forgotten = self.version;
        self.changes.clear();
    }

    fn record(&mut self, deed: Deed, key: Key, object: Value) {
        self.changes.push(Change {
            version: self.version,
            deed,
            key,
            object,
        });
    }
}
