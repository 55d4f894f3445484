//! The calls that weftd makes, each with its answer as a value of ours.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::fault::Fault;
use super::node::{Node, Prefix};
use super::way::Way;
use super::wire::{Ask, Format};
use crate::store::Health;

/// A way to the server that works, for as long as it does.
#[derive(Clone)]
pub(super) struct Api {
    way: Arc<Way>,
    pub(super) prefix: Prefix,
    tally: Tally,
    /// It has refused what mentions protobuf.
    knows_json_alone: Arc<AtomicBool>,
}

/// What all calls together have come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(Arc<Mutex<Health>>);

impl Api {
    pub(super) fn new(way: Way, prefix: Prefix, tally: Tally) -> Self {
        Self {
            way: Arc::new(way),
            prefix,
            tally,
            knows_json_alone: Arc::default(),
        }
    }

    pub(super) fn silent(&self) -> Fault {
        let url = self.way.url.clone();
        Fault::Silent { url }
    }

    pub(super) async fn node(&self, name: &str) -> Result<Node, Fault> {
        let path = format!("/api/v1/nodes/{name}");
        self.whole_node(|accept| request(Method::GET, &path, accept, None))
            .await
    }

    /// The name of the node that a pod runs on.
    pub(super) async fn node_of_pod(&self, namespace: &str, pod: &str) -> Result<String, Fault> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let pod: Value = parsed(&self.get(&path).await?)?;
        let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        match name.is_empty() {
            false => Ok(name.to_owned()),
            true => Err(Fault::Garbled("the pod of weftd is on no node".to_owned())),
        }
    }

    /// A text of a ConfigMap. None if the map has none of that name.
    pub(super) async fn configured(&self, map: &str, key: &str) -> Result<Option<String>, Fault> {
        let path = format!("/api/v1/namespaces/kube-system/configmaps/{map}");
        let map: Value = parsed(&self.get(&path).await?)?;
        Ok(map["data"][key].as_str().map(str::to_owned))
    }

    /// A strategic merge patch of a node's status, which is where annotations may be written with
    /// the least rights.
    pub(super) async fn patch(&self, node: &str, patch: &Value) -> Result<Node, Fault> {
        let path = format!("/api/v1/nodes/{node}/status");
        let body = Some(("application/strategic-merge-patch+json", patch));
        self.whole_node(|accept| request(Method::PATCH, &path, accept, body))
            .await
    }

    pub(super) async fn post_event(&self, event: &Value) -> Result<(), Fault> {
        let path = "/api/v1/namespaces/default/events";
        let sent = self.send(Method::POST, path, "application/json", event);
        sent.await.map(drop)
    }

    pub(super) async fn patch_event(&self, name: &str, patch: &Value) -> Result<(), Fault> {
        let path = format!("/api/v1/namespaces/default/events/{name}");
        let sent = self.send(Method::PATCH, &path, "application/merge-patch+json", patch);
        sent.await.map(drop)
    }

    async fn whole_node(&self, make: impl Fn(&str) -> Request<Body>) -> Result<Node, Fault> {
        let response = self.of_nodes(Ask::Whole, make).await?;
        let format = format(&response);
        let body = self.collect(response, LARGEST).await?;
        Ok(format.node(&body, &self.prefix)?)
    }

    /// The head of an answer that holds nodes; `make` is given what to accept.
    pub(super) async fn of_nodes(
        &self,
        ask: Ask,
        make: impl Fn(&str) -> Request<Body>,
    ) -> Result<Response<Body>, Fault> {
        if !self.knows_json_alone.load(Ordering::Relaxed) {
            match self.answered(make(ask.accept())).await {
                Err(Fault::Refused { code: 406, .. }) => {
                    self.knows_json_alone.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        self.answered(make(ask.accept_json())).await
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, Fault> {
        self.whole(request(Method::GET, path, "application/json", None))
            .await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> Result<Vec<u8>, Fault> {
        self.whole(request(
            method,
            path,
            "application/json",
            Some((kind, body)),
        ))
        .await
    }

    async fn whole(&self, request: Request<Body>) -> Result<Vec<u8>, Fault> {
        let response = self.answered(request).await?;
        self.collect(response, LARGEST).await
    }

    /// The answer's head, if it is good; else what the body says of the trouble.
    async fn answered(&self, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let begun = Instant::now();
        let answer = timeout(ANSWER, self.way.client.send(request)).await;
        let answer = match answer {
            Err(_) => Err(self.silent()),
            Ok(Err(why)) => Err(Fault::unreachable(&self.way.url, &why)),
            Ok(Ok(response)) if response.status().is_success() => Ok(response),
            Ok(Ok(response)) => {
                let code = response.status().as_u16();
                let after = response.headers().get(RETRY_AFTER);
                let after = after.and_then(|after| after.to_str().ok().map(str::to_owned));
                let format = format(&response);
                let body = self.collect(response, LARGEST_STATUS).await;
                let why = format.why(&body.unwrap_or_default());
                Err(Fault::answered(code, after.as_deref(), why))
            }
        };
        self.tally.count(begun.elapsed(), answer.is_err());
        answer
    }

    async fn collect(&self, response: Response<Body>, most: usize) -> Result<Vec<u8>, Fault> {
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        loop {
            let frame = timeout(SILENCE, body.frame()).await;
            match frame.map_err(|_| self.silent())? {
                None => return Ok(bytes),
                Some(Err(_)) => return Err(Fault::Broken),
                Some(Ok(frame)) => {
                    bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
                }
            }
            if bytes.len() > most {
                return Err(Fault::Garbled("it is larger than it can be".to_owned()));
            }
        }
    }
}

impl Tally {
    pub(super) fn health(&self) -> Health {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn reconnected(&self) {
        self.change(|health| health.reconnects += 1);
    }

    fn count(&self, spent: Duration, failed: bool) {
        self.change(|health| {
            health.calls += 1;
            health.failures += u64::from(failed);
            health.spent += spent;
            health.slowest = health.slowest.max(spent);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What form an answer has.
pub(super) fn format<T>(response: &Response<T>) -> Format {
    Format::of(response.headers().get(CONTENT_TYPE))
}

pub(super) fn request(
    method: Method,
    path: &str,
    accept: &str,
    body: Option<(&str, &Value)>,
) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header(ACCEPT, accept);
    let made = match body {
        None => request.body(Body::empty()),
        Some((kind, body)) => request
            .header(CONTENT_TYPE, kind)
            .body(Body::from(body.to_string().into_bytes())),
    };
    // A path that is none goes nowhere, and the server says so.
    made.unwrap_or_else(|_| Request::new(Body::empty()))
}

fn parsed<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|why| Fault::Garbled(why.to_string()))
}

/// Until the head of an answer.
const ANSWER: Duration = Duration::from_secs(15);
/// Within an answer.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
const LARGEST: usize = 6 << 20;
const LARGEST_STATUS: usize = 64 << 10;
