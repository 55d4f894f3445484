//! One word to whoever looks at a node, of a program that ends: the Event is all that it leaves.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::time::timeout;

use super::api::{Api, Tally};
use super::events::{Matter, Telling, event};
use super::fault::Fault;
use super::node::Prefix;
use super::way::Way;
use crate::options;

/// The same reason is the same Event, however often the program is tried again.
pub fn tell(
    options: &options::Kube,
    node: &str,
    reason: &'static str,
    message: String,
) -> Result<(), String> {
    let now = SystemTime::now();
    let telling = Telling {
        matter: Matter {
            reason,
            about: String::new(),
            message,
            times: 1,
            is_warning: true,
        },
        name: reason.to_lowercase(),
        count: 1,
        first: now,
        last: now,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("start the runtime: {e}"))?;
    let told = runtime.block_on(async { timeout(PATIENCE, send(options, node, &telling)).await });
    runtime.shutdown_background();
    match told {
        Ok(sent) => sent.map_err(|fault| fault.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

async fn send(options: &options::Kube, node: &str, telling: &Telling) -> Result<(), Fault> {
    let way = Way::find(options).await?;
    let prefix = Prefix(options.annotation_prefix.as_str().into());
    let api = Api::new(way, prefix, Tally::default());
    let event = event(node, telling);
    match api.post_event(&event).await {
        Err(Fault::Refused { code: CONFLICT, .. }) => {
            let name = event["metadata"]["name"].as_str().unwrap_or_default();
            let again = json!({
                "message": event["message"], "lastTimestamp": event["lastTimestamp"],
            });
            api.patch_event(name, &again).await
        }
        done => done,
    }
}

const CONFLICT: u16 = 409;
/// The kubelet tries a container that ends again, and shows the time that it takes as its own.
const PATIENCE: Duration = Duration::from_secs(5);
