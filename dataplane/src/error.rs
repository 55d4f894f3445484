//! What went wrong, while doing what, and what helps.

use std::io;

use rustix::io::Errno;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The one error of this crate: `doing` names the attempt and its object, `remedy` what the
/// operator can do (it may be empty).
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}{}{remedy}", if remedy.is_empty() { "" } else { "; " })]
pub struct Error {
    doing: String,
    why: io::Error,
    remedy: &'static str,
}

impl Error {
    pub(crate) fn new(doing: impl Into<String>, why: impl Into<io::Error>) -> Self {
        Self {
            doing: doing.into(),
            why: why.into(),
            remedy: "",
        }
    }

    pub(crate) fn with_remedy(self, remedy: &'static str) -> Self {
        Self { remedy, ..self }
    }

    /// The kernel's answer. Callers decide on this, never on the text.
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.why)
    }
}
