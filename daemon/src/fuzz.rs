//! What fuzzing feeds: every reader of what a store holds, by name.
//!
//! The targets of cargo-fuzz call these, and so does a test with the corpus kept in the tree.

use crate::conf::{Checks, NetConf};
use crate::lease::{Attrs, Subnets};
use crate::store::embedded;

/// A reader, which must bear whatever it is given.
pub type Body = fn(&[u8]);

pub static TARGETS: &[(&str, Body)] = &[
    ("net_conf", net_conf),
    ("lease_key", lease_key),
    ("lease_value", lease_value),
    ("lease_file", lease_file),
    #[cfg(feature = "kube")]
    ("kube", crate::store::kube::read_anything),
];

/// Gives `data` to the reader of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, body) = target.expect("the name of a target");
    body(data);
}

/// The network's configuration: what passes the stricter reading passes the other, and is the same.
pub fn net_conf(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let assigned = NetConf::parse(&text, Checks::Assigned { found: &[] });
    match NetConf::parse(&text, Checks::Leases) {
        Ok(conf) => assert_eq!(assigned, Ok(conf)),
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}

/// A lease's key: what is read is written such that it is read again.
pub fn lease_key(text: &[u8]) {
    if let Ok(subnets) = Subnets::from_key(&String::from_utf8_lossy(text)) {
        let key = subnets.to_key().expect("what is read has an IPv4 part");
        assert_eq!(Subnets::from_key(&key), Ok(subnets));
    }
}

/// A lease's value: what is read is written such that it is read again.
pub fn lease_value(text: &[u8]) {
    if let Ok(attrs) = Attrs::parse(&String::from_utf8_lossy(text)) {
        assert_eq!(Attrs::parse(&attrs.to_json()), Ok(attrs));
    }
}

/// A file of the embedded store.
pub fn lease_file(text: &[u8]) {
    embedded::read_anything(&String::from_utf8_lossy(text));
}
