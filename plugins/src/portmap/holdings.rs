//! All that an owner has, found by the owner's mark alone.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use weft_net::{
    Result,
    nft::{Element, Found, NftSocket, Object, StoredElement, Transaction, Value},
};

use super::{
    conf::{Plan, Published},
    entry::{Place, chains_of, mark_of},
    index::{Part, Record},
    key::Key,
    skeleton::{TABLE, conditional, group_set, is_group_of, map},
};

#[derive(Debug)]
pub(super) struct Holdings {
    mark: String,
    /// Whoever commits at this generation knows that nothing of this has changed.
    pub(super) generation: u32,
    pub(super) places: BTreeSet<Place>,
    pub(super) mapped: Vec<Mapped>,
    pub(super) has_conditions: bool,
    /// Which of the other things that were asked for stand.
    pub(super) others: Vec<bool>,
}

/// A host port that an owner has, and the pod behind it where it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) key: Key,
    pub(super) pod: Option<IpAddr>,
}

impl Mapped {
    /// What a plan says it is, whichever back-end has carried it out.
    pub(super) fn all_of(plan: &Plan) -> Vec<Self> {
        let mapped = |published: &Published| Self {
            key: published.key,
            pod: Some(published.pod),
        };
        plan.published().iter().map(mapped).collect()
    }
}

impl Holdings {
    /// What the owner's record tells, and what of `guesses` is the owner's. Asks for `others` too,
    /// since to ask at once costs nothing.
    pub(super) fn look(
        nft: &mut NftSocket,
        mark: &str,
        guesses: &[Key],
        others: &[Object<'_>],
    ) -> Result<Self> {
        let [conditions, _] = chains_of(mark);
        let first = Place::of_part(mark, 0);
        let mut objects = vec![Object::Chain(TABLE.chain(&conditions)), first.object()];
        objects.extend(others);
        let snapshot = nft.find(&objects)?;
        let mut holdings = Self {
            mark: mark.to_owned(),
            generation: snapshot.generation,
            places: BTreeSet::new(),
            mapped: Vec::new(),
            has_conditions: snapshot.found[0].is_some(),
            others: snapshot.found[2..].iter().map(Option::is_some).collect(),
        };
        let mut record = match &snapshot.found[1] {
            Some(Found::Element(part)) => holdings.read_record(nft, first, part)?,
            _ => Record::default(),
        };
        record.keys.extend(guesses);
        record.keys.sort_unstable();
        record.keys.dedup();
        holdings.find(nft, &record)?;
        Ok(holdings)
    }

    pub(super) fn delete_all(&self, transaction: &mut Transaction) {
        delete(transaction, &self.places);
        self.delete_conditions(transaction);
    }

    pub(super) fn delete_conditions(&self, transaction: &mut Transaction) {
        if self.has_conditions {
            delete_chains(transaction, &chains_of(&self.mark));
        }
    }

    fn read_record(
        &mut self,
        nft: &mut NftSocket,
        first: Place,
        found: &StoredElement,
    ) -> Result<Record> {
        self.places.insert(first);
        let Some(part) = Part::decode(found.comment(), &self.mark) else {
            return Ok(Record::default());
        };
        let mut record = part.record;
        let places: Vec<Place> = (1..part.parts)
            .map(|i| Place::of_part(&self.mark, i))
            .collect();
        let objects: Vec<Object<'_>> = places.iter().map(Place::object).collect();
        if objects.is_empty() {
            return Ok(record);
        }
        let found = nft.find(&objects)?.found;
        for (place, found) in places.into_iter().zip(found) {
            let Some(Found::Element(part)) = found else {
                continue;
            };
            self.places.insert(place);
            record.extend(
                Part::decode(part.comment(), &self.mark)
                    .map(|part| part.record)
                    .unwrap_or_default(),
            );
        }
        Ok(record)
    }

    fn find(&mut self, nft: &mut NftSocket, record: &Record) -> Result<()> {
        let mut wanted: Vec<(Key, Place)> = Vec::new();
        for key in &record.keys {
            let kind = key.kind();
            let mut sets = vec![map(kind).name.to_owned()];
            if self.has_conditions {
                sets.push(conditional(kind).name.to_owned());
            }
            let groups = record
                .groups
                .iter()
                .filter(|group| is_group_of(kind, group));
            sets.extend(groups.map(|group| group_set(kind, group)));
            wanted.extend(sets.into_iter().map(|set| {
                (
                    *key,
                    Place {
                        set,
                        key: key.bytes(),
                    },
                )
            }));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let objects: Vec<Object<'_>> = wanted.iter().map(|(_, place)| place.object()).collect();
        let found = nft.find(&objects)?.found;
        for ((key, place), found) in wanted.into_iter().zip(found) {
            let Some(Found::Element(element)) = found else {
                continue;
            };
            if mark_of(&element) != self.mark {
                continue;
            }
            if place.set == map(key.kind()).name || place.set == conditional(key.kind()).name {
                self.mapped.push(Mapped {
                    key,
                    pod: pod_of(&element),
                });
            }
            self.places.insert(place);
        }
        Ok(())
    }
}

/// Deletes each, in one message for each set.
pub(super) fn delete(transaction: &mut Transaction, places: &BTreeSet<Place>) {
    let places: Vec<&Place> = places.iter().collect();
    for of_set in places.chunk_by(|a, b| a.set == b.set) {
        let keys: Vec<Element<'_>> = of_set
            .iter()
            .map(|place| Element::new(&place.key))
            .collect();
        transaction.delete_elements(of_set[0].set(), &keys);
    }
}

/// The first leads to the others, so all are emptied before any is deleted.
pub(super) fn delete_chains(transaction: &mut Transaction, names: &[String]) {
    for name in names {
        transaction.flush_chain(TABLE.chain(name));
    }
    for name in names {
        transaction.delete_chain(TABLE.chain(name));
    }
}

fn pod_of(element: &StoredElement) -> Option<IpAddr> {
    let Value::Bytes(pod) = element.value() else {
        return None;
    };
    // Address and port, padded.
    match pod.len() {
        8 => Some(Ipv4Addr::from(*pod.first_chunk::<4>()?).into()),
        20 => Some(Ipv6Addr::from(*pod.first_chunk::<16>()?).into()),
        _ => None,
    }
}
