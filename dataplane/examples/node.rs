//! A node in one line, for benches and for trying things out:
//! `node --tun NAME --address A/32 --network NET --local OUTER_IP --port P --own SUBNET
//! [--peer SUBNET=OUTER_IP]... [--rung fast|no-uso|no-gso|plain] [--queues N] [--mtu N]
//! [--linger MICROSECONDS] [--churn MILLISECONDS]`.
//! Prints `ready` when packets flow. With `--until-eof` it ends with its input, and prints what it
//! has counted. With `--churn` a thousand other peers come and go, over and over.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use ipnetwork::IpNetwork;
use weft_dataplane::{Config, Engine, Notices, Peer, PeerTable, Rungs, Sockets, Stats, Tun};

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    let notices = Notices::new(|notice| eprintln!("node: {notice}"));
    let tun = Tun::open(&options.tun, options.queues, &options.rungs, &notices)?;
    let sockets = Sockets::open(
        &options.locals,
        options.port,
        options.queues,
        &options.rungs,
        &notices,
    )?;
    options.configure()?;
    let config = Config {
        device_addresses: options.addresses.iter().map(IpNetwork::ip).collect(),
        rungs: options.rungs,
        notices,
        linger: options.linger,
    };
    let engine = Engine::start(config, tun, sockets, options.table(&[]))?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    if options.until_eof {
        std::io::stdin().read_to_end(&mut Vec::new())?;
        report(&engine.stats());
        return Ok(());
    }
    let Some(interval) = options.churn else {
        loop {
            std::thread::park();
        }
    };
    let others: Vec<Peer> = (0..OTHERS).map(other).collect();
    for peers in [&others[..], &[]].into_iter().cycle() {
        std::thread::sleep(interval);
        engine.swap(options.table(peers));
    }
    Ok(())
}

const OTHERS: u16 = 1000;

/// A peer that nobody has heard of: in networks kept for benchmarks.
fn other(number: u16) -> Peer {
    let [high, low] = number.to_be_bytes();
    let subnet = Ipv4Addr::new(100, 64 + high, low, 0);
    Peer {
        subnets: IpNetwork::new(subnet.into(), 24).into_iter().collect(),
        address: Ipv4Addr::new(198, 18, high, low).into(),
        also_from: Vec::new(),
        carries_ecn: true,
    }
}

fn report(stats: &Stats) {
    for (name, direction) in [("sent", &stats.sent), ("received", &stats.received)] {
        let (packets, bytes) = (direction.packets, direction.bytes);
        let batches = direction.batches;
        eprintln!("{name}: {packets} packets, {bytes} bytes, batches {batches:?}");
        for (why, count) in direction.drops() {
            eprintln!("{name}: dropped {count}: {why:?}");
        }
    }
}

struct Options {
    tun: String,
    addresses: Vec<IpNetwork>,
    networks: Vec<IpNetwork>,
    locals: Vec<IpAddr>,
    port: u16,
    own: Vec<IpNetwork>,
    peers: Vec<Peer>,
    rungs: Rungs,
    queues: usize,
    mtu: u32,
    linger: Duration,
    churn: Option<Duration>,
    until_eof: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            tun: "flannel0".into(),
            addresses: Vec::new(),
            networks: Vec::new(),
            locals: Vec::new(),
            port: 8285,
            own: Vec::new(),
            peers: Vec::new(),
            rungs: Rungs::FAST,
            queues: 1,
            mtu: 1472,
            linger: Config::default().linger,
            churn: None,
            until_eof: false,
        };
        while let Some(word) = words.next() {
            if word == "--until-eof" {
                options.until_eof = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word}: no value"))?;
            match word.as_str() {
                "--tun" => options.tun = value,
                "--address" => options.addresses.push(value.parse()?),
                "--network" => options.networks.push(value.parse()?),
                "--local" => options.locals.push(value.parse()?),
                "--port" => options.port = value.parse()?,
                "--own" => options.own.push(value.parse()?),
                "--peer" => options.peers.push(peer(&value)?),
                "--rung" => options.rungs = rungs(&value)?,
                "--queues" => options.queues = value.parse()?,
                "--linger" => options.linger = Duration::from_micros(value.parse()?),
                "--churn" => options.churn = Some(Duration::from_millis(value.parse()?)),
                "--mtu" => options.mtu = value.parse()?,
                _ => return Err(format!("{word}: unknown").into()),
            }
        }
        Ok(options)
    }

    fn table(&self, others: &[Peer]) -> PeerTable {
        PeerTable::new(&self.own, self.port, &[&self.peers, others].concat())
    }

    fn configure(&self) -> Result<(), Box<dyn Error>> {
        let (tun, mtu) = (&self.tun, self.mtu);
        ip(&format!("link set {tun} mtu {mtu} up"))?;
        for address in &self.addresses {
            ip(&format!("address replace {address} dev {tun}"))?;
        }
        for network in &self.networks {
            ip(&format!("route replace {network} dev {tun}"))?;
        }
        Ok(())
    }
}

fn peer(text: &str) -> Result<Peer, Box<dyn Error>> {
    let (subnets, address) = text.split_once('=').ok_or("--peer SUBNET=OUTER_IP")?;
    let subnets = subnets.split(',').map(str::parse);
    Ok(Peer {
        subnets: subnets.collect::<Result<_, _>>()?,
        address: address.parse()?,
        also_from: Vec::new(),
        carries_ecn: true,
    })
}

fn rungs(name: &str) -> Result<Rungs, Box<dyn Error>> {
    let fast = Rungs::FAST;
    Ok(match name {
        "fast" => fast,
        "no-vnet" => Rungs {
            vnet_header: false,
            ..fast
        },
        "no-tso" => Rungs {
            tso: false,
            uso: false,
            ..fast
        },
        "no-uso" => Rungs { uso: false, ..fast },
        "no-gso" => Rungs { gso: false, ..fast },
        "no-gro" => Rungs { gro: false, ..fast },
        "no-mmsg" => Rungs {
            gso: false,
            send_many: false,
            gro: false,
            receive_many: false,
            ..fast
        },
        "plain" => Rungs::PLAIN,
        _ => return Err(format!("--rung {name}: unknown").into()),
    })
}

fn ip(words: &str) -> Result<(), Box<dyn Error>> {
    let done = Command::new("ip").args(words.split(' ')).status()?;
    match done.success() {
        true => Ok(()),
        false => Err(format!("ip {words}: {done}").into()),
    }
}
