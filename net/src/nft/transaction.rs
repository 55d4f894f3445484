//! Changes of a ruleset, gathered to happen as a whole.

use rustix::io::Errno;

use super::object::{Base, Chain, Set, Table, Value};
use super::set::{DataType, Element, SetData, SetSpec};
use super::wire::{Writer, hex};
use super::{Expr, attr, kind, userdata};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::message::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

/// Changes in the order they will be made. `add_…` leaves alone what is there already,
/// `create_…` makes the whole transaction fail with `EEXIST` instead.
///
/// What cannot be encoded (a comment nft would refuse, a name with a zero in it) is told when the
/// transaction is committed.
#[derive(Debug)]
pub struct Transaction {
    batch: Batch,
    bytes: usize,
    changes: usize,
    sets: u32,
    unfit: Option<Error>,
}

impl Default for Transaction {
    fn default() -> Self {
        Self::new()
    }
}

impl Transaction {
    pub fn new() -> Self {
        Self::begin(None)
    }

    /// Refused with `ERESTART` unless the ruleset still is what it was at this generation.
    pub fn at(generation: u32) -> Self {
        Self::begin(Some(generation))
    }

    pub fn is_empty(&self) -> bool {
        self.changes == 0
    }

    pub fn add_table(&mut self, table: Table<'_>, comment: &str) {
        self.new_table(table, comment, 0);
    }

    pub fn create_table(&mut self, table: Table<'_>, comment: &str) {
        self.new_table(table, comment, NLM_F_EXCL);
    }

    /// Deletes it with all that is in it.
    pub fn delete_table(&mut self, table: Table<'_>) {
        let mut w = payload(table);
        w.name(attr::TABLE_NAME, table.name);
        self.push(kind::DELETE_TABLE, 0, format!("delete {table}"), w);
    }

    /// A chain that is only jumped to, or with a base one that sees packets by itself.
    pub fn add_chain(&mut self, chain: Chain<'_>, base: Option<Base>) {
        self.new_chain(chain, base, "", 0);
    }

    pub fn create_chain(&mut self, chain: Chain<'_>, base: Option<Base>, comment: &str) {
        self.new_chain(chain, base, comment, NLM_F_EXCL);
    }

    /// The chain must be empty, or be flushed before in the same transaction.
    pub fn delete_chain(&mut self, chain: Chain<'_>) {
        let mut w = payload(chain.table);
        w.name(attr::CHAIN_TABLE, chain.table.name);
        w.name(attr::CHAIN_NAME, chain.name);
        self.push(kind::DELETE_CHAIN, 0, format!("delete {chain}"), w);
    }

    /// Deletes the chain's rules.
    pub fn flush_chain(&mut self, chain: Chain<'_>) {
        self.push(
            kind::DELETE_RULE,
            0,
            format!("flush {chain}"),
            rule_payload(chain),
        );
    }

    /// At the end of the chain.
    pub fn add_rule(&mut self, chain: Chain<'_>, rule: &[Expr], comment: &str) {
        self.new_rule(chain, rule, comment, NLM_F_APPEND);
    }

    /// At the chain's beginning.
    pub fn insert_rule(&mut self, chain: Chain<'_>, rule: &[Expr], comment: &str) {
        self.new_rule(chain, rule, comment, 0);
    }

    /// In front of another rule of the chain.
    pub fn insert_rule_before(
        &mut self,
        chain: Chain<'_>,
        handle: u64,
        rule: &[Expr],
        comment: &str,
    ) {
        self.new_rule_at(chain, Some(handle), rule, comment, 0);
    }

    pub fn delete_rule(&mut self, chain: Chain<'_>, handle: u64) {
        let mut w = rule_payload(chain);
        w.be64(attr::RULE_HANDLE, handle);
        self.push(
            kind::DELETE_RULE,
            0,
            format!("delete rule {handle} of {chain}"),
            w,
        );
    }

    pub fn add_set(&mut self, set: Set<'_>, spec: &SetSpec<'_>) {
        self.new_set(set, spec, 0);
    }

