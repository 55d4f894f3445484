//! Peers that an outage may have cost their leases. A store that comes back without them gets
//! them back one by one, as each node notices; until then pods' packets go where they went.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::leasing::table::Table;

#[derive(Default)]
pub(super) struct Missing {
    table: Table,
    until: Option<Instant>,
    /// The store did not answer since the table was last filled.
    outage: bool,
}

impl Missing {
    pub(super) fn outage(&mut self) {
        self.outage = true;
    }

    pub(super) fn is_after_outage(&self) -> bool {
        self.outage
    }

    /// What a listing brought after an outage, and what was there before.
    pub(super) fn listed(&mut self, before: Table, table: &Table) {
        let missed = before.with(std::mem::take(&mut self.table));
        self.table = missed.without(table);
        self.until = (self.table.count() > 0).then(|| Instant::now() + PATIENCE);
        self.outage = false;
    }

    /// It did not vanish: somebody deleted it.
    pub(super) fn deleted(&mut self, key: &str) {
        self.table.remove(key);
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether any were given up.
    pub(super) fn give_up(&mut self, now: Instant) -> bool {
        if self.until.is_none_or(|until| until > now) {
            return false;
        }
        self.until = None;
        self.table = Table::default();
        true
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

/// Three times what a node waits at most between two attempts.
const PATIENCE: Duration = Duration::from_secs(15);
