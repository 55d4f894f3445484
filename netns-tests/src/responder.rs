//! Somebody who answers, and somebody who asks.
//!
//! A socket belongs to the namespace it was opened in, so both are used from
//! within: `pod.enter(|| TcpResponder::bind("0.0.0.0:80"))` and
//! `client.enter(|| ask_tcp("192.0.2.1:8080"))`. The answer is the address the
//! asker was seen under, which shows masquerading.
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Long enough for a busy machine; what is filtered is waited for this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tells everybody who connects under which address they are seen, then echoes.
#[derive(Debug)]
pub struct TcpResponder {
    address: SocketAddr,
    _serving: Serving,
}

impl TcpResponder {
    #[track_caller]
    pub fn bind(address: &str) -> Self {
        let listener = TcpListener::bind(address)
            .unwrap_or_else(|e| panic!("cannot listen on tcp {address}: {e}"));
        let address = listener.local_addr().expect("the address of a listener");
        let serving = Serving::start(move |stop| {
            while readable(listener.as_fd(), stop) {
                if let Ok((stream, peer)) = listener.accept() {
                    thread::spawn(move || greet_and_echo(stream, peer));
                }
            }
        });
        Self {
            address,
            _serving: serving,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Tells every sender of a datagram under which address they are seen.
#[derive(Debug)]
pub struct UdpResponder {
    address: SocketAddr,
    _serving: Serving,
}

impl UdpResponder {
    #[track_caller]
    pub fn bind(address: &str) -> Self {
        let socket =
            UdpSocket::bind(address).unwrap_or_else(|e| panic!("cannot bind udp {address}: {e}"));
        let address = socket.local_addr().expect("the address of a socket");
        let serving = Serving::start(move |stop| {
            while readable(socket.as_fd(), stop) {
                if let Ok((_, peer)) = socket.recv_from(&mut [0; 2048]) {
                    let _ = socket.send_to(peer.to_string().as_bytes(), peer);
                }
            }
        });
        Self {
            address,
            _serving: serving,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Asks a [`TcpResponder`]; the address it saw us under.
pub fn ask_tcp(address: &str) -> io::Result<SocketAddr> {
    let stream = TcpStream::connect_timeout(&parse(address)?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    parse(line.trim_end())
}

/// Asks a [`UdpResponder`]; the address it saw us under. An answer from any
/// other address than the one asked does not count.
pub fn ask_udp(address: &str) -> io::Result<SocketAddr> {
    let address = parse(address)?;
    let any = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"?")?;
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer[..length]))
}

fn greet_and_echo(mut stream: TcpStream, peer: SocketAddr) {
    // An asker who has gone away is no failure of the responder.
    let _ = stream.write_all(format!("{peer}\n").as_bytes());
    if let Ok(mut back) = stream.try_clone() {
        let _ = io::copy(&mut stream, &mut back);
    }
}

fn parse(text: &str) -> io::Result<SocketAddr> {
    text.parse()
        .map_err(|e| io::Error::other(format!("{text:?}: {e}")))
}

/// A thread that serves until this is dropped.
#[derive(Debug)]
struct Serving {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn start(serve: impl FnOnce(BorrowedFd<'_>) + Send + 'static) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let thread = thread::spawn(move || serve(theirs.as_fd()));
        Self {
            stop: Some(ours),
            thread: Some(thread),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Its closing is what the thread is waiting for.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for something to read; false when told to stop.
fn readable(socket: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> bool {
    loop {
        let mut both = [
            PollFd::new(socket, PollFlags::POLLIN),
            PollFd::new(stop, PollFlags::POLLIN),
        ];
        if poll(&mut both, PollTimeout::NONE).is_err() {
            continue;
        }
        if both[1].any().unwrap_or(true) {
            return false;
        }
        if both[0].any().unwrap_or(false) {
            return true;
        }
    }
}
