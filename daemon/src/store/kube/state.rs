//! What is known, of our own node above all, and what follows from it. No IO: news in, a view
//! out, with time passed in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::annotations::{self, Overwrites};
use super::config::Config;
use super::errands::Done;
use super::follow::News;
use super::node::{Node, Prefix};
use super::nodes::Nodes;
use crate::conf::{Backend, NetConf};
use crate::lease::{Attrs, Lease, Published, Subnets};
use crate::store::leasing::dice::Dice;
use crate::store::leasing::disturbed::Disturbed;
use crate::store::{Chosen, Claim, Own, Peers};

pub(super) struct State {
    prefix: Prefix,
    pub(super) config: Config,
    pub(super) name: Option<String>,
    nodes: Nodes,
    own: Option<Node>,
    /// NetworkUnavailable's status, once it was seen.
    pub(super) unavailable: Option<Option<String>>,
    claim: Option<Claim>,
    held: Option<Arc<Lease>>,
    /// What peers were told last, as the server has confirmed.
    confirmed: Option<Attrs>,
    not_written: Option<String>,
    disturbed: Disturbed,
    put_back_at: Option<Duration>,
    dice: Dice,
    pub(super) trouble: Option<String>,
    said: BTreeSet<String>,
}

impl State {
    pub(super) fn new(prefix: Prefix, config: Config, name: Option<String>, seed: u64) -> Self {
        Self {
            prefix,
            config,
            name,
            nodes: Nodes::default(),
            own: None,
            unavailable: None,
            claim: None,
            held: None,
            confirmed: None,
            not_written: None,
            disturbed: Disturbed::new(),
            put_back_at: None,
            dice: Dice::new(seed),
            trouble: None,
            said: BTreeSet::new(),
        }
    }

