//! One question to the daemon, over its socket.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

/// No answer came: from where, and why.
#[derive(Debug)]
pub(super) struct Silence {
    socket: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Io(io::Error),
    Garbled,
}

/// The body of the answer.
pub(super) fn get(socket: &Path, target: &str) -> Result<String, Silence> {
    let answer = talk(socket, target).map_err(|why| Silence {
        socket: socket.to_owned(),
        why: Why::Io(why),
    })?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| Silence::garbled(socket))?;
    match head.starts_with("HTTP/1.1 200 ") {
        true => Ok(body.to_owned()),
        false => Err(Silence::garbled(socket)),
    }
}

fn talk(socket: &Path, target: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: weftd\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Silence {
    pub(super) fn garbled(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            why: Why::Garbled,
        }
    }

    /// The daemon may well be there.
    fn is_ours_to_cure(&self) -> bool {
        let Why::Io(why) = &self.why else {
            return true;
        };
        matches!(
            Errno::from_io_error(why),
            Some(Errno::ACCESS | Errno::PERM | Errno::AGAIN)
        )
    }

    pub(super) fn remedy(&self) -> &'static str {
        match &self.why {
            Why::Garbled => "weft and weftd are of different versions: use those of one",
            Why::Io(why) => match Errno::from_io_error(why) {
                Some(Errno::ACCESS | Errno::PERM) => "run weft as the user that weftd runs as",
                Some(Errno::AGAIN) => "weftd hangs: its log may say why; restart it",
                _ => "start weftd, or say --run-dir if it was given another -run-dir",
            },
        }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.socket.display();
        let what = match self.is_ours_to_cure() {
            true => "weftd's answer cannot be had",
            false => "no weftd answers",
        };
        match &self.why {
            Why::Garbled => write!(f, "{what} at {socket}: it is not understood")?,
            Why::Io(why) => write!(f, "{what} at {socket}: {why}")?,
        }
        write!(f, "; {}", self.remedy())
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
