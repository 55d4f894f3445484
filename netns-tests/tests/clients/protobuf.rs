//! As much of the protocol buffers encoding as the CRI needs: numbers, and what
//! has a length (texts and messages).

/// A message under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn text(mut self, field: u64, text: &str) -> Self {
        self.with_length(field, text.as_bytes());
        self
    }

    pub(crate) fn texts(self, field: u64, texts: &[&str]) -> Self {
        texts
            .iter()
            .fold(self, |message, text| message.text(field, text))
    }

    pub(crate) fn message(mut self, field: u64, inner: &Self) -> Self {
        self.with_length(field, &inner.0);
        self
    }

    pub(crate) fn number(mut self, field: u64, number: u64) -> Self {
        varint(&mut self.0, field << 3);
        varint(&mut self.0, number);
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn with_length(&mut self, field: u64, bytes: &[u8]) {
        varint(&mut self.0, field << 3 | 2);
        varint(&mut self.0, bytes.len() as u64);
        self.0.extend(bytes);
    }
}

/// What a field of a received message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order. A message cut short ends early.
pub(crate) fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        let key = read_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(read_varint(&mut bytes)?),
            1 => Value::Bytes(bytes.split_off(..8)?),
            2 => {
                let length = usize::try_from(read_varint(&mut bytes)?).ok()?;
                Value::Bytes(bytes.split_off(..length)?)
            }
            5 => Value::Bytes(bytes.split_off(..4)?),
            _ => return None,
        };
        Some((key >> 3, value))
    })
}

/// The messages or texts in field `wanted`.
pub(crate) fn all(message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).filter_map(move |(field, value)| match value {
        Value::Bytes(bytes) if field == wanted => Some(bytes),
        _ => None,
    })
}

/// The text in field `wanted`; what is absent is empty.
pub(crate) fn text(message: &[u8], wanted: u64) -> String {
    let bytes = all(message, wanted).last().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// The number in field `wanted`; what is absent is zero.
pub(crate) fn number(message: &[u8], wanted: u64) -> u64 {
    let numbers = fields(message).filter_map(|(field, value)| match value {
        Value::Number(number) if field == wanted => Some(number),
        _ => None,
    });
    numbers.last().unwrap_or_default()
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(low_byte(number) | 0x80);
        number >>= 7;
    }
    out.push(low_byte(number));
}

fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[test]
fn what_is_written_is_read_back() {
    let inner = Message::new().text(1, "pod").number(4, 300);
    let message = Message::new().message(1, &inner).texts(2, &["a", "b"]);
    let read = all(message.bytes(), 1).next().unwrap();
    assert_eq!((text(read, 1), number(read, 4)), ("pod".to_owned(), 300));
    assert_eq!(all(message.bytes(), 2).collect::<Vec<_>>(), [b"a", b"b"]);
    assert_eq!(number(read, 9), 0);
}

#[test]
fn a_message_cut_short_is_no_panic() {
    assert_eq!(fields(&[0x0a, 5, b'x']).count(), 0);
    assert_eq!(fields(&[0xff]).count(), 0);
}
