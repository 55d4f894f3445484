//! Objects in protobuf, byte for byte as the server writes them: fields in the order of their
//! numbers, and what is no pointer there is written though it is empty.

use serde_json::{Map, Value, json};

/// A whole answer: what it is, and in which envelope.
pub(super) fn object(object: &Value) -> Vec<u8> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let mut kind = Message::default();
    kind.text(1, text("apiVersion"));
    kind.text(2, text("kind"));
    let mut envelope = Message(b"k8s\0".to_vec());
    envelope.bytes(1, &kind.0);
    let schema = schema(text("kind")).expect("a kind that has a schema");
    envelope.bytes(2, &message(schema, object).0);
    envelope.text(3, "");
    envelope.text(4, "");
    envelope.0
}

/// An event of a watch, with its length before it.
pub(super) fn event(event: &Value) -> Vec<u8> {
    let mut raw = Message::default();
    raw.bytes(1, &object(&event["object"]));
    let mut message = Message::default();
    message.text(1, event["type"].as_str().unwrap_or_default());
    message.bytes(2, &raw.0);
    let length = u32::try_from(message.0.len()).expect("an event of less than 4 GB");
    [&length.to_be_bytes()[..], &message.0].concat()
}

/// Whether objects of the kind can be written.
pub(super) fn knows(kind: &str) -> bool {
    schema(kind).is_some()
}

fn schema(kind: &str) -> Option<Schema> {
    match kind {
        "Node" => Some(NODE),
        "NodeList" => Some(NODE_LIST),
        "PartialObjectMetadata" => Some(PARTIAL),
        "PartialObjectMetadataList" => Some(PARTIAL_LIST),
        "Status" => Some(STATUS),
        _ => None,
    }
}

type Schema = &'static [(u32, &'static str, Is)];

/// What a field is, and whether it is written though there is nothing to write.
#[derive(Clone, Copy)]
enum Is {
    Text,
    TextIfAny,
    Texts,
    Number,
    NumberIfAny,
    Time,
    TimeIfAny,
    One(Schema),
    Many(Schema),
    /// From texts to texts.
    Map,
    Quantities,
    /// Of managedFields: JSON, as it is.
    Raw,
}

fn message(schema: Schema, object: &Value) -> Message {
    let mut message = Message::default();
    for (number, name, is) in schema {
        message.field(*number, *is, &object[*name]);
    }
    message
}

