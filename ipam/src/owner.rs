//! Whose an address is, as a reservation's file says. Pure.

/// What a file of ours holds: `containerID\r\nifname`, without a newline at the end.
///
/// The oldest plugins wrote the container's ID alone, and their pods may still run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner(String);

/// A number that stands for an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) u128);

/// What some file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder<'a> {
    /// It is empty: whoever wrote it died in between.
    Nobody,
    Attachment {
        container_id: &'a str,
        ifname: &'a str,
    },
    Container(&'a str),
    /// No plugin writes such: a person did, to keep the address for something else.
    Other,
}

impl Owner {
    pub(crate) fn attachment(container_id: &str, ifname: &str) -> Self {
        Self(format!("{container_id}{BETWEEN}{ifname}"))
    }

    pub(crate) fn legacy(container_id: &str) -> Self {
        Self(container_id.to_owned())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    pub(crate) fn key(&self) -> Key {
        key(self.0.as_bytes())
    }

    pub(crate) fn holds(&self, content: &[u8]) -> bool {
        trim(content) == self.0.as_bytes()
    }
}

/// White space around the text means nothing, to anybody.
pub(crate) fn key(content: &[u8]) -> Key {
    hash(trim(content))
}

/// FNV-1a, which spreads short texts well enough: what is found by a key is read again.
pub(crate) fn hash(bytes: &[u8]) -> Key {
    let step = |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul(FNV_PRIME);
    Key(bytes.iter().fold(FNV_OFFSET, step))
}

pub(crate) fn holder(content: &[u8]) -> Holder<'_> {
    let content = trim(content);
    if content.is_empty() {
        return Holder::Nobody;
    }
    let Ok(text) = str::from_utf8(content) else {
        return Holder::Other;
    };
    match text.split_once(BETWEEN) {
        Some((container_id, ifname)) if is_container_id(container_id) && is_ifname(ifname) => {
            Holder::Attachment {
                container_id,
                ifname,
            }
        }
        None if is_container_id(text) => Holder::Container(text),
        _ => Holder::Other,
    }
}

/// Whether these are, to the byte, what a plugin writes for an attachment.
pub(crate) fn is_exactly_an_attachment(content: &[u8]) -> bool {
    trim(content) == content && matches!(holder(content), Holder::Attachment { .. })
}

fn trim(content: &[u8]) -> &[u8] {
    let space = |byte: &u8| byte.is_ascii_whitespace() || *byte == VERTICAL_TAB;
    let start = content
        .iter()
        .position(|b| !space(b))
        .unwrap_or(content.len());
    let end = content
        .iter()
        .rposition(|b| !space(b))
        .map_or(start, |last| last + 1);
    &content[start..end]
}

fn is_container_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_ifname(text: &str) -> bool {
    let strange = |c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace();
    (1..=15).contains(&text.len()) && !matches!(text, "." | "..") && !text.contains(strange)
}

const BETWEEN: &str = "\r\n";
const VERTICAL_TAB: u8 = 0x0b;
const FNV_OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_golden_to_the_byte() {
        let hex: String = Owner::attachment("cid1.1.0", "eth0")
            .text()
            .bytes()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hex, "636964312e312e300d0a65746830");
    }

    #[test]
    fn what_a_file_says_is_understood() {
        let pod = Holder::Attachment {
            container_id: "c1",
            ifname: "eth0",
        };
        for (content, meaning) in [
            (&b"c1\r\neth0"[..], pod),
            (b" c1\r\neth0\n", pod),
            (b"c1", Holder::Container("c1")),
            (b"c1\n", Holder::Container("c1")),
            (b"", Holder::Nobody),
            (b" \r\n\t\x0b", Holder::Nobody),
            (b"c1\neth0", Holder::Other),
            (b"c1\r\n\r\neth0", Holder::Other),
            (b"c1\r\ninterface-too-long", Holder::Other),
            (b"kept for the printer", Holder::Other),
            (b"-x", Holder::Other),
            (b"\xff", Holder::Other),
        ] {
            assert_eq!(holder(content), meaning, "{content:?}");
        }
    }

    #[test]
    fn only_the_very_bytes_of_a_plugin_are_an_attachment_beyond_doubt() {
        assert!(is_exactly_an_attachment(b"c1\r\neth0"));
        for other in [
            &b"c1\r\neth0\n"[..],
            b" c1\r\neth0",
            b"c1",
            b"",
            b"note\r\nto self, keep",
        ] {
            assert!(!is_exactly_an_attachment(other), "{other:?}");
        }
    }

    #[test]
    fn white_space_around_makes_no_other_owner() {
        let owner = Owner::attachment("c1", "eth0");
        assert!(owner.holds(b"c1\r\neth0\n") && !owner.holds(b"c1\r\neth1"));
        assert_eq!(key(b"  c1\r\neth0\r\n"), owner.key());
        assert_ne!(Owner::legacy("c1").key(), owner.key());
    }
}
