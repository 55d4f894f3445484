//! The words of a condition: which program's they are, and whether they can be handed to it.

use weft_cni::{Error, Result};

/// The tokens of `conditionsV4` or `conditionsV6`, of which there is at least one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a>(&'a [String]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Iptables,
    Nft,
}

impl<'a> Words<'a> {
    /// Judges that the words stay within one rule: whatever ends it, or hides its rest, is refused.
    pub(super) fn of(key: &str, tokens: &'a [String]) -> Result<Option<Self>> {
        if tokens.is_empty() {
            return Ok(None);
        }
        let refuse = |token: &str, why: &str| {
            Error::config(format!("{key:?} has {token:?}, {why}"))
                .with_details("each element is one token of a single rule's conditions")
        };
        for token in tokens {
            if token.trim().is_empty() {
                return Err(refuse(token, "an empty token"));
            }
            if token.contains(|c: char| c.is_control() || ENDS_OR_HIDES.contains(&c)) {
                return Err(refuse(token, "which would end the rule or hide its rest"));
            }
            if token.matches('"').count() % 2 == 1 {
                return Err(refuse(token, "a quotation mark without its other"));
            }
        }
        let mut open = 0i32;
        for token in tokens {
            for c in token.chars() {
                open += i32::from(c == '{') - i32::from(c == '}');
                if open < 0 {
                    return Err(refuse(token, "a brace that closes nothing"));
                }
            }
        }
        match open {
            0 => Ok(Some(Self(tokens))),
            _ => Err(Error::config(format!(
                "{key:?} opens a brace that it does not close"
            ))),
        }
    }

    /// As the reference plugin tells them apart.
    pub(super) fn syntax(self) -> Syntax {
        match self.0[0].starts_with(['-', '!']) {
            true => Syntax::Iptables,
            false => Syntax::Nft,
        }
    }

    pub(super) fn text(self) -> String {
        self.0.join(" ")
    }
}

/// To nft: `;` ends a rule, `#` begins a comment, `\` joins lines, `$` names a variable, `@`
/// would be a set of ours.
const ENDS_OR_HIDES: [char; 5] = [';', '#', '\\', '$', '@'];

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(tokens: &[&str]) -> Result<Option<Syntax>> {
        let tokens: Vec<String> = tokens.iter().map(|token| (*token).to_owned()).collect();
        Ok(Words::of("conditionsV4", &tokens)?.map(Words::syntax))
    }

    #[test]
    fn the_first_token_tells_the_syntax() {
        assert_eq!(judge(&[]).unwrap(), None);
        assert_eq!(
            judge(&["-s", "10.0.0.0/8"]).unwrap(),
            Some(Syntax::Iptables)
        );
        assert_eq!(judge(&["!", "-i", "eth0"]).unwrap(), Some(Syntax::Iptables));
        assert_eq!(judge(&["iifname", "\"eth0\""]).unwrap(), Some(Syntax::Nft));
        let set = ["ip", "saddr", "{", "10.0.0.0/8,", "192.0.2.0/24", "}"];
        assert_eq!(judge(&set).unwrap(), Some(Syntax::Nft));
    }

    #[test]
    fn words_that_leave_their_rule_are_refused() {
        for tokens in [
            &["ip", "saddr", "10.0.0.0/8;", "flush", "ruleset"][..],
            &["ip saddr 10.0.0.0/8\nflush ruleset"],
            &["ip", "saddr", "10.0.0.0/8", "#"],
            &["ip", "saddr", "10.0.0.0/8", "}", "table", "x", "{"],
            &["ip", "saddr", "{", "10.0.0.0/8"],
            &["iifname", "\"eth0"],
            &["ip", "saddr", "10.0.0.0/8", "\\"],
            &["ip", "saddr", "@owners"],
            &["ip", ""],
        ] {
            let code = judge(tokens).map_err(|error| error.code);
            assert_eq!(code, Err(weft_cni::Code::InvalidConfig), "{tokens:?}");
        }
    }
}
