//! Waiting for work, at no cost as long as there is none.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// What ended the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// There is something to read, or the kernel has word of an error.
    Ready,
    Stop,
}

/// Sleeps until one of `sources` (of which the first two count) has something, or until `stop`.
pub(super) fn wait(sources: &[BorrowedFd<'_>], stop: BorrowedFd<'_>) -> Woken {
    let watch = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
    let of = |at: usize| sources.get(at).copied().unwrap_or(stop);
    let mut fds = [watch(stop), watch(of(0)), watch(of(1))];
    let used = 1 + sources.len().min(2);
    loop {
        match poll(&mut fds[..used], None) {
            Ok(_) if fds[0].revents().is_empty() => return Woken::Ready,
            Err(Errno::INTR) => (),
            // There is no way to go on when even waiting fails.
            Ok(_) | Err(_) => return Woken::Stop,
        }
    }
}
