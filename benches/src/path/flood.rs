//! TCP between pods while somebody sends random datagrams to the node's port, as fast as they can.
//! To tell what harms from what merely keeps the machine busy, the same flood hits in turn an
//! address that nobody serves.
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weft_netns::{Netns, World, wait_until_answers};

use super::contestant::PORT;
use super::random::Random;
use super::udp::{Batch, float};
use super::{Contestant, Family, Setting, Site, Wire, stream};
use crate::report::{Bound, Report, Unit};

/// Different datagrams; they come round again.
const POOL: usize = 4096;
const LARGEST: u64 = 1472;
/// The node drops what is sent there, unseen.
const NOBODY: &str = "192.0.2.1";

/// Who floods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An address of which the node knows nothing.
    Stranger,
    /// The peer's own address: what comes from there is looked at more closely.
    Peer,
}

/// What came of it. Of every pair, the second is the flood that hits nobody.
#[derive(Clone, Debug, Default)]
pub struct Flooded {
    /// Of the TCP stream, in Gbit/s.
    pub gbit_per_second: Vec<(f64, f64)>,
    /// Of the flood, in datagrams a second.
    pub flood: Vec<(f64, f64)>,
    /// What the flooded node's program has in RAM, before and after, in KiB.
    pub memory: (u64, u64),
}

/// Floods the second node in turns of `seconds` for `time` in all.
#[track_caller]
pub fn endure(site: &Site, attacker: &Netns, time: Duration, seconds: u16) -> Flooded {
    let pool = datagrams(1);
    let port = site.two.underlay().to_string();
    let mut flooded = Flooded::default();
    let memory = || site.daemons.last().map_or(0, |daemon| daemon.memory_kib());
    let turn = |target: &str| under_flood(site, attacker, target, &pool, seconds);
    // The first turn fills what is filled once: it is not compared.
    turn(&port);
    flooded.memory.0 = memory();
    let begun = Instant::now();
    while flooded.flood.is_empty() || begun.elapsed() < time {
        let (hit, missed) = (turn(&port), turn(NOBODY));
        flooded.gbit_per_second.push((hit.0, missed.0));
        flooded.flood.push((hit.1, missed.1));
        site.daemons.iter().for_each(|daemon| daemon.assert_alive());
    }
    flooded.memory.1 = memory();
    flooded
}

/// The attacker's namespace, with a way to the second node and past it to nobody.
#[track_caller]
pub fn attacker(world: &World, tag: &str, site: &Site, source: Source) -> Netns {
    let node = &site.two.node;
    node.exec(&format!("ip route replace blackhole {NOBODY}/32"));
    let attacker = world.netns(&format!("{tag}-attacker"));
    let wire = format!(
        "ip link add attack type veth peer name eth0 netns {}
         ip link set attack up
         ip addr add 192.168.200.2/24 dev attack",
        attacker.path().display()
    );
    node.exec(&wire);
    attacker.exec(
        "ip link set lo up
         ip link set eth0 up
         ip addr add 192.168.200.1/24 dev eth0
         ip route add default via 192.168.200.2",
    );
    if source == Source::Peer {
        // It sends under the peer's address, which leads elsewhere: nothing comes back.
        let peer = site.one.underlay();
        attacker.exec(&format!(
            "ip addr add {peer}/32 dev lo
             ip route replace default via 192.168.200.2 src {peer}"
        ));
    } else {
        attacker.enter(|| wait_until_answers(site.two.underlay()));
    }
    attacker
}

/// TCP's Gbit/s, and the flood's datagrams a second.
fn under_flood(
    site: &Site,
    attacker: &Netns,
    target: &str,
    pool: &[Vec<u8>],
    seconds: u16,
) -> (f64, f64) {
    let socket = attacker.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((target, PORT))?;
        Ok::<_, std::io::Error>(socket)
    });
    let socket = socket.expect("open the attacker's socket");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flooder = scope.spawn(|| {
            let mut batch = Batch::of(pool);
            let begun = Instant::now();
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                sent += batch.send_all(&socket);
            }
            float(sent) / begun.elapsed().as_secs_f64()
        });
        // Without this the flooder would go on for ever if the measurement broke off.
        let stopped = StopAtEnd(&over);
        let gbit_per_second = stream(site, 1, seconds).gbit_per_second;
        drop(stopped);
        (gbit_per_second, flooder.join().expect("the flooder ends"))
    })
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Of all lengths. Half of them begin as an IPv4 or IPv6 packet does.
fn datagrams(seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    (0..POOL)
        .map(|number| {
            let length = usize::try_from(random.below(LARGEST + 1)).unwrap_or(0);
            let mut bytes = vec![0; length];
            random.fill(&mut bytes);
            if let (Some(first), Some(version)) = (bytes.first_mut(), [0x45, 0x60].get(number % 4))
            {
                *first = *version;
            }
            bytes
        })
        .collect()
}

pub(super) fn row(
    world: &World,
    row: &'static str,
    contestants: &[Contestant],
    time: Duration,
    report: &mut Report,
) {
    let setting = Setting {
        wire: Wire::Virtual,
        inner: Family::V4,
        outer: Family::V4,
    };
    let of_interest = |who: &&Contestant| matches!(who, Contestant::Ours(_) | Contestant::Naive);
    for contestant in contestants.iter().filter(of_interest) {
        for source in [Source::Stranger, Source::Peer] {
            let tag = format!("flood-{}-{source:?}", contestant.name());
            let site = Site::build(world, &tag, *contestant, setting);
            let attacker = attacker(world, &tag, &site, source);
            let seconds = if time < Duration::from_secs(10) { 1 } else { 3 };
            let flooded = endure(&site, &attacker, time, seconds);
            tell(row, *contestant, source, &flooded, report);
        }
    }
}

fn tell(
    row: &'static str,
    contestant: Contestant,
    source: Source,
    flooded: &Flooded,
    report: &mut Report,
) {
    let who = contestant.name();
    let name = format!("{source:?}").to_lowercase();
    let mut sample = |what: &str, unit, value| {
        report.sample(row, &format!("{name}: {what}"), who, unit, value);
    };
    for (hit, missed) in &flooded.gbit_per_second {
        sample("TCP, port hit", Unit::GbitPerSecond, *hit);
        sample("TCP, nobody hit", Unit::GbitPerSecond, *missed);
    }
    for (hit, missed) in &flooded.flood {
        sample("sent to port", Unit::PerSecond, *hit);
        sample("sent to nobody", Unit::PerSecond, *missed);
    }
    let (before, after) = flooded.memory;
    sample("memory before", Unit::Kib, float(before));
    sample("memory after", Unit::Kib, float(after));
    if let Contestant::Ours(_) = contestant {
        let median = |what: &str| report.median(row, &format!("{name}: {what}"), who);
        let kept = median("TCP, port hit") / median("TCP, nobody hit");
        let claim = format!("TCP by {who} while a {name} floods, of nobody's");
        report.judge(row, &claim, kept, Bound::AtLeast(0.8));
        let claim = format!("memory grown by, KiB, {who}, {name}");
        let grown = float(after) - float(before);
        report.judge(row, &claim, grown, Bound::AtMost(1024.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flood_has_packets_of_all_kinds() {
        let pool = datagrams(7);
        let begins = |byte| pool.iter().filter(|d| d.first() == Some(&byte)).count();
        assert!(begins(0x45) > POOL / 5 && begins(0x60) > POOL / 5);
        assert!(begins(0x45) + begins(0x60) < POOL * 3 / 5);
        assert!(pool.iter().any(|d| d.len() < 20) && pool.iter().any(|d| d.len() > 1400));
    }
}
