//! The shape that a client asks for in Accept: objects whole, or their metadata alone, in JSON or
//! in protobuf.

use serde_json::{Value, json};

use super::protobuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) form: Form,
    pub(super) part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Protobuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Metadata,
    MetadataList,
}

/// What a server can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Can {
    pub(super) metadata: bool,
    pub(super) protobuf: bool,
}

impl Can {
    /// What there is for an error: no shapes, whatever was asked for.
    pub(super) fn for_errors(self) -> Self {
        let metadata = false;
        Self { metadata, ..self }
    }
}

impl Shape {
    /// The first that the server can do. None: 406.
    pub(super) fn chosen(accept: Option<&str>, can: Can) -> Option<Self> {
        let accept = accept.unwrap_or("*/*");
        accept.split(',').find_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let form = match parts.next() {
                Some("application/json" | "application/*" | "*/*") => Form::Json,
                Some(PROTOBUF) if can.protobuf => Form::Protobuf,
                _ => return None,
            };
            let parts: Vec<_> = parts.collect();
            let shape = parts.iter().find_map(|part| part.strip_prefix("as="));
            let is_meta = parts.contains(&"g=meta.k8s.io") && parts.contains(&"v=v1");
            let part = match shape {
                None => Part::Whole,
                Some("PartialObjectMetadata") if is_meta && can.metadata => Part::Metadata,
                Some("PartialObjectMetadataList") if is_meta && can.metadata => Part::MetadataList,
                Some(_) => return None,
            };
            Some(Self { form, part })
        })
    }

    /// Of one object. None: 406, for a list is no single object's shape.
    pub(super) fn one(self, object: &Value) -> Option<Value> {
        match self.part {
            Part::Whole => Some(object.clone()),
            Part::Metadata => Some(metadata(object)),
            Part::MetadataList => None,
        }
    }

    /// Of a list, whose items bear no kind unless they are of any.
    pub(super) fn list(self, kind: &str, list: Value, items: &[&Value]) -> Option<Value> {
        match self.part {
            Part::Whole => {
                let items: Vec<Value> = items.iter().map(|item| without_kind(item)).collect();
                Some(json!({
                    "kind": format!("{kind}List"), "apiVersion": "v1",
                    "metadata": list, "items": items,
                }))
            }
            Part::MetadataList => {
                let items: Vec<Value> = items.iter().map(|item| metadata(item)).collect();
                Some(json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": list, "items": items,
                }))
            }
            Part::Metadata => None,
        }
    }
}

impl Form {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => PROTOBUF,
        }
    }

    pub(super) fn watch_content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }

    /// Whether objects of the kind can be had in it.
    pub(super) fn has(self, kind: &str) -> bool {
        self == Self::Json || protobuf::knows(kind)
    }

    pub(super) fn object(self, object: &Value) -> Vec<u8> {
        match self {
            Self::Json => object.to_string().into_bytes(),
            Self::Protobuf => protobuf::object(object),
        }
    }

    pub(super) fn event(self, event: &Value) -> Vec<u8> {
        match self {
            Self::Json => format!("{event}\n").into_bytes(),
            Self::Protobuf => protobuf::event(event),
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

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
