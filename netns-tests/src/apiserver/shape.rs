//! The shape that a client asks for in Accept: objects whole, or their metadata alone.

use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Whole,
    Metadata,
    MetadataList,
}

impl Shape {
    /// The first that the server can do. None: 406.
    pub(super) fn chosen(accept: Option<&str>, knows_metadata: bool) -> Option<Self> {
        let accept = accept.unwrap_or("*/*");
        accept.split(',').find_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            match parts.next() {
                Some("application/json" | "application/*" | "*/*") => {}
                _ => return None,
            }
            let parts: Vec<_> = parts.collect();
            let shape = parts.iter().find_map(|part| part.strip_prefix("as="));
            let is_meta = parts.contains(&"g=meta.k8s.io") && parts.contains(&"v=v1");
            match shape {
                None => Some(Self::Whole),
                Some("PartialObjectMetadata") if is_meta && knows_metadata => Some(Self::Metadata),
                Some("PartialObjectMetadataList") if is_meta && knows_metadata => {
                    Some(Self::MetadataList)
                }
                Some(_) => None,
            }
        })
    }

    /// Of one object. None: 406, for a list is no single object's shape.
    pub(super) fn one(self, object: &Value) -> Option<Value> {
        match self {
            Self::Whole => Some(object.clone()),
            Self::Metadata => Some(metadata(object)),
            Self::MetadataList => None,
        }
    }

    /// Of a list, whose items bear no kind unless they are of any.
    pub(super) fn list(self, kind: &str, list: Value, items: &[&Value]) -> Option<Value> {
        match self {
            Self::Whole => {
                let items: Vec<Value> = items.iter().map(|item| without_kind(item)).collect();
                Some(json!({
                    "kind": format!("{kind}List"), "apiVersion": "v1",
                    "metadata": list, "items": items,
                }))
            }
            Self::MetadataList => {
                let items: Vec<Value> = items.iter().map(|item| metadata(item)).collect();
                Some(json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": list, "items": items,
                }))
            }
            Self::Metadata => None,
        }
    }
}

fn metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

fn without_kind(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(object) = object.as_object_mut() {
        object.shift_remove("kind");
        object.shift_remove("apiVersion");
    }
    object
}
