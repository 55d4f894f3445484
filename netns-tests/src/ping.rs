//! One echo request and its reply, with no `ping` program.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::wait::wait_until;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv,
    send, socket,
};

/// Where the ICMP message begins in what a raw socket reads: IPv4 hands over
/// its own header too (without options, in a reply to us), IPv6 does not.
const IPV4_HEADER: usize = 20;

/// Asks `address` for an echo from the calling thread's namespace, and says how
/// long it took. Needs to be root there: `pod.enter(|| ping(address, limit))`.
pub fn ping(address: IpAddr, limit: Duration) -> io::Result<Duration> {
    let socket = open(address)?;
    let request = echo_request(address);
    let started = Instant::now();
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    loop {
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no echo from {address}"),
            ));
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(
            &mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)],
            timeout,
        )?;
        let mut packet = [0; 256];
        match recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(length) if answers(address, &packet[..length], &request) => {
                return Ok(started.elapsed());
            }
            Ok(_) | Err(nix::Error::EAGAIN) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Waits until `address` answers. A fresh link carries IPv6 only after a while:
/// its routes come with the carrier, and a lost solicitation is repeated after a
/// second. A test that is not about that waits here first.
#[track_caller]
pub fn wait_until_answers(address: IpAddr) {
    const LIMIT: Duration = Duration::from_secs(10);
    const ATTEMPT: Duration = Duration::from_millis(100);
    wait_until(&format!("{address} answers"), LIMIT, || {
        ping(address, ATTEMPT).is_ok()
    });
}

fn open(address: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    connect(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(address, 0)),
    )?;
    Ok(socket)
}

/// Type, code, checksum, identifier and sequence number, and a few bytes.
fn echo_request(address: IpAddr) -> Vec<u8> {
    let kind = if address.is_ipv4() { 8 } else { 128 };
    let [.., high, low] = std::process::id().to_be_bytes();
    let mut message = vec![kind, 0, 0, 0, high, low, 0, 1];
    message.extend(b"weft");
    if address.is_ipv4() {
        // The kernel fills it in for IPv6 alone, where it covers addresses.
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    message
}

fn answers(address: IpAddr, packet: &[u8], request: &[u8]) -> bool {
    let (reply, skip) = if address.is_ipv4() {
        (0, IPV4_HEADER)
    } else {
        (129, 0)
    };
    let Some(message) = packet.get(skip..) else {
        return false;
    };
    message.first() == Some(&reply) && message.get(4..) == Some(&request[4..])
}

/// The Internet checksum (RFC 1071).
fn checksum(message: &[u8]) -> u16 {
    let words = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_checked_message_is_zero() {
        assert_eq!(checksum(&echo_request("192.0.2.1".parse().unwrap())), 0);
    }
}
