//! How nodes are asked for, and how answers are read: in protobuf where the server has it, which
//! costs both sides a fraction, in JSON elsewhere. Which it is, an answer's Content-Type says.

mod brackets;
mod fields;
mod frames;
mod json;
mod protobuf;

use http::HeaderValue;

use super::fault::Fault;
use super::node::{Event, ListHead, Node, Prefix};

/// What of a node is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Of one node or of many.
    Whole,
    /// Of one node, or of a watch's. A server that cannot do it sends the whole.
    Metadata,
    MetadataList,
}

impl Ask {
    /// Best first, as the header Accept has it.
    pub(super) fn accept(self) -> &'static str {
        match self {
            Self::Whole => "application/vnd.kubernetes.protobuf,application/json",
            Self::Metadata => {
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
                 application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
            }
            Self::MetadataList => {
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;\
                 v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
                 application/json"
            }
        }
    }

    /// For a server, or a proxy before it, that refuses a request for the mere mention of protobuf.
    pub(super) fn accept_json(self) -> &'static str {
        let accept = self.accept();
        accept.split_once(',').map_or(accept, |(_, json)| json)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Protobuf,
}

impl Format {
    pub(super) fn of(content_type: Option<&HeaderValue>) -> Self {
        let told = content_type.map_or(&b""[..], HeaderValue::as_bytes);
        let kind = told.split(|byte| *byte == b';').next().unwrap_or_default();
        match kind.trim_ascii() {
            b"application/vnd.kubernetes.protobuf" => Self::Protobuf,
            _ => Self::Json,
        }
    }

    /// A node that is all of an answer.
    pub(super) fn node(self, bytes: &[u8], prefix: &Prefix) -> Result<Node, Wrong> {
        match self {
            Self::Json => json::node(bytes, prefix),
            Self::Protobuf => protobuf::node(protobuf::unwrapped(bytes)?, prefix),
        }
    }

    /// A node that was cut out of a list.
    pub(super) fn item(self, bytes: &[u8], prefix: &Prefix) -> Result<Node, Wrong> {
        match self {
            Self::Json => json::node(bytes, prefix),
            Self::Protobuf => protobuf::node(bytes, prefix),
        }
    }

    pub(super) fn event(self, bytes: &[u8], prefix: &Prefix) -> Result<Event, Fault> {
        match self {
            Self::Json => json::event(bytes, prefix),
            Self::Protobuf => protobuf::event(bytes, prefix),
        }
    }

    pub(super) fn list_head(self, bytes: &[u8]) -> Result<ListHead, Wrong> {
        match self {
            Self::Json => json::list_head(bytes),
            Self::Protobuf => protobuf::list_head(bytes),
        }
    }

    /// What went wrong, as an answer's body says it. What stands before the API server itself has
    /// words of no form.
    pub(super) fn why(self, bytes: &[u8]) -> Option<String> {
        let status = match self {
            Self::Json => json::status(bytes),
            Self::Protobuf => protobuf::unwrapped(bytes).and_then(protobuf::status),
        };
        let said = match status {
            Ok(status) => status.message,
            Err(_) => str::from_utf8(bytes).unwrap_or_default().trim().to_owned(),
        };
        Some(said).filter(|said| !said.is_empty())
    }
}

/// What the API says of a failure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) message: String,
}

/// Why something read is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("it is no protobuf of Kubernetes")]
    Protobuf,
    #[error("an object larger than can be")]
    TooLarge,
}

