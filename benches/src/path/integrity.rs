//! Files both ways at once over a path that loses packets and disorders them: what arrives is what
//! was sent.
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use weft_netns::World;

use super::contestant::ours;
use super::random::Random;
use super::relay::Relay;
use super::udp::float;
use super::{Contestant, Daemon, Family, Setting, Side, Site, Wire};
use crate::report::{Bound, Report, Unit};

/// Of 1000 packets, each way.
const LOST: u32 = 3;
const AT_ONCE: usize = 64 << 10;
/// Without a byte for so long, a transfer is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether both files are there.
const PAUSE: Duration = Duration::from_millis(10);

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Transfers {
    pub time: Duration,
    /// By the ruleset.
    pub lost_packets: u64,
    /// By the relay.
    pub disordered_packets: u64,
}

/// Two nodes with a router between them that loses packets and a relay that disorders them.
#[derive(Debug)]
pub struct RoughPath {
    pub site: Site,
    relay: Relay,
}

/// Both nodes' engines, while packets flow.
#[derive(Debug)]
pub struct Engines<'a> {
    one: &'a Side,
    two: &'a Side,
    daemons: &'a mut Vec<Daemon>,
}

impl RoughPath {
    #[track_caller]
    pub fn build(world: &World, tag: &str, contestant: Contestant, inner: Family) -> Self {
        let outer = Family::V4;
        let wire = Wire::Routed;
        let site = Site::build(world, tag, contestant, Setting { wire, inner, outer });
        let router = site.router.as_ref().expect("a routed wire has a router");
        // Before the relay and not behind it as well: a packet passes here twice.
        router.exec(&format!(
            "nft 'table inet rough {{
                counter lost {{ }}
                chain forward {{
                    type filter hook forward priority 0
                    iifname \"relay0\" numgen random mod 1000 < {LOST} counter name lost drop
                }}
            }}'"
        ));
        let relay = Relay::start(router, 1).expect("start the relay");
        Self { site, relay }
    }

    /// Sends `bytes` each way. A checksum that differs fails.
    #[track_caller]
    pub fn carry_files(&mut self, bytes: u64) -> Transfers {
        self.carry_files_while(bytes, |_| std::thread::sleep(PAUSE))
    }

    /// The same while something is done to the engines, again and again.
    #[track_caller]
    pub fn carry_files_while(
        &mut self,
        bytes: u64,
        mut disturb: impl FnMut(&mut Engines<'_>),
    ) -> Transfers {
        let begun = Instant::now();
        let (one, two) = (&self.site.one, &self.site.two);
        let daemons = &mut self.site.daemons;
        let mut engines = Engines { one, two, daemons };
        std::thread::scope(|scope| {
            let ways = [(one, two, 1), (two, one, 2)];
            let ways =
                ways.map(|(from, to, seed)| scope.spawn(move || transfer(from, to, bytes, seed)));
            while !ways.iter().all(|way| way.is_finished()) {
                disturb(&mut engines);
            }
            for way in ways {
                way.join().expect("a file arrives whole");
            }
        });
        self.site.daemons.iter().for_each(Daemon::assert_alive);
        Transfers {
            time: begun.elapsed(),
            lost_packets: self.lost_packets(),
            disordered_packets: self.relay.disordered(),
        }
    }

    /// Kills the engine of the second node and starts it anew, as it is told.
    #[track_caller]
    pub fn restart(&mut self, options: &[&str]) {
        let Site {
            one, two, daemons, ..
        } = &mut self.site;
        Engines { one, two, daemons }.restart(options);
    }

    fn lost_packets(&self) -> u64 {
        let router = self.site.router.as_ref().expect("a router");
        let counter = router.exec("nft list counter inet rough lost");
        let mut words = counter
            .split_whitespace()
            .skip_while(|word| *word != "packets");
        words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    }
}