    pub fn create_set(&mut self, set: Set<'_>, spec: &SetSpec<'_>) {
        self.new_set(set, spec, NLM_F_EXCL);
    }

    pub fn delete_set(&mut self, set: Set<'_>) {
        let mut w = payload(set.table);
        w.name(attr::SET_TABLE, set.table.name);
        w.name(attr::SET_NAME, set.name);
        self.push(kind::DELETE_SET, 0, format!("delete {set}"), w);
    }

    /// An element that stands there with another value makes the transaction fail with `EEXIST`;
    /// one with the same value keeps its comment.
    pub fn add_elements(&mut self, set: Set<'_>, elements: &[Element<'_>]) {
        self.elements(kind::NEW_ELEMENT, NLM_F_CREATE, "add", set, elements);
    }

    pub fn create_elements(&mut self, set: Set<'_>, elements: &[Element<'_>]) {
        self.elements(
            kind::NEW_ELEMENT,
            NLM_F_CREATE | NLM_F_EXCL,
            "create",
            set,
            elements,
        );
    }

    /// By key, whatever they hold: see [`NftSocket::delete_owned`](super::NftSocket::delete_owned).
    pub fn delete_elements(&mut self, set: Set<'_>, keys: &[Element<'_>]) {
        self.elements(kind::DELETE_ELEMENT, 0, "delete", set, keys);
    }

    /// Has elements of a mortal set expire at once. Their values must be what they are.
    pub(super) fn expire_elements(&mut self, set: Set<'_>, elements: &[Element<'_>]) {
        self.elements(kind::NEW_ELEMENT, NLM_F_CREATE, "expire", set, elements);
    }

    /// Deletes all elements of a set.
    pub fn flush_set(&mut self, set: Set<'_>) {
        let w = elements_payload(set);
        self.push(kind::DELETE_ELEMENT, 0, format!("flush {set}"), w);
    }

    /// The requests, whole, and how many bytes they take.
    pub(super) fn finish(mut self) -> Result<(Batch, usize)> {
        if let Some(error) = self.unfit {
            return Err(error);
        }
        self.batch
            .envelope(BATCH_END, "end an nftables transaction".into(), |out| {
                out.extend_from_slice(Writer::payload(0, SUBSYSTEM).bytes());
            });
        Ok((self.batch, self.bytes + ENVELOPE_BYTES))
    }

    fn begin(generation: Option<u32>) -> Self {
        let mut batch = Batch::new();
        batch.envelope(BATCH_BEGIN, "change the nftables ruleset".into(), |out| {
            let mut w = Writer::payload(0, SUBSYSTEM);
            if let Some(generation) = generation {
                w.be32(BATCH_GENERATION, generation);
            }
            out.extend_from_slice(w.bytes());
        });
        Self {
            batch,
            bytes: 0,
            changes: 0,
            sets: 0,
            unfit: None,
        }
    }

    fn new_table(&mut self, table: Table<'_>, comment: &str, flags: u16) {
        let doing = format!("create {table}");
        let mut w = payload(table);
        w.name(attr::TABLE_NAME, table.name);
        self.comment(&mut w, attr::TABLE_USERDATA, comment, &doing);
        self.push(kind::NEW_TABLE, NLM_F_CREATE | flags, doing, w);
    }

    fn new_chain(&mut self, chain: Chain<'_>, base: Option<Base>, comment: &str, flags: u16) {
        let doing = format!("create {chain}");
        let mut w = payload(chain.table);
        w.name(attr::CHAIN_TABLE, chain.table.name);
        w.name(attr::CHAIN_NAME, chain.name);
        if let Some(base) = base {
            let hook = w.nest(attr::CHAIN_HOOK);
            w.be32(attr::HOOK_NUMBER, base.hook as u32);
            w.attr(attr::HOOK_PRIORITY, &base.priority.to_be_bytes());
            w.end(hook);
            w.be32(attr::CHAIN_POLICY, base.policy as u32);
            w.name(attr::CHAIN_TYPE, base.kind.name());
        }
        self.comment(&mut w, attr::CHAIN_USERDATA, comment, &doing);
        self.push(kind::NEW_CHAIN, NLM_F_CREATE | flags, doing, w);
    }

    fn new_rule(&mut self, chain: Chain<'_>, rule: &[Expr], comment: &str, flags: u16) {
        self.new_rule_at(chain, None, rule, comment, flags);
    }

    fn new_rule_at(
        &mut self,
        chain: Chain<'_>,
        position: Option<u64>,
        rule: &[Expr],
        comment: &str,
        flags: u16,
    ) {
        let mut doing = format!("add a rule to {chain}");
        if !comment.is_empty() {
            doing = format!("{doing} ({comment})");
        }
        let mut w = rule_payload(chain);
        let expressions = w.nest(attr::RULE_EXPRESSIONS);
        for expression in rule {
            w.append(&expression.0);
        }
        w.end(expressions);
        if let Some(handle) = position {
            w.be64(attr::RULE_POSITION, handle);
        }
        self.comment(&mut w, attr::RULE_USERDATA, comment, &doing);
        self.push(kind::NEW_RULE, NLM_F_CREATE | flags, doing, w);
    }

    fn new_set(&mut self, set: Set<'_>, spec: &SetSpec<'_>, flags: u16) {
        let doing = format!("create {set}");
        let mut w = payload(set.table);
        w.name(attr::SET_TABLE, set.table.name);
        w.name(attr::SET_NAME, set.name);
        w.be32(attr::SET_FLAGS, spec.flags());
        let key = DataType::concatenated(spec.key);
        w.be32(attr::SET_KEY_TYPE, key.number);
        w.be32(attr::SET_KEY_LEN, key.len);
        match spec.data {
            SetData::None => {}
            SetData::Verdicts => w.be32(attr::SET_DATA_TYPE, DATA_VERDICT),
            SetData::Values(types) => {
                let data = DataType::concatenated(types);
                w.be32(attr::SET_DATA_TYPE, data.number);
                w.be32(attr::SET_DATA_LEN, data.len);
            }
        }
        if spec.is_range_of_fields() {
            write_field_lengths(&mut w, spec.key);
        }
        if spec.mortal {
            w.be32(attr::SET_GC_INTERVAL, COLLECT_EVERY_MS);
        }
        // Only has to be unique within the transaction.
        self.sets += 1;
        w.be32(attr::SET_ID, self.sets);
        self.set_userdata(&mut w, spec, &doing);
        self.push(kind::NEW_SET, NLM_F_CREATE | flags, doing, w);
    }

    /// A few elements go one a message, so that an error names the very one; many are packed.
    fn elements(
        &mut self,
        message_type: u16,
        flags: u16,
        verb: &str,
        set: Set<'_>,
        elements: &[Element<'_>],
    ) {
        let mut rest = elements;
        while let Some(first) = rest.first() {
            let packed = if elements.len() <= NAMED_ELEMENTS {
                1
            } else {
                fitting(rest)
            };
            let (now, later) = rest.split_at(packed);
            let doing = describe_elements(verb, set, first, packed);
            let mut w = elements_payload(set);
            let list = w.nest(attr::ELEMENTS);
            for element in now {
                self.element(&mut w, element, &doing);
            }
            w.end(list);
            self.push(message_type, flags, doing, w);
            rest = later;
        }
    }

    fn element(&mut self, w: &mut Writer, element: &Element<'_>, doing: &str) {
        let open = w.nest(attr::LIST_ELEM);
        Value::Bytes(element.key).write(w, attr::ELEMENT_KEY);
        if let Some(end) = element.end {
            Value::Bytes(end).write(w, attr::ELEMENT_KEY_END);
        }
        element.value.write(w, attr::ELEMENT_DATA);
        if element.flags != 0 {
            w.be32(attr::ELEMENT_FLAGS, element.flags);
        }
        if let Some(lifetime) = element.lifetime {
            let milliseconds = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
            w.be64(attr::ELEMENT_TIMEOUT, milliseconds);
            w.be64(attr::ELEMENT_EXPIRATION, milliseconds);
        }
        self.comment(w, attr::ELEMENT_USERDATA, element.comment, doing);
        w.end(open);
    }

    fn set_userdata(&mut self, w: &mut Writer, spec: &SetSpec<'_>, doing: &str) {
        let mut bytes = Vec::new();
        if DataType::concatenated(spec.key).is_host_order() {
            bytes.extend(userdata::host_order(userdata::SET_KEY_ORDER));
        }
        if let SetData::Values([data]) = spec.data
            && data.is_host_order()
        {
            bytes.extend(userdata::host_order(userdata::SET_DATA_ORDER));
        }
        bytes.extend(self.encode_comment(userdata::SET_COMMENT, spec.comment, doing));
        if !bytes.is_empty() {
            w.attr(attr::SET_USERDATA, &bytes);
        }
    }

    fn comment(&mut self, w: &mut Writer, attribute: u16, comment: &str, doing: &str) {
        if !comment.is_empty() {
            w.attr(
                attribute,
                &self.encode_comment(userdata::COMMENT, comment, doing),
            );
        }
    }

    fn encode_comment(&mut self, kind: u8, comment: &str, doing: &str) -> Vec<u8> {
        if comment.is_empty() {
            return Vec::new();
        }
        userdata::comment(kind, comment).unwrap_or_else(|| {
            self.refuse(format!("{doing}: write its comment"), Errno::NAMETOOLONG);
            Vec::new()
        })
    }

    fn push(&mut self, message_type: u16, flags: u16, doing: String, payload: Writer) {
        if payload.is_unfit() {
            self.refuse(doing, Errno::INVAL);
            return;
        }
        self.changes += 1;
        self.bytes += payload.bytes().len() + crate::message::HEADER;
        self.batch.change(message_type, flags, doing, |out| {
            out.extend_from_slice(payload.bytes())
        });
    }

    fn refuse(&mut self, doing: String, errno: Errno) {
        self.unfit.get_or_insert_with(|| Error::new(doing, errno));
    }
}

