//! The messages of Kubernetes, as far as they matter: their fields by number, which never change
//! (k8s.io/apimachinery's and k8s.io/api's generated.proto have them all).

use super::fields::{Fields, Value};
use super::frames::{MARK, RAW};
use super::{Status, Wrong};
use crate::store::kube::fault::Fault;
use crate::store::kube::node::{Event, ListHead, Node, Prefix, subnets};

/// What is in an envelope.
pub(super) fn unwrapped(bytes: &[u8]) -> Result<&[u8], Wrong> {
    let envelope = bytes.strip_prefix(MARK).ok_or(Wrong::Protobuf)?;
    let mut raw = None;
    each(envelope, |number, value| {
        if number == RAW {
            raw = Some(value);
        }
        Ok(())
    })?;
    raw.ok_or(Wrong::Protobuf)
}

/// Node and PartialObjectMetadata, which is its metadata alone.
pub(super) fn node(message: &[u8], prefix: &Prefix) -> Result<Node, Wrong> {
    let mut node = Node::default();
    each(message, |field, value| {
        match field {
            1 => metadata(value, prefix, &mut node)?,
            2 => node.rest.get_or_insert_default().subnets = spec(value)?,
            3 => node.rest.get_or_insert_default().unavailable = unavailable(value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(node)
}

/// WatchEvent, whose object is in an envelope of its own.
pub(super) fn event(message: &[u8], prefix: &Prefix) -> Result<Event, Fault> {
    let (mut kind, mut object) = (String::new(), &[][..]);
    each(message, |field, value| {
        match field {
            1 => kind = text(value)?,
            2 => object = bytes_of(value, 1)?,
            _ => {}
        }
        Ok(())
    })?;
    Event::of(
        &kind,
        || node(unwrapped(object)?, prefix),
        || status(unwrapped(object)?),
    )
}

/// ListMeta.
pub(super) fn list_head(message: &[u8]) -> Result<ListHead, Wrong> {
    let mut head = ListHead::default();
    each(message, |field, value| {
        match field {
            2 => head.version = text(value)?,
            3 => head.more = text(value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(head)
}

pub(super) fn status(message: &[u8]) -> Result<Status, Wrong> {
    let mut status = Status::default();
    for field in Fields::of(message) {
        match field? {
            (3, Value::Bytes(value)) => status.message = text(value)?,
            (6, Value::Number(code)) => status.code = code.try_into().unwrap_or_default(),
            _ => {}
        }
    }
    Ok(status)
}

/// ObjectMeta.
fn metadata(message: &[u8], prefix: &Prefix, node: &mut Node) -> Result<(), Wrong> {
    each(message, |field, value| {
        match field {
            1 => node.name = text(value)?,
            5 => node.uid = text(value)?,
            6 => node.version = text(value)?,
            12 => {
                let key = text_of(value, 1)?;
                if let Some(key) = key.strip_prefix(&*prefix.0) {
                    node.annotations
                        .insert(key.to_owned(), text_of(value, 2)?.to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    })
}

/// NodeSpec.
fn spec(message: &[u8]) -> Result<Option<Result<crate::lease::Subnets, String>>, Wrong> {
    let (mut one, mut several) = ("", Vec::new());
    each(message, |field, value| {
        match field {
            1 => one = borrowed(value)?,
            7 => several.push(borrowed(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(subnets(one, &several))
}

/// Of NodeStatus the condition NetworkUnavailable: its status.
fn unavailable(message: &[u8]) -> Result<Option<String>, Wrong> {
    let mut unavailable = None;
    each(message, |field, value| {
        if field == 4 && text_of(value, 1)? == "NetworkUnavailable" {
            unavailable = Some(text_of(value, 2)?.to_owned());
        }
        Ok(())
    })?;
    Ok(unavailable)
}

/// Every field that holds bytes, a text or a message.
fn each<'a>(
    message: &'a [u8],
    mut take: impl FnMut(u64, &'a [u8]) -> Result<(), Wrong>,
) -> Result<(), Wrong> {
    for field in Fields::of(message) {
        if let (number, Value::Bytes(value)) = field? {
            take(number, value)?;
        }
    }
    Ok(())
}

/// A field's value; empty where there is none.
fn bytes_of(message: &[u8], wanted: u64) -> Result<&[u8], Wrong> {
    let mut found = &[][..];
    each(message, |number, value| {
        if number == wanted {
            found = value;
        }
        Ok(())
    })?;
    Ok(found)
}

fn text_of(message: &[u8], wanted: u64) -> Result<&str, Wrong> {
    borrowed(bytes_of(message, wanted)?)
}

fn text(bytes: &[u8]) -> Result<String, Wrong> {
    borrowed(bytes).map(str::to_owned)
}

fn borrowed(bytes: &[u8]) -> Result<&str, Wrong> {
    str::from_utf8(bytes).map_err(|_| Wrong::Protobuf)
}
