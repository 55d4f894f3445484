//! Ten thousand datagrams a second from one pod to another, of which every lost one is counted.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use weft_netns::wait_until;

use crate::harness::{LIMIT, Pod};

const A_SECOND: u64 = 10_000;
/// Who was kept from sending catches up in bursts that no queue on the way is too short for.
const BURST: u64 = 50;
/// What has not come by then is lost. Nothing on the way holds packets for so long.
const LATEST: Duration = Duration::from_secs(2);
const PORT: u16 = 7777;
/// Of a machine that does other things for a while: a datagram takes about 1 KB.
const QUEUE: usize = 64 * 1024 * 1024;

pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sending: JoinHandle<u64>,
    receiving: JoinHandle<BTreeSet<u64>>,
    begun: Instant,
}

impl Flood {
    /// In every family both have.
    pub(crate) fn start_in_each(from: &Pod, to: &Pod) -> Vec<Self> {
        let addresses = to.addresses.iter();
        addresses
            .map(|address| Self::start_to(from, to, *address))
            .collect()
    }

    pub(crate) fn start(from: &Pod, to: &Pod) -> Self {
        Self::start_to(from, to, to.ip())
    }

    fn start_to(from: &Pod, to: &Pod, address: IpAddr) -> Self {
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let sink = to.netns.enter(|| UdpSocket::bind((address, PORT)).unwrap());
        // Without permission it is as long as it is.
        let _ = set_socket_recv_buffer_size_force(&sink, QUEUE);
        sink.set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let source = from.netns.enter(|| UdpSocket::bind((any, 0)).unwrap());
        source.connect(SocketAddr::new(address, PORT)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let flood = Self {
            stop: Arc::clone(&stop),
            arrived: Arc::clone(&arrived),
            sending: {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || send(&source, &stop))
            },
            receiving: std::thread::spawn(move || receive(&sink, &stop, &arrived)),
            begun: Instant::now(),
        };
        flood.flows_on();
        flood
    }

    /// Waits for datagrams of this moment.
    #[track_caller]
    pub(crate) fn flows_on(&self) {
        let before = self.arrived.load(Ordering::Relaxed);
        wait_until("datagrams arrive", LIMIT, || {
            self.arrived.load(Ordering::Relaxed) > before + 100
        });
    }

    /// Ends all of them; not one may be missing.
    #[track_caller]
    pub(crate) fn all_end_whole(floods: impl IntoIterator<Item = Self>) {
        let ending = floods.into_iter().map(|flood| {
            flood.stop.store(true, Ordering::Relaxed);
            (flood.begun.elapsed(), flood)
        });
        let ending: Vec<_> = ending.collect();
        for (took, flood) in ending {
            flood.loses_none(took);
        }
    }

    #[track_caller]
    fn loses_none(self, took: Duration) {
        let sent = self.sending.join().unwrap();
        let lost = self.receiving.join().unwrap();
        let lost: Vec<_> = lost.into_iter().filter(|number| *number < sent).collect();
        let rate = sent as f64 / took.as_secs_f64();
        println!(
            "{} of {sent} datagrams lost, {rate:.0} a second",
            lost.len()
        );
        assert!(
            lost.is_empty(),
            "{} of {sent} were lost: {:?}",
            lost.len(),
            &lost[..lost.len().min(50)]
        );
    }
}

/// How many.
fn send(source: &UdpSocket, stop: &AtomicBool) -> u64 {
    let begun = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let elapsed = u64::try_from(begun.elapsed().as_micros()).unwrap();
        let due = elapsed * A_SECOND / 1_000_000;
        for _ in 0..due.saturating_sub(sent).min(BURST) {
            let mut datagram = [0; 64];
            datagram[..8].copy_from_slice(&u64::to_be_bytes(sent));
            // A refusal is a loss like another: the number never arrives.
            let _ = source.send(&datagram);
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// The numbers that never came, up to the last that could have been sent.
fn receive(sink: &UdpSocket, stop: &AtomicBool, arrived: &AtomicU64) -> BTreeSet<u64> {
    let mut missing = BTreeSet::new();
    let mut next = 0;
    let mut quiet_since = Instant::now();
    let mut datagram = [0; 64];
    while !stop.load(Ordering::Relaxed) || quiet_since.elapsed() < LATEST {
        if sink.recv(&mut datagram).is_err() {
            continue;
        }
        quiet_since = Instant::now();
        let number = u64::from_be_bytes(datagram[..8].try_into().unwrap());
        missing.extend(next..number);
        missing.remove(&number);
        next = next.max(number + 1);
        arrived.fetch_add(1, Ordering::Relaxed);
    }
    // Of what came last, only the sender knows how much it was.
    missing.extend(next..next + A_SECOND);
    missing
}
