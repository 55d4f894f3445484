//! Numbered packets from one pod to another, ten thousand a second, of which every lost one is
//! counted.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_netns::wait_until;

use crate::harness::{LIMIT, Pod};

const INTERVAL: Duration = Duration::from_micros(100);
/// A receiver that is kept waiting loses nothing of a second's packets.
const BUFFER: usize = 16 << 20;

pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sending: JoinHandle<u64>,
    receiving: JoinHandle<Vec<Arrival>>,
    from: UdpSocket,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) number: u64,
    pub(crate) at: Instant,
}

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) sent: u64,
    pub(crate) arrivals: Vec<Arrival>,
}

impl Stream {
    pub(crate) fn start(from: &Pod, to: &Pod) -> Self {
        Self::start_every(INTERVAL, from, to)
    }

    /// For whom ten thousand a second are too many.
    pub(crate) fn start_every(interval: Duration, from: &Pod, to: &Pod) -> Self {
        from.until_reaches(to);
        let bind = |pod: &Pod| {
            let address = SocketAddr::new(pod.ip(), 0);
            pod.netns.enter(|| UdpSocket::bind(address).unwrap())
        };
        let (from, to) = (bind(from), bind(to));
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&to, BUFFER)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&to, BUFFER))
            .unwrap();
        to.set_read_timeout(Some(LIMIT)).unwrap();
        from.connect(to.local_addr().unwrap()).unwrap();
        let (stop, received) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let sending = {
            let (stop, from) = (Arc::clone(&stop), from.try_clone().unwrap());
            std::thread::spawn(move || send(&from, interval, &stop))
        };
        let receiving = {
            let received = Arc::clone(&received);
            std::thread::spawn(move || receive(&to, &received))
        };
        let stream = Self {
            stop,
            received,
            sending,
            receiving,
            from,
        };
        stream.sees_more();
        stream
    }

    /// Waits until so many have come as would in a hundredth of a second.
    #[track_caller]
    pub(crate) fn sees_more(&self) {
        let before = self.received.load(Ordering::Relaxed);
        wait_until("packets arrive", LIMIT, || {
            self.received.load(Ordering::Relaxed) > before + 100
        });
    }

    pub(crate) fn end(self) -> Flow {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sending.join().unwrap();
        // The end is told until it is heard, for it could be lost as well.
        while !self.receiving.is_finished() {
            let _ = self.from.send(&END);
            std::thread::sleep(Duration::from_millis(1));
        }
        Flow {
            sent,
            arrivals: self.receiving.join().unwrap(),
        }
    }
}

impl Flow {
    pub(crate) fn lost(&self) -> u64 {
        self.sent - self.arrivals.len() as u64
    }

    /// How many overtook another.
    pub(crate) fn out_of_order(&self) -> usize {
        let pairs = self.arrivals.windows(2);
        pairs.filter(|pair| pair[1].number < pair[0].number).count()
    }

    /// From a moment to the first packet that arrives after it.
    pub(crate) fn gap_after(&self, then: Instant) -> Duration {
        let next = self.arrivals.iter().find(|arrival| arrival.at > then);
        next.expect("a packet after it").at - then
    }
}

const END: [u8; 3] = [0xff; 3];

fn send(socket: &UdpSocket, interval: Duration, stop: &AtomicBool) -> u64 {
    let start = Instant::now();
    let mut sent = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        if start.elapsed() >= interval * u32::try_from(sent).unwrap() {
            socket.send(&sent.to_le_bytes()).unwrap();
            sent += 1;
        } else {
            std::thread::sleep(interval);
        }
    }
    sent
}

fn receive(socket: &UdpSocket, received: &AtomicU64) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    let mut buffer = [0; 64];
    loop {
        let length = socket.recv(&mut buffer).unwrap();
        let Ok(number) = <[u8; 8]>::try_from(&buffer[..length]) else {
            return arrivals;
        };
        let (number, at) = (u64::from_le_bytes(number), Instant::now());
        arrivals.push(Arrival { number, at });
        received.fetch_add(1, Ordering::Relaxed);
    }
}
