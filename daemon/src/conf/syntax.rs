//! Why a text is not JSON, as somebody who wrote it by hand wants to be told. It is looked at
//! only after the JSON parser has refused it, token by token, up to the first that cannot be.

use super::Error;

pub(crate) fn explain(text: &str, refused: &serde_json::Error) -> Error {
    let (at, what, remedy) = first_fault(text).unwrap_or_else(|| {
        let at = offset(text, refused.line(), refused.column());
        (at, refused.to_string(), "correct it there".to_owned())
    });
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Error::Syntax {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        what,
        remedy,
    }
}

type Fault = (usize, String, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open(char),
    Close(char),
    Comma,
    Colon,
    Text,
    /// A number, true, false, null.
    Plain,
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    start: usize,
    text: &'a str,
}

impl Token<'_> {
    fn begins_value(&self) -> bool {
        matches!(self.kind, Kind::Open(_) | Kind::Text | Kind::Plain)
    }

    fn ends_value(&self) -> bool {
        matches!(self.kind, Kind::Close(_) | Kind::Text | Kind::Plain)
    }

    fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

fn first_fault(text: &str) -> Option<Fault> {
    if text.trim().is_empty() {
        return Some(fault(
            0,
            "the configuration is empty",
            "write a JSON object",
        ));
    }
    let mut reading = Reading::default();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start_matches([' ', '\t', '\n', '\r']).len();
        if at == text.len() {
            return reading.at_the_end(text);
        }
        let token = match token(text, at) {
            Ok(token) => token,
            Err(fault) => return Some(fault),
        };
        if let Some(fault) = reading.fault_of(&token) {
            return Some(fault);
        }
        at = token.end();
        reading.take(token);
    }
}

/// How far a text was read without a fault.
#[derive(Default)]
struct Reading<'a> {
    previous: Option<Token<'a>>,
    /// Brackets that are open, innermost last.
    open: Vec<Token<'a>>,
    /// The last text was a key.
    at_key: bool,
}

impl<'a> Reading<'a> {
    fn in_object(&self) -> bool {
        self.open
            .last()
            .is_some_and(|open| open.kind == Kind::Open('{'))
    }

    fn fault_of(&self, token: &Token<'_>) -> Option<Fault> {
        let Some(previous) = &self.previous else {
            return (!token.begins_value()).then(|| {
                fault(
                    token.start,
                    format!("{} cannot come first", token.text),
                    "begin with {",
                )
            });
        };
        if self.open.is_empty() {
            return Some(fault(
                token.start,
                format!("there is more after the end: {}", shown(token.text)),
                "keep one object, from { to its }",
            ));
        }
        if let Kind::Close(_) = token.kind {
            return self.fault_of_closing(token, previous);
        }
        if self.at_key {
            return (token.kind != Kind::Colon).then(|| {
                fault(
                    previous.end(),
                    format!("a colon is missing after {}", shown(previous.text)),
                    "write : between a key and its value",
                )
            });
        }
        if previous.ends_value() {
            return self.fault_after_value(token, previous);
        }
        self.fault_before_value(token, previous)
    }

    fn fault_after_value(&self, token: &Token<'_>, previous: &Token<'_>) -> Option<Fault> {
        match token.kind {
            Kind::Comma => None,
            Kind::Colon => Some(fault(
                token.start,
                "a colon where a comma belongs",
                "write , between two values",
            )),
            _ => Some(fault(
                previous.end(),
                format!(
                    "a comma is missing after {}, before {}",
                    shown(previous.text),
                    shown(token.text)
                ),
                "put a comma there",
            )),
        }
    }

    fn fault_before_value(&self, token: &Token<'_>, previous: &Token<'_>) -> Option<Fault> {
        match token.kind {
            Kind::Comma => Some(fault(
                token.start,
                format!("a comma right after {}", previous.text),
                "take it out",
            )),
            Kind::Colon => Some(fault(
                token.start,
                format!("a colon right after {}", previous.text),
                "take it out, or write the key before it",
            )),
            Kind::Open(_) | Kind::Plain if self.in_object() && previous.kind != Kind::Colon => {
                Some(fault(
                    token.start,
                    format!("{} stands where a key belongs", shown(token.text)),
                    "write a key in double quotation marks",
                ))
            }
            _ => None,
        }
    }

    fn fault_of_closing(&self, token: &Token<'_>, previous: &Token<'_>) -> Option<Fault> {
        let open = self.open.last()?;
        if pair(open.kind) != Some(token.kind) {
            return Some(fault(
                token.start,
                format!("{} stands where {} is to be closed", token.text, open.text),
                "each { ends with }, each [ with ]",
            ));
        }
        match previous.kind {
            Kind::Comma => Some(fault(
                previous.start,
                format!("a comma before {}, with nothing after it", token.text),
                "take the comma out",
            )),
            Kind::Colon => Some(fault(
                token.start,
                "a key without a value",
                "write the value after the colon",
            )),
            _ if self.at_key => Some(fault(
                previous.end(),
                format!(
                    "a colon and a value are missing after {}",
                    shown(previous.text)
                ),
                "write them",
            )),
            _ => None,
        }
    }

