//! `CNI_ARGS`: `KEY=VALUE` pairs joined by semicolons.

use crate::{Error, Result};

/// The pairs that a plugin knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pairs: Vec<(String, String)>,
}

impl Args {
    /// Reads `text` for a plugin that knows the keys `known`. Any other key is an error unless the
    /// runtime says `IgnoreUnknown`; a pair that is none is always one.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self> {
        let pairs = if text.is_empty() {
            Vec::new()
        } else {
            split(text)?
        };
        let tolerant = pairs
            .iter()
            .filter(|(key, _)| key == IGNORE_UNKNOWN)
            .map(|(_, v)| truth(v));
        let tolerant = tolerant.collect::<Result<Vec<bool>>>()?.last() == Some(&true);
        let strange: Vec<&str> = pairs
            .iter()
            .map(|(key, _)| key.as_str())
            .filter(|key| *key != IGNORE_UNKNOWN && !known.contains(key))
            .collect();
        if !strange.is_empty() && !tolerant {
            return Err(
                Error::environment(format!("ARGS: unknown args {strange:?}")).with_details(
                    format!("this plugin knows {known:?}; IgnoreUnknown=1 lets others pass"),
                ),
            );
        }
        let pairs = pairs
            .into_iter()
            .filter(|(key, _)| known.contains(&key.as_str()))
            .collect();
        Ok(Self { pairs })
    }

    /// The value of `key`; of several the last, and an empty one is none.
    pub fn get(&self, key: &str) -> Option<&str> {
        let last = self.pairs.iter().rev().find(|(k, _)| k == key);
        last.map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

fn split(text: &str) -> Result<Vec<(String, String)>> {
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !value.contains('=') => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::environment(format!("ARGS: invalid pair {pair:?}"))
            .with_details(format!("CNI_ARGS is {text:?}, not KEY=VALUE;KEY=VALUE"))),
    };
    text.split(';').map(pair).collect()
}

fn truth(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "" | "0" | "false" => Ok(false),
        _ => Err(Error::environment(format!(
            "ARGS: {IGNORE_UNKNOWN} is {text:?}, not true or false"
        ))),
    }
}

const IGNORE_UNKNOWN: &str = "IgnoreUnknown";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_sends_passes_in_any_order() {
        let text = "K8S_POD_NAME=p;IP=10.1.2.3;IgnoreUnknown=1;K8S_POD_NAMESPACE=n";
        assert_eq!(
            Args::parse(text, &["IP"]).unwrap().get("IP"),
            Some("10.1.2.3")
        );
    }

    #[test]
    fn an_unknown_key_is_an_error_unless_ignored() {
        assert!(Args::parse("FOO=1", &["IP"]).is_err());
        assert!(Args::parse("FOO=1;IgnoreUnknown=false", &["IP"]).is_err());
        assert!(
            Args::parse("ip=1", &["IP"]).is_err(),
            "keys are matched exactly"
        );
        assert!(Args::parse("FOO=1;IgnoreUnknown=TRUE", &["IP"]).is_ok());
    }

    #[test]
    fn a_pair_that_is_none_is_an_error_even_when_ignoring() {
        for text in ["IP", "IP=a=b", "IP=a;", ";", "IgnoreUnknown=1;x"] {
            assert!(Args::parse(text, &["IP"]).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_value_is_not_set() {
        assert_eq!(Args::parse("IP=", &["IP"]).unwrap().get("IP"), None);
        assert_eq!(Args::parse("", &["IP"]).unwrap(), Args::default());
    }
}
