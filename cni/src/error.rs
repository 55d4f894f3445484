//! The one error a plugin can answer with: a code of the specification, and words for a person.

use std::fmt;

use serde_json::{Value, json};

pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, as the runtime is told.
///
/// `msg` says what was being done to which object and why it failed; `details` is what helps to
/// cure it. A runtime shows both and reads nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    pub msg: String,
    pub details: String,
}

/// The codes of the specification; `Other` carries what a delegate answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The configuration's version is not one of ours, or does not know the verb.
    IncompatibleVersion,
    /// A field that we know and cannot serve.
    UnsupportedField,
    /// The container is unknown, and the runtime need not clean up.
    UnknownContainer,
    /// A `CNI_*` variable is missing or wrong.
    InvalidEnvironment,
    /// Reading or writing failed.
    Io,
    /// What was to be JSON of a known shape is not.
    Decode,
    /// The configuration makes no sense.
    InvalidConfig,
    /// The network namespace is not one a pod can have.
    InvalidNamespace,
    /// A passing state: the runtime should try again.
    TryAgain,
    /// STATUS: no pod can be added.
    NotAvailable,
    /// STATUS: no pod can be added, and running ones may be cut off.
    LimitedConnectivity,
    /// Anything else.
    Internal,
    /// A number of some other plugin's own.
    Other(u32),
}

impl Error {
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same error, told from one level further up: `context` is what was being done.
    #[must_use]
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        self.msg = format!("{context}: {}", self.msg);
        self
    }

    pub fn environment(msg: impl Into<String>) -> Self {
        Self::new(Code::InvalidEnvironment, msg)
    }

    pub fn decode(msg: impl Into<String>) -> Self {
        Self::new(Code::Decode, msg)
    }

    pub fn config(msg: impl Into<String>) -> Self {
        Self::new(Code::InvalidConfig, msg)
    }

    pub fn io(msg: impl Into<String>) -> Self {
        Self::new(Code::Io, msg)
    }

    pub fn try_again(msg: impl Into<String>) -> Self {
        Self::new(Code::TryAgain, msg)
    }

    pub fn internal(msg: impl Into<String>) -> Self {
        Self::new(Code::Internal, msg)
    }

    /// Several failures of one clean-up as one error, or success when there were none.
    pub fn all(failures: Vec<Self>) -> Result<()> {
        let mut failures = failures.into_iter();
        let Some(mut first) = failures.next() else {
            return Ok(());
        };
        for next in failures {
            first.msg = format!("{}; {}", first.msg, next.msg);
            if !next.details.is_empty() {
                let gap = if first.details.is_empty() { "" } else { "; " };
                first.details = format!("{}{gap}{}", first.details, next.details);
            }
        }
        Err(first)
    }

    pub fn to_json(&self, cni_version: &str) -> Value {
        let mut error = json!({
            "cniVersion": cni_version,
            "code": self.code.number(),
            "msg": self.msg,
        });
        if !self.details.is_empty() {
            error["details"] = self.details.clone().into();
        }
        error
    }

    /// Reads what a delegate printed when it failed.
    pub fn from_json(error: &Value) -> Option<Self> {
        let code = u32::try_from(error.get("code")?.as_u64()?).ok()?;
        let text = |key: &str| {
            error
                .get(key)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .unwrap_or_default()
        };
        Some(Self {
            code: Code::from_number(code),
            msg: text("msg"),
            details: text("details"),
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl Code {
    const NAMED: [(Self, u32); 12] = [
        (Self::IncompatibleVersion, 1),
        (Self::UnsupportedField, 2),
        (Self::UnknownContainer, 3),
        (Self::InvalidEnvironment, 4),
        (Self::Io, 5),
        (Self::Decode, 6),
        (Self::InvalidConfig, 7),
        (Self::InvalidNamespace, 8),
        (Self::TryAgain, 11),
        (Self::NotAvailable, 50),
        (Self::LimitedConnectivity, 51),
        (Self::Internal, 999),
    ];

    pub fn number(self) -> u32 {
        match self {
            Self::Other(number) => number,
            named => Self::NAMED
                .iter()
                .find(|(code, _)| *code == named)
                .map_or(999, |(_, n)| *n),
        }
    }

    pub fn from_number(number: u32) -> Self {
        let named = Self::NAMED.iter().find(|(_, n)| *n == number);
        named.map_or(Self::Other(number), |(code, _)| *code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_its_own_json() {
        let error = Error::config("missing network name").with_details("add \"name\"");
        assert_eq!(Error::from_json(&error.to_json("1.0.0")), Some(error));
    }

    #[test]
    fn every_code_survives_its_number() {
        for number in 0..1000 {
            assert_eq!(Code::from_number(number).number(), number);
        }
    }

    #[test]
    fn several_failures_are_told_as_one() {
        let all = Error::all(vec![Error::io("a"), Error::internal("b").with_details("c")]);
        let error = all.unwrap_err();
        assert_eq!(
            (error.code, error.to_string().as_str()),
            (Code::Io, "a; b; c")
        );
        assert!(Error::all(Vec::new()).is_ok());
    }
}
