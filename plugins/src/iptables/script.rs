//! What `iptables-restore` is told: rules as words, and a transaction as text that no word of a
//! configuration can break out of.

use weft_cni::{Error, Result};

/// One rule of the nat table, as the words `iptables-save` would print behind `-A CHAIN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: String,
    pub(super) spec: Vec<String>,
}

impl Rule {
    pub(super) fn new(chain: &str, spec: &[&str]) -> Self {
        Self {
            chain: chain.to_owned(),
            spec: spec.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    /// The chain, or the built-in target, that a packet goes to.
    pub(super) fn target(&self) -> Option<&str> {
        self.value("-j").or_else(|| self.value("-g"))
    }

    pub(super) fn comment(&self) -> Option<&str> {
        self.value("--comment")
    }

    pub(super) fn source(&self) -> Option<&str> {
        self.value("-s")
    }

    /// Whether both say the same, in whatever order.
    pub(super) fn says(&self, other: &Self) -> bool {
        let sorted = |rule: &Self| {
            let mut words = rule.spec.clone();
            words.sort();
            words
        };
        self.chain == other.chain && (self.spec == other.spec || sorted(self) == sorted(other))
    }

    fn value(&self, option: &str) -> Option<&str> {
        let at = self.spec.iter().position(|word| word == option)?;
        self.spec.get(at + 1).map(String::as_str)
    }
}

/// One transaction on the nat table: all of it happens, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Script {
    text: String,
}

impl Script {
    pub(super) fn new() -> Self {
        Self {
            text: "*nat\n".to_owned(),
        }
    }

    /// The whole transaction fails unless the rule stands.
    pub(super) fn require(&mut self, rule: &Rule) -> Result<()> {
        self.rule(&["-C"], rule)
    }

    /// The whole transaction fails if the chain stands.
    pub(super) fn create_chain(&mut self, chain: &str) -> Result<()> {
        self.line(["-N", chain])
    }

    pub(super) fn flush_chain(&mut self, chain: &str) -> Result<()> {
        self.line(["-F", chain])
    }

    /// The whole transaction fails if the chain is still used.
    pub(super) fn delete_chain(&mut self, chain: &str) -> Result<()> {
        self.line(["-X", chain])
    }

    pub(super) fn append(&mut self, rule: &Rule) -> Result<()> {
        self.rule(&["-A"], rule)
    }

    pub(super) fn prepend(&mut self, rule: &Rule) -> Result<()> {
        self.line(["-I", &rule.chain, "1"].into_iter().chain(words(rule)))
    }

    pub(super) fn delete(&mut self, rule: &Rule) -> Result<()> {
        self.rule(&["-D"], rule)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.lines().count() == 1
    }

    pub(super) fn text(&self) -> String {
        format!("{}COMMIT\n", self.text)
    }

    /// The line that a program complained of, counted from one.
    pub(super) fn nth_line(&self, number: usize) -> Option<&str> {
        self.text.lines().nth(number.checked_sub(1)?)
    }

    fn rule(&mut self, command: &[&str], rule: &Rule) -> Result<()> {
        let command = command.iter().copied();
        self.line(command.chain([rule.chain.as_str()]).chain(words(rule)))
    }

    fn line<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut line = String::new();
        for word in words {
            if !line.is_empty() {
                line.push(' ');
            }
            quote(word, &mut line)?;
        }
        if line.len() > LONGEST_LINE {
            return Err(Error::config(format!(
                "one iptables rule would be {} bytes long, and iptables-restore reads {LONGEST_LINE}",
                line.len()
            ))
            .with_details("shorten the portmap conditions"));
        }
        self.text.push_str(&line);
        self.text.push('\n');
        Ok(())
    }
}

fn words(rule: &Rule) -> impl Iterator<Item = &str> {
    rule.spec.iter().map(String::as_str)
}

/// Writes `word` so that iptables-restore reads back exactly it, as one argument.
fn quote(word: &str, line: &mut String) -> Result<()> {
    // A line ends whether quotes are open or not, and what follows would be a command.
    if word.contains(['\n', '\r', '\0']) {
        return Err(Error::config(format!(
            "{word:?} cannot be part of an iptables rule: it holds a line break or a NUL"
        )));
    }
    if word.len() > LONGEST_WORD {
        return Err(Error::config(format!(
            "a word of {} bytes cannot be part of an iptables rule: iptables-restore reads {LONGEST_WORD}",
            word.len()
        )));
    }
    if !word.is_empty() && word.chars().all(is_plain) {
        line.push_str(word);
        return Ok(());
    }
    line.push('"');
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('"');
    Ok(())
}

/// The words of a line, read as iptables-restore reads them.
pub(super) fn unquote(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '"' => {
                let word = word.get_or_insert_default();
                while let Some(c) = chars.next().filter(|&c| c != '"') {
                    word.extend(if c == '\\' { chars.next() } else { Some(c) });
                }
            }
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    words
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.,:/![]".contains(c)
}

/// iptables-restore reads lines into 10240 bytes and takes what is beyond for another line: what
/// is quoted here would be a command there.
const LONGEST_LINE: usize = 10_000;
/// iptables-restore keeps a word in 1024 bytes.
const LONGEST_WORD: usize = 1023;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn appended(word: &str) -> Result<String> {
        let mut script = Script::new();
        script.append(&Rule::new("C", &["--comment", word]))?;
        Ok(script.text())
    }

    #[test]
    fn a_comment_is_quoted_as_iptables_save_does() {
        assert_eq!(
            appended(r#"dnat name: "n1" id: "cidA""#).unwrap(),
            "*nat\n-A C --comment \"dnat name: \\\"n1\\\" id: \\\"cidA\\\"\"\nCOMMIT\n"
        );
    }

    #[test]
    fn what_would_start_another_line_is_refused() {
        for hostile in ["a\n-F", "a\rb", "a\0b", &"x".repeat(1024)] {
            assert_eq!(
                appended(hostile).unwrap_err().code,
                weft_cni::Code::InvalidConfig
            );
        }
        let long = vec!["y".repeat(1000); 11];
        let rule = Rule {
            chain: "C".into(),
            spec: long,
        };
        assert!(Script::new().append(&rule).is_err());
    }

    proptest! {
        #[test]
        fn any_words_are_read_back_as_they_were(words in proptest::collection::vec("[^\n\r\0]{0,40}", 1..8)) {
            let mut script = Script::new();
            script.append(&Rule { chain: "C".into(), spec: words.clone() }).unwrap();
            let text = script.text();
            prop_assert_eq!(text.lines().count(), 3 );
            let read = unquote(text.lines().nth(1).unwrap());
            prop_assert_eq!(&read[2..], &words[..]);
        }

        #[test]
        fn any_line_can_be_read(line in "\\PC{0,200}") {
            let _ = unquote(&line);
        }
    }
}
