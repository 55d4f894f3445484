//! What fuzzing feeds: the readers of what the kernel sends.

use crate::conntrack::Connection;
use crate::message::{Attributes, Messages};
use crate::{ethtool, nft, route, watch};

/// A datagram: its messages, their verdicts, and their payloads as whatever they may be.
pub fn netlink(datagram: &[u8]) {
    let mut length = 0;
    for message in Messages::of(datagram) {
        length += message.payload.len();
        let _ = message.verdict();
        payload(message.payload);
    }
    watch::read_as_anything(datagram);
    assert!(length <= datagram.len(), "no byte is read twice");
}

/// What follows a message's header.
pub fn payload(bytes: &[u8]) {
    for attribute in Attributes::of(bytes) {
        let _ = (attribute.as_u8(), attribute.as_u16(), attribute.as_u32());
        let _ = (attribute.as_text(), attribute.nested().count());
    }
    route::read_as_anything(bytes);
    nft::read_as_anything(bytes);
    ethtool::read_as_anything(bytes);
    let _ = Connection::parse(bytes);
}
