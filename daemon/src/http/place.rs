//! Where it is served: a TCP address, or a socket in a directory of ours.

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// The socket's name in the run directory.
pub const SOCKET: &str = "weftd.sock";
/// What it is called before it is there: a killed daemon leaves one at most.
pub const BESIDE: &str = "weftd.sock.new";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Nothing can be served there: why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("serve health and status on {place}: {why}; {remedy}")]
pub struct Error {
    place: String,
    why: String,
    remedy: String,
}

impl Place {
    pub fn socket_in(run_dir: &Path) -> Self {
        Self::Unix(run_dir.join(SOCKET))
    }

    /// Within a tokio runtime.
    pub fn listen(&self) -> Result<Listener, Error> {
        match self {
            Self::Tcp(address) => listen_tcp(*address)
                .map(Listener::Tcp)
                .map_err(|why| self.error(&why, tcp_remedy(&why))),
            Self::Unix(path) => self.listen_unix(path),
        }
    }

    /// The socket is made beside and renamed into place: whoever connects meets the old one or
    /// this one, and nobody meets it before its permissions stand.
    fn listen_unix(&self, path: &Path) -> Result<Listener, Error> {
        self.look_at(path)?;
        let beside = path.with_file_name(BESIDE);
        let made = make_directory_of(path).and_then(|()| {
            remove(&beside)?;
            let listener = unix::UnixListener::bind(&beside)?;
            fs::set_permissions(&beside, Permissions::from_mode(OWNER_ONLY))?;
            fs::rename(&beside, path)?;
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        });
        made.map(Listener::Unix).map_err(|why| {
            // Whatever stands in the way of the socket stands in the way of removing it too.
            remove(&beside).ok();
            self.error(&why, unix_remedy(&why))
        })
    }

    /// What is at the socket's place: a socket that nobody serves may be replaced.
    fn look_at(&self, path: &Path) -> Result<(), Error> {
        let Ok(found) = fs::symlink_metadata(path) else {
            return Ok(());
        };
        if !found.file_type().is_socket() {
            return Err(self.error("a file that is no socket is there", "move it away"));
        }
        if unix::UnixStream::connect(path).is_ok() {
            return Err(self.error(
                "another weftd serves there",
                "run one weftd a node, or give each its own -run-dir",
            ));
        }
        Ok(())
    }

    fn error(&self, why: impl fmt::Display, remedy: impl Into<String>) -> Error {
        Error {
            place: self.to_string(),
            why: why.to_string(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Listener {
    /// None for a socket that has none.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn make_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

fn tcp_remedy(why: &io::Error) -> &'static str {
    match Errno::from_io_error(why) {
        Some(Errno::ADDRINUSE) => {
            "`ss -ltnp` shows who listens there: stop it, or choose another -healthz-port"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose another -healthz-port"
        }
        Some(Errno::ADDRNOTAVAIL) => {
            "this node does not have that address: choose another -healthz-ip"
        }
        _ => "choose another -healthz-ip or -healthz-port",
    }
}

fn unix_remedy(why: &io::Error) -> &'static str {
    match Errno::from_io_error(why) {
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            "give weftd a directory that it may write to, with -run-dir"
        }
        Some(Errno::NOSPC | Errno::DQUOT) => "make room on its file system",
        // A path too long for a socket has no errno: it is refused before the kernel sees it.
        Some(Errno::NAMETOOLONG) | None => "give a shorter path, with -run-dir",
        _ => "give another directory, with -run-dir",
    }
}

const OWNER_ONLY: u32 = 0o600;
