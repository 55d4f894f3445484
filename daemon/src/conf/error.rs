//! What is wrong with a configuration, in the operator's terms.

/// Every error names what was found and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not JSON.
    #[error("line {line}, column {column}: {what}; {remedy}")]
    Syntax {
        line: usize,
        column: usize,
        what: String,
        remedy: String,
    },
    /// It is JSON, and a value will not do.
    #[error("{what}; {remedy}")]
    Value { what: String, remedy: String },
}

impl Error {
    pub(super) fn value(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Value {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}
