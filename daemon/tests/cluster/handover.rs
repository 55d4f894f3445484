//! One daemon follows another: by its own wish, by systemd's hand, or after a kill.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use weft_netns::{in_world, wait_until};

use crate::harness::{Cluster, LIMIT, Node, Pod, UDP, VXLAN};
use crate::stream::Stream;

/// The node that sends and the node that receives, each of them twice.
#[test]
fn a_successor_takes_over_without_a_packet_lost_or_overtaken() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let before = nodes[0].state();
        let index = || {
            nodes[0]
                .netns
                .exec("ip -o link show flannel0 | cut -d: -f1")
        };
        let device = index();
        nothing_is_lost_while([&pods[0], &pods[1]], || {
            for node in &nodes {
                node.is_taken_over();
                node.until_ready();
            }
        });
        nodes[0].until_state(&before);
        assert_eq!(index(), device);
    });
}

/// On a machine that others keep busy, packets are lost with no hand in it: then it is tried
/// again. What loses packets by itself does so every time.
#[track_caller]
pub(crate) fn nothing_is_lost_while([from, to]: [&Pod; 2], mut change: impl FnMut()) {
    let mut losses = Vec::new();
    for _ in 0..ATTEMPTS {
        let stream = Stream::start(from, to);
        change();
        stream.sees_more();
        let flow = stream.end();
        let loss = (flow.lost(), flow.out_of_order());
        println!("{} sent, {} lost, {} overtaken", flow.sent, loss.0, loss.1);
        if loss == (0, 0) {
            return;
        }
        losses.push(loss);
    }
    panic!("packets were lost, and overtaken, every time: {losses:?}");
}

const ATTEMPTS: usize = 5;

#[test]
#[ignore = "for make soak, which has the machine to itself"]
fn soak_fifty_successors_lose_nothing() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let stream = Stream::start(&pods[0], &pods[1]);
        for round in 0..50 {
            nodes[round % 2].is_taken_over();
            stream.sees_more();
        }
        let flow = stream.end();
        println!("{} sent", flow.sent);
        assert_eq!((flow.lost(), flow.out_of_order()), (0, 0));
    });
}

#[test]
fn with_other_backends_a_successor_takes_over_too() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let (nodes, pods) = cluster.of(2);
        let strip = pods[0].strip_to(&pods[1]);
        let whole = nodes[0].state();
        for _ in 0..2 {
            nodes[0].is_taken_over();
            assert_eq!(nodes[0].state(), whole);
        }
        // And without anybody to take over from, it is a start like any other.
        nodes[0].terminate();
        nodes[0].start_with(&["--take-over"]);
        nodes[0].until_ready();
        strip.ends_whole();
    });
}

/// Whoever waits for his turn harms nobody, whatever becomes of him or of who is before him.
#[test]
fn a_successor_waits_and_either_may_end_before() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let stream = Stream::start(&pods[0], &pods[1]);
        let config = cluster.store.get("config").unwrap();
        cluster.store.put("config", "{");
        // With neither memory nor configuration it has nothing to program.
        let state = nodes[0].dir.join("other-state");
        let waiting = nodes[0]
            .command()
            .arg("--take-over")
            .arg(format!("--state-dir={}", state.display()))
            .spawn();
        wait_until("it waits", LIMIT, || {
            waiting.said_so_far().contains("not ready")
        });
        stream.sees_more();
        drop(waiting);
        assert!(nodes[0].lives() && nodes[0].is_ready());
        stream.sees_more();
        drop(stream.end());
        let waiting = nodes[0]
            .command()
            .arg("--take-over")
            .arg(format!("--state-dir={}", state.display()))
            .spawn();
        wait_until("it waits", LIMIT, || {
            waiting.said_so_far().contains("not ready")
        });
        nodes[0].kill9();
        cluster.store.put("config", &config);
        nodes[0].is_now(waiting);
        nodes[0].until_ready();
        pods[1].until_reaches(&pods[0]);
    });
}

/// systemd's side of the descriptor store.
struct Systemd {
    socket: UnixDatagram,
    path: std::path::PathBuf,
    kept: Vec<(String, OwnedFd)>,
}

