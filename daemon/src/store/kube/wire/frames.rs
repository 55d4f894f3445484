//! Cuts protobuf as it arrives. A watch is frames, each with its length before it. A list is one
//! envelope around one message, and is entered, so that it is never held whole.

use super::fields::{Head, Kind};
use super::{LARGEST, Of, Part, Wrong};

#[derive(Debug)]
pub(super) struct Frames {
    place: Place,
    /// What came and is not used yet.
    held: Vec<u8>,
}

/// What the next byte is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Frame,
    /// The envelope's mark.
    Mark,
    /// A field of the envelope, before the list or after it.
    Envelope {
        after: bool,
    },
    /// A field of the list, of which so much is to come.
    List(usize),
}

/// What could be read: how long it is, what is to be handed over of it, and what comes then.
struct Step<'a> {
    len: usize,
    part: Option<Part<'a>>,
    then: Place,
}

impl Frames {
    pub(super) fn new(of: Of) -> Self {
        Self {
            place: match of {
                Of::Events => Place::Frame,
                Of::List => Place::Mark,
            },
            held: Vec::new(),
        }
    }

    pub(super) fn is_even(&self) -> bool {
        let is_done = matches!(self.place, Place::Frame | Place::Envelope { after: true });
        is_done && self.held.is_empty()
    }

    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Part<'_>),
    ) -> Result<(), Wrong> {
        self.held.extend_from_slice(bytes);
        let mut rest = &self.held[..];
        while let Some(step) = self.place.step(rest)? {
            if let Some(part) = step.part {
                take(part);
            }
            rest = &rest[step.len..];
            self.place = step.then;
        }
        let used = self.held.len() - rest.len();
        self.held.drain(..used);
        Ok(())
    }
}

impl Place {
    /// None until more has come.
    fn step(self, bytes: &[u8]) -> Result<Option<Step<'_>>, Wrong> {
        match self {
            Self::Frame => frame(bytes),
            Self::Mark => match bytes.split_at_checked(MARK.len()) {
                None => Ok(None),
                Some((mark, _)) if mark == MARK => Ok(Some(Step {
                    len: MARK.len(),
                    part: None,
                    then: Self::Envelope { after: false },
                })),
                Some(_) => Err(Wrong::Protobuf),
            },
            Self::List(0) => Ok(Some(Step {
                len: 0,
                part: None,
                then: Self::Envelope { after: true },
            })),
            Self::Envelope { after } => {
                let Some(head) = head(bytes)? else {
                    return Ok(None);
                };
                match (head.number, head.kind) {
                    (RAW, Kind::Bytes) => Ok(Some(Step {
                        len: head.len,
                        part: None,
                        then: Self::List(head.value),
                    })),
                    _ => whole(bytes, &head, |_| None, Self::Envelope { after }),
                }
            }
            Self::List(left) => {
                let Some(head) = head(bytes)? else {
                    return Ok(None);
                };
                let then = left
                    .checked_sub(head.len)
                    .and_then(|left| left.checked_sub(head.value))
                    .ok_or(Wrong::Protobuf)?;
                let part = |value| match (head.number, head.kind) {
                    (METADATA, Kind::Bytes) => Some(Part::Beside(value)),
                    (ITEMS, Kind::Bytes) => Some(Part::Whole(value)),
                    _ => None,
                };
                whole(bytes, &head, part, Self::List(then))
            }
        }
    }
}

fn frame(bytes: &[u8]) -> Result<Option<Step<'_>>, Wrong> {
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > LARGEST {
        return Err(Wrong::TooLarge);
    }
    Ok(rest.get(..length).map(|event| Step {
        len: size_of::<u32>() + length,
        part: Some(Part::Whole(event)),
        then: Place::Frame,
    }))
}

fn head(bytes: &[u8]) -> Result<Option<Head>, Wrong> {
    match Head::read(bytes) {
        None if bytes.len() >= Head::LONGEST => Err(Wrong::Protobuf),
        head => Ok(head),
    }
}

