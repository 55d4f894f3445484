//! Bytes through the wire that the plugins made: a TCP stream for a moment, measured where it
//! arrives.
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use weft_netns::Netns;

use crate::Bench;
use crate::peer::{CniPeer, Pod};
use crate::report::{Bound, Report, Unit};

pub(crate) const NAME: &str = "throughput";

const ROUNDS: u16 = 24;
const MOMENT: Duration = Duration::from_millis(350);
/// Slow start and the first wake-ups are not counted.
const RUN_UP: Duration = Duration::from_millis(100);
const AT_ONCE: usize = 128 << 10;

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let weft = CniPeer::weft(&bench.world, "weft-fast");
    let go = CniPeer::go(&bench.world, "go-fast");
    let sites: Vec<_> = [&weft, &go]
        .into_iter()
        .map(|peer| Site::build(bench, peer))
        .collect();
    for number in 0..bench.rounds(ROUNDS) {
        // Both orders, in turn.
        let mut order: Vec<_> = sites.iter().collect();
        if number % 2 == 1 {
            order.reverse();
        }
        for site in order {
            for (what, from) in [("pod to pod", &site.one), ("host to pod", &site.peer.node)] {
                let rate = stream(from, &site.two, &site.address);
                report.sample(NAME, what, site.peer.name, Unit::GbitPerSecond, rate);
            }
        }
    }
    for what in ["pod to pod", "host to pod"] {
        let ratio = report.ratio(NAME, what, "weft", "go");
        report.judge(
            NAME,
            &format!("{what}, over Go's"),
            ratio,
            Bound::AtLeast(0.97),
        );
    }
}

/// A node with two pods.
struct Site<'a> {
    peer: &'a CniPeer,
    one: Netns,
    two: Netns,
    address: String,
}

impl<'a> Site<'a> {
    fn build(bench: &Bench, peer: &'a CniPeer) -> Self {
        let netns = |name: &str| bench.world.netns(&format!("{}-{name}", peer.name));
        let (one, two) = (netns("one"), netns("two"));
        let mut second = Pod::new("two", &two, 8002);
        peer.node.enter(|| {
            peer.add(&mut Pod::new("one", &one, 8001));
            peer.add(&mut second);
        });
        let address = second.address().expect("a pod has an address");
        Self {
            peer,
            one,
            two,
            address,
        }
    }
}

/// Gbit/s of payload.
fn stream(from: &Netns, to: &Netns, address: &str) -> f64 {
    let listener = to.enter(|| TcpListener::bind((address, 0)).expect("listen in the pod"));
    let port = listener
        .local_addr()
        .expect("a listener has an address")
        .port();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&listener));
        from.enter(|| send(address, port));
        receiver.join().expect("the receiver ends")
    })
}

fn send(address: &str, port: u16) {
    let mut stream = TcpStream::connect((address, port)).expect("connect to the pod");
    let chunk = vec![0; AT_ONCE];
    let end = Instant::now() + RUN_UP + MOMENT;
    while Instant::now() < end {
        stream.write_all(&chunk).expect("send");
    }
}

fn receive(listener: &TcpListener) -> f64 {
    let (mut stream, _) = listener.accept().expect("accept");
    let mut chunk = vec![0; AT_ONCE];
    let begun = Instant::now();
    let mut counted_from = None;
    let mut bytes = 0_u64;
    loop {
        let received = stream.read(&mut chunk).expect("receive");
        let now = Instant::now();
        match counted_from {
            _ if received == 0 => break,
            None if now - begun >= RUN_UP => counted_from = Some(now),
            None => {}
            Some(_) => bytes += received as u64,
        }
    }
    let seconds = counted_from.map_or(f64::NAN, |from: Instant| from.elapsed().as_secs_f64());
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let bits = bytes as f64 * 8.0;
    bits / seconds / 1e9
}
