//! The same in JSON, as far as it matters.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Status, Wrong};
use crate::lease::Subnets;
use crate::store::kube::fault::Fault;
use crate::store::kube::node::{Event, ListHead, Node, Prefix, Rest, subnets};

pub(super) fn node(bytes: &[u8], prefix: &Prefix) -> Result<Node, Wrong> {
    let node: WireNode<'_> = parsed(bytes)?;
    Ok(node.slim(prefix))
}

pub(super) fn event(bytes: &[u8], prefix: &Prefix) -> Result<Event, Fault> {
    let kind = parsed::<WireEvent<'_, IgnoredAny>>(bytes)?.kind;
    let node = || {
        let event: WireEvent<'_, WireNode<'_>> = parsed(bytes)?;
        Ok(event.object.slim(prefix))
    };
    let status = || {
        let event: WireEvent<'_, WireStatus<'_>> = parsed(bytes)?;
        Ok(event.object.into())
    };
    Event::of(&kind, node, status)
}

pub(super) fn list_head(bytes: &[u8]) -> Result<ListHead, Wrong> {
    let head: WireListHead<'_> = parsed(bytes)?;
    Ok(ListHead {
        version: head.version.into_owned(),
        more: head.more.into_owned(),
    })
}

pub(super) fn status(bytes: &[u8]) -> Result<Status, Wrong> {
    let status: WireStatus<'_> = parsed(bytes)?;
    Ok(status.into())
}

fn parsed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Wrong> {
    Ok(serde_json::from_slice(bytes)?)
}

#[derive(Deserialize)]
struct WireEvent<'a, T> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    object: T,
}

#[derive(Deserialize)]
struct WireStatus<'a> {
    #[serde(default)]
    code: u16,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WireListHead<'a> {
    #[serde(rename = "resourceVersion", borrow, default)]
    version: Cow<'a, str>,
    #[serde(rename = "continue", borrow, default)]
    more: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WireNode<'a> {
    #[serde(borrow, default)]
    metadata: WireMetadata<'a>,
    #[serde(borrow, default)]
    spec: Option<WireSpec<'a>>,
    #[serde(borrow, default)]
    status: Option<WireNodeStatus<'a>>,
}

#[derive(Default, Deserialize)]
struct WireMetadata<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(rename = "resourceVersion", borrow, default)]
    version: Cow<'a, str>,
    #[serde(borrow, default)]
    annotations: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

#[derive(Deserialize)]
struct WireSpec<'a> {
    #[serde(rename = "podCIDR", borrow, default)]
    pod_cidr: Option<Cow<'a, str>>,
    #[serde(rename = "podCIDRs", borrow, default)]
    pod_cidrs: Option<Vec<Cow<'a, str>>>,
}

#[derive(Deserialize)]
struct WireNodeStatus<'a> {
    #[serde(borrow, default)]
    conditions: Option<Vec<WireCondition<'a>>>,
}

#[derive(Deserialize)]
struct WireCondition<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
}

impl WireNode<'_> {
    fn slim(self, prefix: &Prefix) -> Node {
        let annotations = self.metadata.annotations.unwrap_or_default();
        let annotations = annotations.into_iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(&*prefix.0)?;
            Some((key.to_owned(), value.into_owned()))
        });
        let is_partial = self.spec.is_none() && self.status.is_none();
        let rest = (!is_partial).then(|| Rest {
            subnets: self.spec.and_then(WireSpec::subnets),
            unavailable: self.status.and_then(WireNodeStatus::unavailable),
        });
        Node {
            name: self.metadata.name.into_owned(),
            uid: self.metadata.uid.into_owned(),
            version: self.metadata.version.into_owned(),
            annotations: annotations.collect(),
            rest,
        }
    }
}

impl WireSpec<'_> {
    fn subnets(self) -> Option<Result<Subnets, String>> {
        let one = self.pod_cidr.unwrap_or_default();
        subnets(&one, &self.pod_cidrs.unwrap_or_default())
    }
}

impl WireNodeStatus<'_> {
    fn unavailable(self) -> Option<String> {
        let conditions = self.conditions.unwrap_or_default();
        let mut conditions = conditions.into_iter();
        conditions
            .find(|condition| condition.kind == "NetworkUnavailable")
            .map(|condition| condition.status.into_owned())
    }
}

impl From<WireStatus<'_>> for Status {
    fn from(status: WireStatus<'_>) -> Self {
        Self {
            code: status.code,
            message: status.message.into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &serde_json::Value) -> Node {
        let prefix = Prefix("flannel.alpha.coreos.com/".into());
        node(value.to_string().as_bytes(), &prefix).unwrap()
    }

    #[test]
    fn of_a_node_no_more_is_kept_than_what_is_ours() {
        let node = read(&json!({
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "annotations": {
                "flannel.alpha.coreos.com/public-ip": "192.0.2.1", "other.io/public-ip": "x",
            }},
            "spec": {"podCIDR": "10.1.2.0/24"},
            "status": {"conditions": [{"type": "Ready", "status": "True"},
                {"type": "NetworkUnavailable", "status": "False"}], "images": [{"names": []}]},
        }));
        assert_eq!(node.annotations.len(), 1);
        assert_eq!(node.annotations["public-ip"], "192.0.2.1");
        let rest = node.rest.unwrap();
        assert_eq!(rest.unavailable.as_deref(), Some("False"));
        let v4 = rest.subnets.unwrap().unwrap().v4.unwrap();
        assert_eq!(v4.to_string(), "10.1.2.0/24");
    }

    #[test]
    fn metadata_alone_says_nothing_of_subnets() {
        let partial = json!({"kind": "PartialObjectMetadata", "metadata": {"name": "n"}});
        assert_eq!(read(&partial).rest, None);
        for none in [json!({}), json!({"podCIDR": "", "podCIDRs": null})] {
            let node = read(&json!({"metadata": {"name": "n"}, "spec": none}));
            assert_eq!(node.rest, Some(Rest::default()));
        }
    }

    #[test]
    fn an_error_in_a_watch_is_what_its_status_says() {
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}"#;
        let fault = event(gone.as_bytes(), &Prefix("p/".into())).unwrap_err();
        assert_eq!(fault, Fault::Gone("too old".to_owned()));
    }
}
