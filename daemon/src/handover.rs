//! A planned restart: the successor is started while its predecessor still runs, asks it to step
//! aside once there is something to program, and goes on with its lock, its queues and its
//! sockets. Packets wait in the queues meanwhile. The predecessor ends when the successor serves;
//! if that one dies before, or gives up, the predecessor goes on.
//!
//! ```text
//!  successor                        predecessor
//!     │ connects, "step aside"  ──▶    │
//!     │                                │ rests its loop, then its packet path
//!     │  ◀──  the lock's file          │
//!     │  ◀──  the path's descriptors   │
//!     ▼ programs, moves packets        │
//!     │ "I serve"               ──▶    │
//!     │  ◀──  the connection ends      ▼ ends
//!     ▼ is seated
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

    /// From here on nobody else programs this node, until the [`Turn`] is over.
    pub fn step_aside(&self) -> Result<Aside, String> {
        match Lock::take(&self.run_dir) {
            Ok(lock) => return Ok(Aside::Gone(lock)),
            Err(lock::Error::Held { .. }) => {}
            Err(other) => return Err(other.to_string()),
        }
        self.ask().map(Aside::Waits).map_err(|why| {
            let socket = self.run_dir.join(SOCKET);
            format!(
                "take over from the weftd that runs here, by {}: {why}; end it (systemctl stop \
                 weftd), and this one goes on",
                socket.display()
            )
        })
    }

    fn ask(&self) -> io::Result<Turn> {
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
        Ok(Turn {
            lock,
            fds,
            predecessor: stream,
        })
    }
}

/// How a predecessor makes room.
#[derive(Debug)]
pub enum Aside {
    /// It has ended by itself, and left its lock alone.
    Gone(Lock),
    Waits(Turn),
}

/// A successor's, to show that it serves. If it ends without, the predecessor goes on.
#[derive(Debug)]
pub struct Turn {
    lock: Lock,
    fds: Option<Fds>,
    predecessor: UnixStream,
}

impl Turn {
    /// What packets go through, if the predecessor moved any.
    pub fn take_path(&mut self) -> Option<Fds> {
        self.fds.take()
    }

    /// All is programmed, packets move, and once the predecessor has ended the node is ours; or
    /// something could not be done. The error: the predecessor goes on, and we must not.
    pub fn conclude(mut self, programmed: &Result<(), String>) -> Result<Lock, String> {
        match programmed {
            Ok(()) => self.serves()?,
            Err(why) if self.predecessor_lives() => {
                return Err(format!("{why}; the weftd that runs here goes on"));
            }
            Err(_) => {}
        }
        self.lock.note_holder().map_err(|e| e.to_string())
    }

    fn serves(&mut self) -> Result<(), String> {
        // One that was killed meanwhile hears nothing, and is in nobody's way.
        let _ = self.predecessor.write_all(SERVES);
        let mut word = [0; GOES_ON.len()];
        let said = self.predecessor.read_exact(&mut word);
        if said.is_ok() && word == *GOES_ON {
            return Err(format!(
                "the weftd that runs here goes on, for its successor took more than {} s to \
                 serve: start another when the machine is less busy, or end that one first \
                 (systemctl stop weftd)",
                PATIENCE.as_secs()
            ));
        }
        Ok(())
    }

    fn predecessor_lives(&mut self) -> bool {
        let asked = self.predecessor.set_nonblocking(true);
        let read = asked.and_then(|()| self.predecessor.read(&mut [0]));
        !matches!(read, Ok(0))
    }
}

/// Where successors come to.
#[derive(Debug)]
pub struct Reception {
    successors: mpsc::Receiver<Successor>,
}

/// One that has asked us to step aside. It waits for our end, which it sees by this value's.
#[derive(Debug)]
pub struct Successor {
    stream: UnixStream,
    lock: OwnedFd,
}

impl Reception {
    /// Within a tokio runtime, and only by whoever has the lock: it replaces what is there.
    pub fn open(run_dir: &Path, lock: &Lock) -> io::Result<Self> {
        let lock = lock.file().try_clone_to_owned()?;
        let (beside, path) = (run_dir.join(BESIDE), run_dir.join(SOCKET));
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, Permissions::from_mode(OWNER_ONLY))?;
        fs::rename(&beside, path)?;
        listener.set_nonblocking(true)?;
        let (found, successors) = mpsc::channel(1);
        let listener = tokio::net::UnixListener::from_std(listener)?;
        tokio::spawn(receive_successors(listener, lock, found));
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
async fn receive_successors(
    listener: tokio::net::UnixListener,
    lock: OwnedFd,
    found: mpsc::Sender<Successor>,
) {
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
        let (Ok(stream), Ok(lock)) = (stream.into_std(), lock.try_clone()) else {
            continue;
        };
        if found.send(Successor { stream, lock }).await.is_err() {
            return;
        }
    }
}

impl Successor {
    /// All that it goes on with. Returns when it serves; the error is why it never will, and
    /// then its predecessor goes on.
    pub fn give(&mut self, fds: Option<&Fds>) -> Result<(), String> {
        let mut word = [0; SERVES.len()];
        let heard = self
            .give_all(fds)
            .and_then(|()| self.stream.read_exact(&mut word));
        match heard {
            Ok(()) if word == *SERVES => return Ok(()),
            Ok(()) => Err("says what no weftd says".to_owned()),
            Err(why) => Err(match why.kind() {
                io::ErrorKind::WouldBlock => {
                    format!("did not come to serve within {} s", PATIENCE.as_secs())
                }
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe => "has ended before it served".to_owned(),
                _ => format!("cannot be handed over to ({why})"),
            }),
        }
        .inspect_err(|_| {
            // One that has ended does not want to know.
            let _ = self.stream.write_all(GOES_ON);
        })
    }

