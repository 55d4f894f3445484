//! The UDP sockets: those that listen on the port, and those that flows leave from.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Error, Result};
use crate::peer::Entry;
use crate::rungs::{Notice, Notices, Rungs};
use crate::sys;

/// Where the overlay's datagrams come and go.
#[derive(Debug)]
pub struct Sockets {
    /// One for each queue, each with a socket for each local address.
    pub(crate) listening: Vec<Vec<OwnedFd>>,
    pub(crate) leaving: Leaving,
}

/// The sockets that flows leave from. Empty for a family without a local address.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    pub(crate) v4: Vec<OwnedFd>,
    pub(crate) v6: Vec<OwnedFd>,
    /// Never sent from: connected to a peer, they tell how much the way there takes.
    asking: Mutex<Asking>,
}

#[derive(Debug, Default)]
struct Asking {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Sockets {
    /// Listens on the port of each local address (one of a family at most), once for each queue.
    pub fn open(
        locals: &[IpAddr],
        port: u16,
        queues: usize,
        rungs: &Rungs,
        notices: &Notices,
    ) -> Result<Self> {
        let listen = |_| {
            let one = |local: &IpAddr| listening(SocketAddr::new(*local, port), queues > 1);
            locals.iter().map(one).collect::<Result<Vec<_>>>()
        };
        let listening = (0..queues.max(1)).map(listen).collect::<Result<_>>()?;
        Self::from_listening(listening, rungs, notices)
    }

    /// Goes on with the sockets that another process has handed over: as many as there are local
    /// addresses for each queue.
    pub fn from_listening(
        listening: Vec<Vec<OwnedFd>>,
        rungs: &Rungs,
        notices: &Notices,
    ) -> Result<Self> {
        for socket in listening.iter().flatten() {
            prepare(socket.as_fd(), rungs, notices)?;
        }
        let mut leaving = Leaving::default();
        for socket in listening.first().into_iter().flatten() {
            let local = local_of(socket)?;
            *leaving.of_mut(local.is_ipv6()) = leaving_from(local.ip(), socket, rungs, notices)?;
            leaving.ask_from(local.ip());
        }
        Ok(Self { listening, leaving })
    }

    /// Whether sockets that were handed over listen where [`Self::open`] would have them.
    pub fn fit(listening: &[Vec<OwnedFd>], locals: &[IpAddr], port: u16, queues: usize) -> bool {
        let wanted: Vec<_> = locals.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let fits = |sockets: &Vec<OwnedFd>| {
            let places = sockets.iter().map(|socket| local_of(socket).ok());
            places.eq(wanted.iter().copied().map(Some))
        };
        listening.len() == queues && listening.iter().all(fits)
    }

    /// The port that is listened on: the same for all.
    pub fn port(&self) -> Result<u16> {
        match self.listening.first().and_then(|queue| queue.first()) {
            Some(socket) => Ok(local_of(socket)?.port()),
            None => Err(Error::new("ask for the port of no socket", Errno::INVAL)),
        }
    }
}

impl Leaving {
    /// The socket's number for a flow, if there is any for the family.
    pub(crate) fn choose(&self, v6: bool, flow: u32) -> Option<u16> {
        let sockets = u32::try_from(self.of(v6).len()).ok()?;
        u16::try_from(flow.checked_rem(sockets)?).ok()
    }

    pub(crate) fn socket(&self, v6: bool, number: u16) -> Option<BorrowedFd<'_>> {
        self.of(v6).get(usize::from(number)).map(AsFd::as_fd)
    }

    /// The longest packet that goes to the peer in one piece. Where the answer can make no
    /// difference to one of `size` bytes, it is not looked for.
    pub(crate) fn longest_to(&self, peer: &Entry, size: usize) -> u16 {
        match size {
            0..SMALL => u16::MAX,
            _ => peer.path.longest(|| self.ask(peer).unwrap_or(u16::MAX)),
        }
    }

    fn ask(&self, peer: &Entry) -> Option<u16> {
        let asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let (socket, level, name, headers) = match peer.address {
            IpAddr::V4(_) => (&asking.v4, libc::IPPROTO_IP, libc::IP_MTU, 20 + 8),
            IpAddr::V6(_) => (&asking.v6, libc::IPPROTO_IPV6, libc::IPV6_MTU, 40 + 8),
        };
        let socket = socket.as_ref()?;
        let to = SocketAddr::new(peer.address, DISCARD);
        rustix::net::connect(socket, &to).ok()?;
        let mtu = sys::option(socket.as_fd(), level, name).ok()?;
        Some(u16::try_from(mtu - headers).unwrap_or(u16::MAX))
    }

    fn ask_from(&mut self, local: IpAddr) {
        let socket = datagrams(SocketAddr::new(local, 0)).and_then(|socket| {
            socket.bind(&SocketAddr::new(local, 0).into())?;
            Ok(OwnedFd::from(socket))
        });
        let asking = self
            .asking
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        match local {
            IpAddr::V4(_) => asking.v4 = socket.ok(),
            IpAddr::V6(_) => asking.v6 = socket.ok(),
        }
    }