pub(super) fn payload(table: Table<'_>) -> Writer {
    Writer::payload(table.family as u8, 0)
}

pub(super) fn elements_payload(set: Set<'_>) -> Writer {
    let mut w = payload(set.table);
    w.name(attr::ELEMENTS_TABLE, set.table.name);
    w.name(attr::ELEMENTS_SET, set.name);
    w
}

fn rule_payload(chain: Chain<'_>) -> Writer {
    let mut w = payload(chain.table);
    w.name(attr::RULE_TABLE, chain.table.name);
    w.name(attr::RULE_CHAIN, chain.name);
    w
}

fn write_field_lengths(w: &mut Writer, fields: &[DataType]) {
    let description = w.nest(attr::SET_DESC);
    let lengths = w.nest(attr::SET_DESC_CONCAT);
    for field in fields {
        let open = w.nest(attr::LIST_ELEM);
        w.be32(attr::SET_FIELD_LEN, field.len);
        w.end(open);
    }
    w.end(lengths);
    w.end(description);
}

/// How many of the elements fit a list attribute, whose length is a 16-bit number.
fn fitting(elements: &[Element<'_>]) -> usize {
    let mut room = LIST_BYTES;
    let fits = |element: &&Element<'_>| {
        let size = element.key.len()
            + element.end.map_or(0, <[u8]>::len)
            + element.value.len()
            + element.comment.len()
            + ELEMENT_OVERHEAD;
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    };
    elements.iter().take_while(fits).count().max(1)
}

