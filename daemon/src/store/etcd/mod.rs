//! The registry that is etcd (v3): what flanneld's cluster already has.

mod commit;
mod fault;
mod keys;
mod link;
mod pace;
mod settings;
mod watch;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use etcd_client::{GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse};

use self::commit::Grants;
use self::fault::{Fault, Particular};
use self::keys::Keys;
use self::link::Link;
use self::watch::Watch;
use super::registry::{Change, Changes, Entry, Listing, Outcome, Registry, Trouble};

pub use self::settings::{Error, Settings};

#[derive(Debug)]
pub struct Etcd {
    link: Link,
    keys: Keys,
    watch: Watch,
    grants: Grants,
}

impl Etcd {
    /// Nobody is asked yet: what is wrong here, only the operator can mend.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let settings = settings.without_empty_ones();
        let endpoints = settings.check()?;
        Ok(Self {
            keys: Keys::new(&settings.prefix),
            link: Link::new(settings, endpoints),
            watch: Watch::default(),
            grants: Grants::default(),
        })
    }
}

impl Registry for Etcd {
    async fn list(&mut self) -> Result<Listing, Trouble> {
        let mut page = PAGE;
        let mut compactions = 0..5;
        loop {
            match self.list_by(page).await {
                Ok(listing) => return Ok(listing),
                Err(Fault::Particular(Particular::TooLarge)) if page > 1 => page /= 8,
                // Between two pages: the next listing is of a revision that still stands.
                Err(Fault::Particular(Particular::Compacted)) if compactions.next().is_some() => {}
                Err(fault) => return Err(self.link.told(fault)),
            }
        }
    }

    async fn commit(&mut self, change: Change) -> Result<Outcome, Trouble> {
        let committed = commit::commit(&mut self.link, &self.keys, &mut self.grants, change).await;
        committed.map_err(|fault| self.link.told(fault))
    }

    async fn changes(&mut self) -> Result<Changes, Trouble> {
        self.grants.give_back(&mut self.link).await;
        self.watch.changes(&mut self.link, &self.keys).await
    }

    fn how_to_configure(&self) -> String {
        format!(
            "{} put {} '{{\"Network\": \"10.244.0.0/16\", \"Backend\": {{\"Type\": \"vxlan\"}}}}'",
            self.link.settings().etcdctl(),
            self.keys.config(),
        )
    }

    fn reconnects(&self) -> u64 {
        self.link.reconnects()
    }
}

impl Etcd {
    /// The configuration and the first page in one transaction, more pages at its revision.
    async fn list_by(&mut self, page: i64) -> Result<Listing, Fault> {
        let keys = &self.keys;
        let first = self
            .link
            .call(|client| async move {
                let leases = GetOptions::new().with_prefix().with_limit(page);
                let both = Txn::new().and_then([
                    TxnOp::get(keys.config(), None),
                    TxnOp::get(keys.leases(), Some(leases)),
                ]);
                let mut kv = client.kv_client().max_decoding_message_size(MESSAGE_LIMIT);
                kv.txn(both).await
            })
            .await?;
        let header = first.header();
        let revision = header.map_or(0, |header| header.revision());
        let cluster = header.map_or(0, |header| header.cluster_id());

        let mut parts = first
            .op_responses()
            .into_iter()
            .filter_map(|part| match part {
                TxnOpResponse::Get(got) => Some(got),
                _ => None,
            });
        let config = parts.next().and_then(|mut got| got.take_kvs().pop());
        let config = config.and_then(|kv| keys.owned_entry(kv));
        let mut leases = Vec::new();
        let mut next = None;
        if let Some(mut got) = parts.next() {
            drop(first);
            let more = got.more();
            next = keep(keys, got.take_kvs(), &mut leases).filter(|_| more);
        }
        while let Some(from) = next.take() {
            let from = &from;
            let mut got = self
                .link
                .call(|client| async move {
                    let rest = GetOptions::new()
                        .with_range(keys.after_leases())
                        .with_revision(revision)
                        .with_limit(page);
                    let mut kv = client.kv_client().max_decoding_message_size(MESSAGE_LIMIT);
                    kv.get(from.clone(), Some(rest)).await
                })
                .await?;
            let more = got.more();
            next = keep(keys, got.take_kvs(), &mut leases).filter(|_| more);
        }
        self.watch.restart(revision, cluster);
        Ok(Listing { config, leases })
    }
}

/// Returns where the next page begins: at the first key after the last one.
fn keep(keys: &Keys, page: Vec<KeyValue>, leases: &mut Vec<Entry>) -> Option<Vec<u8>> {
    let mut next = page.last()?.key().to_vec();
    next.push(0);
    leases.extend(page.into_iter().filter_map(|kv| keys.owned_entry(kv)));
    Some(next)
}

/// Not for secrets: it keeps numbers of many nodes apart.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// How many leases a message brings: some 2 MB, within the window of one HTTP/2 stream.
const PAGE: i64 = 5000;
/// How large a message we take. tonic's own limit, 4 MiB, is less than a thousand events of one
/// transaction may have.
const MESSAGE_LIMIT: usize = 64 << 20;
/// How long a member may take to answer before another is asked.
const CALL_LIMIT: Duration = Duration::from_secs(4);
/// How long members are asked one after the other before the call is given up.
const CALLS_LIMIT: Duration = Duration::from_secs(6);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
