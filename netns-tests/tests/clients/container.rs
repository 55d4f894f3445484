//! All there is in a container of these tests: a program that answers, asks or
//! waits. It is linked statically (see build.rs), so it has the standard library
//! and nothing else.
#![allow(clippy::print_stdout, reason = "what it prints is what it is run for")]
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> io::Result<()> {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve", port] => serve(port),
        ["ask", address] => ask(address),
        ["wait"] => loop {
            thread::park();
        },
        _ => Err(io::Error::other("serve PORT, ask ADDRESS or wait")),
    }
}

/// Tells everybody under which address they are seen.
fn serve(port: &str) -> io::Result<()> {
    let datagrams = UdpSocket::bind(format!("[::]:{port}"))?;
    thread::spawn(move || {
        while let Ok((_, peer)) = datagrams.recv_from(&mut [0; 2048]) {
            let _ = datagrams.send_to(plain(peer).to_string().as_bytes(), peer);
        }
    });
    for stream in TcpListener::bind(format!("[::]:{port}"))?.incoming() {
        let mut stream = stream?;
        let peer = stream.peer_addr()?;
        // Whoever has gone away meanwhile is not owed an answer.
        let _ = writeln!(stream, "{}", plain(peer));
    }
    Ok(())
}

/// Prints what a server tells.
fn ask(address: &str) -> io::Result<()> {
    let address = address.parse().map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    print!("{line}");
    Ok(())
}

/// An IPv4 address as such, although the socket is one for IPv6.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
