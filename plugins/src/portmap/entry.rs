//! The elements that an owner's mappings are made of.

use weft_net::nft::{
    Element, Expr, Found, Object, Selector, Set, StoredElement, Value, Verdict, concat, expr,
    octets,
};

use super::{
    conf::Published,
    index::{Record, part_key},
    key::Key,
    skeleton::{Group, OWNERS, TABLE, conditional, group_set, map},
};
use crate::owner::Owner;

/// What an owner is to have.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) owner: &'a Owner,
    pub(super) published: &'a [Published],
    pub(super) groups: Vec<Group>,
    /// The chain with the owner's conditions stands, and leads to the one for its mappings.
    pub(super) has_conditions: bool,
}

/// One element.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    comment: String,
    data: Data,
    /// What a person calls it, if it is one that others can want.
    pub(super) host_port: Option<Key>,
}

/// Where an element stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) set: String,
    pub(super) key: Vec<u8>,
}

#[derive(Debug)]
enum Data {
    None,
    Pod(Vec<u8>),
    Conditions(String),
}

/// The chain with an owner's conditions, and the one that it leads to.
pub(super) fn chains_of(mark: &str) -> [String; 2] {
    let mark = mark.replace('-', "_");
    [format!("cond_{mark}"), format!("dnat_{mark}")]
}

/// Whose an element is.
pub(super) fn mark_of(element: &StoredElement) -> &str {
    let end = element
        .comment()
        .find([',', ' '])
        .unwrap_or_else(|| element.comment().len());
    &element.comment()[..end]
}

impl Wanted<'_> {
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for published in self.published {
            entries.push(self.destination(published));
            if !self.has_conditions {
                entries.extend(self.source(&published.key));
            }
        }
        entries.extend(self.record());
        entries
    }

    /// The rules of an owner with conditions, in place of elements.
    pub(super) fn rules(&self) -> Vec<Vec<Expr>> {
        let mut rules = Vec::new();
        for Published { key, pod, pod_port } in self.published {
            let mut matches = vec![
                expr::family_of(*pod),
                Selector::L4PROTO.is(&[key.protocol.number()]),
                Selector::DPORT.is(&key.port.to_be_bytes()),
            ];
            if let Some(address) = key.address() {
                matches.push(Selector::daddr(key.is_ipv6()).is(&octets(address)));
            }
            let then = |last: Expr| [&matches[..], &[last]].concat();
            if let Some(group) = self.group_of(key) {
                rules.push(then(expr::jump(&group.chain())));
            }
            rules.push(then(expr::dnat_to(*pod, Some(*pod_port))));
        }
        rules
    }

    fn destination(&self, published: &Published) -> Entry {
        let Published { key, pod, pod_port } = published;
        let (set, data) = if self.has_conditions {
            let [conditions, _] = chains_of(&self.owner.mark());
            (conditional(key.kind()), Data::Conditions(conditions))
        } else {
            let pod = concat(&[&octets(*pod), &pod_port.to_be_bytes()]);
            (map(key.kind()), Data::Pod(pod))
        };
        Entry {
            place: Place {
                set: set.name.to_owned(),
                key: key.bytes(),
            },
            comment: self.owner.comment(),
            data,
            host_port: Some(*key),
        }
    }

    fn source(&self, key: &Key) -> Option<Entry> {
        let set = group_set(key.kind(), &self.group_of(key)?.name());
        Some(Entry {
            place: Place {
                set,
                key: key.bytes(),
            },
            comment: self.owner.comment(),
            data: Data::None,
            host_port: None,
        })
    }

    fn record(&self) -> impl Iterator<Item = Entry> {
        let mark = self.owner.mark();
        let record = Record {
            groups: self.groups.iter().map(Group::name).collect(),
            keys: self
                .published
                .iter()
                .map(|published| published.key)
                .collect(),
        };
        (0..)
            .zip(record.encode(&mark))
            .map(move |(part, comment)| Entry {
                place: Place::of_part(&mark, part),
                comment,
                data: Data::None,
                host_port: None,
            })
    }

    fn group_of(&self, key: &Key) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.is_ipv6 == key.is_ipv6())
    }
}

impl Entry {
    pub(super) fn element(&self) -> Element<'_> {
        let element = Element::new(&self.place.key).comment(&self.comment);
        match &self.data {
            Data::None => element,
            Data::Pod(pod) => element.value(pod),
            Data::Conditions(chain) => element.verdict(Verdict::Jump(chain)),
        }
    }

    /// What is wrong with what was found in its place.
    pub(super) fn fault(&self, mark: &str, found: Option<&Found>) -> Option<String> {
        let what = self
            .host_port
            .map_or_else(|| "what the owner has".to_owned(), |key| key.to_string());
        let Some(Found::Element(found)) = found else {
            return Some(format!(
                "{what} is missing in set {} of {TABLE}",
                self.place.set
            ));
        };
        if mark_of(found) != mark {
            return Some(format!(
                "{what} belongs to somebody else: {}",
                found.comment()
            ));
        }
        let data = match &self.data {
            Data::None => Value::None,
            Data::Pod(pod) => Value::Bytes(pod),
            Data::Conditions(chain) => Value::Verdict(Verdict::Jump(chain)),
        };
        (found.value() != data).then(|| format!("{what} does not lead to the pod"))
    }
}

impl Place {
    pub(super) fn of_part(mark: &str, part: u32) -> Self {
        Self {
            set: OWNERS.name.to_owned(),
            key: part_key(mark, part),
        }
    }

    pub(super) fn set(&self) -> Set<'_> {
        TABLE.set(&self.set)
    }

    pub(super) fn object(&self) -> Object<'_> {
        Object::Element(self.set(), &self.key)
    }
}
