//! The attachments that a runtime still knows, as GC is told.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{Error, Object, Result};

/// One interface of one container on one network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    pub container_id: String,
    pub ifname: String,
}

/// Those that live; whatever else there is of the network may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachments(BTreeSet<Attachment>);

impl Attachments {
    /// Nothing when the runtime said nothing. A list that is null is a runtime that has no pods
    /// (a nil slice of Go's), which is another thing.
    pub(crate) fn of(conf: &Object<'_>) -> Result<Option<Self>> {
        // The specification's first text had the second key, and runtimes send both.
        let keys = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        let Some(key) = keys
            .into_iter()
            .find(|key| conf.get_with_null(key).is_some())
        else {
            return Ok(None);
        };
        let known = conf.objects(key)?.unwrap_or_default();
        known
            .iter()
            .map(attachment)
            .collect::<Result<_>>()
            .map(|known| Some(Self(known)))
    }

    pub fn contains(&self, container_id: &str, ifname: &str) -> bool {
        self.0
            .iter()
            .any(|known| known.container_id == container_id && known.ifname == ifname)
    }

    pub fn has_container(&self, container_id: &str) -> bool {
        self.0
            .iter()
            .any(|known| known.container_id == container_id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Attachment> {
        self.0.iter()
    }
}

impl FromIterator<Attachment> for Attachments {
    fn from_iter<I: IntoIterator<Item = Attachment>>(known: I) -> Self {
        Self(known.into_iter().collect())
    }
}

fn attachment(value: &Object<'_>) -> Result<Attachment> {
    let text = |key: &str| {
        let text = value.text(key)?.filter(|text| !text.is_empty());
        // Collecting with half a list would tear down living pods.
        text.map(str::to_owned).ok_or_else(|| {
            Error::config(format!(
                "{} is missing: nothing was collected",
                value.place_of(key)
            ))
        })
    };
    Ok(Attachment {
        container_id: text("containerID")?,
        ifname: text("ifname")?,
    })
}

/// For a delegate that is told the same.
impl From<&Attachments> for Value {
    fn from(known: &Attachments) -> Self {
        let pair =
            |a: &Attachment| serde_json::json!({"containerID": a.container_id, "ifname": a.ifname});
        Self::Array(known.iter().map(pair).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(conf: &Value) -> Result<Option<Attachments>> {
        Attachments::of(&Object::of(conf, "").unwrap())
    }

    #[test]
    fn an_absent_list_says_nothing_and_a_null_one_says_no_pods() {
        assert_eq!(read(&json!({})).unwrap(), None);
        let none = Some(Attachments::default());
        assert_eq!(
            read(&json!({"cni.dev/valid-attachments": null})).unwrap(),
            none
        );
        assert_eq!(read(&json!({"cni.dev/attachments": []})).unwrap(), none);
    }

    #[test]
    fn both_keys_are_read_and_the_newer_wins() {
        let one = |id: &str| json!([{"containerID": id, "ifname": "eth0"}]);
        let conf =
            json!({"cni.dev/attachments": one("old"), "cni.dev/valid-attachments": one("new")});
        let known = read(&conf).unwrap().unwrap();
        assert!(known.contains("new", "eth0") && !known.has_container("old"));
    }

    #[test]
    fn half_an_attachment_collects_nothing() {
        assert!(read(&json!({"cni.dev/valid-attachments": [{"containerID": "a"}]})).is_err());
    }
}
