//! Descriptors from one process to its successor: over a unix socket, or by way of somebody who
//! keeps them, each under a name, and leaves them open for the next one.

use std::collections::BTreeMap;
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
use crate::sys;

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

/// What each is called where they are kept one by one.
pub fn named(fds: &Fds) -> Vec<(String, BorrowedFd<'_>)> {
    let queues = fds.queues.iter().enumerate();
    let queues = queues.map(|(queue, fd)| (format!("{QUEUE}{queue}"), fd.as_fd()));
    let listening = fds.listening.iter().enumerate().flat_map(|(queue, fds)| {
        let fds = fds.iter().enumerate();
        fds.map(move |(at, fd)| (format!("{LISTENING}{queue}-{at}"), fd.as_fd()))
    });
    queues.chain(listening).collect()
}

/// What [`named`] has named, whatever is kept beside it. None if that is not whole.
pub fn from_names(kept: Vec<(String, OwnedFd)>) -> Option<Fds> {
    let (mut queues, mut listening) = (BTreeMap::new(), BTreeMap::<u8, BTreeMap<u8, _>>::new());
    for (name, fd) in kept {
        if let Some(queue) = name.strip_prefix(QUEUE) {
            queues.insert(queue.parse::<u8>().ok()?, fd);
        } else if let Some((queue, at)) = name
            .strip_prefix(LISTENING)
            .and_then(|rest| rest.split_once('-'))
        {
            let of_queue = listening.entry(queue.parse().ok()?).or_default();
            of_queue.insert(at.parse().ok()?, fd);
        }
    }
    (!queues.is_empty()).then(|| Fds {
        queues: queues.into_values().collect(),
        listening: listening
            .into_values()
            .map(|of_queue| of_queue.into_values().collect())
            .collect(),
    })
}

/// What whoever started this process has left open for it under these names (as systemd does):
/// to be asked once, before anything else is opened by other hands.
pub fn left_open<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Fds> {
    let names: Vec<&str> = names.into_iter().collect();
    let fds = sys::left_open(names.len()).into_iter();
    let kept = names.into_iter().zip(fds);
    from_names(
        kept.filter_map(|(name, fd)| Some((name.to_owned(), fd?)))
            .collect(),
    )
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

const QUEUE: &str = "weft-queue-";
const LISTENING: &str = "weft-listening-";
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
    fn what_is_kept_by_name_comes_back_in_its_places() {
        let fds = Fds {
            queues: descriptors(2),
            listening: vec![descriptors(2), descriptors(1)],
        };
        let mut kept: Vec<_> = named(&fds)
            .into_iter()
            .map(|(name, fd)| (name, fd.try_clone_to_owned().unwrap()))
            .collect();
        assert!(kept.iter().all(|(name, _)| !name.contains(':')));
        kept.reverse();
        kept.push(("somebody-else-s".into(), descriptors(1).remove(0)));
        let got = from_names(kept).unwrap();
        assert_eq!(got.queues.len(), 2);
        assert_eq!(
            got.listening.iter().map(Vec::len).collect::<Vec<_>>(),
            [2, 1]
        );
        let odd = vec![("weft-queue-x".to_owned(), descriptors(1).remove(0))];
        assert!(from_names(odd).is_none() && from_names(vec![]).is_none());
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