    fn give_all(&mut self, fds: Option<&Fds>) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.set_write_timeout(Some(PATIENCE))?;
        send_file(&self.stream, self.lock.as_fd())?;
        match fds {
            Some(fds) => {
                self.stream.write_all(&WITH_PATH)?;
                handover::send(&self.stream, fds).map_err(io::Error::other)
            }
            None => self.stream.write_all(&WITHOUT_PATH),
        }
    }

    /// Which process it is, as the service manager knows it.
    pub fn pid(&self) -> Option<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&self.stream).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
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

const REQUEST: &[u8; 18] = b"weft: step aside 2";
const LOCK: &[u8; 4] = b"lock";
const WITH_PATH: [u8; 1] = [1];
const WITHOUT_PATH: [u8; 1] = [0];
const SERVES: &[u8; 7] = b"I serve";
const GOES_ON: &[u8; 7] = b"I go on";
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

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    }

    /// What a predecessor meets, and what its successor does with its turn.
    fn meet<T: Send + 'static>(
        name: &str,
        successor: impl FnOnce(Turn) -> T + Send + 'static,
        predecessor: impl FnOnce(Successor, &Fds),
    ) -> (PathBuf, T) {
        let dir = scratch(name);
        let lock = Lock::take(&dir).unwrap();
        let runtime = runtime();
        let mut reception = runtime.block_on(async { Reception::open(&dir, &lock).unwrap() });
        let place = Predecessor::in_dir(&dir);
        let asking = std::thread::spawn(move || match place.step_aside().unwrap() {
            Aside::Waits(turn) => successor(turn),
            Aside::Gone(_) => panic!("it has the lock, and lives"),
        });
        let fds = Fds {
            queues: descriptors(),
            listening: vec![descriptors()],
        };
        predecessor(runtime.block_on(reception.successor()), &fds);
        drop((reception, runtime, lock));
        (dir, asking.join().unwrap())
    }

    #[test]
    fn a_successor_that_serves_has_the_node_once_the_other_has_ended() {
        let (dir, (lock, fds)) = meet(
            "whole",
            |mut turn| {
                let fds = turn.take_path();
                (turn.conclude(&Ok(())).unwrap(), fds)
            },
            |mut successor, fds| {
                successor.give(Some(fds)).unwrap();
                assert_eq!(successor.pid(), Some(std::process::id()));
            },
        );
        assert!(fds.is_some_and(|fds| fds.queues.len() == 1));
        assert!(matches!(Lock::take(&dir), Err(lock::Error::Held { .. })));
        drop(lock);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_that_dies_or_gives_up_or_talks_nonsense_does_not_come_to_serve() {
        let has_ended = |mut successor: Successor, fds: &Fds| {
            let why = successor.give(Some(fds)).unwrap_err();
            assert_eq!(why, "has ended before it served");
        };
        let (dir, ()) = meet("dies", drop, has_ended);
        fs::remove_dir_all(dir).unwrap();
        let gives_up = |turn: Turn| turn.conclude(&Err("no device".into())).unwrap_err();
        let (dir, why) = meet("gives-up", gives_up, has_ended);
        assert_eq!(why, "no device; the weftd that runs here goes on");
        fs::remove_dir_all(dir).unwrap();
        let talks = |mut turn: Turn| turn.predecessor.write_all(b"what is this").unwrap();
        let (dir, ()) = meet("talks", talks, |mut successor, _| {
            let why = successor.give(None).unwrap_err();
            assert_eq!(why, "says what no weftd says");
        });
        fs::remove_dir_all(dir).unwrap();
    }

    /// It has waited long enough, and the two must not both go on.
    #[test]
    fn one_whose_predecessor_goes_on_does_not() {
        let late = |turn: Turn| turn.conclude(&Ok(())).unwrap_err();
        let (dir, why) = meet("late", late, |mut successor, fds| {
            successor.give_all(Some(fds)).unwrap();
            successor.stream.write_all(GOES_ON).unwrap();
            let mut word = [0; SERVES.len()];
            successor.stream.read_exact(&mut word).unwrap();
        });
        assert!(
            why.contains("goes on") && why.contains("stop weftd"),
            "{why}"
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_whose_predecessor_was_killed_goes_on_whatever_it_met() {
        for programmed in [Ok(()), Err("no device".to_owned())] {
            let (turns, turn) = std::sync::mpsc::channel();
            let (dir, ()) = meet(
                "killed",
                move |turn| turns.send(turn).unwrap(),
                |mut successor, fds| successor.give_all(Some(fds)).unwrap(),
            );
            let lock = turn.recv().unwrap().conclude(&programmed).unwrap();
            assert!(matches!(Lock::take(&dir), Err(lock::Error::Held { .. })));
            drop(lock);
            fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn a_predecessor_that_has_ended_is_no_obstacle_and_one_that_is_deaf_is_named() {
        let dir = scratch("odd");
        let lock = Lock::take(&dir).unwrap();
        let predecessor = Predecessor::in_dir(&dir);
        let why = predecessor.step_aside().unwrap_err();
        assert!(why.contains(SOCKET) && why.contains("stop weftd"), "{why}");
        drop(lock);
        let aside = predecessor.step_aside().unwrap();
        assert!(matches!(aside, Aside::Gone(_)));
        drop(aside);
        fs::remove_dir_all(dir).unwrap();
    }
}