    /// Whether anything but a peer's heartbeat was in it.
    pub(super) fn take(&mut self, news: News, now: Duration) -> bool {
        match news {
            News::Ours(name) => self.name = Some(name),
            News::Begun => self.nodes.begin_listing(),
            News::Is(node) => return self.take_node(node),
            News::Gone(name) => return self.forget(&name),
            News::Listed => self.end_listing(now),
            News::Well => {
                if self.trouble.take().is_some() {
                    tracing::info!("the API server answers again");
                }
            }
            News::Trouble(fault) => {
                let told = fault.to_string();
                if self.trouble.as_ref() != Some(&told) {
                    tracing::warn!("{told}");
                }
                self.trouble = Some(told);
            }
        }
        true
    }

    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Written(node) => {
                self.not_written = None;
                self.take_node(node);
            }
            Done::NotWritten(fault) => {
                let told = format!("publish this node's addresses in its annotations: {fault}");
                self.tell_once(&told);
                self.not_written = Some(told);
            }
            Done::NotSaid(fault) => {
                self.tell_once(&format!(
                    "set the node's condition NetworkUnavailable: {fault}"
                ));
            }
            Done::Asked(found, notes) => {
                notes.iter().for_each(|note| self.tell_once(note));
                self.config.found(found);
            }
        }
    }

    pub(super) fn claimed(&mut self, claim: Option<Claim>) {
        self.claim = claim;
    }

    fn tell_once(&mut self, told: &str) {
        if self.said.len() < MOST_SAID && self.said.insert(told.to_owned()) {
            tracing::warn!("{told}");
        }
    }

    fn take_node(&mut self, node: Node) -> bool {
        let differs = self.nodes.take(&node);
        let is_own = self.name.as_ref() == Some(&node.name);
        if is_own {
            if let Some(rest) = &node.rest {
                self.unavailable = Some(rest.unavailable.clone());
            }
            self.own = Some(node);
        }
        differs || is_own
    }

    fn forget(&mut self, name: &str) -> bool {
        if self.name.as_deref() == Some(name) {
            self.own = None;
        }
        self.nodes.forget(name)
    }

    fn end_listing(&mut self, now: Duration) {
        let gone = self.nodes.end_listing(now);
        if self.name.as_ref().is_some_and(|own| gone.contains(own)) {
            self.own = None;
        }
    }

    /// When to look again though nothing happens.
    pub(super) fn next(&self) -> Option<Duration> {
        [self.put_back_at, self.nodes.next()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn pass(&mut self, now: Duration) {
        self.nodes.pass(now);
    }

    /// The configuration, with the networks that the nodes' podCIDRs tell of.
    pub(super) fn settle_config(&mut self) {
        let mut addresses = self.nodes.addresses();
        addresses.extend(
            self.claim
                .iter()
                .flat_map(|claim| claim.sources.iter().copied()),
        );
        let subnets = self.nodes.subnets();
        let are_listed = self.nodes.are_listed;
        self.config.settle(&subnets, &addresses, are_listed);
    }

    pub(super) fn peers(&self) -> Option<Peers> {
        let own = self.held.as_ref().map(|lease| lease.subnets);
        self.nodes.peers(self.name.as_deref(), own)
    }

    pub(super) fn chosen(&self) -> Chosen {
        let chosen = self
            .own
            .as_ref()
            .map(|own| annotations::chosen(&own.annotations));
        let Overwrites { v4, v6, .. } = chosen.unwrap_or_default();
        Chosen { v4, v6 }
    }

    /// How it stands with our subnet, and what is to be written of it.
    pub(super) fn own(&mut self, now: Duration) -> (Own, Option<Value>, Vec<String>) {
        let mut notes = Vec::new();
        let Some(conf) = self.config.usable().filter(|_| self.nodes.are_listed) else {
            return (self.otherwise(None), None, notes);
        };
        let Some(claim) = &self.claim else {
            return (self.published(&conf), None, notes);
        };
        let name = self.name.as_deref().unwrap_or_default();
        let subnets = match self.assigned(&conf, name, &mut notes) {
            Ok(subnets) => subnets,
            Err(why) => return (self.otherwise(Some(why)), None, notes),
        };
        let Some(own) = &self.own else {
            return (self.otherwise(None), None, notes);
        };
        let published = annotations::attrs(&own.annotations).ok();
        let existing = self
            .held
            .as_ref()
            .map(|held| &held.attrs)
            .or(published.as_ref());
        let mut attrs = claim.attrs(subnets, existing);
        overwrite(&mut attrs, own, &mut notes);
        let patch = annotations::patch(own, &attrs, &self.prefix);
        let lease = Arc::new(Lease { subnets, attrs });
        let patch = match patch {
            None => {
                self.confirmed = Some(lease.attrs.clone());
                (self.put_back_at, self.not_written) = (None, None);
                self.hold(lease);
                None
            }
            Some(patch) => {
                let due = self.is_due(&lease.attrs, now);
                // Once it serves, it serves: what peers are told follows.
                if self.held.is_some() {
                    self.hold(lease);
                }
                Some(patch).filter(|_| due)
            }
        };
        let told = self.disturbed.told(patch.is_none(), now);
        notes.extend(told.map(str::to_owned));
        notes.extend(self.not_written.clone());
        (self.otherwise(None), patch, notes)
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.claim.is_some()
    }

    /// For one who claims nothing: what an earlier run has published, if it is of use.
    fn published(&self, conf: &NetConf) -> Own {
        let name = self.name.as_deref().unwrap_or_default();
        let subnets = self.assigned(conf, name, &mut Vec::new());
        let own = self.own.as_ref().filter(|own| own.is_managed());
        let attrs = own.and_then(|own| annotations::attrs(&own.annotations).ok());
        match (subnets, attrs) {
            (Ok(subnets), Some(attrs)) if fits(&attrs, conf) => {
                Own::Held(Arc::new(Lease { subnets, attrs }))
            }
            _ => Own::Unclaimed,
        }
    }

    /// Whether what is to be written is to be written yet.
    fn is_due(&mut self, attrs: &Attrs, now: Duration) -> bool {
        if self.confirmed.as_ref() != Some(attrs) {
            return true;
        }
        let at = match self.put_back_at {
            Some(at) => at,
            None => {
                let told = "somebody takes away or changes this node's annotations, which tell \
                            other nodes how to reach its pods; they are put back";
                self.disturbed.until(told.to_owned(), now, &mut self.dice)
            }
        };
        self.put_back_at = Some(at);
        at <= now
    }

    fn hold(&mut self, lease: Arc<Lease>) {
        if let Some(held) = &self.held
            && held.subnets != lease.subnets
        {
            tracing::warn!(
                "this node's podCIDR is {} where it was {}: pods that run keep addresses that \
                 other nodes do not send here any more, so start them anew",
                lease.subnets,
                held.subnets
            );
        }
        if self.held.as_ref() != Some(&lease) {
            self.held = Some(lease);
        }
    }

    fn otherwise(&self, why: Option<String>) -> Own {
        match (
            &self.held,
            why.or_else(|| self.not_written.clone().filter(|_| self.held.is_none())),
        ) {
            (Some(held), None) => Own::Held(Arc::clone(held)),
            (Some(held), Some(why)) => Own::Lost {
                was: Arc::clone(held),
                why,
            },
            (None, Some(why)) => Own::Refused(why),
            (None, None) => Own::Unclaimed,
        }
    }

    /// What Kubernetes gave this node, of families that are on.
    fn assigned(
        &self,
        conf: &NetConf,
        name: &str,
        notes: &mut Vec<String>,
    ) -> Result<Subnets, String> {
        if self.own.is_none() {
            return Err(format!(
                "the API server knows no node {name:?}: is NODE_NAME (or -node-name) what `kubectl \
                 get nodes` shows, and does the kubelet run?"
            ));
        }
        let given = match self.nodes.subnets_of(name) {
            None => return Err(no_pod_cidr(name, conf)),
            Some(Err(why)) => return Err(format!("node {name:?} cannot be served: {why}")),
            Some(Ok(given)) => *given,
        };
        let subnets = Subnets {
            v4: given.v4.filter(|_| conf.v4.is_some()),
            v6: given.v6.filter(|_| conf.v6.is_some()),
        };
        if subnets == Subnets::default() {
            return Err(format!(
                "node {name:?} has the podCIDR {given}, but the configuration turns its family \
                 off: set EnableIPv4 and EnableIPv6 as the cluster has them"
            ));
        }
        for (family, is_on, is_given) in [
            ("IPv4", conf.v4.is_some(), subnets.v4.is_some()),
            ("IPv6", conf.v6.is_some(), subnets.v6.is_some()),
        ] {
            if is_on && !is_given {
                notes.push(format!(
                    "{family} is on, but node {name:?} has no {family} podCIDR: its pods do without"
                ));
            }
        }
        Ok(subnets)
    }
}

/// Whether it is of the backend that is configured, whole.
fn fits(attrs: &Attrs, conf: &NetConf) -> bool {
    match (&attrs.backend, &conf.backend) {
        (Published::Vxlan { v4, v6 }, Backend::Vxlan(_)) => {
            v4.is_some() == conf.v4.is_some() && v6.is_some() == conf.v6.is_some()
        }
        (Published::HostGw, Backend::HostGw) => true,
        _ => false,
    }
}

fn no_pod_cidr(name: &str, conf: &NetConf) -> String {
    let networks: Vec<_> = conf.networks.iter().map(ToString::to_string).collect();
    format!(
        "node {name:?} has no podCIDR yet: run kube-controller-manager with \
         --allocate-node-cidrs=true and --cluster-cidr={}, or set spec.podCIDR of the node",
        networks.join(",")
    )
}

/// What is published in the place of our own addresses, and then packets come from elsewhere.
fn overwrite(attrs: &mut Attrs, own: &Node, notes: &mut Vec<String>) {
    let told = annotations::overwrites(&own.annotations);
    let (before, before_v6) = (attrs.public_ip, attrs.public_ipv6);
    attrs.public_ip = before.and(told.v4).or(before);
    attrs.public_ipv6 = before_v6.and(told.v6).or(before_v6);
    if (attrs.public_ip, attrs.public_ipv6) != (before, before_v6) {
        attrs.extra.get_or_insert_default().overwritten = true;
    }
    notes.extend(told.wrong);
    notes.extend(annotations::chosen(&own.annotations).wrong);
}

const MOST_SAID: usize = 100;