    fn take(&mut self, token: Token<'a>) {
        let key_may_follow = self.in_object()
            && self
                .previous
                .is_some_and(|p| matches!(p.kind, Kind::Comma | Kind::Open(_)));
        self.at_key = token.kind == Kind::Text && key_may_follow;
        match token.kind {
            Kind::Open(_) => self.open.push(token),
            Kind::Close(_) => drop(self.open.pop()),
            _ => {}
        }
        self.previous = Some(token);
    }

    fn at_the_end(&self, text: &str) -> Option<Fault> {
        let open = self.open.last()?;
        let line = text[..open.start].matches('\n').count() + 1;
        let what = format!(
            "the text ends, but the {} of line {line} is still open",
            open.text
        );
        let close = if open.kind == Kind::Open('{') {
            "}"
        } else {
            "]"
        };
        Some(fault(
            text.trim_end().len(),
            what,
            format!("add the {close} that is missing"),
        ))
    }
}

fn token(text: &str, start: usize) -> Result<Token<'_>, Fault> {
    let rest = &text[start..];
    let first = rest.chars().next().unwrap_or(' ');
    let single = |kind| {
        Ok(Token {
            kind,
            start,
            text: &rest[..1],
        })
    };
    match first {
        '{' | '[' => single(Kind::Open(first)),
        '}' | ']' => single(Kind::Close(first)),
        ',' => single(Kind::Comma),
        ':' => single(Kind::Colon),
        '"' => text_token(rest, start),
        '\u{feff}' => Err(fault(
            start,
            "a byte order mark, which JSON does not know",
            "save the file as UTF-8 without BOM",
        )),
        '#' => Err(comment(start)),
        '/' if rest.starts_with("//") || rest.starts_with("/*") => Err(comment(start)),
        '\'' | '`' | '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' | '\u{201e}' => Err(fault(
            start,
            format!("the quotation mark {first}, which JSON does not know"),
            "use double quotation marks: \"",
        )),
        _ => plain_token(rest, start),
    }
}

fn text_token(rest: &str, start: usize) -> Result<Token<'_>, Fault> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                return Ok(Token {
                    kind: Kind::Text,
                    start,
                    text: &rest[..=at],
                });
            }
            '\n' | '\r' => break,
            _ => {}
        }
    }
    let line = rest.lines().next().unwrap_or(rest);
    Err(fault(
        start,
        format!("a text that does not end on its line: {}", shown(line)),
        "close it with a quotation mark",
    ))
}

fn plain_token(rest: &str, start: usize) -> Result<Token<'_>, Fault> {
    let ends = |c: char| c.is_whitespace() || "{}[]:,\"'/#".contains(c);
    let len = match rest.find(ends) {
        None => rest.len(),
        Some(0) => rest.chars().next().map_or(0, char::len_utf8),
        Some(len) => len,
    };
    let text = &rest[..len];
    if serde_json::from_str::<serde_json::Value>(text).is_ok() {
        return Ok(Token {
            kind: Kind::Plain,
            start,
            text,
        });
    }
    let lower = text.to_lowercase();
    let remedy = match lower.as_str() {
        "true" | "false" | "null" => format!("write {lower}"),
        "none" | "nil" => "write null, or leave the key out".to_owned(),
        _ if text.starts_with(['=', ';']) => {
            "write : between a key and its value, and , between values".to_owned()
        }
        _ => "write texts and keys in double quotation marks, numbers in plain digits".to_owned(),
    };
    Err(fault(
        start,
        format!("{} is no JSON value", shown(text)),
        remedy,
    ))
}

fn comment(start: usize) -> Fault {
    fault(start, "a comment, which JSON does not know", "take it out")
}

fn pair(open: Kind) -> Option<Kind> {
    match open {
        Kind::Open('{') => Some(Kind::Close('}')),
        Kind::Open(_) => Some(Kind::Close(']')),
        _ => None,
    }
}

fn fault(at: usize, what: impl Into<String>, remedy: impl Into<String>) -> Fault {
    (at, what.into(), remedy.into())
}

/// A token as a message shows it: its beginning if it is long.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where the JSON parser stands: it counts bytes, from 1.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let lines = text.split_inclusive('\n').take(line.saturating_sub(1));
    let mut at = lines.map(str::len).sum::<usize>() + column.saturating_sub(1);
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

