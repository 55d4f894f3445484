//! The calls that weftd makes, each with its answer as a value of ours.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::cut::{Cutter, Of, Part};
use super::fault::Fault;
use super::node::{Event, ListHead, Node, Prefix};
use super::way::Way;
use crate::store::Health;

/// A way to the server that works, for as long as it does.
#[derive(Clone)]
pub(super) struct Api {
    way: Arc<Way>,
    prefix: Prefix,
    tally: Tally,
}

/// What all calls together have come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(Arc<Mutex<Health>>);

/// What of a node is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    Whole,
    /// A server that cannot do it sends the whole.
    Metadata,
}

impl Depth {
    fn accept(self, list: bool) -> &'static str {
        match (self, list) {
            (Self::Whole, _) => "application/json",
            (Self::Metadata, false) => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
            }
            (Self::Metadata, true) => {
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
            }
        }
    }
}

impl Api {
    pub(super) fn new(way: Way, prefix: Prefix, tally: Tally) -> Self {
        Self {
            way: Arc::new(way),
            prefix,
            tally,
        }
    }

    pub(super) async fn node(&self, name: &str) -> Result<Node, Fault> {
        let body = self.get(&format!("/api/v1/nodes/{name}")).await?;
        self.read_node(&body)
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

    /// All nodes, page after page.
    pub(super) fn list(&self, depth: Depth, fresh: Fresh) -> Pages {
        Pages {
            api: self.clone(),
            depth,
            next: Some(format!("/api/v1/nodes?limit={PAGE}{}", fresh.query())),
            head: ListHead::default(),
            page: None,
        }
    }

    pub(super) async fn watch(&self, version: &str, lasts: Duration) -> Result<Watch, Fault> {
        let path = format!(
            "/api/v1/nodes?watch=1&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
            lasts.as_secs(),
            escaped(version)
        );
        let request = request(Method::GET, &path, Depth::Metadata.accept(false), None);
        Ok(Watch {
            stream: Stream::open(self, request, Of::Events).await?,
            prefix: self.prefix.clone(),
        })
    }

    /// A strategic merge patch of a node's status, which is where annotations may be written with
    /// the least rights.
    pub(super) async fn patch(&self, node: &str, patch: &Value) -> Result<Node, Fault> {
        let path = format!("/api/v1/nodes/{node}/status");
        let kind = "application/strategic-merge-patch+json";
        let body = self.send(Method::PATCH, &path, kind, patch).await?;
        self.read_node(&body)
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
            Err(_) => Err(Fault::Silent {
                url: self.way.url.clone(),
            }),
            Ok(Err(why)) => Err(Fault::unreachable(&self.way.url, &why)),
            Ok(Ok(response)) if response.status().is_success() => Ok(response),
            Ok(Ok(response)) => {
                let code = response.status().as_u16();
                let after = response.headers().get(RETRY_AFTER);
                let after = after.and_then(|after| after.to_str().ok().map(str::to_owned));
                let body = self.collect(response, LARGEST_STATUS).await;
                Err(Fault::answered(
                    code,
                    after.as_deref(),
                    &body.unwrap_or_default(),
                ))
            }
        };
        self.tally.count(begun.elapsed(), answer.is_err());
        answer
    }

