//! A protobuf message as its fields, one after the other, with nothing copied: what nobody asks
//! for, managedFields above all, is stepped over.

use super::Wrong;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    /// A text, bytes, or a message.
    Bytes(&'a [u8]),
    /// Of four or eight bytes: Kubernetes has none that matter here.
    Fixed,
}

/// Ends after the first that is none.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Option<(u64, Value<'a>)> {
        let head = Head::read(self.rest)?;
        let (value, rest) = self.rest.get(head.len..)?.split_at_checked(head.value)?;
        self.rest = rest;
        let value = match head.kind {
            Kind::Number(number) => Value::Number(number),
            Kind::Bytes => Value::Bytes(value),
            Kind::Fixed => Value::Fixed,
        };
        Some((head.number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Wrong>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_none() {
            self.rest = &[];
        }
        Some(read.ok_or(Wrong::Protobuf))
    }
}

/// What stands before a field's value, or, of a number, all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) kind: Kind,
    /// How many bytes it has itself.
    pub(super) len: usize,
    /// How many bytes come after it.
    pub(super) value: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Number(u64),
    Bytes,
    Fixed,
}

impl Head {
    /// No head is longer.
    pub(super) const LONGEST: usize = 2 * LONGEST_NUMBER;

    /// None where it ends too early, or is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (tag, len) = number(bytes)?;
        let after = bytes.get(len..)?;
        let (kind, len, value) = match tag & 7 {
            0 => {
                let (value, size) = number(after)?;
                (Kind::Number(value), len + size, 0)
            }
            1 => (Kind::Fixed, len, 8),
            2 => {
                let (value, size) = number(after)?;
                (Kind::Bytes, len + size, usize::try_from(value).ok()?)
            }
            5 => (Kind::Fixed, len, 4),
            // Groups, which nobody writes.
            _ => return None,
        };
        Some(Self {
            number: tag >> 3,
            kind,
            len,
            value,
        })
    }
}

/// Seven bits a byte, the lowest first; and how many bytes it has.
fn number(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(LONGEST_NUMBER).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

const LONGEST_NUMBER: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
        Fields::of(bytes).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn fields_come_in_their_order_whatever_they_are() {
        let message = b"\x0a\x02ab\x38\x96\x01\x0d1234\x0912345678\x8a\x01\x00";
        let fields = read(message);
        let expected = [
            (1, Value::Bytes(b"ab")),
            (7, Value::Number(150)),
            (1, Value::Fixed),
            (1, Value::Fixed),
            (17, Value::Bytes(b"")),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_field_that_ends_too_early_is_wrong_and_the_last() {
        let far = b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x";
        let endless = [0xff; 12];
        for wrong in [&b"\x0a\x05ab"[..], b"\x0a", b"\x0b", b"\x08", far, &endless] {
            let mut fields = Fields::of(wrong);
            assert!(fields.next().unwrap().is_err(), "{wrong:?}");
            assert!(fields.next().is_none(), "{wrong:?}");
        }
    }
}
