//! The base and what the overlays make of it: by a merge of our own, and by `kubectl kustomize`
//! where there is one that knows the form in which they are written.

use std::path::Path;

use serde_json::Value;
use weft_netns::{Cmd, Need, skip_unless};

use crate::contents;
use crate::documents::{identity, path, read, sorted, text};
use crate::schema;

pub(crate) const ALL: [&str; 7] = [
    "vxlan",
    "host-gw",
    "udp",
    "dual-stack",
    "microk8s",
    "migrate",
    "etcd",
];

pub(crate) fn base() -> Vec<Value> {
    let kustomization = &read("base/kustomization.yaml")[0];
    let resources = kustomization["resources"].as_array().unwrap();
    let names = resources.iter().map(|name| name.as_str().unwrap());
    names
        .flat_map(|name| read(&format!("base/{name}")))
        .collect()
}

pub(crate) fn rendered(overlay: &str) -> Vec<Value> {
    let mut documents = base();
    let kustomization = &read(&format!("overlays/{overlay}/kustomization.yaml"))[0];
    assert_eq!(
        kustomization["resources"],
        serde_json::json!(["../../base"])
    );
    for patch in kustomization["patches"].as_array().into_iter().flatten() {
        if let Some(group) = patch["target"]["group"].as_str() {
            assert!(patch["patch"].as_str().unwrap().contains("$patch: delete"));
            documents
                .retain(|document| !document["apiVersion"].as_str().unwrap().starts_with(group));
            continue;
        }
        let file = patch["path"].as_str().unwrap();
        for patch in read(&format!("overlays/{overlay}/{file}")) {
            let mut patched = documents
                .iter_mut()
                .filter(|it| identity(it) == identity(&patch));
            merge(patched.next().expect("something to patch"), &patch);
        }
    }
    documents
}

/// As the API merges: objects key by key, null removes, lists by what their items are known by.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                match into.get_mut(key) {
                    _ if value.is_null() => drop(into.remove(key)),
                    Some(present) => merge(present, value),
                    None => drop(into.insert(key.clone(), value.clone())),
                }
            }
        }
        (Value::Array(into), Value::Array(patch))
            if patch.iter().all(|item| known_by(item).is_some()) =>
        {
            // What is new comes first.
            for item in patch.iter().rev() {
                let present = into
                    .iter_mut()
                    .find(|present| known_by(present) == known_by(item));
                match present {
                    Some(present) => merge(present, item),
                    None => into.insert(0, item.clone()),
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn known_by(item: &Value) -> Option<&Value> {
    item.get("mountPath").or_else(|| item.get("name"))
}

#[test]
fn every_overlay_is_what_the_api_knows() {
    for overlay in ALL {
        let documents = rendered(overlay);
        documents.iter().for_each(schema::check);
        contents::check(&documents, overlay);
    }
}

#[test]
fn weft_yaml_is_the_base_and_the_base_is_the_overlay_vxlan() {
    let weft = sorted(read("weft.yaml"));
    assert!(weft == sorted(base()), "make manifests renders it anew");
    assert_eq!(weft, sorted(rendered("vxlan")));
    for part in ["namespace", "rbac", "config", "daemonset"] {
        let part = text(&format!("base/{part}.yaml"));
        assert!(
            text("weft.yaml").contains(&part),
            "make manifests renders it anew"
        );
    }
}

#[test]
fn kubectl_renders_the_overlays_as_we_do() {
    if !skip_unless(&[Need::Other("kubectl 1.21 or newer", knows_patches())]) {
        return;
    }
    for overlay in ALL {
        let dir = path(&format!("overlays/{overlay}"));
        let said = kustomize(&dir).run().ok().stdout;
        let theirs = in_order(sorted(crate::documents::parse(&said)));
        let ours = in_order(sorted(rendered(overlay)));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{overlay}");
        }
        assert_eq!(ours.len(), theirs.len(), "{overlay}");
    }
}

/// Lists of things with names have no order of their own.
fn in_order(mut documents: Vec<Value>) -> Vec<Value> {
    fn order(value: &mut Value) {
        match value {
            Value::Array(list) => {
                list.iter_mut().for_each(order);
                if list.iter().all(|item| known_by(item).is_some()) {
                    list.sort_by_key(|item| known_by(item).map(Value::to_string));
                }
            }
            Value::Object(map) => map.values_mut().for_each(order),
            _ => {}
        }
    }
    documents.iter_mut().for_each(order);
    documents
}

fn kustomize(dir: &Path) -> Cmd {
    Cmd::new("kubectl").arg("kustomize").arg(dir)
}

/// Debian's kubectl has a kustomize from before overlays were written so.
fn knows_patches() -> bool {
    let has_kubectl = Cmd::shell("command -v kubectl").run().success();
    has_kubectl && kustomize(&path("overlays/host-gw")).run().success()
}
