//! One request and its answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use serde_json::{Value, json};

use super::access::Connection;
use super::change::{apply, create, parsed, remove};
use super::http::{Answer, Request};
use super::query::Query;
use super::shape::{Can, Form, Part, Shape};
use super::store::Key;
use super::watch::Watch;
use super::{Seen, Shared, State};

/// False when the connection is done with.
pub(super) fn one(shared: &Shared, connection: &mut Connection) -> io::Result<bool> {
    let Some(request) = Request::read(connection)? else {
        return Ok(false);
    };
    let certified = connection.certified;
    let accept = request.header("accept");
    let trouble = shared.lock().trouble.clone();
    let can = Can {
        metadata: !trouble.knows_no_metadata,
        protobuf: !trouble.knows_no_protobuf,
    };
    let errors = Shape::chosen(accept, can.for_errors());
    let mut answer = Answer {
        connection,
        sent: Arc::default(),
        code: Arc::default(),
        errors: errors.map_or(Form::Json, |shape| shape.form),
    };
    {
        let mut state = shared.lock();
        state.seen.push(Seen {
            method: request.method.clone(),
            target: request.target.clone(),
            accept: accept.unwrap_or_default().to_owned(),
            body: String::from_utf8_lossy(&request.body).into_owned(),
            code: Arc::clone(&answer.code),
            sent: Arc::clone(&answer.sent),
        });
    }
    thread::sleep(trouble.slow);
    if trouble.hangs {
        let mut state = shared.lock();
        while state.trouble.hangs && !state.stopped {
            state = shared
                .news
                .wait(state)
                .map_err(|_| io::Error::other("a thread has failed"))?;
        }
        return Ok(false);
    }
    if let Some((code, retry_after)) = trouble.refuses {
        let headers = retry_after.map_or(String::new(), |s| format!("Retry-After: {s}\r\n"));
        answer.text(
            code,
            &headers,
            "Too many requests, please try again later.\n",
        )?;
        return Ok(true);
    }
    if let Some((_, code)) = trouble
        .refuses_some
        .filter(|(part, _)| request.target.contains(part))
    {
        answer.failure(code, "as it was told")?;
        return Ok(true);
    }
    if trouble.refuses_protobuf && accept.is_some_and(|accept| accept.contains("protobuf")) {
        answer.text(406, "", "no such thing here")?;
        return Ok(true);
    }
    if !shared.lock().access.knows(&request, certified) {
        answer.failure(401, "Unauthorized")?;
        return Ok(true);
    }
    route(shared, &request, can, &mut answer)
}

/// Where a path leads.
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) singular: &'static str,
    pub(super) subresource: String,
}

impl Place {
    fn of(path: &str) -> Option<Self> {
        let parts: Vec<_> = path.trim_matches('/').split('/').collect();
        let (namespace, rest) = match parts.as_slice() {
            ["api", "v1", "namespaces", namespace, rest @ ..] => (*namespace, rest),
            ["api", "v1", rest @ ..] => ("", rest),
            _ => return None,
        };
        let (kind, rest) = rest.split_first()?;
        let (singular, is_namespaced) = match *kind {
            "nodes" => ("Node", false),
            "pods" => ("Pod", true),
            "configmaps" => ("ConfigMap", true),
            "events" => ("Event", true),
            _ => return None,
        };
        let name = rest.first().copied().unwrap_or("");
        if is_namespaced == namespace.is_empty() && !(name.is_empty() && is_namespaced) {
            return None;
        }
        Some(Self {
            key: Key::new(kind, namespace, name),
            singular,
            subresource: rest.get(1..).unwrap_or_default().join("/"),
        })
    }

    fn resource(&self) -> String {
        match self.subresource.as_str() {
            "" => self.key.kind.clone(),
            sub => format!("{}/{sub}", self.key.kind),
        }
    }
}

