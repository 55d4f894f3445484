//! nft's user data, which the kernel keeps without looking: type, length, value, one after another.

use super::wire::text;

/// In tables, chains, rules and elements.
pub(super) const COMMENT: u8 = 0;
/// In sets, where the smaller numbers describe types.
pub(super) const SET_COMMENT: u8 = 7;
pub(super) const SET_KEY_ORDER: u8 = 0;
pub(super) const SET_DATA_ORDER: u8 = 1;
/// `NFTNL_UDATA_COMMENT_MAXLEN`: nft refuses to load a longer one again.
pub const COMMENT_MAX: usize = 128;

/// A comment as nft shows it; `None` if nft would not take it back.
pub(super) fn comment(kind: u8, comment: &str) -> Option<Vec<u8>> {
    if comment.len() > COMMENT_MAX || comment.contains('\0') {
        return None;
    }
    let len = u8::try_from(comment.len() + 1).ok()?;
    let mut bytes = Vec::with_capacity(comment.len() + 3);
    bytes.extend_from_slice(&[kind, len]);
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    Some(bytes)
}

/// Says that a set's keys or data are in the machine's byte order, so that nft prints them right.
pub(super) fn host_order(kind: u8) -> [u8; 6] {
    const HOST_ENDIAN: u32 = 1;
    let [a, b, c, d] = HOST_ENDIAN.to_ne_bytes();
    [kind, 4, a, b, c, d]
}

pub(super) fn find_comment(mut bytes: &[u8], kind: u8) -> Option<&str> {
    while let [found, len, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*len))?;
        if *found == kind {
            return text(value);
        }
        bytes = &rest[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_comment_nft_would_refuse_is_refused() {
        assert!(comment(0, &"x".repeat(128)).is_some());
        assert!(comment(0, &"x".repeat(129)).is_none());
        assert!(comment(0, "a\0b").is_none());
    }

    proptest! {
        #[test]
        fn comments_read_back_among_other_user_data(
            text in "[^\0]{0,32}", other in prop::collection::vec(any::<u8>(), 0..9)
        ) {
            let mut bytes = vec![1, u8::try_from(other.len()).unwrap()];
            bytes.extend_from_slice(&other);
            bytes.extend(comment(0, &text).unwrap());
            prop_assert_eq!(find_comment(&bytes, 0), Some(text.as_str()));
        }

        #[test]
        fn arbitrary_bytes_are_read_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..64)
        ) {
            let _ = find_comment(&bytes, 0);
        }
    }
}
