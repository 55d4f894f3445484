//! How much goes through: one TCP connection, as fast as it can.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Member};
use crate::paint;

/// Not counted: the window opens, caches get warm.
const WARM_UP: Duration = Duration::from_millis(100);
const MEASURED: Duration = Duration::from_millis(500);
pub(crate) const ROUNDS: usize = 3;
const CHUNK: usize = 256 * 1024;
const WIDTH: usize = 40;

pub(crate) struct Speed {
    what: String,
    bits_a_second: f64,
}

impl Speed {
    pub(crate) fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            bits_a_second: 0.0,
        }
    }

    pub(crate) fn measure_nodes(&mut self, cluster: &Cluster) {
        let (from, to) = ends(cluster);
        self.note(measure(
            |work| from.node.enter(work),
            |work| to.node.enter(work),
            to.node.address,
        ));
    }

    pub(crate) fn measure_pods(&mut self, cluster: &Cluster) {
        let (from, to) = ends(cluster);
        let (sender, receiver) = (&from.pods[0], &to.pods[0]);
        self.note(measure(
            |work| sender.netns.enter(work),
            |work| receiver.netns.enter(work),
            receiver.address(),
        ));
    }

    /// Who else is busy on the machine only slows it down: the best round is the truest.
    fn note(&mut self, bits_a_second: f64) {
        self.bits_a_second = self.bits_a_second.max(bits_a_second);
    }
}

pub(crate) fn show(speeds: &[Speed]) {
    let best = speeds
        .iter()
        .map(|speed| speed.bits_a_second)
        .fold(1.0, f64::max);
    for speed in speeds {
        let bar = bar(speed.bits_a_second / best);
        let gigabits = speed.bits_a_second / 1e9;
        println!(
            "    {:<28}{} {gigabits:.1} Gbit/s",
            speed.what,
            paint::good(&bar)
        );
    }
}

fn bar(share: f64) -> String {
    let filled = (1..=WIDTH)
        .filter(|n| *n as f64 <= share * WIDTH as f64 + 0.5)
        .count();
    format!("{}{}", "█".repeat(filled), " ".repeat(WIDTH - filled))
}

fn ends(cluster: &Cluster) -> (&Member, &Member) {
    (&cluster.members[0], &cluster.members[1])
}

type Work<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;

/// Sockets stay in the network they were opened in, so only opening happens there.
fn measure(
    sender: impl FnOnce(Work<'_, TcpStream>) -> TcpStream,
    receiver: impl FnOnce(Work<'_, TcpListener>) -> TcpListener,
    to: Ipv4Addr,
) -> f64 {
    let listener = receiver(Box::new(move || {
        TcpListener::bind((to, 0)).unwrap_or_else(|e| panic!("cannot listen on {to}: {e}"))
    }));
    let address = listener.local_addr().expect("the address of a listener");
    let mut stream = sender(Box::new(move || {
        TcpStream::connect(address).unwrap_or_else(|e| panic!("cannot connect to {address}: {e}"))
    }));
    let (mut sink, _) = listener.accept().expect("accept a connection");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = vec![0; CHUNK];
            let mut open = true;
            while open && !over.load(Ordering::Relaxed) {
                open = stream.write_all(&chunk).is_ok();
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
        });
        receive_for(&mut sink, WARM_UP);
        let began = Instant::now();
        let bytes = receive_for(&mut sink, MEASURED);
        let took = began.elapsed();
        over.store(true, Ordering::Relaxed);
        while sink.read(&mut vec![0; CHUNK]).is_ok_and(|n| n > 0) {}
        bytes as f64 * 8.0 / took.as_secs_f64()
    })
}

fn receive_for(from: &mut TcpStream, time: Duration) -> u64 {
    let patience = Some(Duration::from_secs(5));
    from.set_read_timeout(patience)
        .expect("set a socket's patience");
    let (mut buffer, mut total) = (vec![0; CHUNK], 0);
    let end = Instant::now() + time;
    while Instant::now() < end {
        match from.read(&mut buffer) {
            Ok(n) if n > 0 => total += n as u64,
            Ok(_) => panic!("the sender has gone"),
            Err(e) => panic!("nothing more arrives: {e}"),
        }
    }
    total
}
