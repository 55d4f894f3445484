//! The naive loop: one packet a read, one packet a send, one thread for both directions. It is
//! what a userspace overlay looks like at first, and what ours is measured against; it forwards
//! as a router does, so that it does the same job.
//!
//! It understands the command line of our engine's own executable, for IPv4.
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_tap::Iface;
use weft_benches::path::{open_tun, pollable};

const LARGEST: usize = 65_536;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match Node::open(&arguments).and_then(|node| node.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Node {
    tun: Iface,
    tun_ready: OwnedFd,
    socket: UdpSocket,
    peers: Vec<Peer>,
}

struct Peer {
    network: u32,
    mask: u32,
    node: SocketAddrV4,
}

impl Node {
    fn open(arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        let of = |name: &str| of_all(arguments, name).next();
        let must = |name: &str| of(name).ok_or_else(|| format!("{name} is missing"));
        let port: u16 = must("--port")?.parse()?;
        let peers = of_all(arguments, "--peer")
            .map(|peer| Peer::parse(peer, port))
            .collect::<Result<_, _>>()?;
        let name = must("--tun")?;
        let (address, network) = (must("--address")?, must("--network")?);
        let mtu = of("--mtu").unwrap_or("1472");
        let settings = format!(
            "ip addr add {address} dev {name}
             ip link set {name} mtu {mtu} up
             ip route add {network} dev {name}"
        );
        let tun = open_tun(name, &settings)?;
        let tun_ready = pollable(&tun)?;
        let local: Ipv4Addr = must("--local")?.parse()?;
        let socket = UdpSocket::bind((local, port))?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            tun,
            tun_ready,
            socket,
            peers,
        })
    }

    /// Alternates as long as either has something, and waits for both otherwise.
    #[allow(clippy::print_stdout, reason = "who started it waits for that word")]
    fn run(&self) -> Result<(), Box<dyn Error>> {
        println!("ready");
        let mut packet = vec![0; LARGEST];
        loop {
            let sent = self.send_one(&mut packet)?;
            let received = self.receive_one(&mut packet)?;
            if !sent && !received {
                let mut ready = [self.tun_ready.as_fd(), self.socket.as_fd()]
                    .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                poll(&mut ready, PollTimeout::NONE)?;
            }
        }
    }

    /// Whether there was one.
    fn send_one(&self, room: &mut [u8]) -> io::Result<bool> {
        let Some(length) = if_any(self.tun.recv(room))? else {
            return Ok(false);
        };
        let packet = &mut room[..length];
        let peer = destination(packet).and_then(|address| {
            let mut peers = self.peers.iter();
            peers.find(|peer| address & peer.mask == peer.network)
        });
        if let Some(peer) = peer
            && hop(packet)
        {
            // A full queue drops; so does whoever is not there.
            let _ = self.socket.send_to(packet, peer.node);
        }
        Ok(true)
    }

    /// Whether there was one.
    fn receive_one(&self, room: &mut [u8]) -> io::Result<bool> {
        let received = self.socket.recv(room);
        if received
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
        {
            return Ok(true);
        }
        let Some(length) = if_any(received)? else {
            return Ok(false);
        };
        let packet = &mut room[..length];
        if destination(packet).is_some() && hop(packet) {
            let _ = self.tun.send(packet);
        }
        Ok(true)
    }
}

impl Peer {
    /// SUBNET=NODE
    fn parse(text: &str, port: u16) -> Result<Self, Box<dyn Error>> {
        let parts = text
            .split_once('=')
            .and_then(|(subnet, node)| Some((subnet.split_once('/')?, node)));
        let ((network, length), node) = parts.ok_or("a peer is SUBNET=NODE")?;
        let network: Ipv4Addr = network.parse()?;
        let length: u32 = length.parse()?;
        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        Ok(Self {
            network: network.to_bits() & mask,
            mask,
            node: SocketAddrV4::new(node.parse()?, port),
        })
    }
}

fn of_all<'a>(arguments: &'a [String], name: &str) -> impl Iterator<Item = &'a str> {
    let pairs = arguments.windows(2);
    let named = pairs.filter(move |pair| pair[0] == name);
    named.map(|pair| pair[1].as_str())
}

fn if_any(read: io::Result<usize>) -> io::Result<Option<usize>> {
    match read {
        Ok(length) => Ok(Some(length)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Of an IPv4 packet.
fn destination(packet: &[u8]) -> Option<u32> {
    let header = packet.get(..20).filter(|header| header[0] >> 4 == 4)?;
    let address = <[u8; 4]>::try_from(&header[16..20]).ok()?;
    Some(u32::from_be_bytes(address))
}

/// One hop less to live, the header's checksum adjusted; false if that was the last.
fn hop(packet: &mut [u8]) -> bool {
    if packet[8] <= 1 {
        return false;
    }
    packet[8] -= 1;
    let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x100;
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(0);
    packet[10..12].copy_from_slice(&folded.to_be_bytes());
    true
}
