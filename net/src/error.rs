//! What went wrong, while doing what, to which object.

use std::fmt;
use std::io;
use std::time::Duration;

use rustix::io::Errno;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The one error of this crate: `doing` names the attempt and its object, `why` the obstacle.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct Error {
    doing: String,
    why: Why,
}

/// Why an attempt failed. Callers decide on this, never on the text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The kernel said no, with its explanation when it sent one.
    Refused {
        errno: Errno,
        explanation: Option<String>,
    },
    /// The path exists, but there is no network namespace behind it.
    NotANamespace,
    /// The kernel sent something that does not parse.
    Garbled(&'static str),
    /// What was waited for did not happen in time.
    TimedOut(Duration),
}

impl Error {
    pub fn new(doing: impl Into<String>, why: impl Into<Why>) -> Self {
        Self {
            doing: doing.into(),
            why: why.into(),
        }
    }

    pub fn why(&self) -> &Why {
        &self.why
    }

    pub fn errno(&self) -> Option<Errno> {
        match self.why {
            Why::Refused { errno, .. } => Some(errno),
            Why::NotANamespace | Why::Garbled(_) | Why::TimedOut(_) => None,
        }
    }

    /// The object (link, address, route, file, table) is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::SRCH | Errno::ADDRNOTAVAIL)
        )
    }

    /// There is no route to the address.
    pub fn is_no_way(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS)
        )
    }

    /// The object is there already.
    pub fn exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// This kernel was built without the feature, or cannot do it for this object.
    pub fn is_not_supported(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::NOSYS)
        )
    }

    /// The same obstacle, told from further away.
    #[must_use]
    pub fn while_doing(mut self, doing: impl fmt::Display) -> Self {
        self.doing = format!("{doing}: {}", self.doing);
        self
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused {
                errno,
                explanation: None,
            } => write!(f, "{errno}"),
            Self::Refused {
                errno,
                explanation: Some(text),
            } => {
                write!(f, "{errno}; the kernel says: {text}")
            }
            Self::NotANamespace => f.write_str("not a network namespace"),
            Self::Garbled(what) => write!(f, "unexpected answer from the kernel: {what}"),
            Self::TimedOut(after) => write!(f, "still waiting after {after:?}"),
        }
    }
}

impl From<Errno> for Why {
    fn from(errno: Errno) -> Self {
        Self::Refused {
            errno,
            explanation: None,
        }
    }
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_attempt_the_errno_and_the_kernels_explanation() {
        let why = Why::Refused {
            errno: Errno::INVAL,
            explanation: Some("Nexthop has invalid gateway".into()),
        };
        let error = Error::new("add route 10.1.0.0/16", why).while_doing("set up eth0");
        let text = error.to_string();
        assert!(
            text.starts_with("set up eth0: add route 10.1.0.0/16: "),
            "{text}"
        );
        assert!(
            text.ends_with("; the kernel says: Nexthop has invalid gateway"),
            "{text}"
        );
        assert_eq!(error.errno(), Some(Errno::INVAL));
    }

    #[test]
    fn an_absent_device_and_an_absent_file_are_both_not_found() {
        assert!(Error::new("delete link x", Errno::NODEV).is_not_found());
        assert!(Error::new("open x", Errno::NOENT).is_not_found());
        assert!(!Error::new("open x", Errno::PERM).is_not_found());
    }
}