fn describe_elements(verb: &str, set: Set<'_>, first: &Element<'_>, count: usize) -> String {
    let key = hex(first.key);
    let comment = if first.comment.is_empty() {
        String::new()
    } else {
        format!(" ({})", first.comment)
    };
    if count == 1 {
        return format!("{verb} element {key}{comment} of {set}");
    }
    format!("{verb} {count} elements from {key}{comment} on, of {set}")
}

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`, around changes of one subsystem.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;
const BATCH_GENERATION: u16 = 1;
const ENVELOPE_BYTES: usize = 2 * (crate::message::HEADER + 4) + 8;

/// `NFT_DATA_VERDICT`: the type of data that is a verdict.
const DATA_VERDICT: u32 = 0xffff_ff00;

/// Up to here an error shall name the element; the kernel names only the message.
const NAMED_ELEMENTS: usize = 16;

/// What a list may hold, and what an element takes besides its own bytes: seven headers, two
/// numbers, and padding.
const LIST_BYTES: usize = 0xffff - 64;
const ELEMENT_OVERHEAD: usize = 64;

/// What has expired is gone for everybody but the memory. The kernel's default, a second, would be
/// a wake-up a second for every set.
const COLLECT_EVERY_MS: u32 = 60_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::object::{Family, Verdict};
    use super::super::wire::Attrs;
    use super::*;
    use crate::message::Messages;

    const SET: Set<'_> = Table::new(Family::Inet, "t").set("s");

    /// The elements that the kernel would see: their keys, message by message.
    fn written_keys(mut transaction: Transaction) -> Vec<Vec<Vec<u8>>> {
        let all = 0..transaction.batch.len();
        let bytes = transaction.batch.prepare(&all, 1, 0).to_vec();
        Messages::of(&bytes)
            .filter(|message| message.message_type == kind::NEW_ELEMENT)
            .map(|message| {
                let list = Attrs::of(message.payload).inside(attr::ELEMENTS);
                let key = |(_, element)| {
                    Attrs(element)
                        .inside(attr::ELEMENT_KEY)
                        .find(attr::DATA_VALUE)
                        .unwrap()
                        .to_vec()
                };
                list.iter().map(key).collect()
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_element_of_a_long_list_is_written_once_and_no_list_overflows(
            sizes in prop::collection::vec((1usize..64, 0usize..64, 0usize..129), 17..2500)
        ) {
            let keys: Vec<_> = sizes.iter().map(|(key, ..)| vec![7; *key]).collect();
            let values: Vec<_> = sizes.iter().map(|(_, value, _)| vec![8; *value]).collect();
            let comments: Vec<_> = sizes.iter().map(|(.., comment)| "c".repeat(*comment)).collect();
            let elements: Vec<_> = (0..sizes.len())
                .map(|i| {
                    Element::new(&keys[i]).value(&values[i]).comment(&comments[i]).until(&keys[i])
                })
                .collect();

            let mut transaction = Transaction::new();
            transaction.add_elements(SET, &elements);
            prop_assert!(transaction.unfit.is_none());
            prop_assert_eq!(written_keys(transaction).concat(), keys);
        }
    }

    #[test]
    fn a_few_elements_go_one_a_message() {
        let mut transaction = Transaction::new();
        let chain = Verdict::Goto("c");
        transaction.add_elements(
            SET,
            &[
                Element::new(&[1]).verdict(chain),
                Element::new(&[2]).verdict(chain),
            ],
        );
        assert_eq!(written_keys(transaction), [[[1]], [[2]]]);
    }

    #[test]
    fn an_overlong_comment_is_told_with_its_object() {
        let mut transaction = Transaction::new();
        let comment = "x".repeat(129);
        transaction.add_elements(SET, &[Element::new(&[10, 0, 0, 1]).comment(&comment)]);
        let error = transaction.finish().unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NAMETOOLONG));
        assert!(
            error.to_string().starts_with("add element 0a000001"),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("of set s of table inet t: write its comment"),
            "{error}"
        );
    }

    #[test]
    fn a_name_with_a_zero_is_refused() {
        let mut transaction = Transaction::new();
        transaction.add_chain(Table::new(Family::Ip, "t").chain("a\0b"), None);
        assert_eq!(
            transaction.finish().unwrap_err().errno(),
            Some(Errno::INVAL)
        );
    }
}
