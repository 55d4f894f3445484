//! Echo requests from the calling thread's network, numbered, and the replies to them.
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv,
    send, socket,
};

/// What a raw socket hands over begins with the IP header, without options in a reply.
const IP_HEADER: usize = 20;
const REQUEST: u8 = 8;
const REPLY: u8 = 0;
/// As much as `ping` sends, so that sizes are the familiar ones: 84 bytes with headers.
const PAYLOAD: usize = 56;

pub(crate) struct Echo {
    socket: OwnedFd,
    identifier: [u8; 2],
}

impl Echo {
    pub(crate) fn open(to: Ipv4Addr) -> io::Result<Self> {
        let (family, flags) = (AddressFamily::Inet, SockFlag::SOCK_CLOEXEC);
        let socket = socket(family, SockType::Raw, flags, SockProtocol::Icmp)?;
        let to = SocketAddr::new(IpAddr::V4(to), 0);
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        let [.., high, low] = std::process::id().to_be_bytes();
        Ok(Self {
            socket,
            identifier: [high, low],
        })
    }

    /// The error of a way that is blocked: no route, no device.
    pub(crate) fn send(&self, number: u16) -> io::Result<()> {
        let [n0, n1] = number.to_be_bytes();
        let mut message = vec![
            REQUEST,
            0,
            0,
            0,
            self.identifier[0],
            self.identifier[1],
            n0,
            n1,
        ];
        message.resize(message.len() + PAYLOAD, b'w');
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Waits for something to read.
    pub(crate) fn wait(&self, limit: Duration) {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let _ = poll(
            &mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)],
            timeout,
        );
    }

    /// The number of a request that was answered, if one has been.
    pub(crate) fn answered(&self) -> Option<u16> {
        loop {
            let mut packet = [0; 256];
            let length = match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                // What an ICMP error says of an earlier request.
                Err(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EINTR) => continue,
                Err(_) => return None,
            };
            let message = packet.get(IP_HEADER..length).unwrap_or_default();
            if let [REPLY, _, _, _, i0, i1, n0, n1, ..] = *message
                && [i0, i1] == self.identifier
            {
                return Some(u16::from_be_bytes([n0, n1]));
            }
        }
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(message: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    let mut sum: u32 = message.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
