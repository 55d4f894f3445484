//! The layout that flanneld and weftd share: `<prefix>/config`, `<prefix>/subnets/<subnet>`.

use etcd_client::KeyValue;

use crate::store::registry::Entry;

#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// With a slash at its end, unless it is empty. One at its beginning counts: etcd's keys are
    /// no paths.
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let name = prefix.trim_end_matches('/');
        Self {
            prefix: if prefix.is_empty() {
                String::new()
            } else {
                format!("{name}/")
            },
        }
    }

    pub(super) fn config(&self) -> String {
        self.absolute(CONFIG)
    }

    /// What all leases begin with.
    pub(super) fn leases(&self) -> String {
        self.absolute(LEASES)
    }

    /// The first key behind all leases: a slash is followed by a zero.
    pub(super) fn after_leases(&self) -> String {
        self.absolute("subnets0")
    }

    pub(super) fn absolute(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// None for what is not ours.
    pub(super) fn relative(&self, key: &[u8]) -> Option<String> {
        let key = key.strip_prefix(self.prefix.as_bytes())?;
        Some(String::from_utf8_lossy(key).into_owned())
    }

    /// Rubbish stays rubbish, as text: it is for the reader of leases to tell.
    pub(super) fn entry(key: String, kv: &KeyValue) -> Entry {
        Entry {
            key,
            value: String::from_utf8_lossy(kv.value()).into_owned(),
            version: kv.mod_revision(),
            lasts: kv.lease() == 0,
        }
    }

    /// As [`Self::entry`], without copying the value.
    pub(super) fn owned_entry(&self, kv: KeyValue) -> Option<Entry> {
        let key = self.relative(kv.key())?;
        let (version, lasts) = (kv.mod_revision(), kv.lease() == 0);
        let (_, value) = kv.into_key_value();
        Some(Entry {
            key,
            value: String::from_utf8(value)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
            version,
            lasts,
        })
    }
}

const CONFIG: &str = "config";
const LEASES: &str = "subnets/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_below_the_prefix_however_it_is_written() {
        for prefix in ["/coreos.com/network", "/coreos.com/network/"] {
            let keys = Keys::new(prefix);
            assert_eq!(keys.config(), "/coreos.com/network/config");
            assert_eq!(keys.leases(), "/coreos.com/network/subnets/");
        }
        assert_eq!(Keys::new("/").config(), "/config");
        assert_eq!(Keys::new("a/b").leases(), "a/b/subnets/");
        assert_eq!(Keys::new("").config(), "config");
    }

    #[test]
    fn what_is_not_below_the_prefix_is_not_ours() {
        let keys = Keys::new("/net");
        assert_eq!(keys.relative(b"/net/config").as_deref(), Some("config"));
        assert_eq!(keys.relative(b"/network/config"), None);
    }
}
