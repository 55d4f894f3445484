//! The store of a Kubernetes cluster: nodes' podCIDRs are the subnets, and what each node
//! publishes stands in annotations of its Node, as flanneld writes them.
//!
//! ```text
//!  API server ── follow   lists and watches the nodes, for ever ──────────┐
//!      ▲                                                                  ▼
//!      ├─────── errands  writes annotations and the condition ◄── keep   state → view
//!      └─────── events   tells the operator ◄────────────────────────┘    ▲
//!                                     net-conf.json, claim, report ───────┘
//! ```
//!
//! The rights it needs, and no more: nodes get, list, watch; nodes/status patch; pods get (in its
//! own namespace, and only without NODE_NAME); events create, patch (in the namespace default,
//! where those of nodes are); configmaps get of kubeadm-config and kube-proxy in kube-system.
//! Without the last two it serves all the same, and says what it does without.

mod annotations;
mod api;
mod condition;
mod conf_file;
mod config;
mod errands;
mod events;
mod fault;
mod follow;
mod keep;
mod networks;
mod node;
mod nodes;
mod state;
mod stream;
mod way;
mod wire;
mod word;

use std::future::Future;
use std::pin::Pin;

use tokio::sync::{mpsc, watch};

use super::leasing::dice::Dice;
use super::{Claim, Store, View};
use crate::options;
use crate::reconcile::Report;
use api::Tally;
use conf_file::ConfFile;
use errands::Wanted;
use events::Teller;
use follow::{Follower, Known};
use keep::Keeper;
use node::Prefix;

pub use word::tell;

#[derive(Debug)]
pub struct Kube {
    options: options::Kube,
    node: Option<String>,
    report: watch::Receiver<Report>,
    seed: u64,
}

impl Kube {
    /// `node` is our own, where its name was told; `report` is what the node's condition and
    /// Events are made of.
    pub fn new(
        options: options::Kube,
        node: Option<String>,
        report: watch::Receiver<Report>,
        seed: u64,
    ) -> Self {
        Self {
            options,
            node,
            report,
            seed,
        }
    }
}

impl Store for Kube {
    fn run(
        self: Box<Self>,
        claim: watch::Receiver<Option<Claim>>,
        view: watch::Sender<View>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let Self {
                options,
                node,
                report,
                seed,
            } = *self;
            let prefix = Prefix(options.annotation_prefix.as_str().into());
            let tally = Tally::default();
            let (tell_news, news) = mpsc::channel(WAITING);
            let (tell_done, done) = mpsc::channel(WAITING);
            let (tell, tellings) = mpsc::channel(WAITING);
            let (give_api, api) = watch::channel(None);
            let (want, wanted) = watch::channel(Wanted::default());
            let (name, named) = watch::channel(node.clone().unwrap_or_default());
            let file = ConfFile::open(&options.net_conf);
            let keeper = Keeper {
                state: state::State::new(
                    prefix.clone(),
                    config::Config::new(file.path(), file.text.clone()),
                    node.clone(),
                    seed,
                ),
                file,
                sets_condition: options.set_node_network_unavailable,
                unready_for: options.patience.unready,
                tally: tally.clone(),
                news,
                done,
                claim: Some(claim),
                report: Some(report),
                view,
                want,
                tell,
                name,
                teller: Teller::new(seed),
                timing: keep::Timing::begin(),
            };
            let follower = Follower {
                options,
                node,
                prefix,
                tally,
                news: tell_news,
                api: give_api,
                dice: Dice::new(seed),
                known: Known::default(),
            };
            tokio::select! {
                () = keeper.run() => {}
                () = follower.run() => {}
                () = errands::run(wanted, api.clone(), tell_done, Dice::new(!seed)) => {}
                () = events::send(named, tellings, api) => {}
            }
        })
    }
}

/// What the API server may send, for a fuzzer: all that reads it is given `bytes`.
pub fn read_anything(bytes: &[u8]) {
    wire::read_anything(bytes);
}

/// News that wait to be read: the server waits, too.
const WAITING: usize = 64;
