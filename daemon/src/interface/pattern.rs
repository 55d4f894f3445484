//! A regular expression that interfaces are chosen by: a bad one never gets this far.

use std::fmt;
use std::str::FromStr;

use regex_lite::Regex;

#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Anywhere in the text, as with flanneld.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl FromStr for Pattern {
    type Err = regex_lite::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Regex::new(text).map(Self)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}
