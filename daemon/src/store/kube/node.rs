//! A node, as slim as it can be: what weftd reads of the 20 KB that a Node has.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::fault::Fault;
use crate::lease::Subnets;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// Another one with the same name has another.
    pub(super) uid: String,
    pub(super) version: String,
    /// Those with our prefix, without it.
    pub(super) annotations: Annotations,
    /// None where the metadata alone was read.
    pub(super) rest: Option<Rest>,
}

pub(super) type Annotations = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rest {
    /// None until somebody assigned them; the error is what is wrong with them.
    pub(super) subnets: Option<Result<Subnets, String>>,
    /// Of NetworkUnavailable: its status.
    pub(super) unavailable: Option<String>,
}

/// What flannel's annotations begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix(pub(super) Arc<str>);

#[derive(Debug)]
pub(super) enum Event {
    /// Added or changed.
    Is(Node),
    Gone(Node),
    /// So far all was told.
    Bookmark(String),
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ListHead {
    #[serde(rename = "resourceVersion", default)]
    pub(super) version: String,
    /// The token of the next page.
    #[serde(rename = "continue", default)]
    pub(super) more: String,
}

impl Node {
    pub(super) fn read(bytes: &[u8], prefix: &Prefix) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes).map(|wire: WireNode<'_>| wire.slim(prefix))
    }

    /// Whether flanneld, or weftd, runs on it.
    pub(super) fn is_managed(&self) -> bool {
        self.annotations
            .get("kube-subnet-manager")
            .is_some_and(|managed| managed == "true")
    }
}

impl Event {
    pub(super) fn read(bytes: &[u8], prefix: &Prefix) -> Result<Self, Fault> {
        let kind: WireEvent<'_, IgnoredAny> = parsed(bytes)?;
        let node = || parsed::<WireEvent<'_, WireNode<'_>>>(bytes).map(|event| event.object);
        match kind.kind.as_ref() {
            "ADDED" | "MODIFIED" => Ok(Self::Is(node()?.slim(prefix))),
            "DELETED" => Ok(Self::Gone(node()?.slim(prefix))),
            "BOOKMARK" => Ok(Self::Bookmark(node()?.metadata.version.into_owned())),
            "ERROR" => {
                let status = parsed::<WireEvent<'_, WireStatus<'_>>>(bytes)?.object;
                Err(Fault::coded(status.code, None, status.message.into_owned()))
            }
            other => Err(Fault::Garbled(format!("a watch's event of type {other:?}"))),
        }
    }
}

fn parsed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Fault> {
    let read = serde_json::from_slice(bytes);
    read.map_err(|why| Fault::Garbled(format!("a watch's event: {why}")))
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
struct WireNode<'a> {
    /// Metadata alone says that it is no Node.
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
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

#[derive(Default, Deserialize)]
struct WireSpec<'a> {
    #[serde(rename = "podCIDR", borrow, default)]
    pod_cidr: Option<Cow<'a, str>>,
    #[serde(rename = "podCIDRs", borrow, default)]
    pod_cidrs: Option<Vec<Cow<'a, str>>>,
}

#[derive(Default, Deserialize)]
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
        let is_partial = self.kind.as_deref() == Some("PartialObjectMetadata");
        let rest = (!is_partial).then(|| Rest {
            subnets: self.spec.unwrap_or_default().subnets(),
            unavailable: self.status.unwrap_or_default().unavailable(),
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
    /// The older field counts where the newer is empty, as flanneld has it.
    fn subnets(self) -> Option<Result<Subnets, String>> {
        let several = self.pod_cidrs.unwrap_or_default();
        let one = self.pod_cidr.filter(|cidr| !cidr.is_empty());
        let cidrs: Vec<_> = match several.is_empty() {
            false => several,
            true => one.into_iter().collect(),
        };
        (!cidrs.is_empty()).then(|| subnets(&cidrs))
    }
}

fn subnets(cidrs: &[Cow<'_, str>]) -> Result<Subnets, String> {
    let mut subnets = Subnets::default();
    for text in cidrs {
        let wrong = |why: &str| format!("its podCIDRs are {cidrs:?}: {why}");
        let network: IpNetwork = text.parse().map_err(|_| wrong("that is no network"))?;
        let first = match network.network() {
            IpAddr::V4(ip) => ipnetwork::Ipv4Network::new_checked(ip, network.prefix())
                .filter(|_| network.prefix() < 32 && subnets.v4.is_none())
                .map(|v4| subnets.v4 = Some(v4)),
            IpAddr::V6(ip) => ipnetwork::Ipv6Network::new_checked(ip, network.prefix())
                .filter(|_| network.prefix() < 128 && subnets.v6.is_none())
                .map(|v6| subnets.v6 = Some(v6)),
        };
        first.ok_or_else(|| wrong("one of each family is the most, with room for pods"))?;
    }
    Ok(subnets)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(value: &serde_json::Value) -> Node {
        let prefix = Prefix("flannel.alpha.coreos.com/".into());
        Node::read(value.to_string().as_bytes(), &prefix).unwrap()
    }

    fn subnets_of(spec: &serde_json::Value) -> Option<Result<Subnets, String>> {
        let node = read(&json!({"metadata": {"name": "n"}, "spec": spec}));
        node.rest.unwrap().subnets
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
        let node = read(&json!({"kind": "PartialObjectMetadata", "metadata": {"name": "n"}}));
        assert_eq!(node.rest, None);
        assert_eq!(subnets_of(&json!({})), None);
        assert_eq!(subnets_of(&json!({"podCIDR": "", "podCIDRs": null})), None);
    }

    #[test]
    fn one_subnet_of_each_family_is_the_most() {
        let both =
            json!({"podCIDR": "10.1.2.0/24", "podCIDRs": ["10.1.2.0/24", "fd00:0:0:2::/64"]});
        let both = subnets_of(&both).unwrap().unwrap();
        assert!(both.v4.is_some() && both.v6.is_some());
        let v6 = subnets_of(&json!({"podCIDRs": ["fd00::/64"]}))
            .unwrap()
            .unwrap();
        assert!(v6.v4.is_none() && v6.v6.is_some());
        for wrong in [
            json!(["10.1.2.0/24", "10.1.3.0/24"]),
            json!(["10.1.2.0/24", "fd00::/64", "fd01::/64"]),
            json!(["10.1.2.0"]),
            json!(["10.1.2.0/32"]),
            json!(["rubbish"]),
        ] {
            let told = subnets_of(&json!({"podCIDRs": wrong})).unwrap();
            assert!(told.unwrap_err().contains("podCIDRs"), "{wrong}");
        }
    }

    #[test]
    fn an_error_in_a_watch_is_what_its_status_says() {
        let prefix = Prefix("p/".into());
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}"#;
        let fault = Event::read(gone.as_bytes(), &prefix).unwrap_err();
        assert_eq!(fault, Fault::Gone("too old".to_owned()));
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_makes_it_panic(text: String) {
            let prefix = Prefix("p/".into());
            let _ = Event::read(text.as_bytes(), &prefix);
            let _ = Node::read(text.as_bytes(), &prefix);
        }
    }
}
