//! A planned restart: the successor is started while its predecessor still runs, asks it to step
//! aside once there is something to program, and goes on with its lock, its queues and its
//! sockets. Packets wait in the queues meanwhile.
//!
//! ```text
//!  successor                        predecessor
//!     │ connects, "step aside"  ──▶    │
//!     │                                │ stops its loop, then its packet path
//!     │  ◀──  the lock's file          │
//!     │  ◀──  the path's descriptors   │
//!     │ "thanks"                ──▶    │
//!     ▼ programs                       ▼ ends
//! ```

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use weft_dataplane::{Fds, handover};

use crate::lock::{self, Lock};

/// In the run directory; and what a run that was killed while it made it has left.
pub const SOCKET: &str = "handover.sock";
pub const BESIDE: &str = "handover.sock.new";

/// Whoever has the lock that a successor wants.
#[derive(Debug)]
pub struct Predecessor {
    run_dir: PathBuf,
}

impl Predecessor {
    pub fn in_dir(run_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
        }
    }

    /// From here on nobody else programs this node, nor ever will: `settle` is done before the
    /// predecessor ends. One that has ended by itself has left its lock alone.
    pub fn step_aside(&self, settle: impl FnOnce()) -> Result<(Lock, Option<Fds>), String> {
        match Lock::take(&self.run_dir) {
            Ok(lock) => return Ok((lock, None)),
            Err(lock::Error::Held { .. }) => {}
            Err(other) => return Err(other.to_string()),
        }
        let asked = self.ask(settle);
        asked.map_err(|why| {
            let socket = self.run_dir.join(SOCKET);
            format!(
                "take over from the weftd that runs here, by {}: {why}; end it (systemctl stop \
                 weftd), and this one goes on",
                socket.display()
            )
        })
    }

    fn ask(&self, settle: impl FnOnce()) -> io::Result<(Lock, Option<Fds>)> {
        let mut stream = UnixStream::connect(self.run_dir.join(SOCKET))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(REQUEST)?;
        let file = receive_file(&stream)?;
        let lock = Lock::taken_over(file, &self.run_dir).map_err(io::Error::other)?;
        let mut path = [0];
        stream.read_exact(&mut path)?;
        let fds = match path {
            WITH_PATH => Some(handover::receive(&stream).map_err(io::Error::other)?),
            _ => None,
        };
        settle();
        stream.write_all(THANKS)?;
        Ok((lock, fds))
    }
}

/// Where successors come to.
#[derive(Debug)]
pub struct Reception {
    successors: mpsc::Receiver<Successor>,
}

/// One that has asked us to step aside.
#[derive(Debug)]
pub struct Successor {
    stream: UnixStream,
}

impl Reception {
    /// Within a tokio runtime, and only by whoever has the lock: it replaces what is there.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let (beside, path) = (run_dir.join(BESIDE), run_dir.join(SOCKET));
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, Permissions::from_mode(OWNER_ONLY))?;
        fs::rename(&beside, path)?;
        listener.set_nonblocking(true)?;
        let (found, successors) = mpsc::channel(1);
        let listener = tokio::net::UnixListener::from_std(listener)?;
        tokio::spawn(receive_successors(listener, found));
        Ok(Self { successors })
    }

    /// May be given up and asked again: whoever has come meanwhile still waits.
    pub async fn successor(&mut self) -> Successor {
        match self.successors.recv().await {
            Some(successor) => successor,
            None => std::future::pending().await,
        }
    }
}

/// Whoever says something else than a successor does, or nothing, is passed over.
async fn receive_successors(listener: tokio::net::UnixListener, found: mpsc::Sender<Successor>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let mut request = [0; REQUEST.len()];
        let read = tokio::time::timeout(BREATH, stream.read_exact(&mut request));
        if !matches!(read.await, Ok(Ok(_))) || request != *REQUEST {
            continue;
        }
        let Ok(stream) = stream.into_std() else {
            continue;
        };
        if found.send(Successor { stream }).await.is_err() {
            return;
        }
    }
}

impl Successor {
    /// All that it goes on with. Returns when it has it, or is gone.
    pub fn give(mut self, lock: &Lock, fds: Option<Fds>) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.set_write_timeout(Some(PATIENCE))?;
        send_file(&self.stream, lock.file())?;
        match &fds {
            Some(fds) => {
                self.stream.write_all(&WITH_PATH)?;
                handover::send(&self.stream, fds).map_err(io::Error::other)?;
            }
            None => self.stream.write_all(&WITHOUT_PATH)?,
        }
        self.stream.read_exact(&mut [0; THANKS.len()])
    }
}

fn send_file(stream: &UnixStream, file: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let text = [IoSlice::new(LOCK)];
    rustix::net::sendmsg(stream.as_fd(), &text, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_file(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut text = [0; LOCK.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(stream.as_fd(), &mut parts, &mut control, flags)?;
    let file = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let whole = received.bytes == LOCK.len() && text == *LOCK;
    file.filter(|_| whole)
        .ok_or_else(|| io::Error::other("it answers as no weftd does"))
}

const REQUEST: &[u8; 18] = b"weft: step aside 1";
const LOCK: &[u8; 4] = b"lock";
const WITH_PATH: [u8; 1] = [1];
const WITHOUT_PATH: [u8; 1] = [0];
const THANKS: &[u8; 6] = b"thanks";
const OWNER_ONLY: u32 = 0o600;
/// A predecessor in the middle of a round with thousands of peers takes its time.
const PATIENCE: Duration = Duration::from_secs(10);
const BREATH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("weft-handover-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn descriptors() -> Vec<OwnedFd> {
        vec![fs::File::open("/dev/null").unwrap().into()]
    }

    #[test]
    fn a_successor_gets_the_lock_and_the_descriptors_and_settles_before_the_other_ends() {
        let dir = scratch("whole");
        let lock = Lock::take(&dir).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut reception = runtime.block_on(async { Reception::open(&dir).unwrap() });
        let predecessor = Predecessor::in_dir(&dir);
        let asking = std::thread::spawn(move || {
            let mut has_settled = false;
            let got = predecessor.step_aside(|| has_settled = true);
            (got, has_settled)
        });
        let successor = runtime.block_on(reception.successor());
        let fds = Fds {
            queues: descriptors(),
            listening: vec![descriptors()],
        };
        successor.give(&lock, Some(fds)).unwrap();
        let (got, has_settled) = asking.join().unwrap();
        let (new, fds) = got.unwrap();
        assert!(has_settled && fds.is_some_and(|fds| fds.queues.len() == 1));
        drop(lock);
        assert!(matches!(Lock::take(&dir), Err(lock::Error::Held { .. })));
        drop(new);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_predecessor_that_has_ended_is_no_obstacle_and_one_that_is_deaf_is_named() {
        let dir = scratch("odd");
        let lock = Lock::take(&dir).unwrap();
        let predecessor = Predecessor::in_dir(&dir);
        let why = predecessor.step_aside(|| ()).unwrap_err();
        assert!(why.contains(SOCKET) && why.contains("stop weftd"), "{why}");
        drop(lock);
        let (_lock, fds) = predecessor.step_aside(|| ()).unwrap();
        assert!(fds.is_none());
        fs::remove_dir_all(dir).unwrap();
    }
}
