//! managedFields: who wrote what, as the server notes it down at every write. They are most of a
//! node's metadata, so a measurement without them would flatter.

use serde_json::{Map, Value, json};

/// Notes down that `manager` has written `patch`.
pub(super) fn note(object: &mut Value, manager: &str, subresource: &str, patch: &Value) {
    let mut written = Map::new();
    paths(patch, &mut written);
    // What nobody owns.
    for known in ["kind", "apiVersion"] {
        written.shift_remove(known);
    }
    if written.is_empty() {
        return;
    }
    let managers = &mut object["metadata"]["managedFields"];
    if !managers.is_array() {
        *managers = json!([]);
    }
    let Some(managers) = managers.as_array_mut() else {
        return;
    };
    let same = |entry: &&mut Value| {
        entry["manager"] == manager && entry["subresource"].as_str().unwrap_or("") == subresource
    };
    match managers.iter_mut().find(same) {
        Some(entry) => unite(&mut entry["fieldsV1"], &written.into()),
        None => {
            let mut entry = json!({
                "manager": manager,
                "operation": "Update",
                "apiVersion": "v1",
                "time": "2026-01-15T08:31:07Z",
                "fieldsType": "FieldsV1",
                "fieldsV1": written,
            });
            if !subresource.is_empty() {
                entry["subresource"] = json!(subresource);
            }
            managers.push(entry);
        }
    }
}

fn paths(patch: &Value, written: &mut Map<String, Value>) {
    let Value::Object(patch) = patch else { return };
    for (key, value) in patch {
        if matches!(
            key.as_str(),
            "name"
                | "namespace"
                | "uid"
                | "resourceVersion"
                | "creationTimestamp"
                | "managedFields"
        ) {
            continue;
        }
        let mut below = Map::new();
        match value {
            Value::Object(_) => paths(value, &mut below),
            Value::Array(items) => items.iter().for_each(|item| element(item, &mut below)),
            _ => {}
        }
        written.insert(format!("f:{key}"), below.into());
    }
}

/// An element of a list that has a key, or of a set; of other lists the whole counts.
fn element(item: &Value, written: &mut Map<String, Value>) {
    if let Some(text) = item.as_str() {
        written.insert(".".to_owned(), json!({}));
        written.insert(format!("v:{}", json!(text)), json!({}));
    }
    if let Some(kind) = item.get("type") {
        let mut below = Map::from_iter([(".".to_owned(), json!({}))]);
        paths(item, &mut below);
        written.insert(format!("k:{}", json!({"type": kind})), below.into());
    }
}

fn unite(into: &mut Value, more: &Value) {
    let (Some(into), Some(more)) = (into.as_object_mut(), more.as_object()) else {
        return;
    };
    for (key, value) in more {
        unite(into.entry(key.clone()).or_insert_with(|| json!({})), value);
    }
}
