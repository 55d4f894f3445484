//! What iptables-save prints of one table, understood as far as it decides about our packets.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::passage::{End, Filter, Handle, Match, Step, Then, When};

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    /// Each chain's policy; a chain of a user's own has none.
    policies: BTreeMap<String, Option<String>>,
    rules: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    chain: String,
    /// All behind `-A`, as it was printed.
    text: String,
    step: Step,
}

impl Saved {
    pub(super) fn parse(text: &str) -> Self {
        let mut saved = Self::default();
        for line in text.lines() {
            if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split(' ');
                let name = words.next().unwrap_or_default().to_owned();
                let policy = words.next().filter(|policy| *policy != "-");
                saved.policies.insert(name, policy.map(str::to_owned));
            } else if let Some(rule) = line.strip_prefix("-A ") {
                saved.rules.extend(parse_rule(rule));
            }
        }
        saved
    }

    /// The filter that begins with this chain; `None` if there is no such chain.
    pub(super) fn filter(&self, base: &str) -> Option<Filter> {
        let policy = self.policies.get(base)?;
        let mut chains: BTreeMap<String, Vec<Step>> = self
            .policies
            .keys()
            .map(|chain| (chain.clone(), Vec::new()))
            .collect();
        for line in &self.rules {
            let steps = chains.entry(line.chain.clone()).or_default();
            steps.push(line.step.clone());
        }
        Some(Filter {
            base: base.to_owned(),
            drops_by_policy: policy.as_deref() == Some("DROP"),
            chains,
        })
    }

    pub(super) fn steps(&self, chain: &str) -> Vec<Step> {
        let lines = self.rules.iter().filter(|line| line.chain == chain);
        lines.map(|line| line.step.clone()).collect()
    }

    pub(super) fn has_chain(&self, chain: &str) -> bool {
        self.policies.contains_key(chain)
    }

    /// The rules that lead to this chain, each as its own chain and the text behind `-A`.
    pub(super) fn leading_to<'a>(
        &'a self,
        chain: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.rules
            .iter()
            .filter(move |line| {
                matches!(&line.step.then, Then::Jump(to) | Then::Goto(to) if to == chain)
            })
            .map(|line| (line.chain.as_str(), line.text.as_str()))
    }
}

fn parse_rule(text: &str) -> Option<Line> {
    let words = words(text);
    let (chain, mut rest) = words.split_first()?;
    let mut step = Step {
        when: When::always(),
        then: Then::GoOn,
        comment: String::new(),
        handle: Handle::Line(text.to_owned()),
    };
    while let Some(word) = next(&mut rest) {
        match word {
            "!" => negated(&mut rest, &mut step.when),
            "-s" => require(&mut step.when, matches(End::Source, true, next(&mut rest))),
            "-d" => require(
                &mut step.when,
                matches(End::Destination, true, next(&mut rest)),
            ),
            "-j" => {
                step.then = target(next(&mut rest)?);
                // What follows is the target's own.
                break;
            }
            "-g" => step.then = Then::Goto(next(&mut rest)?.to_owned()),
            "-m" if rest.first().is_some_and(|name| name == "comment") => {
                next(&mut rest);
            }
            "--comment" => step.comment = next(&mut rest)?.to_owned(),
            _ => step.when = When::Sometimes,
        }
    }
    Some(Line {
        chain: chain.clone(),
        text: text.to_owned(),
        step,
    })
}

fn next<'a>(rest: &mut &'a [String]) -> Option<&'a str> {
    let (first, behind) = rest.split_first()?;
    *rest = behind;
    Some(first)
}

/// What follows an exclamation mark.
fn negated(rest: &mut &[String], when: &mut When) {
    let found = match next(rest) {
        Some("-s") => matches(End::Source, false, next(rest)),
        Some("-d") => matches(End::Destination, false, next(rest)),
        _ => None,
    };
    require(when, found);
}

fn require(when: &mut When, found: Option<Match>) {
    match (when, found) {
        (When::All(all), Some(found)) => all.push(found),
        (when, _) => *when = When::Sometimes,
    }
}

fn matches(end: End, inside: bool, network: Option<&str>) -> Option<Match> {
    let network: IpNetwork = network?.parse().ok()?;
    Some(Match {
        end,
        inside,
        network,
    })
}

pub(super) fn target(name: &str) -> Then {
    match name {
        "ACCEPT" => Then::Accept,
        "DROP" | "REJECT" => Then::Drop,
        "RETURN" => Then::Return,
        "MASQUERADE" => Then::Masquerade,
        // Chains of users' own may have such names, too, and then lead nowhere that was read.
        name => Then::Jump(name.to_owned()),
    }
}

/// The words of a line, in which iptables-save puts quotes around what has spaces in it.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut begun) = (false, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => (quoted, begun) = (!quoted, true),
            '\\' if quoted => word.extend(characters.next()),
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            other => {
                word.push(other);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quoted_words_are_one() {
        assert_eq!(
            words(r#"FORWARD -m comment --comment "a \"b\" c" -j X"#),
            [
                "FORWARD",
                "-m",
                "comment",
                "--comment",
                "a \"b\" c",
                "-j",
                "X"
            ]
        );
        assert_eq!(words(r#" a  "" "#), ["a", ""]);
    }

    #[test]
    fn rules_that_lead_to_a_chain_are_found_with_their_text() {
        let saved = Saved::parse(
            "*nat\n:POSTROUTING ACCEPT [1:2]\n:FLANNEL-POSTRTG - [0:0]\n\
             -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
             -A POSTROUTING -j OTHER\nCOMMIT\n",
        );
        assert!(saved.has_chain("FLANNEL-POSTRTG") && !saved.has_chain("OTHER"));
        let leading: Vec<_> = saved.leading_to("FLANNEL-POSTRTG").collect();
        assert_eq!(
            leading,
            [(
                "POSTROUTING",
                "POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG"
            )]
        );
    }

    proptest! {
        #[test]
        fn whatever_is_printed_is_read_without_panic(text in "(-A |:|\\*)?[ -~\n]{0,80}") {
            Saved::parse(&text).filter("FORWARD");
        }
    }
}