#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn field(&mut self, number: u32, is: Is, value: &Value) {
        let text = value.as_str().unwrap_or_default();
        match is {
            Is::TextIfAny | Is::TimeIfAny if text.is_empty() => {}
            Is::NumberIfAny | Is::Raw if value.is_null() => {}
            Is::Text | Is::TextIfAny => self.text(number, text),
            Is::Texts => each(value).for_each(|text| self.field(number, Is::Text, text)),
            Is::Number | Is::NumberIfAny => {
                let flag = value.as_bool().map(u64::from);
                self.number(number, value.as_u64().or(flag).unwrap_or(0));
            }
            Is::Time | Is::TimeIfAny => self.bytes(number, &time(text).0),
            Is::One(schema) => {
                self.bytes(number, &message(schema, value).0);
            }
            Is::Many(schema) => {
                each(value).for_each(|one| self.field(number, Is::One(schema), one));
            }
            Is::Map => entries(value).for_each(|(key, value)| {
                let mut entry = Self::default();
                entry.text(1, key);
                entry.field(2, Is::Text, value);
                self.bytes(number, &entry.0);
            }),
            Is::Quantities => entries(value).for_each(|(key, value)| {
                let mut entry = Self::default();
                entry.text(1, key);
                entry.field(2, Is::One(QUANTITY), &json!({"string": value}));
                self.bytes(number, &entry.0);
            }),
            Is::Raw => {
                let mut raw = Self::default();
                raw.text(1, &value.to_string());
                self.bytes(number, &raw.0);
            }
        }
    }

    fn text(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u32, value: u64) {
        self.varint(u64::from(number) << 3);
        self.varint(value);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// In the order of their keys.
fn entries(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let mut entries: Vec<_> = map.as_object().into_iter().flat_map(Map::iter).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries.into_iter()
}

/// Of one that is none, nothing.
fn time(text: &str) -> Message {
    let mut time = Message::default();
    if let Some(seconds) = seconds(text) {
        time.number(1, seconds);
        time.number(2, 0);
    }
    time
}

/// Since 1970, of a text like 2026-01-15T08:30:00Z.
fn seconds(text: &str) -> Option<u64> {
    let part = |at: std::ops::Range<usize>| text.get(at)?.parse::<u64>().ok();
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    // Years begin in March, so that a leap day is the last.
    let (year, month) = match month {
        3.. => (year, month - 3),
        _ => (year - 1, month + 9),
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let since = days.checked_sub(719_468)?;
    Some(((since * 24 + part(11..13)?) * 60 + part(14..16)?) * 60 + part(17..19)?)
}

const PARTIAL: Schema = &[(1, "metadata", Is::One(METADATA))];
const PARTIAL_LIST: Schema = &[
    (1, "metadata", Is::One(LIST_METADATA)),
    (2, "items", Is::Many(PARTIAL)),
];
const NODE_LIST: Schema = &[
    (1, "metadata", Is::One(LIST_METADATA)),
    (2, "items", Is::Many(NODE)),
];
const LIST_METADATA: Schema = &[
    (1, "selfLink", Is::Text),
    (2, "resourceVersion", Is::Text),
    (3, "continue", Is::Text),
    (4, "remainingItemCount", Is::NumberIfAny),
];
const STATUS: Schema = &[
    (1, "metadata", Is::One(LIST_METADATA)),
    (2, "status", Is::Text),
    (3, "message", Is::Text),
    (4, "reason", Is::Text),
    (6, "code", Is::Number),
];
const METADATA: Schema = &[
    (1, "name", Is::Text),
    (2, "generateName", Is::Text),
    (3, "namespace", Is::Text),
    (4, "selfLink", Is::Text),
    (5, "uid", Is::Text),
    (6, "resourceVersion", Is::Text),
    (7, "generation", Is::Number),
    (8, "creationTimestamp", Is::Time),
    (9, "deletionTimestamp", Is::TimeIfAny),
    (11, "labels", Is::Map),
    (12, "annotations", Is::Map),
    (14, "finalizers", Is::Texts),
    // Until 1.24.
    (15, "clusterName", Is::Text),
    (17, "managedFields", Is::Many(MANAGED)),
];
const MANAGED: Schema = &[
    (1, "manager", Is::Text),
    (2, "operation", Is::Text),
    (3, "apiVersion", Is::Text),
    (4, "time", Is::TimeIfAny),
    (6, "fieldsType", Is::Text),
    (7, "fieldsV1", Is::Raw),
    // From 1.22 on.
    (8, "subresource", Is::TextIfAny),
];
const NODE: Schema = &[
    (1, "metadata", Is::One(METADATA)),
    (2, "spec", Is::One(SPEC)),
    (3, "status", Is::One(NODE_STATUS)),
];
const SPEC: Schema = &[
    (1, "podCIDR", Is::Text),
    (2, "externalID", Is::Text),
    (3, "providerID", Is::Text),
    (4, "unschedulable", Is::Number),
    (5, "taints", Is::Many(TAINT)),
    (7, "podCIDRs", Is::Texts),
];
const TAINT: Schema = &[
    (1, "key", Is::Text),
    (2, "value", Is::Text),
    (3, "effect", Is::Text),
    (4, "timeAdded", Is::TimeIfAny),
];
const NODE_STATUS: Schema = &[
    (1, "capacity", Is::Quantities),
    (2, "allocatable", Is::Quantities),
    (3, "phase", Is::Text),
    (4, "conditions", Is::Many(CONDITION)),
    (5, "addresses", Is::Many(ADDRESS)),
    (6, "daemonEndpoints", Is::One(ENDPOINTS)),
    (7, "nodeInfo", Is::One(NODE_INFO)),
    (8, "images", Is::Many(IMAGE)),
    (9, "volumesInUse", Is::Texts),
];
const QUANTITY: Schema = &[(1, "string", Is::Text)];
const CONDITION: Schema = &[
    (1, "type", Is::Text),
    (2, "status", Is::Text),
    (3, "lastHeartbeatTime", Is::Time),
    (4, "lastTransitionTime", Is::Time),
    (5, "reason", Is::Text),
    (6, "message", Is::Text),
];
const ADDRESS: Schema = &[(1, "type", Is::Text), (2, "address", Is::Text)];
const ENDPOINTS: Schema = &[(1, "kubeletEndpoint", Is::One(ENDPOINT))];
const ENDPOINT: Schema = &[(1, "Port", Is::Number)];
const NODE_INFO: Schema = &[
    (1, "machineID", Is::Text),
    (2, "systemUUID", Is::Text),
    (3, "bootID", Is::Text),
    (4, "kernelVersion", Is::Text),
    (5, "osImage", Is::Text),
    (6, "containerRuntimeVersion", Is::Text),
    (7, "kubeletVersion", Is::Text),
    (8, "kubeProxyVersion", Is::Text),
    (9, "operatingSystem", Is::Text),
    (10, "architecture", Is::Text),
];
const IMAGE: Schema = &[(1, "names", Is::Texts), (2, "sizeBytes", Is::Number)];

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kube-apiserver 1.20.2 has answered, the same things in both forms.
    fn real(name: &str) -> Vec<u8> {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/kube");
        std::fs::read(format!("{seeds}/{name}")).unwrap()
    }

    #[test]
    fn objects_and_lists_are_what_the_real_server_makes_of_them() {
        for name in ["node", "nodes", "metadata", "status"] {
            let told: Value = serde_json::from_slice(&real(&format!("{name}.json"))).unwrap();
            assert_eq!(object(&told), real(&format!("{name}.pb")), "{name}");
        }
    }

    #[test]
    fn a_watch_is_what_the_real_server_makes_of_it() {
        for name in ["watch", "gone"] {
            let lines = String::from_utf8(real(&format!("{name}.json"))).unwrap();
            let events = lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap());
            let events: Vec<u8> = events.flat_map(|told: Value| event(&told)).collect();
            assert_eq!(events, real(&format!("{name}.pb")), "{name}");
        }
    }
}
