//! What the kernel tells about a ruleset. What it says is kept as it came, and looked into when
//! asked: so whatever other programs have put there is no obstacle.

use std::time::Duration;

use super::object::{Base, Chain, Family, Set, Table, Value, Verdict};
use super::set::{DataType, SetSpec};
use super::wire::{Attrs, text};
use super::{attr, kind, userdata};
use crate::message::Message;

/// The number of a ruleset's state, which every change moves on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    pub id: u32,
    /// Who made the change; in an answer to a question, who asked.
    pub pid: u32,
    pub program: String,
}

impl Generation {
    /// If the message is the end of a transaction's news.
    pub(crate) fn of_event(message: &Message<'_>) -> Option<Self> {
        (message.message_type == kind::NEW_GENERATION)
            .then(|| Self::parse(message.payload))
            .flatten()
    }

    /// From the payload of `NFT_MSG_NEWGEN`.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let attrs = Attrs::of(payload);
        Some(Self {
            id: attrs.be32(attr::GENERATION_ID)?,
            pid: attrs.be32(attr::GENERATION_PID).unwrap_or(0),
            program: attrs
                .text(attr::GENERATION_NAME)
                .unwrap_or_default()
                .to_owned(),
        })
    }
}

/// Which table is told of, or one of its chains, rules, sets or elements: all of them name it by
/// an attribute of the same number.
pub(crate) fn table_of(payload: &[u8]) -> Option<(Family, &str)> {
    let family = Family::from_number(*payload.first()?)?;
    Some((family, Attrs::of(payload).text(attr::TABLE_NAME)?))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTable {
    pub family: Family,
    pub name: String,
    /// Its chains see packets; a dormant table's do not.
    pub is_awake: bool,
    pub comment: String,
}

impl StoredTable {
    /// `None` for a family we do not know (arp, or a newer one).
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        const DORMANT: u32 = 1;
        let attrs = Attrs::of(payload);
        Some(Self {
            family: Family::from_number(*payload.first()?)?,
            name: attrs.text(attr::TABLE_NAME)?.to_owned(),
            is_awake: attrs.be32(attr::TABLE_FLAGS).unwrap_or(0) & DORMANT == 0,
            comment: comment(attrs, attr::TABLE_USERDATA).to_owned(),
        })
    }

    pub fn table(&self) -> Table<'_> {
        Table::new(self.family, &self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChain {
    pub family: Family,
    pub table: String,
    pub name: String,
    /// Sees packets by itself, at a hook.
    pub is_base: bool,
    /// How it does so, if we know that way.
    pub base: Option<Base>,
    pub comment: String,
}

impl StoredChain {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let attrs = Attrs::of(payload);
        Some(Self {
            family: Family::from_number(*payload.first()?)?,
            table: attrs.text(attr::CHAIN_TABLE)?.to_owned(),
            name: attrs.text(attr::CHAIN_NAME)?.to_owned(),
            is_base: attrs.find(attr::CHAIN_HOOK).is_some(),
            base: Base::read(attrs),
            comment: comment(attrs, attr::CHAIN_USERDATA).to_owned(),
        })
    }

    pub fn chain(&self) -> Chain<'_> {
        Table::new(self.family, &self.table).chain(&self.name)
    }
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSet {
    pub family: Family,
    pub table: String,
    pub name: String,
    pub(super) flags: u32,
    pub(super) key_type: u32,
    pub(super) key_len: u32,
    pub comment: String,
}

impl StoredSet {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let attrs = Attrs::of(payload);
        Some(Self {
            family: Family::from_number(*payload.first()?)?,
            table: attrs.text(attr::SET_TABLE)?.to_owned(),
            name: attrs.text(attr::SET_NAME)?.to_owned(),
            flags: attrs.be32(attr::SET_FLAGS).unwrap_or(0),
            key_type: attrs.be32(attr::SET_KEY_TYPE).unwrap_or(0),
            key_len: attrs.be32(attr::SET_KEY_LEN).unwrap_or(0),
            comment: set_comment(attrs).to_owned(),
        })
    }

    pub fn set(&self) -> Set<'_> {
        Table::new(self.family, &self.table).set(&self.name)
    }

    /// Whether its keys are what `spec` says, and it is a set or map of that sort.
    pub fn is_like(&self, spec: &SetSpec<'_>) -> bool {
        let key = DataType::concatenated(spec.key);
        (self.flags, self.key_type, self.key_len) == (spec.flags(), key.number, key.len)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRule {
    pub chain: String,
    pub handle: u64,
    payload: Vec<u8>,
}

impl StoredRule {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let attrs = Attrs::of(payload);
        Some(Self {
            chain: attrs.text(attr::RULE_CHAIN)?.to_owned(),
            handle: attrs.be64(attr::RULE_HANDLE)?,
            payload: payload.to_vec(),
        })
    }

    /// nft's comment, or that of iptables' comment match.
    pub fn comment(&self) -> &str {
        match comment(Attrs::of(&self.payload), attr::RULE_USERDATA) {
            "" => self.xt_comment().unwrap_or_default(),
            comment => comment,
        }
    }

    /// What the rule decides, if it decides anything by itself.
    pub fn verdict(&self) -> Option<Verdict<'_>> {
        const IMMEDIATE_DATA: u16 = 2;
        self.expressions().find_map(|(name, data)| {
            match (name == "immediate").then(|| Value::read(data.inside(IMMEDIATE_DATA)))? {
                Value::Verdict(verdict) => Some(verdict),
                Value::Bytes(_) | Value::None => None,
            }
        })
    }

    /// The chain it jumps or goes to.
    pub fn leads_to(&self) -> Option<&str> {
        self.verdict()?.chain()
    }

    /// The names of its expressions, as the kernel calls them.
    pub fn expression_names(&self) -> impl Iterator<Item = &str> {
        self.expressions().map(|(name, _)| name)
    }

    pub(super) fn expressions(&self) -> impl Iterator<Item = (&str, Attrs<'_>)> {
        Attrs::of(&self.payload)
            .inside(attr::RULE_EXPRESSIONS)
            .iter()
            .filter_map(|(_, element)| {
                let element = Attrs(element);
                Some((
                    element.text(attr::EXPR_NAME)?,
                    element.inside(attr::EXPR_DATA),
                ))
            })
    }

    fn xt_comment(&self) -> Option<&str> {
        const MATCH_NAME: u16 = 1;
        const MATCH_INFO: u16 = 3;
        self.expressions().find_map(|(name, data)| {
            let is_comment = name == "match" && data.text(MATCH_NAME) == Some("comment");
            is_comment.then(|| text(data.find(MATCH_INFO)?))?
        })
    }
}