fn route(
    shared: &Shared,
    request: &Request,
    can: Can,
    answer: &mut Answer<'_>,
) -> io::Result<bool> {
    let (path, query) = Query::split(&request.target);
    let place = Place::of(path);
    let Some(place) = place.filter(|place| matches!(&*place.subresource, "" | "status")) else {
        let why = "the server could not find the requested resource";
        answer.failure(404, why)?;
        return Ok(true);
    };
    let watches = query.is("watch");
    let has_name = !place.key.name.is_empty();
    let verb = match (request.method.as_str(), has_name) {
        ("GET", false) if watches => "watch",
        ("GET", false) => "list",
        ("GET", true) => "get",
        ("POST", false) => "create",
        ("PATCH", true) => "patch",
        ("PUT", true) => "update",
        ("DELETE", true) => "delete",
        _ => {
            answer.failure(405, "the server does not allow this method")?;
            return Ok(true);
        }
    };
    let name = has_name.then_some(place.key.name.as_str());
    let may = shared.lock().access.allows(verb, &place.resource(), name);
    if !may {
        let why = format!(
            "{} {:?} is forbidden: User \"system:serviceaccount:test:weft\" cannot {verb} resource \
             {:?} in API group \"\"",
            place.resource(),
            place.key.name,
            place.resource()
        );
        answer.failure(403, why)?;
        return Ok(true);
    }
    let can = Can {
        protobuf: can.protobuf && Form::Protobuf.has(place.singular),
        ..can
    };
    let Some(shape) = Shape::chosen(request.header("accept"), can) else {
        let why = "only the following media types are accepted: application/json";
        answer.failure(406, why)?;
        return Ok(true);
    };
    if verb == "watch" {
        return watch(shared, &place, &query, shape, answer);
    }
    let done = match verb {
        "list" => list(&shared.lock(), &place, &query, shape),
        "get" => get(&shared.lock(), &place).and_then(|object| shaped(shape, 200, &object)),
        "create" => create(&mut shared.lock(), &place, request),
        "patch" => apply(&mut shared.lock(), &place, request)
            .and_then(|object| shaped(shape, 200, &object)),
        "update" => parsed(request).and_then(|object| {
            let mut state = shared.lock();
            get(&state, &place)?;
            Ok((200, state.store.put(object)))
        }),
        _ => remove(&mut shared.lock(), &place),
    };
    shared.news.notify_all();
    match done {
        Ok((code, object)) => answer.whole(code, shape.form, &object)?,
        Err((code, why)) => answer.failure(code, why)?,
    }
    Ok(true)
}

pub(super) type Done = Result<(u16, Value), (u16, String)>;

fn watch(
    shared: &Shared,
    place: &Place,
    query: &Query,
    shape: Shape,
    answer: &mut Answer<'_>,
) -> io::Result<bool> {
    let refused = match (query.name(), shape.part) {
        (Err(why), _) => Some((400, why)),
        (_, Part::MetadataList) => Some((406, "a list is no shape of events".to_owned())),
        _ => None,
    };
    if let Some((code, why)) = refused {
        answer.failure(code, why)?;
        return Ok(true);
    }
    {
        let state = shared.lock();
        let version = query.get("resourceVersion").and_then(|v| v.parse().ok());
        let gone = version.is_some_and(|version: u64| {
            version > 0 && state.store.changes_since(version).is_none()
        });
        if gone && state.trouble.gone_at_once {
            drop(state);
            let why = "too old resource version";
            answer.failure(410, why)?;
            return Ok(true);
        }
    }
    let watch = Watch {
        kind: &place.key.kind,
        singular: place.singular,
        query,
        shape,
    };
    watch.serve(shared, answer)
}

fn list(state: &State, place: &Place, query: &Query, shape: Shape) -> Done {
    let name = query.name().map_err(|why| (400, why))?;
    let asked: usize = query.get("limit").and_then(|l| l.parse().ok()).unwrap_or(0);
    // Whoever is content with what the cache has is given all of it.
    let cached = query.get("resourceVersion") == Some("0");
    let version = query.get("resourceVersion").and_then(|v| v.parse().ok());
    if version.is_some_and(|version: u64| version > state.store.version) {
        return Err((504, "Too large resource version".to_owned()));
    }
    let limit = match (asked, state.trouble.page) {
        (0, None) => usize::MAX,
        (_, Some(page)) => page,
        (_, None) if cached => usize::MAX,
        (asked, None) => asked,
    };
    let (at, from) = match query.get("continue").filter(|token| !token.is_empty()) {
        None => (state.store.version, String::new()),
        Some(token) => token
            .split_once('/')
            .filter(|_| !state.trouble.forgets_pages)
            .and_then(|(version, from)| Some((version.parse().ok()?, from.to_owned())))
            .filter(|(version, _)| state.store.changes_since(*version).is_some())
            .ok_or_else(|| (410, "The provided continue parameter is too old to display a consistent list result."
                    .to_owned()))?,
    };
    let key = Key::new(&place.key.kind, "", &from);
    let found = state.store.after(&key);
    let found: Vec<_> = found
        .filter(|(key, _)| name.is_none_or(|name| key.name == name))
        .take(limit.saturating_add(1))
        .collect();
    let mut metadata = json!({"resourceVersion": at.to_string()});
    if found.len() > limit {
        metadata["continue"] = json!(format!("{at}/{}", found[limit - 1].0.name));
    }
    let items: Vec<_> = found
        .iter()
        .take(limit)
        .map(|(_, object)| *object)
        .collect();
    let list = shape.list(place.singular, metadata, &items);
    list.map(|list| (200, list))
        .ok_or_else(|| (406, "a list is no single object".to_owned()))
}

pub(super) fn get(state: &State, place: &Place) -> Result<Value, (u16, String)> {
    let found = state.store.get(&place.key).cloned();
    found.ok_or_else(|| {
        let Key { kind, name, .. } = &place.key;
        (404, format!("{kind} {name:?} not found"))
    })
}

fn shaped(shape: Shape, code: u16, object: &Value) -> Done {
    let shaped = shape.one(object);
    shaped
        .map(|object| (code, object))
        .ok_or_else(|| (406, "one object is no list".to_owned()))
}

impl std::fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("code", &self.code.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