/// What is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// A watch: events one after the other.
    Events,
    /// An object that holds the nodes.
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// An event, or an item.
    Whole(&'a [u8]),
    /// What stands beside the items: the list's own metadata.
    Beside(&'a [u8]),
}

/// Cuts what the API server sends into single objects as it arrives, so that of a list of
/// thousands of nodes no more than one is ever held whole.
#[derive(Debug)]
pub(super) struct Cutter(By);

#[derive(Debug)]
enum By {
    Brackets(brackets::Brackets),
    Lengths(frames::Frames),
}

impl Cutter {
    pub(super) fn new(format: Format, of: Of) -> Self {
        Self(match format {
            Format::Json => By::Brackets(brackets::Brackets::new(of)),
            Format::Protobuf => By::Lengths(frames::Frames::new(of)),
        })
    }

    /// Hands each object over that ends within `bytes`.
    pub(super) fn feed(&mut self, bytes: &[u8], take: impl FnMut(Part<'_>)) -> Result<(), Wrong> {
        match &mut self.0 {
            By::Brackets(brackets) => brackets.feed(bytes, take),
            By::Lengths(frames) => frames.feed(bytes, take),
        }
    }

    /// Whether all that was begun has ended.
    pub(super) fn is_even(&self) -> bool {
        match &self.0 {
            By::Brackets(brackets) => brackets.is_even(),
            By::Lengths(frames) => frames.is_even(),
        }
    }
}

/// etcd takes no more than 1.5 MB, and JSON is not more than four times as long.
const LARGEST: usize = 6 << 20;

/// Whatever comes, in pieces that break where nothing ends.
pub(super) fn read_anything(bytes: &[u8]) {
    let prefix = Prefix("flannel.alpha.coreos.com/".into());
    for format in [Format::Json, Format::Protobuf] {
        let _ = format.node(bytes, &prefix);
        let _ = format.why(bytes);
        for of in [Of::Events, Of::List] {
            let mut cutter = Cutter::new(format, of);
            for piece in bytes.chunks(7) {
                let fed = cutter.feed(piece, |part| match (of, part) {
                    (Of::List, Part::Beside(bytes)) => drop(format.list_head(bytes)),
                    (Of::List, Part::Whole(bytes)) => drop(format.item(bytes, &prefix)),
                    (Of::Events, Part::Whole(bytes) | Part::Beside(bytes)) => {
                        drop(format.event(bytes, &prefix));
                    }
                });
                if fed.is_err() {
                    break;
                }
            }
            let _ = cutter.is_even();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_an_answer_is_its_content_type_says() {
        let of = |told: &'static str| Format::of(Some(&HeaderValue::from_static(told)));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), Format::Protobuf);
        let watch = "application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(of(watch), Format::Protobuf);
        assert_eq!(of("application/json"), Format::Json);
        assert_eq!(of("application/json;stream=watch"), Format::Json);
        assert_eq!(Format::of(None), Format::Json);
    }

    #[test]
    fn who_refuses_protobuf_is_asked_for_all_else_in_the_same_order() {
        assert_eq!(Ask::Whole.accept_json(), "application/json");
        for ask in [Ask::Metadata, Ask::MetadataList] {
            let json = ask.accept_json();
            assert!(ask.accept().ends_with(json) && !json.contains("protobuf"));
            assert!(json.starts_with("application/json;as=Partial"), "{json}");
            assert!(json.ends_with(",application/json"), "{json}");
        }
    }

    #[test]
    fn what_is_no_status_is_told_as_it_is() {
        let why = |text: &str| Format::Json.why(text.as_bytes());
        assert_eq!(
            why("Too many requests.\n").as_deref(),
            Some("Too many requests.")
        );
        assert_eq!(
            why(r#"{"kind":"Status","message":"x"}"#).as_deref(),
            Some("x")
        );
        assert_eq!(why(""), None);
    }

    /// What a kube-apiserver 1.20.2 has answered, the same things in both forms.
    fn real(name: &str, format: Format) -> Vec<u8> {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/kube");
        let ends = match format {
            Format::Json => "json",
            Format::Protobuf => "pb",
        };
        std::fs::read(format!("{seeds}/{name}.{ends}")).unwrap()
    }

    const BOTH: [Format; 2] = [Format::Json, Format::Protobuf];

    fn prefix() -> Prefix {
        Prefix("flannel.alpha.coreos.com/".into())
    }

    fn cut<T>(format: Format, of: Of, name: &str, read: impl Fn(Part<'_>) -> T) -> Vec<T> {
        let mut cutter = Cutter::new(format, of);
        let mut found = Vec::new();
        for piece in real(name, format).chunks(100) {
            cutter.feed(piece, |part| found.push(read(part))).unwrap();
        }
        assert!(cutter.is_even());
        found
    }

    #[test]
    fn a_real_node_is_the_same_in_both_forms() {
        let [json, protobuf] = BOTH.map(|format| format.node(&real("node", format), &prefix()));
        let node = json.unwrap();
        assert_eq!(node, protobuf.unwrap());
        assert_eq!(node.name, "worker-2");
        assert!(node.is_managed() && node.annotations.len() == 4);
        let rest = node.rest.unwrap();
        let subnets = rest.subnets.unwrap().unwrap().to_string();
        assert_eq!(subnets, "10.244.2.0/24");
        assert_eq!(rest.unavailable.as_deref(), Some("False"));
    }

    #[test]
    fn real_lists_are_the_same_in_both_forms() {
        for (name, count, is_whole) in [("nodes", 1, true), ("metadata", 2, false)] {
            let [json, protobuf] = BOTH.map(|format| {
                let read = |part: Part<'_>| match part {
                    Part::Whole(bytes) => Ok(format.item(bytes, &prefix()).unwrap()),
                    Part::Beside(bytes) => Err(format.list_head(bytes).unwrap()),
                };
                cut(format, Of::List, name, read)
            });
            assert_eq!(json, protobuf);
            let head = json[0].as_ref().unwrap_err();
            assert_eq!(!head.more.is_empty(), name == "nodes");
            assert!(head.version.parse::<u64>().is_ok());
            let nodes = json[1..].iter().map(|node| node.as_ref().unwrap());
            assert_eq!(nodes.clone().count(), count);
            assert!(nodes.clone().all(|node| node.rest.is_some() == is_whole));
        }
    }

    #[test]
    fn a_real_watch_is_the_same_in_both_forms() {
        let [json, protobuf] = BOTH.map(|format| {
            cut(format, Of::Events, "watch", |part| {
                let (Part::Whole(bytes) | Part::Beside(bytes)) = part;
                format.event(bytes, &prefix()).unwrap()
            })
        });
        assert_eq!(json, protobuf);
        let told: Vec<_> = json
            .iter()
            .map(|event| match event {
                Event::Is(node) => ("is", node.name.as_str()),
                Event::Gone(node) => ("gone", node.name.as_str()),
                Event::Bookmark(version) => ("so far", version.as_str()),
            })
            .collect();
        let expected = [
            ("is", "worker-3"),
            ("is", "worker-2"),
            ("gone", "worker-3"),
            ("so far", "254"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn real_failures_are_the_same_in_both_forms() {
        for format in BOTH {
            let why = format.why(&real("status", format));
            assert_eq!(why.as_deref(), Some("Unauthorized"));
            let gone = cut(format, Of::Events, "gone", |part| {
                let (Part::Whole(bytes) | Part::Beside(bytes)) = part;
                format.event(bytes, &prefix()).unwrap_err()
            });
            let told = "too old resource version: 2 (257)".to_owned();
            assert_eq!(gone, [Fault::Gone(told)]);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_makes_it_panic(bytes: Vec<u8>) {
            read_anything(&bytes);
        }

        #[test]
        fn nor_does_what_begins_well(bytes: Vec<u8>) {
            read_anything(&[b"k8s\0\x12\x40", &bytes[..]].concat());
            read_anything(&[b"\0\0\0\x20\x0a\x05ADDED\x12\x10", &bytes[..]].concat());
        }
    }
}
