//! What the kernel itself takes for the entries of so many peers: fed by `ip -batch` and
//! `bridge -batch`, and by one netlink batch.
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use weft_net::Rtnl;
use weft_net::route::{FdbEntry, Neighbour, NeighbourState, Requests, Route};

use super::field::{Field, Node, ms_between};
use super::listener::Listener;
use super::store::Peer;
use super::tunnel;

const PATIENCE: Duration = Duration::from_secs(60);

/// Milliseconds from the first program's start to the last entry heard of.
pub(crate) fn by_programs(field: &Field<'_>, peers: u32) -> f64 {
    let node = field.node();
    tunnel::make(&node);
    let (ip, bridge) = (node.dir.join("ip"), node.dir.join("bridge"));
    let (ip_lines, bridge_lines) = lines(peers);
    fs::write(&ip, ip_lines).expect("write a batch");
    fs::write(&bridge, bridge_lines).expect("write a batch");
    timed(&node, peers, || {
        for (program, file) in [("ip", &ip), ("bridge", &bridge)] {
            node.command(program).arg("-batch").arg(file).run().ok();
        }
    })
}

/// The same entries in one batch of ours, made beforehand.
pub(crate) fn by_one_batch(field: &Field<'_>, peers: u32) -> f64 {
    let node = field.node();
    let link = tunnel::make(&node);
    let mut rtnl = node.netns.enter(Rtnl::open).expect("talk to the kernel");
    let requests = requests(link, peers);
    timed(&node, peers, move || {
        rtnl.run(requests)
            .and_then(weft_net::route::Answers::all)
            .expect("the kernel takes the batch");
    })
}

/// Heard by the same listener as weftd's entries are, since what the kernel tells it pays for.
fn timed(node: &Node, peers: u32, work: impl FnOnce() + Send) -> f64 {
    let mut listener = Listener::open(&node.netns);
    let wanted = peers as usize;
    std::thread::scope(|scope| {
        let begun = Instant::now();
        scope.spawn(work);
        let done = listener.until(PATIENCE, |heard| heard.all_of(wanted));
        ms_between(begun, done.expect("all entries are heard of"))
    })
}

fn lines(peers: u32) -> (String, String) {
    let (mut ip, mut bridge) = (String::new(), String::new());
    for peer in (0..peers).map(Peer) {
        let (gateway, mac, remote) = (peer.gateway(), peer.mac(0), peer.remote());
        let dev = tunnel::NAME;
        let _ = writeln!(
            ip,
            "neigh replace {gateway} lladdr {mac} dev {dev} nud permanent"
        );
        let _ = writeln!(
            ip,
            "route replace {gateway}/24 via {gateway} dev {dev} onlink"
        );
        let _ = writeln!(
            bridge,
            "fdb replace {mac} dev {dev} dst {remote} self permanent"
        );
    }
    (ip, bridge)
}

fn requests(link: u32, peers: u32) -> Requests {
    let mut requests = Requests::new();
    for peer in (0..peers).map(Peer) {
        let neighbour = Neighbour {
            link,
            address: peer.gateway().into(),
            mac: Some(peer.mac(0)),
            state: NeighbourState::Permanent,
        };
        let forward = FdbEntry::tunnel(link, peer.mac(0), peer.remote().into());
        let _ = requests.replace_neighbour(&neighbour);
        let _ = requests.replace_fdb(&forward);
        let _ = requests.replace_route(&route(link, peer));
    }
    requests
}

fn route(link: u32, peer: Peer) -> Route {
    Route {
        gateway: Some(peer.gateway().into()),
        link: Some(link),
        onlink: true,
        ..Route::to(peer.subnet().into())
    }
}
