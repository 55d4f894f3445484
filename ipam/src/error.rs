//! What can go wrong with reservations, and how the runtime is told.

use std::{io, net::IpAddr, path::PathBuf, time::Duration};

use weft_cni::Code;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or directory could not be read or changed.
    #[error("cannot {doing} {path:?}: {source}")]
    File {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Somebody held the network's lock for all the time that we may wait.
    #[error("the reservations in {path:?} are locked by {holder}, and were still after {waited:?}")]
    Busy {
        path: PathBuf,
        holder: String,
        waited: Duration,
    },
    /// The directory was taken away under our hands, again and again.
    #[error("the directory {path:?} was replaced while it was being opened")]
    Restless { path: PathBuf },
    /// Every address of the set is somebody's.
    #[error("no IP addresses available in range set: {set}")]
    Exhausted { set: String },
    /// This attachment has an address already.
    #[error("{address} has been allocated to {container_id}, duplicate allocation is not allowed")]
    Duplicate {
        address: IpAddr,
        container_id: String,
    },
    /// The runtime asked for the gateway's own address.
    #[error("requested ip {address} is subnet's gateway")]
    Gateway { address: IpAddr },
    /// The runtime asked for an address that is somebody's.
    #[error("requested IP address {address} is not available in range set {set}")]
    Taken { address: IpAddr, set: String },
    /// The runtime asked for addresses that are of no set, or for several of one.
    #[error("failed to allocate all requested IPs:{}", spaced(addresses))]
    Unfulfilled { addresses: Vec<IpAddr> },
    /// CHECK: the attachment holds no address.
    #[error("host-local: Failed to find address added by container {container_id}")]
    NotFound { container_id: String },
    /// Any of these, in one of several sets.
    #[error("failed to allocate for range {number}: {source}")]
    InSet { number: usize, source: Box<Self> },
}

impl Error {
    pub(crate) fn file(
        doing: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::File {
            doing,
            path: path.into(),
            source: source.into(),
        }
    }

    pub(crate) fn in_set(self, number: usize) -> Self {
        Self::InSet {
            number,
            source: Box::new(self),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::File { .. } => Code::Io,
            // All of these pass: the lock is let go, and pods are deleted.
            Self::Busy { .. }
            | Self::Restless { .. }
            | Self::Exhausted { .. }
            | Self::Taken { .. } => Code::TryAgain,
            Self::Gateway { .. } | Self::Unfulfilled { .. } => Code::InvalidConfig,
            Self::Duplicate { .. } | Self::NotFound { .. } => Code::Internal,
            Self::InSet { source, .. } => source.code(),
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "the file system is full: make room on it"
                }
                io::ErrorKind::ReadOnlyFilesystem => {
                    "the file system is read-only: remount it, or let the \"dataDir\" of \"ipam\" be elsewhere"
                }
                io::ErrorKind::PermissionDenied => "the plugin must run as root",
                io::ErrorKind::NotADirectory => "something on this path is no directory",
                _ => "",
            },
            Self::Busy { .. } => "if it hangs, end that process; the runtime may then try again",
            Self::Restless { .. } => "nothing else should create or remove it",
            Self::Exhausted { .. } => {
                "delete pods, give the network a larger range, or let the runtime collect (GC) what is left of pods long gone"
            }
            Self::Duplicate { .. } => "the runtime must DEL an attachment before it ADDs it again",
            Self::Gateway { .. } => "ask for another address of the subnet",
            Self::Taken { .. } => {
                "the file of that name in the network's directory says who has it"
            }
            Self::Unfulfilled { .. } => "each must lie in a range set of its own",
            Self::NotFound { .. } => "the reservation is gone: the pod must be made anew",
            Self::InSet { source, .. } => source.remedy(),
        }
    }
}

impl From<Error> for weft_cni::Error {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string()).with_details(error.remedy())
    }
}

fn spaced(addresses: &[IpAddr]) -> String {
    addresses.iter().map(|ip| format!(" {ip}")).collect()
}
