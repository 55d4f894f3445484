//! What stands behind the question mark.

use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// The path, and what is asked of it.
    pub(super) fn split(target: &str) -> (&str, Self) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        (
            path,
            Self(pairs.map(|(k, v)| (plain(k), plain(v))).collect()),
        )
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub(super) fn is(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "true"))
    }

    /// The name that metadata.name is to be. The error is a selector that is not supported.
    pub(super) fn name(&self) -> Result<Option<&str>, String> {
        match self.get("fieldSelector") {
            None | Some("") => Ok(None),
            Some(selector) => match selector.strip_prefix("metadata.name=") {
                Some(name) => Ok(Some(name.trim_start_matches('='))),
                None => Err(format!("field label not supported: {selector}")),
            },
        }
    }
}

fn plain(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits).into_owned();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
