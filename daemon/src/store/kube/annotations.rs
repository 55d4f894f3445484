//! What a node publishes: flannel's annotations, byte for byte, and one of our own, which
//! flanneld passes over.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value};

use super::node::{Annotations, Node, Prefix};
use crate::lease::{Attrs, Published};

/// What an operator's annotations say of this node's public addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Overwrites {
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
    /// What could not be read.
    pub(super) wrong: Vec<String>,
}

/// The error says what is wrong with which annotation.
pub(super) fn attrs(of: &Annotations) -> Result<Attrs, String> {
    let mut value = Map::new();
    let text = |key: &str| {
        of.get(key)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    };
    for (key, annotation) in [
        ("PublicIP", PUBLIC_IP),
        ("PublicIPv6", PUBLIC_IPV6),
        ("BackendType", TYPE),
    ] {
        if let Some(text) = text(annotation) {
            value.insert(key.to_owned(), text.into());
        }
    }
    for (key, annotation) in [
        ("BackendData", DATA),
        ("BackendV6Data", V6_DATA),
        ("Weft", OURS),
    ] {
        if let Some(text) = text(annotation) {
            let data: Value = serde_json::from_str(text).map_err(|why| {
                format!("its annotation {annotation} is {text:?}, no JSON: {why}")
            })?;
            value.insert(key.to_owned(), data);
        }
    }
    let mut attrs = Attrs::read(&value.into())?;
    // What its packets come from, only its operator knows.
    if text(PUBLIC_IP_OVERWRITE).is_some() || text(PUBLIC_IPV6_OVERWRITE).is_some() {
        attrs.extra.get_or_insert_default().overwritten = true;
    }
    Ok(attrs)
}

/// What is to be written so that `node` publishes `attrs`. None if it does.
pub(super) fn patch(node: &Node, attrs: &Attrs, prefix: &Prefix) -> Option<Value> {
    let wanted = wanted(attrs);
    let mut annotations = Map::new();
    for (key, wanted) in wanted {
        if node.annotations.get(key).map(String::as_str) != wanted.as_deref() {
            annotations.insert(prefix.key(key), wanted.into());
        }
    }
    (!annotations.is_empty()).then(|| {
        let metadata = Map::from_iter([("annotations".to_owned(), annotations.into())]);
        Map::from_iter([("metadata".to_owned(), metadata.into())]).into()
    })
}

/// Every annotation of ours, and None for those that are not to be there.
fn wanted(attrs: &Attrs) -> Vec<(&'static str, Option<String>)> {
    let (name, v4, v6) = match &attrs.backend {
        Published::Nothing => ("", Some(NOTHING.to_owned()), None),
        Published::HostGw => (
            "host-gw",
            Some(NOTHING.to_owned()),
            Some(NOTHING.to_owned()),
        ),
        Published::Vxlan { v4, v6 } => {
            let data = |vtep: &crate::lease::Vtep| vtep.to_json().to_string();
            ("vxlan", v4.as_ref().map(data), v6.as_ref().map(data))
        }
        Published::Other(name) => (name.as_str(), None, None),
    };
    let v6 = v6.filter(|_| attrs.public_ipv6.is_some());
    vec![
        (TYPE, Some(name.to_owned())),
        (DATA, v4),
        (V6_DATA, v6),
        (PUBLIC_IP, attrs.public_ip.map(|ip| ip.to_string())),
        (PUBLIC_IPV6, attrs.public_ipv6.map(|ip| ip.to_string())),
        (MANAGED, Some("true".to_owned())),
        (
            OURS,
            attrs
                .extra
                .as_ref()
                .map(|extra| extra.to_json().to_string()),
        ),
    ]
}

/// Published in the place of what we would publish.
pub(super) fn overwrites(of: &Annotations) -> Overwrites {
    read(of, PUBLIC_IP_OVERWRITE, PUBLIC_IPV6_OVERWRITE)
}

/// Chosen in the place of what the command line says.
pub(super) fn chosen(of: &Annotations) -> Overwrites {
    read(of, "node-public-ip", "node-public-ipv6")
}

fn read(of: &Annotations, v4: &str, v6: &str) -> Overwrites {
    let mut wrong = Vec::new();
    Overwrites {
        v4: address(of, v4, "an IPv4 address", &mut wrong),
        v6: address(of, v6, "an IPv6 address", &mut wrong),
        wrong,
    }
}

fn address<T: std::str::FromStr>(
    of: &Annotations,
    key: &str,
    wanted: &str,
    wrong: &mut Vec<String>,
) -> Option<T> {
    let text = of
        .get(key)
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())?;
    let read = text.parse().ok();
    if read.is_none() {
        wrong.push(format!(
            "this node's annotation {key} is {text:?}, not {wanted}: it is passed over"
        ));
    }
    read
}

