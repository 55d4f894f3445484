//! Round trips: how long one waits for an answer when nothing else goes on.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Side, Site};

const MESSAGE: usize = 64;
/// What has not come back by then is lost.
const LOST: Duration = Duration::from_millis(200);

/// In microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Trips {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub count: usize,
}

/// One datagram there and one back, over and over.
#[track_caller]
pub fn over_udp(site: &Site, time: Duration) -> Trips {
    let bind = |side: &Side| {
        let address = SocketAddr::new(side.pod_address(), 0);
        let socket = side.pod.enter(|| UdpSocket::bind(address));
        let socket = socket.expect("bind in a pod");
        socket.set_read_timeout(Some(LOST)).expect("set a timeout");
        socket
    };
    let (client, server) = (bind(&site.one), bind(&site.two));
    let address = server.local_addr().expect("the address of a socket");
    client.connect(address).expect("connect in a pod");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| echo(&server, &over));
        let trips = Trips::among(ask_by_udp(&client, time));
        over.store(true, Ordering::Relaxed);
        trips
    })
}

/// The same in one TCP connection, where every answer carries an acknowledgement.
#[track_caller]
pub fn over_tcp(site: &Site, time: Duration) -> Trips {
    let address = SocketAddr::new(site.two.pod_address(), 0);
    let listener = site.two.pod.enter(|| TcpListener::bind(address));
    let listener = listener.expect("listen in a pod");
    let address = listener.local_addr().expect("the address of a listener");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.set_nodelay(true).expect("send at once");
            let mut message = [0; MESSAGE];
            while stream.read_exact(&mut message).is_ok() {
                stream.write_all(&message).expect("answer");
            }
        });
        let stream = site.one.pod.enter(|| TcpStream::connect(address));
        Trips::among(ask_by_tcp(stream.expect("connect to a pod"), time))
    })
}

fn echo(server: &UdpSocket, over: &AtomicBool) {
    let mut message = [0; MESSAGE];
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, from)) = server.recv_from(&mut message) {
            let _ = server.send_to(&message[..length], from);
        }
    }
}

fn ask_by_udp(client: &UdpSocket, time: Duration) -> Vec<Duration> {
    let mut trips = Vec::new();
    let mut message = [0; MESSAGE];
    let end = Instant::now() + time;
    for number in 0_u64.. {
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        message[..8].copy_from_slice(&number.to_ne_bytes());
        client.send(&message).expect("send a question");
        // An answer to an earlier question may come late.
        while let Ok(length) = client.recv(&mut message) {
            if length == MESSAGE && message[..8] == number.to_ne_bytes() {
                trips.push(begun.elapsed());
                break;
            }
        }
    }
    trips
}

fn ask_by_tcp(mut stream: TcpStream, time: Duration) -> Vec<Duration> {
    stream.set_nodelay(true).expect("send at once");
    let mut trips = Vec::new();
    let mut message = [0; MESSAGE];
    let end = Instant::now() + time;
    while Instant::now() < end {
        let begun = Instant::now();
        stream.write_all(&message).expect("send a question");
        stream.read_exact(&mut message).expect("read an answer");
        trips.push(begun.elapsed());
    }
    trips
}

impl Trips {
    fn among(mut trips: Vec<Duration>) -> Self {
        assert!(!trips.is_empty(), "no question was answered");
        trips.sort_unstable();
        let last = trips.len() - 1;
        let at = |per_mille: usize| trips[last * per_mille / 1000].as_secs_f64() * 1e6;
        Self {
            p50: at(500),
            p99: at(990),
            p999: at(999),
            count: trips.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_trip_is_the_one_in_the_middle() {
        let trips = (1..=1001).rev().map(Duration::from_micros).collect();
        let trips = Trips::among(trips);
        assert!((trips.p50 - 501.0).abs() < 1e-6, "{trips:?}");
        assert!((trips.p99 - 991.0).abs() < 1e-6, "{trips:?}");
        assert!((trips.p999 - 1000.0).abs() < 1e-6, "{trips:?}");
    }
}