/// An element as it stands in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredElement {
    attributes: Vec<u8>,
}

impl StoredElement {
    /// The elements of one message.
    pub(super) fn parse_list(payload: &[u8]) -> impl Iterator<Item = Self> {
        Attrs::of(payload)
            .inside(attr::ELEMENTS)
            .iter()
            .map(|(_, element)| Self {
                attributes: element.to_vec(),
            })
    }

    /// Empty for the element that catches all.
    pub fn key(&self) -> &[u8] {
        self.attrs()
            .inside(attr::ELEMENT_KEY)
            .find(attr::DATA_VALUE)
            .unwrap_or_default()
    }

    pub fn value(&self) -> Value<'_> {
        Value::read(self.attrs().inside(attr::ELEMENT_DATA))
    }

    pub fn comment(&self) -> &str {
        comment(self.attrs(), attr::ELEMENT_USERDATA)
    }

    /// Is about to go by itself.
    pub fn is_expiring(&self) -> bool {
        self.lifetime().is_some()
    }

    /// How long it stays at most, if that is bounded.
    pub fn lifetime(&self) -> Option<Duration> {
        self.attrs()
            .be64(attr::ELEMENT_TIMEOUT)
            .map(Duration::from_millis)
    }

    /// How much of its life is left.
    pub fn time_left(&self) -> Option<Duration> {
        self.attrs()
            .be64(attr::ELEMENT_EXPIRATION)
            .map(Duration::from_millis)
    }

    /// In a plain interval set: the key is the first one past a range.
    pub fn is_range_end(&self) -> bool {
        self.attrs().be32(attr::ELEMENT_FLAGS).unwrap_or(0) & super::set::INTERVAL_END != 0
    }

    /// What no other element of the set has: where one range ends the next may begin.
    pub(super) fn place(&self) -> (&[u8], bool) {
        (self.key(), self.is_range_end())
    }

    fn attrs(&self) -> Attrs<'_> {
        Attrs(&self.attributes)
    }
}

/// The comment in a user data attribute; empty if there is none.
pub(super) fn comment(attrs: Attrs<'_>, attribute: u16) -> &str {
    attrs
        .find(attribute)
        .and_then(|bytes| userdata::find_comment(bytes, userdata::COMMENT))
        .unwrap_or_default()
}

pub(super) fn set_comment(attrs: Attrs<'_>) -> &str {
    attrs
        .find(attr::SET_USERDATA)
        .and_then(|bytes| userdata::find_comment(bytes, userdata::SET_COMMENT))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::Writer;
    use super::*;

    proptest! {
        #[test]
        fn whatever_the_kernel_sends_is_read_without_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400), wrap in any::<bool>()
        ) {
            if wrap {
                bytes = wrapped(&bytes);
            }
            let _ = (Generation::parse(&bytes), StoredTable::parse(&bytes), StoredChain::parse(&bytes));
            if let Some(rule) = StoredRule::parse(&bytes) {
                let _ = (rule.comment(), rule.leads_to(), rule.expression_names().count());
                let _ = (rule.statements(), rule.says(&[]));
            }
            let _ = StoredSet::parse(&bytes);
            for element in StoredElement::parse_list(&bytes) {
                let _ = (element.key(), element.value(), element.comment(), element.is_range_end());
            }
        }
    }

    /// Noise where a rule's expressions and an element's attributes would stand.
    fn wrapped(noise: &[u8]) -> Vec<u8> {
        let mut w = Writer::payload(1, 0);
        w.name(attr::RULE_CHAIN, "c");
        let nest = w.nest(attr::ELEMENTS);
        w.attr(attr::LIST_ELEM, noise);
        w.end(nest);
        w.be64(attr::RULE_HANDLE, 7);
        let expressions = w.nest(attr::RULE_EXPRESSIONS);
        w.attr(attr::LIST_ELEM, noise);
        let element = w.nest(attr::LIST_ELEM);
        w.name(attr::EXPR_NAME, "immediate");
        w.attr(attr::EXPR_DATA, noise);
        w.end(element);
        w.end(expressions);
        w.attr(attr::RULE_USERDATA, noise);
        w.into_bytes()
    }
}
