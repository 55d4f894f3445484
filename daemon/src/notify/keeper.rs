//! systemd's descriptor store: what is given to it is open still when the service starts again.
//! It needs `FileDescriptorStoreMax=` in the unit, and does nothing without.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use weft_dataplane::{Fds, handover};

/// Gives away copies, by name.
#[derive(Debug)]
pub struct Keeper {
    address: Option<SocketAddr>,
    /// Names under which something may be kept.
    names: BTreeSet<String>,
}

impl Keeper {
    pub(super) fn at(address: Option<SocketAddr>) -> Self {
        Self {
            address,
            names: BTreeSet::new(),
        }
    }

    /// These in place of all others.
    pub fn keep(&mut self, fds: &Fds) -> io::Result<()> {
        let Some(address) = &self.address else {
            return Ok(());
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(address)?;
        let named = handover::named(fds);
        self.names
            .extend(named.iter().map(|(name, _)| name.clone()));
        for name in &self.names {
            socket.send(format!("FDSTOREREMOVE=1\nFDNAME={name}").as_bytes())?;
        }
        for (name, fd) in named {
            // What has an error to tell is kept all the same: it is the next run's to hear.
            send(&socket, &format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), fd)?;
        }
        Ok(())
    }

    /// What an earlier run has given away is to be removed once there is something else.
    pub fn knows(&mut self, names: impl IntoIterator<Item = String>) {
        self.names.extend(names);
    }
}

/// The names of what was kept for this process, in the order of its descriptors. `env` answers
/// None for what is not set.
pub fn kept(env: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let number = |name| env(name).and_then(|text| text.trim().parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").and_then(|count| usize::try_from(count).ok());
    let names = env("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned);
    // Some have no name, and take their place.
    names
        .chain(std::iter::repeat(String::new()))
        .take(count.unwrap_or(0).min(MOST))
        .collect()
}

fn send(socket: &UnixDatagram, text: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let text = [IoSlice::new(text.as_bytes())];
    rustix::net::sendmsg(socket.as_fd(), &text, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Nobody keeps more for us.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::linux::net::SocketAddrExt;

    use super::*;

    fn names(pairs: &[(&str, &str)]) -> Vec<String> {
        kept(|name| {
            let pair = pairs.iter().find(|(key, _)| *key == name);
            pair.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn only_what_was_kept_for_this_very_process_is_taken() {
        let pid = std::process::id().to_string();
        let (ours, two) = (("LISTEN_PID", pid.as_str()), ("LISTEN_FDS", "2"));
        assert_eq!(names(&[ours, two, ("LISTEN_FDNAMES", "a:b")]), ["a", "b"]);
        assert_eq!(names(&[ours, two, ("LISTEN_FDNAMES", "a")]), ["a", ""]);
        assert_eq!(names(&[ours, two]), ["", ""]);
        assert!(names(&[("LISTEN_PID", "1"), two]).is_empty());
        assert!(names(&[two]).is_empty() && names(&[ours]).is_empty());
        assert!(names(&[ours, ("LISTEN_FDS", "-1")]).is_empty());
    }

    #[test]
    fn what_is_kept_takes_the_place_of_what_was() {
        let name = format!("weft-keeper-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        let mut keeper = Keeper::at(Some(address));
        let file = || -> OwnedFd { std::fs::File::open("/dev/null").unwrap().into() };
        let fds = Fds {
            queues: vec![file()],
            listening: vec![vec![file()]],
        };
        keeper.keep(&fds).unwrap();
        keeper.keep(&Fds::default()).unwrap();
        let mut heard = Vec::new();
        listener.set_nonblocking(true).unwrap();
        let mut buffer = [0; 256];
        while let Ok(length) = listener.recv(&mut buffer) {
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            heard.push(text.replace('\n', " "));
        }
        assert_eq!(
            heard,
            [
                "FDSTOREREMOVE=1 FDNAME=weft-listening-0-0",
                "FDSTOREREMOVE=1 FDNAME=weft-queue-0",
                "FDSTORE=1 FDPOLL=0 FDNAME=weft-queue-0",
                "FDSTORE=1 FDPOLL=0 FDNAME=weft-listening-0-0",
                "FDSTOREREMOVE=1 FDNAME=weft-listening-0-0",
                "FDSTOREREMOVE=1 FDNAME=weft-queue-0",
            ]
        );
    }
}
