//! Each document through the API's own types and back: what the types do not know is lost on the
//! way, and found missing.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::serde::Serialize;
use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::Value;

use crate::documents::identity;

#[track_caller]
pub(crate) fn check(document: &Value) {
    let back = match document["kind"].as_str() {
        Some("ClusterRole") => through::<ClusterRole>(document),
        Some("ClusterRoleBinding") => through::<ClusterRoleBinding>(document),
        Some("ConfigMap") => through::<ConfigMap>(document),
        Some("DaemonSet") => through::<DaemonSet>(document),
        Some("Namespace") => through::<Namespace>(document),
        Some("Role") => through::<Role>(document),
        Some("RoleBinding") => through::<RoleBinding>(document),
        Some("ServiceAccount") => through::<ServiceAccount>(document),
        other => panic!("nobody knows the kind {other:?}"),
    };
    if let Some(lost) = lost(document, &back, "") {
        panic!("{}: the API knows no {lost}", identity(document));
    }
}

#[track_caller]
fn through<T: Serialize + DeserializeOwned>(document: &Value) -> Value {
    let typed: T = serde_json::from_value(document.clone())
        .unwrap_or_else(|e| panic!("{}: {e}", identity(document)));
    serde_json::to_value(typed).unwrap()
}

/// The first thing of `whole` that `part` lacks or has otherwise.
fn lost(whole: &Value, part: &Value, at: &str) -> Option<String> {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => whole.iter().find_map(|(key, value)| {
            let at = format!("{at}.{key}");
            part.get(key)
                .map_or_else(|| Some(at.clone()), |part| lost(value, part, &at))
        }),
        (Value::Array(whole), Value::Array(part)) if whole.len() == part.len() => {
            let pairs = whole.iter().zip(part).enumerate();
            pairs
                .into_iter()
                .find_map(|(i, (whole, part))| lost(whole, part, &format!("{at}[{i}]")))
        }
        (whole, part) => (whole != part).then(|| format!("{at} = {whole}")),
    }
}

#[test]
fn a_misspelt_field_is_found() {
    let wrong = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "x"},
        "spec": {"selector": {}, "template": {"spec": {"containers": [
            {"name": "c", "securityContext": {"readOnlyRootFileSystem": true}},
        ]}}},
    });
    let back = through::<DaemonSet>(&wrong);
    let lost = lost(&wrong, &back, "");
    assert_eq!(
        lost.as_deref(),
        Some(".spec.template.spec.containers[0].securityContext.readOnlyRootFileSystem")
    );
}
