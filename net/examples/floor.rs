//! The floor under every overlay daemon: how long the kernel takes for the entries of its peers.
//!
//! `cargo run --profile measure -p weft-net --example floor -- [PEERS [ROUNDS [PROTOCOLS]]]`,
//! as root.
//!
//! A neighbour, a forwarding entry and a route for each of 5,000 peers, once with one batch of
//! ours, once by `ip -batch` and `bridge -batch`; by turns, each in a fresh network namespace.
//!
//! IPv4 keeps what routes have in common apart from them, and looks for it in a hash of their
//! protocol, scope, metric, source and link, but not of their gateway: so each route of an overlay
//! is compared with all before it. With PROTOCOLS more than 1 our routes have different numbers.
#![allow(clippy::print_stdout, reason = "it is there to print")]

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, error, fs, thread};

use nix::sched::{CloneFlags, unshare};
use weft_net::route::{
    Address, FdbEntry, Neighbour, NeighbourState, NewVeth, NewVxlan, Requests, Route, RouteFilter,
    VethPeer,
};
use weft_net::{Mac, Rtnl};

type Outcome<T> = Result<T, Box<dyn error::Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let mut numbers = env::args().skip(1).map(|text| text.parse::<u32>());
    let peers = numbers.next().transpose()?.unwrap_or(5000);
    let rounds = numbers.next().transpose()?.unwrap_or(7);
    let protocols = numbers.next().transpose()?.unwrap_or(1);
    let (mut ours, mut theirs, mut user, mut dumps) = (vec![], vec![], vec![], vec![]);
    let mut encoding = vec![];
    for _ in 0..rounds {
        let round = in_fresh_namespace(move || by_us(peers, protocols))?;
        ours.push(round.whole);
        encoding.push(round.encoding);
        user.push(round.user);
        dumps.push(round.dump);
        theirs.push(in_fresh_namespace(move || by_ip(peers))?);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "{} entries for {peers} peers, median of {rounds}",
        3 * peers
    );
    println!(
        "one batch       {ours:>10.1?} (encoding {:.1?}, in user space {:.1?})",
        median(encoding),
        median(user)
    );
    println!("ip and bridge   {theirs:>10.1?}");
    println!(
        "ratio           {:>10.3}",
        ours.as_secs_f64() / theirs.as_secs_f64()
    );
    println!("reading it back {:>10.1?}", median(dumps));
    Ok(())
}

struct Round {
    whole: Duration,
    encoding: Duration,
    user: Duration,
    dump: Duration,
}

fn by_us(peers: u32, protocols: u32) -> Outcome<Round> {
    let mut rtnl = Rtnl::open()?;
    let link = overlay(&mut rtnl)?;
    let (started, system) = (Instant::now(), user_time()?);
    let mut requests = Requests::new();
    for peer in (0..peers).map(Peer) {
        let _ = requests.replace_neighbour(&peer.neighbour(link));
        let _ = requests.replace_fdb(&peer.forwarding(link));
        let _ = requests.replace_route(&peer.route(link, protocols));
    }
    let encoding = started.elapsed();
    rtnl.run(requests)?.all()?;
    let (whole, user) = (started.elapsed(), user_time()?.saturating_sub(system));

    let started = Instant::now();
    let routes = rtnl.routes(RouteFilter {
        link: Some(link),
        ..RouteFilter::default()
    })?;
    let neighbours = rtnl.neighbours_of(link)?;
    let forwarding = rtnl.fdb_of_link(link)?;
    let dump = started.elapsed();
    let wanted = peers as usize;
    assert!(
        [routes.len(), neighbours.len(), forwarding.len()]
            .iter()
            .all(|n| *n >= wanted)
    );
    Ok(Round {
        whole,
        encoding,
        user,
        dump,
    })
}

