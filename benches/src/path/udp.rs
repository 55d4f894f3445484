//! Datagrams by the second: sent as fast as one can, or at a given pace, and counted on arrival.
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt,
};

use super::{Family, Site};

/// Datagrams a system call, so that neither end is what is measured.
const BATCH: usize = 32;
/// How often a paced sender looks what is due. Short against what queues hold.
const TICK: Duration = Duration::from_micros(200);
/// What is due after a pause is sent at once, up to what was due in this time.
const CATCH_UP: Duration = Duration::from_millis(2);
/// When nothing has arrived for so long, nothing will.
const QUIET: Duration = Duration::from_millis(60);
const RECEIVE_BUFFER: usize = 8 << 20;
const LARGEST: usize = 2048;

#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Payload, in bytes.
    pub size: usize,
    /// Datagrams a second; without, as many as can be sent.
    pub rate: Option<f64>,
    pub time: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// A second.
    pub sent: f64,
    /// A second, while there was sending.
    pub received: f64,
    /// Of what was sent, those that never arrived: 0 to 1.
    pub loss: f64,
}

/// The payload of a packet of so many bytes.
pub fn payload_of(packet: usize, family: Family) -> usize {
    match family {
        Family::V4 => packet - 28,
        Family::V6 => packet - 48,
    }
}

/// From the first pod to the second.
#[track_caller]
pub fn carry(site: &Site, load: &Load) -> Outcome {
    let bind = |side: &super::Side| {
        let address = SocketAddr::new(side.pod_address(), 0);
        side.pod
            .enter(|| UdpSocket::bind(address))
            .expect("bind in a pod")
    };
    let (sender, receiver) = (bind(&site.one), bind(&site.two));
    let address = receiver.local_addr().expect("the address of a socket");
    sender.connect(address).expect("connect in a pod");
    enlarge(&receiver);
    let (count, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| receive(&receiver, &count, &over));
        let begun = Instant::now();
        let sent = send(&sender, load);
        let seconds = begun.elapsed().as_secs_f64();
        let meanwhile = count.load(Ordering::Relaxed);
        let in_all = wait_for_the_last(&count);
        over.store(true, Ordering::Relaxed);
        Outcome {
            sent: float(sent) / seconds,
            received: float(meanwhile) / seconds,
            loss: 1.0 - float(in_all) / float(sent.max(1)),
        }
    })
}

/// How many were sent.
fn send(socket: &UdpSocket, load: &Load) -> u64 {
    let pool = [vec![0x5a; load.size]];
    let mut batch = Batch::of(&pool);
    let begun = Instant::now();
    let mut sent = 0;
    let Some(rate) = load.rate else {
        while begun.elapsed() < load.time {
            sent += batch.send_all(socket);
        }
        return sent;
    };
    // What could not be sent in time and is forgiven.
    let mut forgiven = 0.0;
    let mut next = begun;
    loop {
        let elapsed = begun.elapsed();
        if elapsed >= load.time {
            return sent;
        }
        let mut due = rate * elapsed.as_secs_f64() - forgiven - float(sent);
        let most = (rate * CATCH_UP.as_secs_f64()).max(1.0);
        if due > most {
            forgiven += due - most;
            due = most;
        }
        while due >= 1.0 {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small positive number"
            )]
            let now = batch.send(socket, (due as usize).min(BATCH));
            sent += now;
            due -= float(now.max(1));
        }
        next += TICK;
        let ahead = next.saturating_duration_since(Instant::now());
        if ahead.is_zero() {
            next = Instant::now();
        } else {
            std::thread::sleep(ahead);
        }
    }
}

/// What goes out in one system call: the next of some datagrams, which come round again.
pub(crate) struct Batch<'a> {
    pool: &'a [Vec<u8>],
    next: usize,
    headers: MultiHeaders<SockaddrStorage>,
}

impl<'a> Batch<'a> {
    pub(crate) fn of(pool: &'a [Vec<u8>]) -> Self {
        Self {
            pool,
            next: 0,
            headers: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// A whole batch; how many were sent.
    pub(crate) fn send_all(&mut self, socket: &UdpSocket) -> u64 {
        self.send(socket, BATCH)
    }

    fn send(&mut self, socket: &UdpSocket, count: usize) -> u64 {
        let datagram = |at: usize| &self.pool[(self.next + at) % self.pool.len()];
        let slices: [_; BATCH] = std::array::from_fn(|at| [IoSlice::new(datagram(at))]);
        self.next = (self.next + count) % self.pool.len();
        let (fd, headers, nowhere) = (socket.as_raw_fd(), &mut self.headers, [None; BATCH]);
        let slices = slices.iter().take(count);
        match sendmmsg(fd, headers, slices, nowhere, [], MsgFlags::empty()) {
            Ok(sent) => sent.count() as u64,
            // Nobody listens there, or a queue is full.
            Err(Errno::ECONNREFUSED | Errno::ENOBUFS | Errno::EAGAIN) => 0,
            Err(e) => panic!("cannot send datagrams: {e}"),
        }
    }
}

fn receive(socket: &UdpSocket, count: &AtomicU64, over: &AtomicBool) {
    socket
        .set_read_timeout(Some(QUIET / 2))
        .expect("set a timeout");
    let mut room = vec![[0_u8; LARGEST]; BATCH];
    let mut headers: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BATCH, None);
    while !over.load(Ordering::Relaxed) {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = room
            .iter_mut()
            .map(|room| [IoSliceMut::new(room)])
            .collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None);
        if let Ok(received) = received {
            count.fetch_add(received.count() as u64, Ordering::Relaxed);
        }
    }
}

fn wait_for_the_last(count: &AtomicU64) -> u64 {
    let mut before = count.load(Ordering::Relaxed);
    loop {
        std::thread::sleep(QUIET);
        let now = count.load(Ordering::Relaxed);
        if now == before {
            return now;
        }
        before = now;
    }
}

/// Beyond the system's limit where that is allowed.
fn enlarge(socket: &UdpSocket) {
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}
