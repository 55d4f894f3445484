//! Descriptors from one process to its successor, over a unix socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::engine::Fds;
use crate::error::{Error, Result};

/// Sends the descriptors over a connected unix socket (stream or seqpacket).
pub fn send(socket: impl AsFd, fds: &Fds) -> Result<()> {
    let queues = fds.queues.len();
    let locals = fds.listening.first().map_or(0, Vec::len);
    let all: Vec<BorrowedFd<'_>> = fds
        .queues
        .iter()
        .chain(fds.listening.iter().flatten())
        .map(AsFd::as_fd)
        .collect();
    let [queues, locals, count] = [queues, locals, all.len()].map(|n| u8::try_from(n).unwrap_or(0));
    let text = [MAGIC, queues, locals, count];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if all.len() > MOST || !control.push(SendAncillaryMessage::ScmRights(&all)) {
        return Err(Error::new("hand over descriptors", Errno::TOOBIG));
    }
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&text)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
    sent.map_err(|why| Error::new("hand over descriptors", why))?;
    Ok(())
}

/// Takes what [`send`] has sent.
pub fn receive(socket: impl AsFd) -> Result<Fds> {
    let failed = |why| Error::new("take over descriptors", why);
    let mut text = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(failed)?;
    let mut all = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            all.extend(fds);
        }
    }
    let [magic, queues, locals, count] = text.map(usize::from);
    let whole = received.bytes == text.len()
        && magic == usize::from(MAGIC)
        && count == all.len()
        && queues <= count;
    if !whole {
        return Err(failed(Errno::BADMSG));
    }
    let listening = all.split_off(queues);
    Ok(Fds {
        queues: all,
        listening: in_groups(listening, locals),
    })
}

fn in_groups(fds: Vec<OwnedFd>, size: usize) -> Vec<Vec<OwnedFd>> {
    let mut groups: Vec<Vec<OwnedFd>> = Vec::new();
    for fd in fds {
        match groups.last_mut() {
            Some(group) if group.len() < size => group.push(fd),
            _ => groups.push(vec![fd]),
        }
    }
    groups
}

/// The form of what is handed over: `[MAGIC, queues, listening sockets a queue, all]`.
const MAGIC: u8 = 0x57;
/// The kernel's own limit is 253 in one message.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn descriptors(count: usize) -> Vec<OwnedFd> {
        let one = |_| std::fs::File::open("/dev/null").unwrap().into();
        (0..count).map(one).collect()
    }

    #[test]
    fn descriptors_arrive_in_their_places() {
        let (here, there) = UnixStream::pair().unwrap();
        let fds = Fds {
            queues: descriptors(2),
            listening: vec![descriptors(2), descriptors(2)],
        };
        send(&here, &fds).unwrap();
        let got = receive(&there).unwrap();
        assert_eq!(got.queues.len(), 2);
        assert_eq!(
            got.listening.iter().map(Vec::len).collect::<Vec<_>>(),
            [2, 2]
        );
    }

    #[test]
    fn what_is_no_handover_is_refused() {
        let (here, there) = UnixStream::pair().unwrap();
        rustix::io::write(&here, b"abcd").unwrap();
        assert_eq!(receive(&there).unwrap_err().errno(), Some(Errno::BADMSG));
        drop(here);
        assert_eq!(receive(&there).unwrap_err().errno(), Some(Errno::BADMSG));
    }

    #[test]
    fn too_many_descriptors_are_refused() {
        let (here, _there) = UnixStream::pair().unwrap();
        let fds = Fds {
            queues: descriptors(65),
            listening: vec![],
        };
        assert_eq!(send(&here, &fds).unwrap_err().errno(), Some(Errno::TOOBIG));
    }
}
