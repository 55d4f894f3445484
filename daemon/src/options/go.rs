//! Arguments as Go's `flag` package takes them apart: one dash or two, a value after `=` or as
//! the next argument, truths without a value, and the first argument that is no flag ends it.

use super::Mistake;
use super::flags::{Flag, Takes};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Argument {
    Flag {
        name: String,
        value: Option<String>,
    },
    /// No flag: this and all that follows is left unread. Empty after `--`.
    Rest(Vec<String>),
}

impl Argument {
    pub(super) fn next(args: &mut impl Iterator<Item = String>) -> Result<Option<Self>, Mistake> {
        let Some(first) = args.next() else {
            return Ok(None);
        };
        if first == "--" {
            return Ok(Some(Self::Rest(Vec::new())));
        }
        let Some(name) = first.strip_prefix('-').filter(|name| !name.is_empty()) else {
            return Ok(Some(Self::Rest(
                std::iter::once(first).chain(args).collect(),
            )));
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        if name.is_empty() || name.starts_with(['-', '=']) {
            return Err(Mistake::usage(format!(
                "{first} is not a flag: write -name, -name=value or -name value"
            )));
        }
        Ok(Some(match name.split_once('=') {
            Some((name, value)) => Self::Flag {
                name: name.to_owned(),
                value: Some(value.to_owned()),
            },
            None => Self::Flag {
                name: name.to_owned(),
                value: None,
            },
        }))
    }
}

/// The value of a flag that was named: its own, else `true` for one that is a truth, else the
/// next argument.
pub(super) fn value_of(
    flag: &Flag,
    own: Option<String>,
    args: &mut impl Iterator<Item = String>,
) -> Result<String, Mistake> {
    if let Some(own) = own {
        return Ok(own);
    }
    if flag.takes == Takes::Truth {
        return Ok("true".to_owned());
    }
    args.next().ok_or_else(|| {
        Mistake::usage(format!(
            "-{0} needs a value: write -{0}=value ({1})",
            flag.name, flag.meaning
        ))
    })
}

/// strconv.ParseBool
pub(super) fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// strconv.ParseInt with base 0: decimal, 0x, 0o, 0b, a leading 0 for octal, and underscores
/// between digits.
pub(super) fn number(text: &str) -> Result<i64, String> {
    parse_number(text).ok_or_else(|| "must be a whole number".to_owned())
}

fn parse_number(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits, prefixed) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &digits[2..], true),
        Some("0o") => (8, &digits[2..], true),
        Some("0b") => (2, &digits[2..], true),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..], true),
        _ => (10, digits, false),
    };
    // An underscore may follow a base's prefix, and stands between digits otherwise.
    let body = digits
        .strip_prefix('_')
        .filter(|_| prefixed)
        .unwrap_or(digits);
    if body.split('_').any(str::is_empty) || body.starts_with(['+', '-']) {
        return None;
    }
    let plain: String = body.split('_').collect();
    let signed = if negative { format!("-{plain}") } else { plain };
    i64::from_str_radix(&signed, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_read_in_every_way_go_writes_them() {
        for (text, value) in [
            ("60", 60),
            ("-1", -1),
            ("+7", 7),
            ("0", 0),
            ("010", 8),
            ("0x10", 16),
            ("0X_1f", 31),
            ("0b101", 5),
            ("0o17", 15),
            ("1_000", 1000),
        ] {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        for text in [
            "", "-", "1.5", "ten", "_1", "1_", "1__0", "0x", "08", "--1", "0x-1", "1h",
        ] {
            assert!(number(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_argument_makes_it_panic(args: Vec<String>, text: String) {
            let mut args = args.into_iter();
            let _ = Argument::next(&mut args);
            let _ = (number(&text), truth(&text));
        }

        #[test]
        fn a_number_is_read_as_it_is_written(value: i64) {
            prop_assert_eq!(number(&value.to_string()), Ok(value));
        }
    }
}