impl Engines<'_> {
    /// Kills the one of the second node and starts it anew, on the device that it left.
    #[track_caller]
    pub fn restart(&mut self, options: &[&str]) {
        let mtu = Contestant::Ours("fast").mtu(self.two.setting.outer);
        drop(self.daemons.pop());
        self.daemons.push(ours([self.two, self.one], mtu, options));
    }
}

#[track_caller]
fn transfer(from: &Side, to: &Side, bytes: u64, seed: u64) {
    let address = SocketAddr::new(to.pod_address(), 0);
    let listener = to.pod.enter(|| TcpListener::bind(address));
    let listener = listener.expect("listen in a pod");
    let address = listener.local_addr().expect("the address of a listener");
    let stream = from.pod.enter(|| TcpStream::connect(address));
    let stream = stream.expect("connect to a pod");
    let (sent, received) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&listener));
        let sent = send(stream, bytes, seed);
        (sent, receiver.join().expect("the receiver ends"))
    });
    assert_eq!(sent, received, "what arrived is not what was sent");
}

/// The length and the SHA-256 of what was sent.
fn send(mut stream: TcpStream, bytes: u64, seed: u64) -> (u64, Vec<u8>) {
    stream
        .set_write_timeout(Some(PATIENCE))
        .expect("set a timeout");
    let mut random = Random::new(seed);
    let mut chunk = vec![0; AT_ONCE];
    let mut sum = Sha256::new();
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).map_or(AT_ONCE, |left| left.min(AT_ONCE));
        random.fill(&mut chunk[..length]);
        sum.update(&chunk[..length]);
        stream.write_all(&chunk[..length]).expect("send a file");
        left -= length as u64;
    }
    stream.shutdown(Shutdown::Write).expect("end a file");
    // The other side closes when it has everything.
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("set a timeout");
    let end = stream.read(&mut chunk).expect("wait for the end");
    assert_eq!(end, 0, "the receiver says nothing");
    (bytes, sum.finalize().to_vec())
}

fn receive(listener: &TcpListener) -> (u64, Vec<u8>) {
    let (mut stream, _) = listener.accept().expect("accept");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("set a timeout");
    let mut chunk = vec![0; AT_ONCE];
    let mut sum = Sha256::new();
    let mut bytes = 0;
    loop {
        let length = stream.read(&mut chunk).expect("receive a file");
        if length == 0 {
            return (bytes, sum.finalize().to_vec());
        }
        sum.update(&chunk[..length]);
        bytes += length as u64;
    }
}

/// For whoever of `contestants` is ours or, to compare, the kernel's.
pub(super) fn row(
    world: &World,
    row: &'static str,
    contestants: &[Contestant],
    bytes: u64,
    report: &mut Report,
) {
    for contestant in contestants {
        let who = contestant.name();
        for inner in [Family::V4, Family::V6] {
            let setting = Setting {
                wire: Wire::Routed,
                inner,
                outer: Family::V4,
            };
            if !contestant.carries(setting) || *contestant == Contestant::HostGw {
                continue;
            }
            let tag = format!("{who}-{inner:?}");
            let mut path = RoughPath::build(world, &tag, *contestant, inner);
            let transfers = path.carry_files(bytes);
            let gbits = float(bytes) * 2.0 * 8.0 / 1e9;
            let mut sample = |what: &str, unit, value| {
                report.sample(row, &format!("{inner:?} {what}"), who, unit, value);
            };
            sample(
                "both ways",
                Unit::GbitPerSecond,
                gbits / transfers.time.as_secs_f64(),
            );
            sample("packets lost", Unit::Count, float(transfers.lost_packets));
            sample(
                "packets disordered",
                Unit::Count,
                float(transfers.disordered_packets),
            );
            if let Contestant::Ours(_) = contestant {
                let roughness = transfers.lost_packets;
                let claim = format!(
                    "{} MB both ways whole by {who}, {inner:?}; packets lost",
                    bytes >> 20
                );
                report.judge(row, &claim, float(roughness), Bound::AtLeast(1.0));
            }
        }
    }
}
