//! A link to etcd that takes its time: every byte comes late by half a round trip, in either
//! direction; what is sent meanwhile travels beside it.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

pub(crate) struct Proxy {
    address: SocketAddr,
}

impl Proxy {
    pub(crate) fn before(server: SocketAddr, round_trip: Duration) -> Self {
        let listener = TcpListener::bind((server.ip(), 0)).expect("listen before etcd");
        let address = listener.local_addr().expect("a listener has an address");
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(server).expect("connect to etcd");
                link(&near, &far, round_trip / 2);
                link(&far, &near, round_trip / 2);
            }
        });
        Self { address }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Threads that end with the connection.
fn link(from: &TcpStream, to: &TcpStream, delay: Duration) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("share a connection");
    let (mut from, to) = (clone(from), clone(to));
    to.set_nodelay(true).expect("set an option of a connection");
    let (send, late) = channel();
    thread::spawn(move || deliver(&late, to));
    thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let due = Instant::now() + delay;
            if send.send((due, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
    });
}

fn deliver(late: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    while let Ok((due, bytes)) = late.recv() {
        sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_a_round_trip_later_and_whole() {
        const LATE: Duration = Duration::from_millis(20);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::before(server.local_addr().unwrap(), LATE);
        thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
        });
        let mut client = TcpStream::connect(proxy.address).unwrap();
        let asked = Instant::now();
        client.write_all(b"weft").unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"weft");
        assert!(asked.elapsed() >= LATE);
    }
}
