//! Why a call to the API server came to nothing, and what that means for us.

use std::error::Error as StdError;
use std::time::Duration;

use super::wire::Wrong;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The way in could not even be read.
    #[error("{0}")]
    NoWay(String),
    #[error(
        "the API server at {url} cannot be reached: {why}; is it up, and does the way there not \
         lead through what weftd has yet to set up (then name it with --kube-api-url)?"
    )]
    Unreachable { url: String, why: String },
    #[error("the API server at {url} does not answer in time")]
    Silent { url: String },
    /// 401.
    #[error(
        "the API server does not accept weftd's token or certificate ({0}); it is read anew at \
         each attempt, so this passes once the kubelet has renewed it"
    )]
    Unknown(String),
    /// 403.
    #[error("the API server forbids it: {0}; the ClusterRole of weftd lacks that right")]
    Forbidden(String),
    /// 404.
    #[error("the API server does not find it: {0}")]
    NotFound(String),
    /// 410.
    #[error("the API server has forgotten the version to go on from: {0}")]
    Gone(String),
    /// 429, 503.
    #[error("the API server is busy: {why}")]
    Busy {
        why: String,
        /// When to come back, as it says.
        after: Option<Duration>,
    },
    #[error("the API server refuses it ({code}): {why}")]
    Refused { code: u16, why: String },
    #[error("the API server's answer makes no sense: {0}")]
    Garbled(String),
    /// A stream ended in the middle.
    #[error("the connection to the API server broke")]
    Broken,
}

impl Fault {
    /// By an answer's code, and by what its body says, if it does.
    pub(super) fn answered(code: u16, retry_after: Option<&str>, why: Option<String>) -> Self {
        let why = why.unwrap_or_else(|| "it does not say why".to_owned());
        Self::coded(code, retry_after, why)
    }

    pub(super) fn coded(code: u16, retry_after: Option<&str>, why: String) -> Self {
        match code {
            401 => Self::Unknown(why),
            403 => Self::Forbidden(why),
            404 => Self::NotFound(why),
            410 => Self::Gone(why),
            429 | 503 => Self::Busy {
                why,
                after: retry_after
                    .and_then(|seconds| seconds.parse().ok())
                    .map(|seconds: u64| Duration::from_secs(seconds.min(60))),
            },
            code => Self::Refused { code, why },
        }
    }

    pub(super) fn unreachable(url: &str, error: &dyn StdError) -> Self {
        Self::Unreachable {
            url: url.to_owned(),
            why: innermost(error),
        }
    }
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        Self::Garbled(wrong.to_string())
    }
}

/// The outer ones say no more than that there is an inner one.
pub(super) fn innermost(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
