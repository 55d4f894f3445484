//! Netfilter's attributes as bytes: written into one buffer, read without copying.

use std::fmt::Write as _;

use crate::message::{Attributes, align};

/// `NLA_F_NESTED`: the attribute's payload is a list of attributes.
const NESTED: u16 = 1 << 15;

/// `struct nfgenmsg`, which follows the header of every netfilter message: family, version, and
/// for a batch's bounds the subsystem.
pub(crate) const GENMSG: usize = 4;

/// The payload of a message, written from left to right.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    unfit: bool,
}

/// Where an attribute that is still open began.
#[derive(Debug)]
#[must_use]
pub(crate) struct Open(usize);

impl Writer {
    pub(crate) fn payload(family: u8, resource: u16) -> Self {
        let [high, low] = resource.to_be_bytes();
        Self {
            bytes: vec![family, 0, high, low],
            unfit: false,
        }
    }

    pub(crate) fn attr(&mut self, kind: u16, payload: &[u8]) {
        let open = self.start(kind);
        self.bytes.extend_from_slice(payload);
        self.end(open);
    }

    /// A name, with the terminating zero that the kernel wants.
    pub(crate) fn name(&mut self, kind: u16, name: &str) {
        self.unfit |= name.contains('\0');
        let open = self.start(kind);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.end(open);
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    /// Netfilter's numbers are big endian, whatever the machine.
    pub(crate) fn be16(&mut self, kind: u16, value: u16) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16) -> Open {
        self.start(kind | NESTED)
    }

    pub(crate) fn end(&mut self, open: Open) {
        match u16::try_from(self.bytes.len() - open.0) {
            Ok(len) => self.bytes[open.0..open.0 + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.unfit = true,
        }
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// Attributes that were written elsewhere.
    pub(crate) fn append(&mut self, attributes: &[u8]) {
        self.bytes.extend_from_slice(attributes);
    }

    /// Whether something did not fit its length field, or a name held a zero: not to be sent.
    pub(crate) fn is_unfit(&self) -> bool {
        self.unfit
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn start(&mut self, kind: u16) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        Open(start)
    }
}

/// The attributes in a stretch of bytes; a malformed one ends them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attrs<'a>(pub(crate) &'a [u8]);

impl<'a> Attrs<'a> {
    /// The attributes of a message.
    pub(crate) fn of(payload: &'a [u8]) -> Self {
        Self(payload.get(GENMSG..).unwrap_or_default())
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        Attributes::of(self.0).map(|attribute| (attribute.kind, attribute.value))
    }

    pub(crate) fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.iter()
            .find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The attributes inside the attribute of this kind; none if it is missing.
    pub(crate) fn inside(self, kind: u16) -> Self {
        Self(self.find(kind).unwrap_or_default())
    }

    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        text(self.find(kind)?)
    }

    pub(crate) fn u8(self, kind: u16) -> Option<u8> {
        self.find(kind)?.first().copied()
    }

    pub(crate) fn be16(self, kind: u16) -> Option<u16> {
        Some(u16::from_be_bytes(self.find(kind)?.try_into().ok()?))
    }

    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.find(kind)?.try_into().ok()?))
    }

    pub(crate) fn be64(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.find(kind)?.try_into().ok()?))
    }
}

/// What stands before the first zero, if it is UTF-8.
pub(crate) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

/// A key as an error shows it: hexadecimal, word by word.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len() * 9 / 4);
    for (index, byte) in bytes.iter().enumerate() {
        let gap = if index > 0 && index.is_multiple_of(4) {
            "."
        } else {
            ""
        };
        // Writing to a string cannot fail.
        let _ = write!(shown, "{gap}{byte:02x}");
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIND_MASK: u16 = 0x3fff;

    proptest! {
        #[test]
        fn attributes_read_back_as_written(
            attributes in prop::collection::vec(
                (0..=KIND_MASK, prop::collection::vec(any::<u8>(), 0..80)), 0..12)
        ) {
            let mut writer = Writer::payload(2, 10);
            let nest = writer.nest(9);
            for (kind, payload) in &attributes {
                writer.attr(*kind, payload);
            }
            writer.end(nest);

            let read: Vec<_> = Attrs::of(writer.bytes())
                .inside(9)
                .iter()
                .map(|(kind, payload)| (kind, payload.to_vec()))
                .collect();
            prop_assert_eq!(read, attributes);
        }

        #[test]
        fn numbers_and_names_read_back_as_written(
            small: u16, number: u32, big: u64, name in "[^\0]{0,40}"
        ) {
            let mut writer = Writer::default();
            writer.be16(1, small);
            writer.be32(2, number);
            writer.be64(3, big);
            writer.name(4, &name);
            let attrs = Attrs(writer.bytes());
            prop_assert_eq!(attrs.be16(1), Some(small));
            prop_assert_eq!(attrs.be32(2), Some(number));
            prop_assert_eq!(attrs.be64(3), Some(big));
            prop_assert_eq!(attrs.text(4), Some(name.as_str()));
            prop_assert!(!writer.is_unfit());
        }

        #[test]
        fn arbitrary_bytes_are_read_without_panic_and_end(
            bytes in prop::collection::vec(any::<u8>(), 0..300)
        ) {
            prop_assert!(Attrs(&bytes).iter().count() <= bytes.len());
            let _ = Attrs::of(&bytes).inside(1).be32(1);
            let _ = text(&bytes);
        }
    }

    #[test]
    fn an_attribute_longer_than_its_length_field_is_noticed() {
        let mut writer = Writer::default();
        writer.attr(1, &[0; 65_531]);
        assert!(!writer.is_unfit());
        writer.attr(1, &[0; 65_532]);
        assert!(writer.is_unfit());
    }

    #[test]
    fn a_name_that_the_kernel_would_cut_is_noticed() {
        let mut writer = Writer::default();
        writer.name(1, "a\0b");
        assert!(writer.is_unfit());
    }

    #[test]
    fn keys_are_shown_word_by_word() {
        assert_eq!(
            hex(&[6, 0, 0, 0, 10, 1, 0, 5, 31, 144]),
            "06000000.0a010005.1f90"
        );
    }
}
