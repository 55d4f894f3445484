//! nf_tables over netlink: rulesets are read, and changed in transactions that happen as a whole
//! or not at all.
//!
//! A [`Transaction`] is filled with changes and committed with [`NftSocket::commit`]. Made with
//! [`Transaction::at`], it is refused (`ERESTART`) if anybody changed the ruleset after that
//! generation was read: so what was read still holds when the changes are made. Wrap the reading
//! and the commit in [`NftSocket::retry`] to begin again when that happens.

pub mod expr;
mod object;
mod read;
mod says;
mod set;
mod socket;
mod transaction;
mod userdata;
pub(crate) mod wire;

pub use expr::{Expr, Op, Selector};
pub use object::{
    Base, Chain, ChainKind, Family, Hook, Policy, Set, Table, Value, Verdict, priority,
};
pub(crate) use read::table_of;
pub use read::{Generation, StoredChain, StoredElement, StoredRule, StoredSet, StoredTable};
pub use says::{Statement, Test};
pub use set::{DataType, Element, SetData, SetSpec, concat, ifname, network_bounds, octets};
pub use socket::{Found, NftSocket, Object, Snapshot};
pub use transaction::Transaction;
pub use userdata::COMMENT_MAX;

/// Reads a payload as each of the things that the kernel may say it is.
pub(crate) fn read_as_anything(payload: &[u8]) {
    let _ = Generation::parse(payload);
    let _ = (StoredTable::parse(payload), StoredChain::parse(payload));
    if let Some(rule) = StoredRule::parse(payload) {
        let _ = (rule.comment(), rule.verdict(), rule.leads_to());
        let _ = rule.expression_names().count();
        let _ = (rule.statements(), rule.says(&[expr::counter()]));
    }
    let _ = StoredSet::parse(payload);
    for element in StoredElement::parse_list(payload) {
        let _ = (element.key(), element.value(), element.comment());
        let _ = (element.lifetime(), element.is_range_end());
    }
}

/// Message types of the nf_tables subsystem (`NFNL_SUBSYS_NFTABLES`).
mod kind {
    const SUBSYSTEM: u16 = 10 << 8;
    pub(super) const NEW_TABLE: u16 = SUBSYSTEM;
    pub(super) const GET_TABLE: u16 = SUBSYSTEM | 1;
    pub(super) const DELETE_TABLE: u16 = SUBSYSTEM | 2;
    pub(super) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
    pub(super) const GET_CHAIN: u16 = SUBSYSTEM | 4;
    pub(super) const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
    pub(super) const NEW_RULE: u16 = SUBSYSTEM | 6;
    pub(super) const GET_RULE: u16 = SUBSYSTEM | 7;
    pub(super) const DELETE_RULE: u16 = SUBSYSTEM | 8;
    pub(super) const NEW_SET: u16 = SUBSYSTEM | 9;
    pub(super) const GET_SET: u16 = SUBSYSTEM | 10;
    pub(super) const DELETE_SET: u16 = SUBSYSTEM | 11;
    pub(super) const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
    pub(super) const GET_ELEMENT: u16 = SUBSYSTEM | 13;
    pub(super) const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
    pub(super) const NEW_GENERATION: u16 = SUBSYSTEM | 15;
    pub(super) const GET_GENERATION: u16 = SUBSYSTEM | 16;
}

/// Attribute kinds, as the kernel's `nf_tables.h` numbers them.
mod attr {
    pub(super) const LIST_ELEM: u16 = 1;

    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const TABLE_FLAGS: u16 = 2;
    pub(super) const TABLE_USERDATA: u16 = 6;

    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const CHAIN_USERDATA: u16 = 12;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;

    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_HANDLE: u16 = 3;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const RULE_POSITION: u16 = 6;
    pub(super) const RULE_USERDATA: u16 = 7;

    pub(super) const SET_TABLE: u16 = 1;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_FLAGS: u16 = 3;
    pub(super) const SET_KEY_TYPE: u16 = 4;
    pub(super) const SET_KEY_LEN: u16 = 5;
    pub(super) const SET_DATA_TYPE: u16 = 6;
    pub(super) const SET_DATA_LEN: u16 = 7;
    pub(super) const SET_DESC: u16 = 9;
    pub(super) const SET_ID: u16 = 10;
    pub(super) const SET_GC_INTERVAL: u16 = 12;
    pub(super) const SET_USERDATA: u16 = 13;
    pub(super) const SET_DESC_CONCAT: u16 = 2;
    pub(super) const SET_FIELD_LEN: u16 = 1;

    pub(super) const ELEMENTS_TABLE: u16 = 1;
    pub(super) const ELEMENTS_SET: u16 = 2;
    pub(super) const ELEMENTS: u16 = 3;
    pub(super) const ELEMENT_KEY: u16 = 1;
    pub(super) const ELEMENT_DATA: u16 = 2;
    pub(super) const ELEMENT_FLAGS: u16 = 3;
    pub(super) const ELEMENT_TIMEOUT: u16 = 4;
    pub(super) const ELEMENT_EXPIRATION: u16 = 5;
    pub(super) const ELEMENT_USERDATA: u16 = 6;
    pub(super) const ELEMENT_KEY_END: u16 = 10;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const VERDICT_CHAIN: u16 = 2;

    pub(super) const EXPR_NAME: u16 = 1;
    pub(super) const EXPR_DATA: u16 = 2;

    pub(super) const GENERATION_ID: u16 = 1;
    pub(super) const GENERATION_PID: u16 = 2;
    pub(super) const GENERATION_NAME: u16 = 3;
}
