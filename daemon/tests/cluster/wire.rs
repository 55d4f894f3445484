//! A machine on the wire that speaks the udp backend's format by hand, as flannel's proxy does:
//! one inner packet a datagram, to and from one port.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::harness::Node;
use crate::strip::checksum;

pub(crate) const PORT: u16 = 8285;

pub(crate) struct Flannel {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Flannel {
    /// On `machine`, towards the daemon of `node`.
    pub(crate) fn on(machine: &Node<'_>, node: &Node<'_>) -> Self {
        Self::at_port(PORT, machine, node)
    }

    pub(crate) fn at_port(port: u16, machine: &Node<'_>, node: &Node<'_>) -> Self {
        let local: SocketAddr = format!("{}:{port}", machine.underlay()).parse().unwrap();
        let socket = machine.netns.enter(|| UdpSocket::bind(local)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let to = format!("{}:{port}", node.underlay()).parse().unwrap();
        Self { socket, to }
    }

    pub(crate) fn send(&self, packet: &[u8]) {
        // What the other kernel thinks of it is looked at elsewhere.
        let _ = self.socket.send_to(packet, self.to);
    }

    /// The next packet, and the port that it came from.
    pub(crate) fn receive(&self) -> Option<(Vec<u8>, u16)> {
        let mut packet = [0; 2048];
        let (length, from) = self.socket.recv_from(&mut packet).ok()?;
        Some((packet[..length].to_vec(), from.port()))
    }
}

/// An IPv4 packet that asks for an echo.
pub(crate) fn echo_request(from: Ipv4Addr, to: Ipv4Addr, ttl: u8) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend(b"as flannel's proxy sends it");
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let length = u16::try_from(20 + message.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 1, 0, 0, ttl, 1, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(message);
    packet
}

/// Whether it is the answer to [`echo_request`], and with which TTL it came.
pub(crate) fn echo_reply_ttl(packet: &[u8]) -> Option<u8> {
    let is_reply = packet.len() > 28 && packet[9] == 1 && packet[20] == 0;
    is_reply.then(|| packet[8])
}
