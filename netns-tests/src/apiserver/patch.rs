//! Patches: RFC 7386, and Kubernetes' own, which merges some lists by a key.

use serde_json::{Map, Value};

/// RFC 7386: null deletes, objects merge, everything else is replaced.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    combine(target, patch, &mut |_, old, new| *old = new.clone());
}

/// Lists that have a key in the schema are merged by it; the others are replaced.
pub(super) fn strategic(target: &mut Value, patch: &Value) {
    combine(target, patch, &mut merge_list);
}

type Lists<'a> = &'a mut dyn FnMut(&str, &mut Value, &Value);

fn combine(target: &mut Value, patch: &Value, lists: Lists<'_>) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Map::new().into();
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, new) in patch {
        match new {
            Value::Null => drop(target.shift_remove(key)),
            Value::Array(_) => {
                let old = target
                    .entry(key.clone())
                    .or_insert_with(|| Value::Array(Vec::new()));
                lists(key, old, new);
            }
            _ => combine(target.entry(key.clone()).or_insert(Value::Null), new, lists),
        }
    }
}

fn merge_list(name: &str, old: &mut Value, new: &Value) {
    let (Some(olds), Some(news)) = (old.as_array_mut(), new.as_array()) else {
        *old = new.clone();
        return;
    };
    let Some(key) = merge_key(name) else {
        *old = new.clone();
        return;
    };
    for new in news {
        let same = |old: &&mut Value| match key {
            "" => **old == *new,
            key => old[key] == new[key],
        };
        let found = olds.iter_mut().find(same);
        match (new["$patch"].as_str(), found) {
            (Some("delete"), Some(_)) => olds.retain(|old| old[key] != new[key]),
            (Some("delete"), None) => {}
            (_, Some(old)) => strategic(old, new),
            (_, None) => olds.push(new.clone()),
        }
    }
}

/// Of the lists in a Node. An empty key: a set.
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "conditions" | "addresses" => Some("type"),
        "taints" => Some("key"),
        "podCIDRs" | "finalizers" => Some(""),
        "ownerReferences" => Some("uid"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_deletes_by_null_and_replaces_lists() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(&mut object, &json!({"a": {"b": null, "d": 3}, "l": [3]}));
        assert_eq!(object, json!({"a": {"c": 2, "d": 3}, "l": [3]}));
    }

    #[test]
    fn a_strategic_patch_merges_conditions_by_their_type() {
        let mut object = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "NetworkUnavailable", "status": "True", "reason": "x"},
        ]}});
        strategic(
            &mut object,
            &json!({"status": {"conditions": [{"type": "NetworkUnavailable", "status": "False"}]}}),
        );
        assert_eq!(
            object["status"]["conditions"],
            json!([
                {"type": "Ready", "status": "True"},
                {"type": "NetworkUnavailable", "status": "False", "reason": "x"},
            ])
        );
    }
}