const SHOWN: usize = 40;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn fault_in(text: &str) -> (usize, usize, String, String) {
        let why = serde_json::from_str::<Value>(text).unwrap_err();
        match explain(text, &why) {
            Error::Syntax {
                line,
                column,
                what,
                remedy,
            } => (line, column, what, remedy),
            Error::Value { .. } => unreachable!(),
        }
    }

    #[track_caller]
    fn assert_told(text: &str, line: usize, column: usize, what: &str, remedy: &str) {
        let told = fault_in(text);
        assert_eq!((told.0, told.1), (line, column), "{told:?}");
        assert!(told.2.contains(what) && told.3.contains(remedy), "{told:?}");
    }

    #[test]
    fn a_missing_comma_is_told_where_it_belongs() {
        assert_told(
            "{\"a\": \"b\"\n\"c\": 1}",
            1,
            10,
            "a comma is missing after \"b\"",
            "put a comma there",
        );
        assert_told(
            "{\"a\": {}\n \"c\": 1}",
            1,
            9,
            "a comma is missing",
            "comma",
        );
        assert_told(
            "{\"a\": [1\n2]}",
            1,
            9,
            "a comma is missing after 1",
            "comma",
        );
        assert_told(
            "{\"a\": true \"b\": 1}",
            1,
            11,
            "a comma is missing after true",
            "comma",
        );
    }

    #[test]
    fn a_comma_too_many_is_told() {
        assert_told(
            "{\"a\": 1,\n}",
            1,
            8,
            "a comma before }",
            "take the comma out",
        );
        assert_told("{\"a\": [1,]}", 1, 9, "a comma before ]", "out");
        assert_told("{,\"a\": 1}", 1, 2, "a comma right after {", "out");
        assert_told("{\"a\": 1,,\"b\": 2}", 1, 9, "a comma right after ,", "out");
    }

    #[test]
    fn what_other_languages_allow_is_told_by_its_name() {
        assert_told("{\n// why\n\"a\": 1}", 2, 1, "a comment", "take it out");
        assert_told("{\"a\": 1 # why\n}", 1, 9, "a comment", "take it out");
        assert_told("{\"a\": 1 /* why */}", 1, 9, "a comment", "take it out");
        assert_told("{'a': 1}", 1, 2, "the quotation mark '", "double");
        assert_told("{\u{201c}a\u{201d}: 1}", 1, 2, "quotation mark", "double");
        assert_told("\u{feff}{\"a\": 1}", 1, 1, "byte order mark", "without BOM");
        assert_told(
            "{a: 1}",
            1,
            2,
            "a is no JSON value",
            "double quotation marks",
        );
        assert_told("{\"a\": True}", 1, 7, "True is no JSON value", "write true");
        assert_told("{\"a\" = 1}", 1, 6, "= is no JSON value", "write :");
    }

    #[test]
    fn what_is_missing_is_told() {
        assert_told("", 1, 1, "is empty", "write a JSON object");
        assert_told(
            "{\n\"a\": {\"b\": 1}\n",
            2,
            14,
            "the { of line 1 is still open",
            "add the }",
        );
        assert_told(
            "{\"a\" 1}",
            1,
            5,
            "a colon is missing after \"a\"",
            "write :",
        );
        assert_told("{\"a\":}", 1, 6, "a key without a value", "write the value");
        assert_told(
            "{\"a\"}",
            1,
            5,
            "a colon and a value are missing",
            "write them",
        );
        assert_told("{\"a: 1\n}", 1, 2, "a text that does not end", "close it");
        assert_told(
            "{\"a\": 1]",
            1,
            8,
            "] stands where { is to be closed",
            "each",
        );
        assert_told(
            "{\"a\": 1}}",
            1,
            9,
            "there is more after the end",
            "keep one",
        );
        assert_told("{1: 2}", 1, 2, "1 stands where a key belongs", "key");
        assert_told(
            "{\"a\": 1 : 2}",
            1,
            9,
            "a colon where a comma belongs",
            "write ,",
        );
    }

    proptest! {
        #[test]
        fn whatever_is_refused_is_explained_within_the_text(text in r#"[\PC\n{}\[\]:,"'/ a1-]{0,60}"#) {
            if let Err(why) = serde_json::from_str::<Value>(&text)
                && let Error::Syntax { line, column, .. } = explain(&text, &why) {
                prop_assert!(line <= text.matches('\n').count() + 1);
                prop_assert!(column <= text.chars().count() + 1);
            }
        }

        #[test]
        fn a_good_text_without_one_of_its_commas_is_told_so(skip in 0usize..4) {
            let good = "{\"a\": [1, 2, \"x\"],\n \"b\": {\"c\": true, \"d\": null}}";
            let (at, _) = good.match_indices(',').nth(skip).unwrap();
            let bad = format!("{} {}", &good[..at], &good[at + 1..]);
            prop_assert!(fault_in(&bad).2.starts_with("a comma is missing"), "{bad}");
        }
    }
}
