//! Netlink's own framing: headers, verdicts and attributes, written to and read from bytes.

use rustix::io::Errno;

use crate::error::Why;

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_ACK: u16 = 0x4;
/// On an entry of a dump: the table changed underneath, the whole may be inconsistent.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;

/// The length of a message's header.
pub const HEADER: usize = 16;

/// What a message starts with, but for its length (see [`finish`]) and the sender's port, which
/// the kernel knows.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    pub message_type: u16,
    pub flags: u16,
    pub sequence: u32,
}

impl Header {
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.message_type.to_ne_bytes());
        out.extend_from_slice(&self.flags.to_ne_bytes());
        out.extend_from_slice(&self.sequence.to_ne_bytes());
        out.extend_from_slice(&[0; 4]);
    }
}

/// Pads the message that starts at `start` and ends with `out`, and writes its length.
pub fn finish(out: &mut Vec<u8>, start: usize) {
    out.resize(start + align(out.len() - start), 0);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// The messages of one datagram.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub fn of(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32_at(self.rest, 0)? as usize;
        let message = Message {
            message_type: u16_at(self.rest, 4)?,
            flags: u16_at(self.rest, 6)?,
            sequence: u32_at(self.rest, 8)?,
            port: u32_at(self.rest, 12)?,
            payload: self.rest.get(HEADER..length)?,
        };
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some(message)
    }
}

/// One message the kernel sent.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub message_type: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Of an answer, the port it is for; of an event, the port of whoever caused it, and zero if
    /// the kernel itself did or did not keep in mind who.
    pub port: u32,
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// How a request ended, if that is what the message says: done, acknowledged or refused.
    pub fn verdict(&self) -> Option<Result<(), Why>> {
        let explanation_at = match self.message_type {
            NLMSG_DONE => 4,
            NLMSG_ERROR if self.flags & NLM_F_CAPPED != 0 => 4 + HEADER,
            NLMSG_ERROR => 4 + align(u32_at(self.payload, 4).unwrap_or(0) as usize),
            _ => return None,
        };
        // Some dumps end with no status at all.
        let status = u32_at(self.payload, 0).unwrap_or(0).cast_signed();
        if status >= 0 {
            return Some(Ok(()));
        }
        let explanation = (self.flags & NLM_F_ACK_TLVS != 0)
            .then(|| Attributes::of(self.payload.get(explanation_at..).unwrap_or_default()))
            .and_then(|mut all| all.find(|a| a.kind == NLMSGERR_ATTR_MSG))
            .map(|text| text.as_text().into_owned());
        let errno = status.checked_neg().filter(|errno| *errno < ERRNO_END);
        Some(Err(Why::Refused {
            errno: errno.map_or(Errno::PROTO, Errno::from_raw_os_error),
            explanation,
        }))
    }
}

/// The attributes in a stretch of bytes; a malformed one ends them.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The attributes after a payload's fixed part.
    pub fn after(payload: &'a [u8], fixed: usize) -> Self {
        Self {
            rest: payload.get(align(fixed)..).unwrap_or_default(),
        }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let length = usize::from(u16_at(self.rest, 0)?);
        let attribute = Attribute {
            kind: u16_at(self.rest, 2)? & NLA_TYPE_MASK,
            value: self.rest.get(ATTRIBUTE_HEADER..length)?,
        };
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some(attribute)
    }
}

/// One attribute: its type without the flag bits, and its value.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::of(self.value)
    }

    pub fn as_u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    pub fn as_u16(&self) -> Option<u16> {
        u16_at(self.value, 0)
    }

    pub fn as_u32(&self) -> Option<u32> {
        u32_at(self.value, 0)
    }

    /// A string, with or without the zero that ends it.
    pub fn as_text(&self) -> std::borrow::Cow<'a, str> {
        let end = self
            .value
            .iter()
            .position(|&b| b == 0)
            .unwrap_or(self.value.len());
        String::from_utf8_lossy(&self.value[..end])
    }
}

pub const fn align(length: usize) -> usize {
    (length + 3) & !3
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

/// `MAX_ERRNO` and one: beyond it there are no error numbers.
const ERRNO_END: i32 = 4096;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// On a verdict: the request is not repeated in it, only its header.
const NLM_F_CAPPED: u16 = 0x100;
/// On a verdict: attributes follow.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const ATTRIBUTE_HEADER: usize = 4;
/// Without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const NLA_TYPE_MASK: u16 = 0x3fff;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(message_type: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Header {
            message_type,
            flags,
            sequence: 7,
        }
        .write(&mut bytes);
        bytes.extend_from_slice(payload);
        finish(&mut bytes, 0);
        bytes
    }

    #[test]
    fn a_refusal_carries_errno_and_explanation() {
        let mut payload = (-17_i32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; HEADER]);
        payload.extend_from_slice(&[9, 0, 1, 0]);
        payload.extend_from_slice(b"hey!\0");
        let bytes = message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, &payload);
        let verdict = Messages::of(&bytes).next().and_then(|m| m.verdict());
        let expected = Why::Refused {
            errno: Errno::EXIST,
            explanation: Some("hey!".into()),
        };
        assert_eq!(verdict, Some(Err(expected)));
    }

    #[test]
    fn an_entry_is_not_a_verdict() {
        let bytes = message(16, 0, &[1, 2, 3]);
        let first = Messages::of(&bytes).next().unwrap();
        assert_eq!((first.verdict(), first.payload), (None, &[1, 2, 3, 0][..]));
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_read_without_panic(bytes: Vec<u8>) {
            for message in Messages::of(&bytes) {
                let _ = message.verdict();
                for attribute in Attributes::of(message.payload) {
                    let _ = (attribute.as_u8(), attribute.as_u16(), attribute.as_u32());
                    let _ = attribute.as_text();
                }
            }
        }
    }
}
