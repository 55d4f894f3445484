//! One key written or deleted if it is as expected, by one transaction, whatever happens to the
//! connection meanwhile.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, KeyValue, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use tokio::time::Instant;

use super::fault::{Fault, Particular};
use super::keys::Keys;
use super::link::Link;
use crate::store::registry::{Change, Expected, Outcome, Trouble, Write};

/// etcd's leases, which make keys expire.
#[derive(Debug, Default)]
pub(super) struct Grants {
    /// Granted for a put that came to nothing (another node was ahead of us): the next can have it.
    spare: Option<Grant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grant {
    id: i64,
    seconds: i64,
    at: Instant,
}

pub(super) async fn commit(
    link: &mut Link,
    keys: &Keys,
    grants: &mut Grants,
    change: Change,
) -> Result<Outcome, Fault> {
    let mut transaction = Transaction {
        key: keys.absolute(&change.key),
        expected: change.expected,
        wanted: Wanted::Gone,
        sent: AtomicU32::new(0),
    };
    let (value, expires) = match change.write {
        Write::Delete => return transaction.run(link, keys).await,
        Write::Put { value, expires } => (value, expires),
    };
    let Some(expires) = expires else {
        transaction.wanted = Wanted::Put { value, lease: 0 };
        return transaction.run(link, keys).await;
    };

    let mut grant = grants.obtain(link, expires).await?;
    transaction.wanted = Wanted::Put {
        value,
        lease: grant.id,
    };
    let mut outcome = transaction.run(link, keys).await;
    if matches!(outcome, Err(Fault::Particular(Particular::NotFound))) {
        grant = grants.obtain(link, expires).await?;
        transaction.renew(grant.id);
        outcome = transaction.run(link, keys).await;
    }
    if transaction.surely_failed(&outcome) {
        grants.spare = Some(grant);
    }
    outcome
}

impl Grants {
    async fn obtain(&mut self, link: &mut Link, expires: Duration) -> Result<Grant, Fault> {
        let seconds = i64::try_from(expires.as_secs().max(1)).unwrap_or(i64::MAX);
        if let Some(spare) = self.spare.take_if(|spare| spare.serves(seconds)) {
            return Ok(spare);
        }
        self.give_back(link).await;
        // We name it, so that asking again after a lost answer does not make a second one.
        let id = i64::try_from(super::random() >> 1).unwrap_or(1).max(1);
        let at = Instant::now();
        let granted = link
            .call(|mut client| async move {
                let named = LeaseGrantOptions::new().with_id(id);
                client.lease_grant(seconds, Some(named)).await
            })
            .await;
        match granted {
            Ok(_) | Err(Fault::Particular(Particular::Precondition)) => {
                Ok(Grant { id, seconds, at })
            }
            Err(fault) => Err(fault),
        }
    }

    /// Once nothing is left to put. May be dropped and called again.
    pub(super) async fn give_back(&mut self, link: &mut Link) {
        let Some(Grant { id, .. }) = self.spare else {
            return;
        };
        let revoked = link
            .call(|mut client| async move { client.lease_revoke(id).await })
            .await;
        // Whatever the answer: no key lives by it, and it expires.
        if let Err(fault) = revoked {
            tracing::debug!(?fault, "etcd: an unused lease is left to expire");
        }
        self.spare = None;
    }
}

impl Grant {
    /// It has lost a hundredth of its time at most.
    fn serves(&self, seconds: i64) -> bool {
        let age = i64::try_from(self.at.elapsed().as_secs()).unwrap_or(i64::MAX);
        self.seconds == seconds && age <= seconds / 100
    }
}

/// Safe to send again when its answer got lost: if it went through, the key is not as expected
/// any more, and the transaction says what it is instead.
struct Transaction {
    key: String,
    expected: Expected,
    wanted: Wanted,
    /// How often it was asked for; each time but the last may have gone through.
    sent: AtomicU32,
}

enum Wanted {
    Put { value: String, lease: i64 },
    Gone,
}

impl Transaction {
    async fn run(&self, link: &mut Link, keys: &Keys) -> Result<Outcome, Fault> {
        let answer = link
            .call(|mut client| async move {
                self.sent.fetch_add(1, Ordering::Relaxed);
                client.txn(self.txn()).await
            })
            .await?;
        let revision = answer.header().map_or(0, |header| header.revision());
        if answer.succeeded() {
            return Ok(Outcome::Done(revision));
        }
        let found = found(&answer);
        if self.was_repeated() && self.wanted.is(found.as_ref()) {
            let version = found.map_or(revision, |kv| kv.mod_revision());
            return Ok(Outcome::Done(version));
        }
        let found = found.and_then(|kv| keys.owned_entry(kv));
        Ok(Outcome::Otherwise(found))
    }

    fn txn(&self) -> Txn {
        let key = self.key.as_str();
        let as_expected = match self.expected {
            Expected::Absent => Compare::version(key, CompareOp::Equal, 0),
            Expected::Version(version) => Compare::mod_revision(key, CompareOp::Equal, version),
        };
        let write = match &self.wanted {
            Wanted::Gone => TxnOp::delete(key, None),
            Wanted::Put { value, lease } => {
                let by_lease = PutOptions::new().with_lease(*lease);
                TxnOp::put(key, value.as_str(), Some(by_lease))
            }
        };
        Txn::new()
            .when([as_expected])
            .and_then([write])
            .or_else([TxnOp::get(key, None)])
    }

    fn was_repeated(&self) -> bool {
        self.sent.load(Ordering::Relaxed) > 1
    }

    /// Otherwise the key may live by the lease that came with it.
    fn surely_failed(&self, outcome: &Result<Outcome, Fault>) -> bool {
        match outcome {
            Ok(Outcome::Otherwise(_)) => true,
            Err(Fault::Final(Trouble::Refused(_))) => !self.was_repeated(),
            _ => false,
        }
    }

    /// Whatever was sent with the lease that does not exist went nowhere.
    fn renew(&mut self, id: i64) {
        if let Wanted::Put { lease, .. } = &mut self.wanted {
            *lease = id;
        }
        self.sent = AtomicU32::new(0);
    }
}

impl Wanted {
    /// Ours, since nobody else has our etcd lease; a reservation is known by its value alone.
    fn is(&self, found: Option<&KeyValue>) -> bool {
        match (self, found) {
            (Self::Gone, None) => true,
            (Self::Put { value, lease }, Some(kv)) => {
                kv.lease() == *lease && kv.value() == value.as_bytes()
            }
            _ => false,
        }
    }
}

fn found(answer: &TxnResponse) -> Option<KeyValue> {
    answer
        .op_responses()
        .into_iter()
        .find_map(|part| match part {
            TxnOpResponse::Get(mut got) => got.take_kvs().pop(),
            _ => None,
        })
}