/// Once all of a field is there.
fn whole<'a>(
    bytes: &'a [u8],
    head: &Head,
    part: impl FnOnce(&'a [u8]) -> Option<Part<'a>>,
    then: Place,
) -> Result<Option<Step<'a>>, Wrong> {
    if head.value > LARGEST {
        return Err(Wrong::TooLarge);
    }
    let len = head.len + head.value;
    Ok(bytes.get(head.len..len).map(|value| Step {
        len,
        part: part(value),
        then,
    }))
}

/// What every envelope begins with.
pub(super) const MARK: &[u8] = b"k8s\0";
/// Of an envelope: what is in it.
pub(super) const RAW: u64 = 2;
/// Of a list.
const METADATA: u64 = 1;
const ITEMS: u64 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        let mut length = value.len();
        while length >= 0x80 {
            field.push(length.to_le_bytes()[0] | 0x80);
            length >>= 7;
        }
        field.push(length.to_le_bytes()[0]);
        field.extend_from_slice(value);
        field
    }

    fn cut(of: Of, bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, bool) {
        let mut frames = Frames::new(of);
        let (mut whole, mut beside) = (Vec::new(), Vec::new());
        let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
        while !rest.is_empty() {
            let size = pieces.next().map_or(1, |size| (*size).clamp(1, rest.len()));
            let (piece, later) = rest.split_at(size);
            rest = later;
            let fed = frames.feed(piece, |part| match part {
                Part::Whole(bytes) => whole.push(bytes.to_vec()),
                Part::Beside(bytes) => beside.push(bytes.to_vec()),
            });
            fed.unwrap();
        }
        (whole, beside, frames.is_even())
    }

    proptest! {
        #[test]
        fn wherever_the_wire_breaks_the_same_objects_come_of_it(
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
            pieces in prop::collection::vec(1usize..90, 1..6),
        ) {
            let mut list = field(1, b"head");
            items.iter().for_each(|item| list.extend(field(2, item)));
            list.extend(field(9, b"of a later version"));
            let whole = [&b"k8s\0"[..], &field(1, b"type"), &field(2, &list), &field(3, b"")].concat();
            let (nodes, beside, even) = cut(Of::List, &whole, &pieces);
            prop_assert_eq!(&nodes, &items);
            prop_assert_eq!(beside, vec![b"head".to_vec()]);
            prop_assert!(even);
            let (_, _, even) = cut(Of::List, &whole[..whole.len() - 3], &pieces);
            prop_assert!(!even);

            let length = |item: &Vec<u8>| u32::try_from(item.len()).unwrap().to_be_bytes();
            let frame = |item: &Vec<u8>| [&length(item)[..], item].concat();
            let stream: Vec<u8> = items.iter().flat_map(frame).collect();
            let (events, _, even) = cut(Of::Events, &stream, &pieces);
            prop_assert_eq!(events, items);
            prop_assert!(even);
        }
    }

    #[test]
    fn nothing_is_waited_for_that_cannot_be() {
        let fed = |of, bytes: &[u8]| Frames::new(of).feed(bytes, |_| {});
        assert!(matches!(fed(Of::Events, &[0xff; 4]), Err(Wrong::TooLarge)));
        assert!(matches!(fed(Of::List, b"{\"ki"), Err(Wrong::Protobuf)));
        let beyond = b"k8s\0\x12\x04\x12\x05";
        assert!(matches!(fed(Of::List, beyond), Err(Wrong::Protobuf)));
        let endless = [&b"k8s\0"[..], &[0xff; Head::LONGEST]].concat();
        assert!(matches!(fed(Of::List, &endless), Err(Wrong::Protobuf)));
        let huge = b"k8s\0\x12\xff\xff\xff\xff\x07\x12\xff\xff\xff\x7f";
        assert!(matches!(fed(Of::List, huge), Err(Wrong::TooLarge)));
    }
}