fn by_ip(peers: u32) -> Outcome<Duration> {
    overlay(&mut Rtnl::open()?)?;
    let (mut ip, mut bridge) = (String::new(), String::new());
    for peer in (0..peers).map(Peer) {
        let (gateway, mac, remote) = (peer.gateway(), peer.mac(), peer.remote());
        writeln!(
            ip,
            "neigh replace {gateway} lladdr {mac} dev flannel.1 nud permanent"
        )?;
        writeln!(
            ip,
            "route replace {gateway}/24 via {gateway} dev flannel.1 onlink"
        )?;
        writeln!(
            bridge,
            "fdb replace {mac} dev flannel.1 dst {remote} self permanent"
        )?;
    }
    let directory = env::temp_dir().join(format!("weft-floor-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let files = [directory.join("ip"), directory.join("bridge")];
    fs::write(&files[0], ip)?;
    fs::write(&files[1], bridge)?;
    let started = Instant::now();
    for (program, file) in ["ip", "bridge"].iter().zip(&files) {
        let status = Command::new(program).arg("-batch").arg(file).status()?;
        assert!(status.success(), "{program} -batch");
    }
    let whole = started.elapsed();
    fs::remove_dir_all(&directory)?;
    Ok(whole)
}

struct Peer(u32);

impl Peer {
    /// 10.0.0.0, 10.0.1.0 and so on.
    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a00_0000 + (self.0 << 8))
    }

    fn mac(&self) -> Mac {
        let [a, b, c, d] = self.0.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    fn remote(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(0xac10_0000 + self.0 + 2)
    }

    fn neighbour(&self, link: u32) -> Neighbour {
        Neighbour {
            link,
            address: self.gateway().into(),
            mac: Some(self.mac()),
            state: NeighbourState::Permanent,
        }
    }

    fn forwarding(&self, link: u32) -> FdbEntry {
        FdbEntry::tunnel(link, self.mac(), self.remote().into())
    }

    fn route(&self, link: u32, protocols: u32) -> Route {
        let gateway = self.gateway();
        let destination = ipnetwork::Ipv4Network::new_checked(gateway, 24);
        Route {
            gateway: Some(gateway.into()),
            link: Some(link),
            onlink: true,
            protocol: 84 + u8::try_from(self.0 % protocols.clamp(1, 64)).unwrap_or(0),
            ..Route::to(destination.expect("a /24").into())
        }
    }
}

/// A VXLAN device over one end of a veth pair; its index.
fn overlay(rtnl: &mut Rtnl) -> Outcome<u32> {
    let peer = VethPeer {
        name: "under1",
        mac: None,
        mtu: None,
        namespace: None,
    };
    let veth = NewVeth {
        name: "under0",
        mac: None,
        mtu: None,
        master: None,
        up: true,
        peer,
    };
    rtnl.one(|r| r.create_veth(&veth))?;
    let lower = rtnl.link("under0")?.index;
    let local = "172.16.0.1".parse()?;
    let vxlan = NewVxlan {
        name: "flannel.1",
        mac: None,
        mtu: Some(1450),
        txqlen: None,
        vni: 1,
        local,
        lower,
        port: 8472,
        learning: false,
        gbp: false,
        udp_checksum: true,
        up: true,
    };
    let mut requests = Requests::new();
    let _ = requests.add_address(&Address::new(lower, "172.16.0.1/12".parse()?));
    let _ = requests.create_vxlan(&vxlan);
    rtnl.run(requests)?.all()?;
    Ok(rtnl.link("flannel.1")?.index)
}

fn in_fresh_namespace<T: Send + 'static>(
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        work()
    });
    thread.join().map_err(|_| "it panicked")?
}
/// Of this thread, kernel time not counted: what getrusage calls user time.
fn user_time() -> Outcome<Duration> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD)?;
    let time = usage.user_time();
    Ok(Duration::from_micros(
        (time.tv_sec() * 1_000_000 + time.tv_usec()).try_into()?,
    ))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