    async fn collect(&self, response: Response<Body>, most: usize) -> Result<Vec<u8>, Fault> {
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        loop {
            let frame = timeout(SILENCE, body.frame())
                .await
                .map_err(|_| Fault::Silent {
                    url: self.way.url.clone(),
                })?;
            match frame {
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

    fn read_node(&self, bytes: &[u8]) -> Result<Node, Fault> {
        Node::read(bytes, &self.prefix).map_err(|why| Fault::Garbled(why.to_string()))
    }
}

/// A listing under way.
pub(super) struct Pages {
    api: Api,
    depth: Depth,
    next: Option<String>,
    head: ListHead,
    page: Option<Stream>,
}

impl Pages {
    /// None when there are no more.
    pub(super) async fn next(&mut self) -> Result<Option<Node>, Fault> {
        loop {
            let page = match &mut self.page {
                Some(page) => page,
                None => {
                    let Some(path) = self.next.take() else {
                        return Ok(None);
                    };
                    let request = request(Method::GET, &path, self.depth.accept(true), None);
                    let stream = Stream::open(&self.api, request, Of::List).await?;
                    self.page.insert(stream)
                }
            };
            match page.next(SILENCE).await? {
                Some(Cut::Whole(bytes)) => {
                    let mut node = self.api.read_node(&bytes)?;
                    // A list's items bear no kind, so what was asked for has to tell.
                    if self.depth == Depth::Metadata {
                        node.rest = node.rest.filter(|rest| rest.subnets.is_some());
                    }
                    return Ok(Some(node));
                }
                Some(Cut::Beside(bytes)) => self.head = parsed(&bytes)?,
                None => {
                    self.page = None;
                    let more = std::mem::take(&mut self.head.more);
                    self.next = (!more.is_empty())
                        .then(|| format!("/api/v1/nodes?limit={PAGE}&continue={}", escaped(&more)));
                }
            }
        }
    }

    /// The version that the listing is of, once it is whole.
    pub(super) fn version(self) -> String {
        self.head.version
    }
}

/// How fresh a listing is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fresh {
    /// As the server's cache has it, which costs it least.
    Cached,
    /// As it is.
    Latest,
}

impl Fresh {
    fn query(self) -> &'static str {
        match self {
            Self::Cached => "&resourceVersion=0",
            Self::Latest => "",
        }
    }
}

/// Events as they come.
pub(super) struct Watch {
    stream: Stream,
    prefix: Prefix,
}

impl Watch {
    /// None when the server ended it properly.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Fault> {
        match self.stream.next(QUIET).await? {
            None => Ok(None),
            Some(Cut::Whole(bytes) | Cut::Beside(bytes)) => {
                Event::read(&bytes, &self.prefix).map(Some)
            }
        }
    }
}

enum Cut {
    Whole(Vec<u8>),
    Beside(Vec<u8>),
}

/// A body, cut into objects.
struct Stream {
    body: Body,
    url: String,
    cutter: Cutter,
    ready: std::collections::VecDeque<Cut>,
}

impl Stream {
    async fn open(api: &Api, request: Request<Body>, of: Of) -> Result<Self, Fault> {
        Ok(Self {
            body: api.answered(request).await?.into_body(),
            url: api.way.url.clone(),
            cutter: Cutter::new(of),
            ready: std::collections::VecDeque::new(),
        })
    }

    async fn next(&mut self, silence: Duration) -> Result<Option<Cut>, Fault> {
        loop {
            if let Some(cut) = self.ready.pop_front() {
                return Ok(Some(cut));
            }
            let frame = timeout(silence, self.body.frame()).await;
            let frame = frame.map_err(|_| Fault::Silent {
                url: self.url.clone(),
            })?;
            match frame {
                None if self.cutter.is_even() => return Ok(None),
                None | Some(Err(_)) => return Err(Fault::Broken),
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(&[][..], |data| &data[..]);
                    let ready = &mut self.ready;
                    let fed = self.cutter.feed(bytes, |part| {
                        ready.push_back(match part {
                            Part::Whole(bytes) => Cut::Whole(bytes.to_vec()),
                            Part::Beside(bytes) => Cut::Beside(bytes.to_vec()),
                        });
                    });
                    fed.map_err(|_| Fault::Garbled("an object larger than can be".to_owned()))?;
                }
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

fn request(
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

/// Fit for a query.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(byte.into());
            }
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Nodes a page: 10 MB at the server, one object at a time here.
const PAGE: usize = 500;
/// Until the head of an answer.
const ANSWER: Duration = Duration::from_secs(15);
/// Within an answer.
const SILENCE: Duration = Duration::from_secs(30);
/// Within a watch, which the server interrupts each minute to say where it stands.
const QUIET: Duration = Duration::from_secs(150);
const LARGEST: usize = 6 << 20;
const LARGEST_STATUS: usize = 64 << 10;
