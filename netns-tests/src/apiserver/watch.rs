//! A watch: changes as they come, and now and then where it stands.

use std::io;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Shared;
use super::http::{Answer, failure};
use super::query::Query;
use super::shape::Shape;
use super::store::{Change, Deed, Key};

pub(super) struct Watch<'a> {
    pub(super) kind: &'a str,
    /// As objects call it.
    pub(super) singular: &'a str,
    pub(super) query: &'a Query,
    pub(super) shape: Shape,
}

/// What a look at the state has brought.
struct News {
    events: Vec<Value>,
    cut: bool,
    over: bool,
}

impl Watch<'_> {
    /// True if the connection may be used again.
    pub(super) fn serve(&self, shared: &Shared, answer: &mut Answer<'_>) -> io::Result<bool> {
        let name = self.query.name().unwrap_or_default();
        let ends = self.ends();
        let begun = shared.lock().watches_ended;
        let mut at = match self.query.get("resourceVersion").unwrap_or("") {
            "" | "0" => None,
            version => version.parse::<u64>().ok(),
        };
        answer.begin_chunks(self.shape.form.watch_content_type())?;
        let mut marked = Instant::now();
        loop {
            let news = self.look(shared, &mut at, name, begun);
            for event in &news.events {
                let event = self.shape.form.event(event);
                if news.cut {
                    answer.chunk(&event[..event.len() / 2])?;
                    answer.connection.break_off();
                    return Ok(false);
                }
                answer.chunk(&event)?;
            }
            if news.over || Instant::now() >= ends {
                answer.end_chunks()?;
                return Ok(true);
            }
            if let Some(bookmark) = self.bookmark(shared, at, &mut marked) {
                answer.chunk(&self.shape.form.event(&bookmark))?;
            }
            if answer.connection.is_closed() {
                return Ok(false);
            }
            let state = shared.lock();
            let idle = state.store.changes_since(at.unwrap_or(0));
            if !state.stopped && idle.is_some_and(<[Change]>::is_empty) {
                let pause = self.until_bookmark(state.trouble.bookmarks, marked);
                let pause = pause.min(ends.saturating_duration_since(Instant::now()));
                drop(shared.news.wait_timeout(state, pause));
            } else if state.trouble.silent_watches {
                drop(shared.news.wait_timeout(state, LOOK_AGAIN));
            }
        }
    }

    fn look(&self, shared: &Shared, at: &mut Option<u64>, name: Option<&str>, begun: u64) -> News {
        let state = shared.lock();
        let mut news = News {
            events: Vec::new(),
            cut: false,
            over: state.stopped || state.watches_ended != begun,
        };
        if state.trouble.silent_watches {
            return news;
        }
        let wanted = |key: &Key| key.kind == self.kind && name.is_none_or(|name| key.name == name);
        let Some(since) = *at else {
            let all = state.store.after(&Key::new(self.kind, "", ""));
            let all = all.filter(|(key, _)| wanted(key));
            news.events = all.map(|(_, object)| self.event("ADDED", object)).collect();
            *at = Some(state.store.version);
            return news;
        };
        let Some(changes) = state.store.changes_since(since) else {
            let why = format!(
                "too old resource version: {since} ({})",
                state.store.version
            );
            news.events = vec![json!({"type": "ERROR", "object": failure(410, why)})];
            news.over = true;
            return news;
        };
        for change in changes.iter().filter(|change| wanted(&change.key)) {
            let deed = match change.deed {
                Deed::Added => "ADDED",
                Deed::Modified => "MODIFIED",
                Deed::Deleted => "DELETED",
            };
            news.events.push(self.event(deed, &change.object));
        }
        // A watch from the future waits for it.
        *at = Some(since.max(state.store.version));
        news.cut = state.trouble.cuts_events && !news.events.is_empty();
        news
    }

    fn event(&self, deed: &str, object: &Value) -> Value {
        json!({"type": deed, "object": self.shape.one(object)})
    }

    /// It bears a version and nothing else, but in an object's shape.
    fn bookmark(&self, shared: &Shared, at: Option<u64>, marked: &mut Instant) -> Option<Value> {
        let every = shared.lock().trouble.bookmarks;
        let allowed = self.query.is("allowWatchBookmarks") && !shared.lock().trouble.silent_watches;
        if !allowed || marked.elapsed() < every.unwrap_or(EACH_MINUTE) {
            return None;
        }
        *marked = Instant::now();
        let object = json!({
            "kind": self.singular, "apiVersion": "v1",
            "metadata": {"resourceVersion": at?.to_string(), "creationTimestamp": null},
            "spec": {}, "status": {},
        });
        Some(self.event("BOOKMARK", &object))
    }

    /// Or until it is time to look whether the client is still there.
    fn until_bookmark(&self, every: Option<Duration>, marked: Instant) -> Duration {
        let every = every.unwrap_or(EACH_MINUTE);
        match self.query.is("allowWatchBookmarks") {
            true => every.saturating_sub(marked.elapsed()).min(LOOK_AGAIN),
            false => LOOK_AGAIN,
        }
    }

    /// Of its own accord, after half an hour to an hour, or when it is told to.
    fn ends(&self) -> Instant {
        let seconds = self
            .query
            .get("timeoutSeconds")
            .and_then(|s| s.parse().ok());
        Instant::now() + Duration::from_secs(seconds.unwrap_or(1800))
    }
}

const EACH_MINUTE: Duration = Duration::from_secs(60);
/// How soon a client that went away is noticed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
