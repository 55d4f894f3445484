//! Stores that are a table of keys (etcd, the embedded one): the least that leasing needs of
//! them. Keys are relative to the prefix: `config`, `subnets/10.5.63.0-24`.

use std::future::Future;
use std::time::Duration;

pub trait Registry: Send {
    /// All keys at one revision. What [`Registry::changes`] tells afterwards begins there.
    fn list(&mut self) -> impl Future<Output = Result<Listing, Trouble>> + Send;

    /// One key, in one transaction: nothing happens unless it is as expected.
    fn commit(&mut self, change: Change) -> impl Future<Output = Result<Outcome, Trouble>> + Send;

    /// Waits for what changed since, `config` included; safe to drop and call again.
    fn changes(&mut self) -> impl Future<Output = Result<Changes, Trouble>> + Send;

    /// What an operator types to write the configuration: for the message that it is missing.
    fn how_to_configure(&self) -> String;

    /// How often a broken connection was replaced.
    fn reconnects(&self) -> u64 {
        0
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub config: Option<Entry>,
    /// Under `subnets/`, in the order of their keys.
    pub leases: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: String,
    /// Grows with every write of the key (etcd's mod_revision).
    pub version: i64,
    /// A key that lasts is a reservation.
    pub lasts: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    Events(Vec<Event>),
    /// Some were missed (compaction, a broken stream that cannot be resumed): list again.
    Missed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Put(Entry),
    Gone { key: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub expected: Expected,
    pub write: Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Absent,
    Version(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// `expires`: None keeps a reservation a reservation.
    Put {
        value: String,
        expires: Option<Duration>,
    },
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The key's version afterwards.
    Done(i64),
    /// The key as it is, None if absent.
    Otherwise(Option<Entry>),
}

/// Why a call came to nothing. All of it is tried again; what differs is what is said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody answers: endpoint and cause.
    #[error("{0}")]
    Unreachable(String),
    /// It answers, and refuses us (password, certificate, permission): cause and remedy.
    #[error("{0}")]
    Refused(String),
    /// What it says makes no sense.
    #[error("{0}")]
    Garbled(String),
}
