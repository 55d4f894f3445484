//! What comes piece by piece: a listing, page after page, and a watch.

use std::collections::VecDeque;
use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::timeout;

use super::api::{Api, SILENCE, format, request};
use super::fault::Fault;
use super::node::{Event, ListHead, Node, Prefix};
use super::wire::{Ask, Cutter, Format, Of, Part};

/// A listing under way.
pub(super) struct Pages {
    api: Api,
    ask: Ask,
    next: Option<String>,
    head: ListHead,
    page: Option<Stream<Piece>>,
}

/// What a page is made of.
enum Piece {
    Item(Node),
    Head(ListHead),
}

impl Pages {
    /// Of all nodes.
    pub(super) fn begin(api: &Api, ask: Ask, fresh: Fresh) -> Self {
        Self {
            api: api.clone(),
            ask,
            next: Some(format!("/api/v1/nodes?limit={PAGE}{}", fresh.query())),
            head: ListHead::default(),
            page: None,
        }
    }

    /// None when there are no more.
    pub(super) async fn next(&mut self) -> Result<Option<Node>, Fault> {
        loop {
            let page = match &mut self.page {
                Some(page) => page,
                None => {
                    let Some(path) = self.next.take() else {
                        return Ok(None);
                    };
                    let page = Stream::open(&self.api, self.ask, &path, Of::List, piece).await?;
                    self.page.insert(page)
                }
            };
            match page.next(SILENCE).await? {
                Some(Piece::Item(node)) => return Ok(Some(node)),
                Some(Piece::Head(head)) => self.head = head,
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

fn piece(format: Format, part: Part<'_>, prefix: &Prefix) -> Result<Piece, Fault> {
    Ok(match part {
        Part::Whole(bytes) => Piece::Item(format.item(bytes, prefix)?),
        Part::Beside(bytes) => Piece::Head(format.list_head(bytes)?),
    })
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
    stream: Stream<Event>,
    quiet: Duration,
}

impl Watch {
    /// Of what comes after `version`, for as long as it `lasts`; `quiet` for longer than that, it
    /// is none.
    pub(super) async fn begin(
        api: &Api,
        version: &str,
        lasts: Duration,
        quiet: Duration,
    ) -> Result<Self, Fault> {
        let path = format!(
            "/api/v1/nodes?watch=1&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
            lasts.as_secs(),
            escaped(version)
        );
        let stream = Stream::open(api, Ask::Metadata, &path, Of::Events, event).await?;
        Ok(Self { stream, quiet })
    }

    /// None when the server ended it properly.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Fault> {
        self.stream.next(self.quiet).await
    }
}

fn event(format: Format, part: Part<'_>, prefix: &Prefix) -> Result<Event, Fault> {
    let (Part::Whole(bytes) | Part::Beside(bytes)) = part;
    format.event(bytes, prefix)
}

/// A body, read object by object.
struct Stream<T> {
    body: Body,
    api: Api,
    format: Format,
    cutter: Cutter,
    read: fn(Format, Part<'_>, &Prefix) -> Result<T, Fault>,
    ready: VecDeque<Result<T, Fault>>,
}

impl<T> Stream<T> {
    async fn open(
        api: &Api,
        ask: Ask,
        path: &str,
        of: Of,
        read: fn(Format, Part<'_>, &Prefix) -> Result<T, Fault>,
    ) -> Result<Self, Fault> {
        let get = |accept: &str| request(Method::GET, path, accept, None);
        let response = api.of_nodes(ask, get).await?;
        let format = format(&response);
        Ok(Self {
            body: response.into_body(),
            api: api.clone(),
            format,
            cutter: Cutter::new(format, of),
            read,
            ready: VecDeque::new(),
        })
    }

    /// None when it ended where an object does.
    async fn next(&mut self, silence: Duration) -> Result<Option<T>, Fault> {
        loop {
            if let Some(read) = self.ready.pop_front() {
                return read.map(Some);
            }
            let frame = timeout(silence, self.body.frame()).await;
            match frame.map_err(|_| self.api.silent())? {
                None if self.cutter.is_even() => return Ok(None),
                None | Some(Err(_)) => return Err(Fault::Broken),
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(&[][..], |data| &data[..]);
                    let (ready, prefix) = (&mut self.ready, &self.api.prefix);
                    let (read, format) = (self.read, self.format);
                    self.cutter
                        .feed(bytes, |part| ready.push_back(read(format, part, prefix)))?;
                }
            }
        }
    }
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