impl Prefix {
    fn key(&self, annotation: &str) -> String {
        format!("{}{annotation}", self.0)
    }
}

const TYPE: &str = "backend-type";
const DATA: &str = "backend-data";
const V6_DATA: &str = "backend-v6-data";
const PUBLIC_IP: &str = "public-ip";
const PUBLIC_IPV6: &str = "public-ipv6";
const PUBLIC_IP_OVERWRITE: &str = "public-ip-overwrite";
const PUBLIC_IPV6_OVERWRITE: &str = "public-ipv6-overwrite";
const MANAGED: &str = "kube-subnet-manager";
const OURS: &str = "weft";
/// What flanneld writes for a backend that has no data.
const NOTHING: &str = "null";

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn node(annotations: Annotations) -> Node {
        Node {
            name: "n".to_owned(),
            uid: "u".to_owned(),
            version: "1".to_owned(),
            annotations,
            rest: None,
        }
    }

    fn prefix() -> Prefix {
        Prefix("flannel.alpha.coreos.com/".into())
    }

    #[test]
    fn what_flanneld_wrote_is_read_and_would_be_written_the_same() {
        for (kind, data, more) in [
            ("vxlan", r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#, None),
            ("host-gw", "null", None),
            ("", "null", None),
            (
                "vxlan",
                r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#,
                Some((r#"{"VNI":1,"VtepMAC":"6e:38:ae:13:6b:ea"}"#, "fd90::1")),
            ),
            ("host-gw", "null", Some(("null", "fd90::1"))),
        ] {
            let mut written = annotations(&[
                ("backend-type", kind),
                ("backend-data", data),
                ("public-ip", "192.0.2.1"),
                ("kube-subnet-manager", "true"),
            ]);
            if let Some((data, public)) = more {
                written.insert("backend-v6-data".to_owned(), data.to_owned());
                written.insert("public-ipv6".to_owned(), public.to_owned());
            }
            let read = attrs(&written).unwrap();
            assert_eq!(
                patch(&node(written), &read, &prefix()),
                None,
                "{kind} {more:?}"
            );
        }
    }

    #[test]
    fn what_differs_is_patched_and_what_must_go_goes() {
        let had = annotations(&[
            ("backend-type", "vxlan"),
            ("backend-data", r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#),
            ("backend-v6-data", "null"),
            ("public-ip", "192.0.2.1"),
            ("public-ipv6", "fd90::1"),
        ]);
        let mut attrs = attrs(&had).unwrap();
        attrs.public_ipv6 = None;
        attrs.public_ip = Some(Ipv4Addr::new(192, 0, 2, 9));
        let patch = patch(&node(had), &attrs, &prefix()).unwrap();
        assert_eq!(
            patch,
            serde_json::json!({"metadata": {"annotations": {
                "flannel.alpha.coreos.com/backend-v6-data": null,
                "flannel.alpha.coreos.com/public-ip": "192.0.2.9",
                "flannel.alpha.coreos.com/public-ipv6": null,
                "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            }}})
        );
    }

    #[test]
    fn rubbish_is_told_with_the_annotation_it_is_in() {
        for (key, value, told) in [
            ("backend-data", "{", "backend-data"),
            ("backend-data", r#"{"VtepMAC":"x"}"#, "VtepMAC"),
            ("public-ip", "300.1.1.1", "PublicIP"),
            ("weft", "[]", "Weft"),
        ] {
            let data = r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#;
            let mut wrong = annotations(&[
                ("backend-type", "vxlan"),
                ("backend-data", data),
                ("public-ip", "192.0.2.1"),
            ]);
            wrong.insert(key.to_owned(), value.to_owned());
            let why = attrs(&wrong).unwrap_err();
            assert!(why.contains(told), "{key}={value}: {why}");
        }
    }

    #[test]
    fn who_publishes_another_s_address_says_that_its_packets_come_from_elsewhere() {
        let read = attrs(&annotations(&[
            ("backend-type", "host-gw"),
            ("public-ip", "203.0.113.7"),
            ("public-ip-overwrite", "203.0.113.7"),
        ]));
        assert!(read.unwrap().extra.unwrap().overwritten);
        let own = annotations(&[
            ("public-ip-overwrite", "203.0.113.7"),
            ("node-public-ip", "x"),
        ]);
        assert_eq!(overwrites(&own).v4, Some(Ipv4Addr::new(203, 0, 113, 7)));
        assert_eq!(chosen(&own).wrong.len(), 1);
    }
}