    fn of(&self, v6: bool) -> &Vec<OwnedFd> {
        match v6 {
            true => &self.v6,
            false => &self.v4,
        }
    }

    fn of_mut(&mut self, v6: bool) -> &mut Vec<OwnedFd> {
        match v6 {
            true => &mut self.v6,
            false => &mut self.v4,
        }
    }
}

/// As many that 64 flows leave from more than 16, whatever their hashes.
const SPREAD: usize = 32;
/// Room for what some streams have under way at once: superpackets, which count for more than their
/// bytes. The kernel doubles it.
const BUFFER: i32 = 8 << 20;
/// What IPv6 demands of every link, with room for the outer headers: no way is narrower.
const SMALL: usize = 1280 - 48 + 1;
/// Any port will do for what is never sent.
const DISCARD: u16 = 9;
/// What nobody reads needs no room.
const NO_BUFFER: usize = 2048;
/// How long a full way out may hold up the queue behind it.
const PATIENCE: Duration = Duration::from_millis(50);

fn listening(local: SocketAddr, shared: bool) -> Result<OwnedFd> {
    let open = || {
        let socket = datagrams(local)?;
        // Alone on the port, unless it has several queues: a second daemon is an error.
        socket.set_reuse_port(shared)?;
        socket.bind(&local.into())?;
        Ok(socket)
    };
    open()
        .map(OwnedFd::from)
        .map_err(|why| cannot_bind(local, why))
}

fn cannot_bind(local: SocketAddr, why: std::io::Error) -> Error {
    let error = Error::new(format!("listen on UDP {local}"), why);
    match error.errno() {
        Some(Errno::ADDRINUSE) => error.with_remedy(
            "another program has the port: stop it (a flanneld that still runs?) or set Backend.Port on all nodes",
        ),
        Some(Errno::ADDRNOTAVAIL) => {
            error.with_remedy("the address is on no interface of this node")
        }
        _ => error,
    }
}

fn prepare(socket: BorrowedFd<'_>, rungs: &Rungs, notices: &Notices) -> Result<()> {
    let v6 = local_of(socket)?.is_ipv6();
    let gro = i32::from(rungs.gro);
    if sys::set_option(socket, libc::SOL_UDP, libc::UDP_GRO, gro).is_err() && rungs.gro {
        notices.give(Notice::GroRefused);
    }
    let (level, name) = match v6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
        false => (libc::IPPROTO_IP, libc::IP_RECVTOS),
    };
    sys::set_option(socket, level, name, 1)
        .map_err(|why| Error::new("ask for the congestion marks of datagrams", why))?;
    if rungs.large_buffers {
        let force = [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE];
        let ask = [libc::SO_RCVBUF, libc::SO_SNDBUF];
        for (force, ask) in force.into_iter().zip(ask) {
            if sys::set_option(socket, libc::SOL_SOCKET, force, BUFFER).is_err() {
                enlarge(socket, ask, notices);
            }
        }
    }
    Ok(())
}

/// Without the right to force it, the kernel cuts the wish to its limit and says nothing.
fn enlarge(socket: BorrowedFd<'_>, ask: i32, notices: &Notices) {
    let _ = sys::set_option(socket, libc::SOL_SOCKET, ask, BUFFER);
    let got = sys::option(socket, libc::SOL_SOCKET, ask).unwrap_or(0);
    if got < BUFFER {
        notices.give(Notice::BuffersSmall);
    }
}

fn leaving_from(
    local: IpAddr,
    listening: &OwnedFd,
    rungs: &Rungs,
    notices: &Notices,
) -> Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    if rungs.spread {
        while sockets.len() < SPREAD {
            match leaving(SocketAddr::new(local, 0), rungs) {
                Ok(socket) => sockets.push(socket),
                Err(_) => {
                    notices.give(Notice::SpreadRefused);
                    break;
                }
            }
        }
    }
    if sockets.is_empty() {
        let socket = listening.try_clone();
        sockets.push(socket.map_err(|why| Error::new("duplicate the listening socket", why))?);
    }
    Ok(sockets)
}

fn leaving(local: SocketAddr, rungs: &Rungs) -> std::io::Result<OwnedFd> {
    let socket = datagrams(local)?;
    socket.bind(&local.into())?;
    socket.set_recv_buffer_size(NO_BUFFER)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let socket = OwnedFd::from(socket);
    if rungs.large_buffers {
        let (level, force) = (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE);
        if sys::set_option(socket.as_fd(), level, force, BUFFER).is_err() {
            sys::set_option(socket.as_fd(), level, libc::SO_SNDBUF, BUFFER)?;
        }
    }
    Ok(socket)
}

fn datagrams(local: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

pub(crate) fn is_v6(socket: impl AsFd) -> bool {
    local_of(socket).is_ok_and(|local| local.is_ipv6())
}

fn local_of(socket: impl AsFd) -> Result<SocketAddr> {
    let local = rustix::net::getsockname(socket)
        .and_then(|name| SocketAddr::try_from(name).map_err(|_| Errno::AFNOSUPPORT));
    local.map_err(|why| Error::new("ask a socket for its address", why))
}
