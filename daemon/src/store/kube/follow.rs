//! Follows the nodes: a listing, then a watch from there on, and again from wherever it broke
//! off. Nothing that the server does ends it.
//!
//! The first listing reads nodes whole, for podCIDRs stand in their spec. From then on it is their
//! metadata that is watched, a fraction of a node: a kubelet's status is of no interest, and it is
//! what changes. A podCIDR never changes in the life of a Node (the API forbids it), so a node is
//! read whole once more only if it is another than was known, by its uid, or had none yet.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::api::{Api, Tally};
use super::fault::Fault;
use super::node::{Event, Node, Prefix};
use super::stream::{Fresh, Pages, Watch};
use super::way::Way;
use super::wire::Ask;
use crate::options;
use crate::store::leasing::backoff::Backoff;
use crate::store::leasing::dice::Dice;

/// What was heard.
#[derive(Debug)]
pub(super) enum News {
    /// Which node is ours.
    Ours(String),
    /// A listing begins.
    Begun,
    /// Part of a listing, or a change.
    Is(Node),
    Gone(String),
    /// What the listing did not hold is gone.
    Listed,
    Trouble(Fault),
    /// The watch stands.
    Well,
}

pub(super) struct Follower {
    pub(super) options: options::Kube,
    /// Our own, as far as it was told.
    pub(super) node: Option<String>,
    pub(super) prefix: Prefix,
    pub(super) tally: Tally,
    pub(super) news: mpsc::Sender<News>,
    pub(super) api: watch::Sender<Option<Api>>,
    pub(super) dice: Dice,
    pub(super) known: Known,
}

/// Nodes whose podCIDRs were read, and which they were.
#[derive(Debug, Default)]
pub(super) struct Known {
    uids: BTreeMap<String, u64>,
    /// Up to where all was told. None: from the beginning.
    version: Option<String>,
    has_expired: bool,
}

impl Follower {
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let begun = Instant::now();
            let ended = self.attempt(&mut backoff).await;
            if begun.elapsed() > STEADY {
                backoff.reset();
            }
            let pause = match ended {
                Ok(()) if begun.elapsed() > STEADY => Duration::ZERO,
                Ok(()) => backoff.patient(&mut self.dice),
                // All nodes' daemons meet this at once.
                Err(Fault::Gone(_)) => {
                    self.known.version = None;
                    self.known.has_expired = true;
                    self.dice.within(APART)
                }
                Err(fault) => {
                    let pause = backoff.patient(&mut self.dice);
                    let told = match &fault {
                        Fault::Busy { after, .. } => after.unwrap_or(pause),
                        _ => pause,
                    };
                    self.api.send_replace(None);
                    self.tell(News::Trouble(fault)).await;
                    told.max(pause)
                }
            };
            self.tally.reconnected();
            tokio::select! {
                () = sleep(pause) => {}
                () = self.news.closed() => return,
            }
        }
    }

    /// Until the watch ends.
    async fn attempt(&mut self, backoff: &mut Backoff) -> Result<(), Fault> {
        let api = self.way_in().await?;
        let own = self.own_name(&api).await?;
        let version = match self.known.version.clone() {
            Some(version) => version,
            None => self.list(&api, &own).await?,
        };
        self.watch(&api, &own, version, backoff).await
    }

    async fn way_in(&mut self) -> Result<Api, Fault> {
        if let Some(api) = self.api.borrow().clone() {
            return Ok(api);
        }
        let way = Way::find(&self.options).await?;
        let api = Api::new(way, self.prefix.clone(), self.tally.clone());
        self.api.send_replace(Some(api.clone()));
        Ok(api)
    }

    async fn own_name(&mut self, api: &Api) -> Result<String, Fault> {
        if let Some(name) = &self.node {
            return Ok(name.clone());
        }
        let name = match &self.options.pod {
            Some((namespace, pod)) => api.node_of_pod(namespace, pod).await?,
            None => {
                return Err(Fault::NoWay(
                    "which node this is is not known: set NODE_NAME, or POD_NAME and POD_NAMESPACE \
                     (in a pod from the downward API)"
                        .to_owned(),
                ));
            }
        };
        self.node = Some(name.clone());
        self.tell(News::Ours(name.clone())).await;
        Ok(name)
    }

    async fn list(&mut self, api: &Api, own: &str) -> Result<String, Fault> {
        let ask = match self.known.uids.is_empty() {
            true => Ask::Whole,
            false => Ask::MetadataList,
        };
        let fresh = match self.known.has_expired {
            true => Fresh::Latest,
            false => Fresh::Cached,
        };
        let mut pages = Pages::begin(api, ask, fresh);
        let mut uids = BTreeMap::new();
        self.tell(News::Begun).await;
        while let Some(node) = pages.next().await? {
            let node = self.complete(api, own, node).await?;
            if let Some(uid) = self.known.uids.get(&node.name) {
                uids.insert(node.name.clone(), *uid);
            }
            self.tell(News::Is(node)).await;
        }
        let version = pages.version();
        self.known.uids = uids;
        self.known.version = Some(version.clone());
        self.tell(News::Listed).await;
        Ok(version)
    }

    async fn watch(
        &mut self,
        api: &Api,
        own: &str,
        version: String,
        backoff: &mut Backoff,
    ) -> Result<(), Fault> {
        let lasts = LASTS + self.dice.within(LASTS);
        let mut watch = Watch::begin(api, &version, lasts, self.options.patience.quiet).await?;
        self.tell(News::Well).await;
        let mut at = version;
        while let Some(event) = watch.next().await? {
            backoff.reset();
            at = match event {
                Event::Is(node) => {
                    let version = node.version.clone();
                    let node = self.complete(api, own, node).await?;
                    self.tell(News::Is(node)).await;
                    version
                }
                Event::Gone(node) => {
                    self.known.uids.remove(&node.name);
                    self.tell(News::Gone(node.name)).await;
                    node.version
                }
                Event::Bookmark(version) if is_older(&version, &at) => {
                    let why = format!("its versions went back from {at} to {version}");
                    return Err(Fault::Gone(why));
                }
                Event::Bookmark(version) => version,
            };
            self.known.version = Some(at.clone());
        }
        Ok(())
    }

    /// With its podCIDRs, where they are of use and not known.
    async fn complete(&mut self, api: &Api, own: &str, node: Node) -> Result<Node, Fault> {
        let is_wanted = node.is_managed() || node.name == own;
        let uid = hash(&node.uid);
        let is_known = self.known.uids.get(&node.name) == Some(&uid);
        let node = match node.rest {
            None if is_wanted && !is_known => match api.node(&node.name).await {
                Ok(whole) => whole,
                // The watch is about to say so.
                Err(Fault::NotFound(_)) => node,
                Err(fault) => return Err(fault),
            },
            _ => node,
        };
        if node
            .rest
            .as_ref()
            .is_some_and(|rest| rest.subnets.is_some())
        {
            self.known.uids.insert(node.name.clone(), hash(&node.uid));
        }
        Ok(node)
    }

    async fn tell(&self, news: News) {
        // Nobody listens only when the daemon ends.
        let _ = self.news.send(news).await;
    }
}

/// A server that was set back to an earlier state would not tell of anything for long.
fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

fn hash(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

/// A watch's least and, twice it, its longest life: then it is begun anew where it was.
const LASTS: Duration = Duration::from_secs(300);
/// After so long an attempt was a good one.
const STEADY: Duration = Duration::from_secs(5);
/// Over how long the listings of all nodes are spread.
const APART: Duration = Duration::from_secs(1);
