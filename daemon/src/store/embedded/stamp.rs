//! The last line of a file that we wrote: version, end, and whether the rest is still ours.

use std::time::Duration;

use super::Moment;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) version: i64,
    pub(super) term: Option<Term>,
    /// Somebody edited the value and left the stamp.
    pub(super) edited: bool,
}

/// When a lease ends: a moment of one boot. A later boot, in which nobody renewed it yet, gives
/// it its whole time again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) boot: String,
    pub(super) ends: Duration,
    pub(super) lasts: Duration,
}

impl Term {
    pub(super) fn from(now: &Moment, lasts: Duration) -> Self {
        Self {
            boot: now.boot.clone(),
            ends: now.elapsed + lasts,
            lasts,
        }
    }

    pub(super) fn ends(&self, now: &Moment) -> Duration {
        if self.boot == now.boot {
            self.ends
        } else {
            self.lasts
        }
    }
}

/// A file's content, apart: the value, and the stamp if there is one.
pub(super) fn split(content: &str) -> (&str, Option<Stamp>) {
    let content = content.trim_end();
    let (value, line) = content.rsplit_once('\n').unwrap_or(("", content));
    let value = value.trim_end();
    match line.strip_prefix(MARK).and_then(|line| parse(line, value)) {
        Some(stamp) => (value, Some(stamp)),
        None => (content, None),
    }
}

pub(super) fn join(value: &str, version: i64, term: Option<&Term>) -> String {
    let value = value.trim_end();
    let sum = checksum(value);
    let mut content = format!("{value}\n{MARK}version={version} sum={sum:016x}");
    if let Some(Term { boot, ends, lasts }) = term {
        let (ends, lasts) = (ends.as_millis(), lasts.as_millis());
        content += &format!(" ends={ends} lasts={lasts} boot={boot}");
    }
    content + "\n"
}

fn parse(line: &str, value: &str) -> Option<Stamp> {
    let field = |name: &str| {
        let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let millis = |name| {
        field(name)
            .and_then(|text| text.parse().ok())
            .map(Duration::from_millis)
    };
    let term = millis("ends")
        .zip(millis("lasts"))
        .map(|(ends, lasts)| Term {
            boot: field("boot").unwrap_or("").to_owned(),
            ends,
            lasts,
        });
    let sum = field("sum").and_then(|text| u64::from_str_radix(text, 16).ok())?;
    let version = field("version")?.parse().ok()?;
    Some(Stamp {
        version,
        term,
        edited: sum != checksum(value),
    })
}

/// FNV-1a: it guards against an editor, not against malice.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const MARK: &str = "# weft: ";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_edited_value_is_noticed() {
        let content = join(r#"{"PublicIP":"10.0.0.1"}"#, 7, None);
        let (_, stamp) = split(&content);
        assert_eq!(
            stamp.map(|stamp| (stamp.version, stamp.edited)),
            Some((7, false))
        );
        let edited = content.replace("10.0.0.1", "10.0.0.2");
        assert!(split(&edited).1.is_some_and(|stamp| stamp.edited));
    }

    #[test]
    fn a_later_boot_begins_the_term_anew() {
        let then = Moment {
            boot: "one".into(),
            elapsed: Duration::from_secs(5000),
        };
        let term = Term::from(&then, Duration::from_secs(60));
        assert_eq!(term.ends(&then), Duration::from_secs(5060));
        let later = Moment {
            boot: "two".into(),
            elapsed: Duration::from_secs(3),
        };
        assert_eq!(term.ends(&later), Duration::from_secs(60));
    }

    proptest! {
        #[test]
        fn what_is_joined_is_split(value in "[^\\s]\\PC{0,40}", version: i64, millis in proptest::option::of(0u64..1 << 40)) {
            let term = millis.map(|millis| Term {
                boot: "b-1".into(),
                ends: Duration::from_millis(millis),
                lasts: Duration::from_millis(millis / 2),
            });
            let content = join(&value, version, term.as_ref());
            let (found, stamp) = split(&content);
            prop_assert_eq!(found, value.trim_end());
            prop_assert_eq!(stamp, Some(Stamp { version, term, edited: false }));
        }

        #[test]
        fn nothing_breaks_it(content in "(# weft: |version=|sum=|ends=|lasts=|\\n|[0-9a-f ]|\\PC){0,30}") {
            let _ = split(&content);
        }
    }
}