impl Systemd {
    fn of(node: &Node<'_>) -> Self {
        let path = node.dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            path,
            kept: Vec::new(),
        }
    }

    /// Takes in what was said; whether `word` was among it.
    fn hears(&mut self, word: &str) -> bool {
        let mut heard = false;
        loop {
            let mut text = [0; 256];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [std::io::IoSliceMut::new(&mut text)];
            let received = rustix::net::recvmsg(
                self.socket.as_fd(),
                &mut parts,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            let Ok(received) = received else { return heard };
            let fds: Vec<OwnedFd> = control
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                    _ => None,
                })
                .flatten()
                .collect();
            let text = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
            heard |= text.contains(word);
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            if let Some(name) = name {
                if text.contains("FDSTOREREMOVE=1") {
                    self.kept.retain(|(other, _)| other != name);
                }
                self.kept
                    .extend(fds.into_iter().map(|fd| (name.to_owned(), fd)));
            }
        }
    }

    /// Starts the service, with what is kept for it.
    fn starts(&self, node: &Node<'_>) {
        let (mut moves, mut names) = (String::new(), Vec::new());
        for (at, (name, fd)) in self.kept.iter().enumerate() {
            let fd = fd.as_raw_fd();
            moves += &format!("exec {}<&{fd} {fd}<&-; ", at + 3);
            names.push(name.as_str());
        }
        let line = format!(
            "{moves} export NOTIFY_SOCKET={} LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}; \
             exec {} {}",
            self.path.display(),
            names.len(),
            names.join(":"),
            env!("CARGO_BIN_EXE_weftd"),
            node.flags.join(" ")
        );
        self.open_at_exec(true);
        node.start_as(&["bash", "-c", &line]);
        self.open_at_exec(false);
    }

    fn open_at_exec(&self, open: bool) {
        let flags = match open {
            true => FdFlags::empty(),
            false => FdFlags::CLOEXEC,
        };
        for (_, fd) in &self.kept {
            rustix::io::fcntl_setfd(fd, flags).unwrap();
        }
    }
}

#[test]
fn a_restart_by_systemd_loses_no_packet() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let nodes = [cluster.node(1), cluster.node(2)];
        let mut systemds = nodes.each_ref().map(Systemd::of);
        for (node, systemd) in nodes.iter().zip(&systemds) {
            systemd.starts(node);
            node.until_ready();
        }
        let pods = nodes.each_ref().map(Node::pod);
        nothing_is_lost_while([&pods[0], &pods[1]], || {
            for (node, systemd) in nodes.iter().zip(&mut systemds) {
                wait_until("it says that it is ready", LIMIT, || {
                    systemd.hears("READY=1")
                });
                assert_eq!(systemd.kept.len(), 2, "{:?}", systemd.kept);
                let done = node.terminate();
                assert_eq!(done.code(), Some(0));
                systemd.starts(node);
                node.until_ready();
            }
        });
        // Another backend has no use for what was kept.
        cluster.store.put("config", VXLAN);
        nodes[0].terminate();
        systemds[0].starts(&nodes[0]);
        nodes[0].until_says("ip -o link", "flannel.1", true);
        wait_until("nothing is kept any more", LIMIT, || {
            systemds[0].hears("");
            systemds[0].kept.is_empty()
        });
        nodes[0].until_says("ss -lun", ":8285", false);
        nodes[0].until_says("ip -o link", "flannel0", false);
    });
}

/// From the exec of the next one to the first packet, with the store away or not.
#[test]
fn after_a_kill_the_gap_is_short_and_no_route_changes() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let remembered = nodes[1].dir.join("state/remembered");
        wait_until("the peers are remembered", LIMIT, || {
            let text = std::fs::read_to_string(&remembered).unwrap_or_default();
            text.contains(&nodes[0].underlay())
        });
        let monitor = nodes[1].netns.spawn("ip monitor route");
        wait_until("the monitor listens", LIMIT, || {
            nodes[1]
                .netns
                .exec("ip route add 10.9.9.0/24 dev lo; ip route del 10.9.9.0/24 dev lo");
            monitor.said_so_far().contains("10.9.9.0")
        });
        let stream = Stream::start(&pods[0], &pods[1]);
        let mut execs = Vec::new();
        for _ in 0..5 {
            nodes[1].kill9();
            execs.push(Instant::now());
            nodes[1].start();
            stream.sees_more();
            nodes[1].until_ready();
        }
        let flow = stream.end();
        let gaps: Vec<_> = execs.iter().map(|exec| flow.gap_after(*exec)).collect();
        println!("from exec to the first packet: {gaps:.1?}");
        // What else the machine does makes single ones longer.
        let shortest = gaps.iter().min().unwrap();
        assert!(*shortest <= Duration::from_millis(50), "{gaps:?}");
        let said = monitor.said_so_far();
        assert!(!said.contains("flannel0"), "{said}");
    });
}
