//! Cuts JSON as it arrives, by its brackets.

use super::{LARGEST, Of, Part, Wrong};

#[derive(Debug)]
pub(super) struct Brackets {
    of: Of,
    /// How many brackets are open.
    depth: u32,
    /// The outermost but one of them is an array's.
    in_items: bool,
    in_text: bool,
    is_escaped: bool,
    /// Of the object that is being read, if one is.
    held: Option<Vec<u8>>,
}

impl Brackets {
    pub(super) fn new(of: Of) -> Self {
        Self {
            of,
            depth: 0,
            in_items: false,
            in_text: false,
            is_escaped: false,
            held: None,
        }
    }

    /// Whether all that was begun has ended.
    pub(super) fn is_even(&self) -> bool {
        self.depth == 0 && self.held.is_none()
    }

    /// Hands each object over that ends within `bytes`.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Part<'_>),
    ) -> Result<(), Wrong> {
        // Where the part of the present object begins that is not held yet.
        let mut begin = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if self.in_text {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => {
                    if *byte == b'{' && self.begins_object() {
                        self.held = Some(Vec::new());
                        begin = at;
                    }
                    if self.depth == 1 {
                        self.in_items = *byte == b'[';
                    }
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == self.outside()
                        && let Some(mut held) = self.held.take()
                    {
                        held.extend_from_slice(&bytes[begin..=at]);
                        take(match self.of == Of::List && !self.in_items {
                            true => Part::Beside(&held),
                            false => Part::Whole(&held),
                        });
                    }
                }
                _ => {}
            }
        }
        if let Some(held) = &mut self.held {
            held.extend_from_slice(&bytes[begin..]);
            if held.len() > LARGEST {
                return Err(Wrong::TooLarge);
            }
        }
        Ok(())
    }

    fn begins_object(&self) -> bool {
        self.held.is_none() && self.depth == self.outside()
    }

    /// How many brackets are open around an object.
    fn outside(&self) -> u32 {
        match (self.of, self.in_items && self.depth > 1) {
            (Of::Events, _) => 0,
            (Of::List, false) => 1,
            (Of::List, true) => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(of: Of, text: &str, pieces: &[usize]) -> (Vec<String>, Vec<String>, bool) {
        let mut brackets = Brackets::new(of);
        let (mut whole, mut beside) = (Vec::new(), Vec::new());
        let mut rest = text.as_bytes();
        let mut pieces = pieces.iter().cycle();
        while !rest.is_empty() {
            let size = pieces
                .next()
                .map_or(rest.len(), |size| (*size).clamp(1, rest.len()));
            let (piece, later) = rest.split_at(size);
            rest = later;
            brackets
                .feed(piece, |part| match part {
                    Part::Whole(bytes) => whole.push(String::from_utf8(bytes.to_vec()).unwrap()),
                    Part::Beside(bytes) => beside.push(String::from_utf8(bytes.to_vec()).unwrap()),
                })
                .unwrap();
        }
        (whole, beside, brackets.is_even())
    }

    proptest! {
        #[test]
        fn wherever_the_wire_breaks_a_text_the_same_objects_come_of_it(
            names in prop::collection::vec(r#"[a-z{}\[\],:\\"]{0,6}"#, 0..5),
            pieces in prop::collection::vec(1usize..9, 1..6),
        ) {
            let items: Vec<String> = names
                .iter()
                .map(|name| serde_json::json!({"n": name, "l": [{"x": 1}, "]"]}).to_string())
                .collect();
            let list = format!(
                r#"{{"kind":"NodeList","metadata":{{"resourceVersion":"7","m":{{}}}},"items":[{}]}}"#,
                items.join(",")
            );
            let (whole, beside, even) = cut(Of::List, &list, &pieces);
            prop_assert_eq!(whole, items.clone());
            prop_assert_eq!(beside, vec![r#"{"resourceVersion":"7","m":{}}"#.to_owned()]);
            prop_assert!(even);

            let (whole, _, even) = cut(Of::Events, &items.join("\n"), &pieces);
            prop_assert_eq!(whole, items);
            prop_assert!(even);
        }
    }

    #[test]
    fn what_is_cut_off_is_not_even() {
        let (whole, _, even) = cut(Of::Events, "{\"a\":1}\n{\"b\":", &[3]);
        assert_eq!(whole, ["{\"a\":1}"]);
        assert!(!even);
    }
}
