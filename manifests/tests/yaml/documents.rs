//! YAML files as values.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub(crate) fn text(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[track_caller]
pub(crate) fn parse(text: &str) -> Vec<Value> {
    let documents = serde_saphyr::from_multiple(text);
    documents.unwrap_or_else(|e| panic!("no YAML: {e}\n{text}"))
}

pub(crate) fn read(name: &str) -> Vec<Value> {
    parse(&text(name))
}

/// What it is of, by which it is found and sorted.
pub(crate) fn identity(document: &Value) -> String {
    let metadata = &document["metadata"];
    let parts = [&document["kind"], &metadata["namespace"], &metadata["name"]];
    parts
        .map(|part| part.as_str().unwrap_or_default())
        .join("/")
}

pub(crate) fn sorted(mut documents: Vec<Value>) -> Vec<Value> {
    documents.sort_by_key(identity);
    documents
}

#[track_caller]
pub(crate) fn one<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let mut found = documents.iter().filter(|document| document["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "there are several {kind}s");
    first
}

#[track_caller]
pub(crate) fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {name} in {list:#}"))
}
