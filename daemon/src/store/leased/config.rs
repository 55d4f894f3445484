//! The network's configuration as it is when the daemon starts, and what became of it since.

use std::sync::Arc;

use crate::conf::{Checks, NetConf};
use crate::store::registry::Entry;

pub(super) struct Config {
    how_to_configure: String,
    /// What is true for as long as the daemon runs, once it is no error.
    known: Option<Result<Arc<NetConf>, String>>,
    changed: Option<String>,
    /// The version that was read last.
    version: Option<i64>,
}

impl Config {
    pub(super) fn new(how_to_configure: String) -> Self {
        Self {
            how_to_configure,
            known: None,
            changed: None,
            version: None,
        }
    }

    pub(super) fn known(&self) -> Option<&Result<Arc<NetConf>, String>> {
        self.known.as_ref()
    }

    pub(super) fn is_unusable(&self) -> bool {
        matches!(self.known, Some(Err(_)))
    }

    pub(super) fn changed(&self) -> Option<&str> {
        self.changed.as_deref()
    }

    pub(super) fn read(&mut self, entry: Option<&Entry>) {
        let version = entry.map(|entry| entry.version);
        if self.known.is_some() && version == self.version {
            return;
        }
        self.version = version;
        let read = match entry {
            None => Err("there is no network configuration".to_owned()),
            Some(entry) => NetConf::parse(&entry.value, Checks::Leases)
                .map_err(|why| format!("the network configuration is wrong: {why}")),
        };
        let Some(Ok(known)) = &self.known else {
            let how = &self.how_to_configure;
            let read = read
                .map(Arc::new)
                .map_err(|why| format!("{why}; write it with: {how}"));
            self.known = Some(read);
            return;
        };
        self.changed = match read {
            Ok(conf) if conf == **known => None,
            Ok(_) => Some(
                "the network configuration was changed; it counts from the next start of weftd on"
                    .to_owned(),
            ),
            Err(why) => Some(format!(
                "{why}; weftd goes on with what it read before, and would not start with this"
            )),
        };
    }
}
