//! What an owner has taken, written down where it is found without knowing it: DEL is often told
//! neither the ports nor the addresses.
//!
//! One element of the set `owners` for each part, under (network, attachment, number of the part).
//! Its comment reads `<mark> <parts> <group> <group> <key> <key> …`; later parts have keys only.

use weft_net::nft::{COMMENT_MAX, DataType, concat, ifname};

use super::key::Key;

/// What one owner has in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// The names of the groups of sources that are masqueraded.
    pub(super) groups: Vec<String>,
    pub(super) keys: Vec<Key>,
}

/// One part as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// How many there are; told by the first.
    pub(super) parts: u32,
    pub(super) record: Record,
}

pub(super) const KEY_TYPE: [DataType; 3] = [DataType::IFNAME, DataType::IFNAME, DataType::MARK];

/// The key of a part. An interface name is the one type for short texts, so nft can list it.
pub(super) fn part_key(mark: &str, part: u32) -> Vec<u8> {
    let (network, attachment) = mark.split_once('-').unwrap_or((mark, ""));
    concat(&[&ifname(network), &ifname(attachment), &part.to_ne_bytes()])
}

impl Record {
    /// The comments of all parts.
    pub(super) fn encode(&self, mark: &str) -> Vec<String> {
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        // The number of parts is not known before they are filled: room is kept for the longest.
        let head = |parts: &str| [&[mark, parts], &groups[..]].concat().join(" ");
        let mut parts = vec![head(LONGEST_NUMBER)];
        for key in &self.keys {
            let key = format!(" {key}");
            let last = parts.len() - 1;
            match parts[last].len() + key.len() <= COMMENT_MAX {
                true => parts[last].push_str(&key),
                false => parts.push(format!("{mark} {CONTINUED}{key}")),
            }
        }
        let rest = parts[0].split_off(head(LONGEST_NUMBER).len());
        parts[0] = head(&parts.len().to_string()) + &rest;
        parts
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.groups.extend(other.groups);
        self.keys.extend(other.keys);
    }
}

impl Part {
    /// What is no group and no key is left alone: a later version may have written it.
    pub(super) fn decode(comment: &str, mark: &str) -> Option<Self> {
        let rest = comment.strip_prefix(mark)?.strip_prefix(' ')?;
        let (parts, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let (keys, groups): (Vec<&str>, Vec<&str>) = rest
            .split_ascii_whitespace()
            .partition(|word| word.contains(':'));
        Some(Self {
            parts: parts.parse().unwrap_or(1),
            record: Record {
                groups: groups.into_iter().map(str::to_owned).collect(),
                keys: keys
                    .into_iter()
                    .filter_map(|key| key.parse().ok())
                    .collect(),
            },
        })
    }
}

const CONTINUED: &str = "+";
/// Every port of every protocol, one a part.
const LONGEST_NUMBER: &str = "999999";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::key::tests::any_key, *};

    const MARK: &str = "43d91f8451058a70-f4d01f2ef4b92245";

    proptest! {
        #[test]
        fn a_record_survives_its_own_comments(
            keys in prop::collection::vec(any_key(), 0..40),
            groups in prop::collection::vec("[0-9]{1,2}_[0-9a-f._]{3,30}", 0..3),
        ) {
            // Two groups of the longest subnets still fit: a mark has 33 characters.
            prop_assume!(groups.iter().map(String::len).sum::<usize>() < 80);
            let record = Record { groups, keys };
            let comments = record.encode(MARK);
            prop_assert!(comments.iter().all(|comment| comment.len() <= COMMENT_MAX));
            let mut read = Record::default();
            for (i, comment) in comments.iter().enumerate() {
                let part = Part::decode(comment, MARK).unwrap();
                if i == 0 {
                    prop_assert_eq!(part.parts as usize, comments.len());
                }
                read.extend(part.record);
            }
            prop_assert_eq!(read, record);
        }

        #[test]
        fn any_comment_is_read_without_panic(comment in ".{0,130}") {
            let _ = Part::decode(&comment, MARK);
            let _ = Part::decode(&format!("{MARK} {comment}"), MARK);
        }
    }

    #[test]
    fn the_longest_groups_and_key_fit() {
        let longest = "13_fd00_1111_2222_3333_4444_5555_6666_7777_128";
        let key = "udplite6:[fd00:1111:2222:3333:4444:5555:6666:7777]:65535";
        let record = Record {
            groups: vec!["13_100.100.100.100_32".into(), longest.into()],
            keys: vec![key.parse().unwrap()],
        };
        let comments = record.encode(MARK);
        assert_eq!(comments.len(), 2);
        assert!(
            comments.iter().all(|comment| comment.len() <= COMMENT_MAX),
            "{comments:?}"
        );
    }

    #[test]
    fn the_record_of_somebody_else_is_none_of_ours() {
        let comment = Record::default().encode("0123456789abcdef-0123456789abcdef");
        assert_eq!(Part::decode(&comment[0], MARK), None);
    }

    #[test]
    fn attachments_and_networks_have_keys_of_their_own() {
        let marks = [
            "43d91f8451058a70-f4d01f2ef4b92245",
            "43d91f8451058a70-04d01f2ef4b92245",
        ];
        assert_ne!(part_key(marks[0], 0), part_key(marks[1], 0));
        assert_ne!(part_key(marks[0], 0), part_key(marks[0], 1));
        assert_eq!(part_key(marks[0], 0).len(), 36);
    }
}
