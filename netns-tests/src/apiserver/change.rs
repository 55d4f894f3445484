//! What a request changes, and what no request may.

use serde_json::{Value, json};

use super::answer::{Done, Place, get};
use super::http::Request;
use super::store::Key;
use super::{State, fields, patch};

pub(super) fn create(state: &mut State, place: &Place, request: &Request) -> Done {
    let mut object = parsed(request)?;
    if object["kind"].as_str() != Some(place.singular) {
        return Err((400, format!("the object is no {}", place.singular)));
    }
    let metadata = object["metadata"].as_object_mut();
    let metadata = metadata.ok_or_else(|| (422, "metadata: Required value".to_owned()))?;
    if !place.key.namespace.is_empty() {
        let given = metadata.get("namespace").and_then(Value::as_str);
        if given.is_some_and(|given| given != place.key.namespace) {
            return Err((
                400,
                "the namespace of the provided object does not match the namespace sent on the \
                 request"
                    .to_owned(),
            ));
        }
        metadata.insert("namespace".into(), json!(place.key.namespace));
    }
    if metadata.get("name").and_then(Value::as_str).is_none() {
        let prefix = metadata.get("generateName").and_then(Value::as_str);
        let prefix = prefix.ok_or_else(|| (422, "metadata.name: Required value".to_owned()))?;
        let name = format!("{prefix}{:05x}", state.store.version);
        metadata.insert("name".into(), json!(name));
    }
    judge_event(place, &object)?;
    let key = Key::of(&object);
    if state.store.get(&key).is_some() {
        return Err((409, format!("{} {:?} already exists", key.kind, key.name)));
    }
    let manager = manager(request);
    let written = object.clone();
    fields::note(&mut object, &manager, "", &written);
    Ok((201, state.store.put(object)))
}

/// What the server looks at in an Event.
fn judge_event(place: &Place, event: &Value) -> Result<(), (u16, String)> {
    if place.singular != "Event" {
        return Ok(());
    }
    let of = event["involvedObject"]["namespace"].as_str().unwrap_or("");
    let expected = if of.is_empty() { "default" } else { of };
    if place.key.namespace != expected {
        return Err((
            422,
            "involvedObject.namespace: Invalid value: does not match event.namespace".to_owned(),
        ));
    }
    for time in ["firstTimestamp", "lastTimestamp"] {
        let text = event[time].as_str().unwrap_or_default();
        if text.len() != "2026-01-15T08:30:00Z".len() || !text.ends_with('Z') {
            return Err((
                400,
                format!("{time}: {text:?} is no RFC 3339 time in seconds"),
            ));
        }
    }
    Ok(())
}

pub(super) fn remove(state: &mut State, place: &Place) -> Done {
    get(state, place)?;
    state.store.delete(&place.key);
    Ok((
        200,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
    ))
}

pub(super) fn apply(
    state: &mut State,
    place: &Place,
    request: &Request,
) -> Result<Value, (u16, String)> {
    let before = get(state, place)?;
    let patch = parsed(request)?;
    let given = |key: &str| patch["metadata"][key].as_str();
    for precondition in ["resourceVersion", "uid"] {
        if given(precondition).is_some_and(|given| before["metadata"][precondition] != given) {
            return Err((
                409,
                "the object has been modified; please apply your changes to the latest version"
                    .to_owned(),
            ));
        }
    }
    if given("name").is_some_and(|name| name != place.key.name) {
        return Err((
            400,
            "the name of the object does not match the URL".to_owned(),
        ));
    }
    let mut object = before.clone();
    match request.header("content-type").unwrap_or_default() {
        "application/merge-patch+json" => patch::merge(&mut object, &patch),
        "application/strategic-merge-patch+json" => patch::strategic(&mut object, &patch),
        other => {
            return Err((
                415,
                format!(
                    "the body of the request was in an unknown format ({other}) - accepted media \
                     types include: application/merge-patch+json, \
                     application/strategic-merge-patch+json"
                ),
            ));
        }
    }
    // Each of the two sees what is the other's and changes nothing of it.
    let others = if place.subresource == "status" {
        "spec"
    } else {
        "status"
    };
    if place.singular == "Node" {
        object[others] = before[others].clone();
    }
    judge(&before, &object, &place.key.name)?;
    if object == before {
        return Ok(before);
    }
    fields::note(&mut object, &manager(request), &place.subresource, &patch);
    Ok(state.store.put(object))
}

fn judge(before: &Value, after: &Value, name: &str) -> Result<(), (u16, String)> {
    for of in ["annotations", "labels"] {
        let texts = after["metadata"][of].as_object();
        if texts.is_some_and(|texts| texts.values().any(|text| !text.is_string())) {
            return Err((
                400,
                format!(
                    "json: cannot unmarshal into Go struct field ObjectMeta.metadata.{of} of type string"
                ),
            ));
        }
    }
    for cidr in ["podCIDR", "podCIDRs"] {
        let known = &before["spec"][cidr];
        if !known.is_null() && *known != after["spec"][cidr] {
            return Err((
                422,
                format!(
                    "Node {name:?} is invalid: spec.{cidr}: Forbidden: node updates may not change \
                     podCIDR except from \"\" to valid"
                ),
            ));
        }
    }
    Ok(())
}

/// The first word of the user agent.
fn manager(request: &Request) -> String {
    let agent = request.header("user-agent").unwrap_or("unknown");
    let end = agent.find(['/', ' ']).unwrap_or(agent.len());
    agent[..end].to_owned()
}

pub(super) fn parsed(request: &Request) -> Result<Value, (u16, String)> {
    let object: Value = serde_json::from_slice(&request.body)
        .map_err(|why| (400, format!("the body is no JSON: {why}")))?;
    match object.is_object() {
        true => Ok(object),
        false => Err((400, "the body is no object".to_owned())),
    }
}
