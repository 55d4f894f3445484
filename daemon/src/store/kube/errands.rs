//! What is written to the API server, and what is asked of it once: one thing after the other,
//! each until it is done or no longer wanted.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::api::Api;
use super::fault::Fault;
use super::networks::{Found, PLACES};
use super::node::Node;
use crate::store::leasing::backoff::Backoff;
use crate::store::leasing::dice::Dice;

/// What is to be so; what is so already is not in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) node: String,
    pub(super) annotations: Option<Value>,
    pub(super) condition: Option<Value>,
    /// What the cluster's own configuration says of its networks.
    pub(super) networks: bool,
}

#[derive(Debug)]
pub(super) enum Done {
    /// Our node, as it is with what was written.
    Written(Node),
    NotWritten(Fault),
    /// The condition could not be.
    NotSaid(Fault),
    /// None where nobody says it; and what stood in the way of asking.
    Asked(Option<Found>, Vec<String>),
}

pub(super) async fn run(
    mut wanted: watch::Receiver<Wanted>,
    mut api: watch::Receiver<Option<Api>>,
    done: mpsc::Sender<Done>,
    mut dice: Dice,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(20));
    loop {
        let task = wanted.borrow_and_update().clone();
        let ready = api.borrow_and_update().clone();
        let failed = match (&ready, task == Wanted::default()) {
            (Some(api), false) => attend(api, &task, &done).await,
            _ => false,
        };
        if !failed {
            backoff.reset();
        }
        let pause = failed.then(|| backoff.patient(&mut dice));
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            changed = api.changed() => if changed.is_err() { return },
            () = after(pause) => {}
        }
        // What fails is not tried as often as its reasons change.
        if let Some(pause) = pause {
            sleep(pause.min(AT_LEAST)).await;
        }
    }
}

/// Whether something failed.
async fn attend(api: &Api, wanted: &Wanted, done: &mpsc::Sender<Done>) -> bool {
    let mut failed = false;
    if let Some(patch) = &wanted.annotations {
        let written = api.patch(&wanted.node, patch).await;
        failed |= written.is_err();
        let told = done.send(written.map_or_else(Done::NotWritten, Done::Written));
        let _ = told.await;
    }
    if let Some(patch) = &wanted.condition {
        let written = api.patch(&wanted.node, patch).await;
        failed |= written.is_err();
        let told = done.send(written.map_or_else(Done::NotSaid, Done::Written));
        let _ = told.await;
    }
    if wanted.networks {
        match networks(api).await {
            Ok((found, notes)) => drop(done.send(Done::Asked(found, notes)).await),
            Err(_) => failed = true,
        }
    }
    failed
}

/// What is forbidden, or not there, is passed over.
async fn networks(api: &Api) -> Result<(Option<Found>, Vec<String>), Fault> {
    let mut notes = Vec::new();
    for (map, text, key) in PLACES {
        match api.configured(map, text).await {
            Ok(text) => {
                if let Some(found) = text.and_then(|text| Found::read(map, key, &text)) {
                    return Ok((Some(found), notes));
                }
            }
            Err(Fault::NotFound(_)) => {}
            Err(Fault::Forbidden(why)) => notes.push(format!(
                "the ConfigMap kube-system/{map} may not be read ({why}), so what it says of the \
                 pods' network is not known; a Role in kube-system gives the right"
            )),
            Err(fault) => return Err(fault),
        }
    }
    Ok((None, notes))
}

async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => std::future::pending().await,
    }
}

const AT_LEAST: Duration = Duration::from_millis(100);
