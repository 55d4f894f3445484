//! Starting, swapping, handing over, and being without.

use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weft_dataplane::{Engine, Notice, Notices, Rungs, Sockets, Tun, handover};
use weft_netns::{in_world, wait_until, wait_until_answers};

use crate::cluster::{Cluster, LIMIT, Outer, PORT, ip, noted, transfer};

const FAST: Rungs = Rungs::FAST;

/// Sends numbered packets from pod a to pod b, ten thousand a second, while `change` is done
/// again and again. Says how many were lost.
fn lost_while(cluster: &Cluster, rounds: usize, mut change: impl FnMut()) -> usize {
    let from = cluster.a.socket(cluster.a.pod_v4());
    let to = cluster.b.socket(cluster.b.pod_v4());
    from.connect(to.local_addr().unwrap()).unwrap();
    let (done, received) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_paced(&from, &received, &done));
        let receiver = scope.spawn(|| receive_all(&to, &received));
        for _ in 0..rounds {
            change();
        }
        done.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap();
        // The end is told until it is heard, for it could be lost as well.
        while !receiver.is_finished() {
            from.send(&END).unwrap();
            std::thread::yield_now();
        }
        receiver.join().unwrap();
        sent - received.load(Ordering::Relaxed)
    })
}

const END: [u8; 3] = [0xff; 3];
const INTERVAL: Duration = Duration::from_micros(100);
/// No more are on their way at a time than an ordinary socket's queue holds: whoever stands still
/// on a busy machine, be it the receiver, loses nothing that the path did not lose.
const ON_THE_WAY: usize = 200;

fn send_paced(socket: &UdpSocket, received: &AtomicUsize, done: &AtomicBool) -> usize {
    let mut due = Instant::now();
    let mut sent = 0usize;
    while !done.load(Ordering::Relaxed) {
        let on_the_way = sent - received.load(Ordering::Relaxed);
        if Instant::now() >= due && on_the_way < ON_THE_WAY {
            socket.send(&sent.to_le_bytes()).unwrap();
            sent += 1;
            due += INTERVAL;
        } else {
            std::thread::yield_now();
        }
    }
    sent
}

fn receive_all(socket: &UdpSocket, received: &AtomicUsize) {
    let mut buffer = [0; 64];
    loop {
        match socket.recv(&mut buffer).unwrap() {
            3 => return,
            _ => received.fetch_add(1, Ordering::Relaxed),
        };
    }
}

#[test]
fn a_swap_loses_no_packet() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let [near, far] = cluster.start(Outer::V4, FAST, FAST);
        let lost = lost_while(&cluster, 500, || {
            near.swap(cluster.a.table(Outer::V4));
            far.swap(cluster.b.table(Outer::V4));
            std::thread::yield_now();
        });
        assert_eq!(lost, 0);
    });
}

/// Each round a successor takes over both descriptors from the engine of node b, by way of a
/// unix socket, while packets come in.
#[test]
fn a_hand_over_loses_no_packet() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let [_near, far] = cluster.start(Outer::V4, FAST, FAST);
        let mut engine = Some(far);
        let lost = lost_while(&cluster, 20, || {
            let (here, there) = UnixStream::pair().unwrap();
            let fds = engine.take().unwrap().stop().unwrap();
            handover::send(&here, &fds).unwrap();
            drop(fds);
            engine = Some(successor(&cluster, &there));
        });
        assert_eq!(lost, 0);
    });
}

fn successor(cluster: &Cluster, socket: &UnixStream) -> Engine {
    let (node, notices) = (&cluster.b, Notices::default());
    let fds = handover::receive(socket).unwrap();
    let take = || {
        let tun = Tun::from_queues(fds.queues, &FAST, &notices).unwrap();
        let sockets = Sockets::from_listening(fds.listening, &FAST, &notices).unwrap();
        (tun, sockets)
    };
    let (tun, sockets) = node.netns.enter(take);
    assert_eq!((tun.name(), sockets.port().unwrap()), ("flannel0", PORT));
    node.engine(tun, sockets, FAST, &notices, Outer::V4)
}

#[test]
fn the_device_outlives_its_engine_and_is_taken_again_as_it_is_needed() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        drop(cluster.start(Outer::V4, FAST, FAST));
        let routes = cluster.b.netns.exec("ip route show dev flannel0");
        assert!(routes.contains("10.1.0.0/16"), "{routes}");
        for rungs in [FAST, Rungs::PLAIN, FAST] {
            let _near = cluster.a.start(Outer::V4, FAST, &Notices::default());
            let _far = cluster.b.start(Outer::V4, rungs, &Notices::default());
            transfer(&cluster.a, &cluster.b, cluster.b.pod_v4(), 1 << 20);
            transfer(&cluster.b, &cluster.a, cluster.a.pod_v6(), 1 << 20);
        }
    });
}

#[test]
fn a_device_that_is_let_go_ends_with_its_engine() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let notices = Notices::default();
        let tun = cluster.a.tun(FAST, &notices);
        tun.forget().unwrap();
        let sockets = cluster.a.sockets(Outer::V4, FAST, &notices);
        drop(cluster.a.engine(tun, sockets, FAST, &notices, Outer::V4));
        let links = cluster.a.netns.exec("ip -o link show");
        assert!(!links.contains("flannel0"), "{links}");
    });
}

#[test]
fn a_deleted_device_is_told_of() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let (notices, told) = noted();
        let engine = cluster.a.start(Outer::V4, FAST, &notices);
        assert!(engine.runs());
        cluster.a.netns.exec("ip link delete flannel0");
        wait_until("the engine notices", LIMIT, || !engine.runs());
        assert_eq!(*told.lock().unwrap(), [Notice::DeviceGone]);
    });
}

#[test]
fn a_port_that_is_taken_is_said_so() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let _engine = cluster.a.start(Outer::V4, FAST, &Notices::default());
        let open = || Sockets::open(&[ip("192.0.2.1")], PORT, 1, &FAST, &Notices::default());
        let error = cluster.a.netns.enter(open).unwrap_err();
        assert_eq!(error.errno(), Some(rustix::io::Errno::ADDRINUSE));
        assert!(
            error
                .to_string()
                .starts_with("listen on UDP 192.0.2.1:8285: ")
        );
    });
}

#[test]
fn several_queues_share_the_work() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let (node, notices) = (&cluster.a, Notices::default());
        let tun = node
            .netns
            .enter(|| Tun::open("flannel0", 2, &FAST, &notices))
            .unwrap();
        node.tun_addresses();
        let open = || Sockets::open(&[ip("192.0.2.1")], PORT, 2, &FAST, &notices);
        let sockets = node.netns.enter(open).unwrap();
        let _near = node.engine(tun, sockets, FAST, &notices, Outer::V4);
        let _far = cluster.b.start(Outer::V4, FAST, &notices);
        transfer(node, &cluster.b, cluster.b.pod_v4(), 4 << 20);
        transfer(&cluster.b, node, node.pod_v4(), 4 << 20);
    });
}

#[test]
fn an_idle_engine_never_wakes() {
    in_world(|world| {
        let cluster = Cluster::new(world);
        let _engines = cluster.start(Outer::V4, FAST, FAST);
        // What the kernel sends by itself on a fresh link comes to an end.
        wait_until("nobody wakes for a second", LIMIT, || {
            let before = wake_ups();
            std::thread::sleep(Duration::from_secs(1));
            wake_ups() == before
        });
        cluster
            .a
            .pod
            .enter(|| wait_until_answers(cluster.b.pod_v4()));
    });
}

/// How often the packet threads of this process have slept.
fn wake_ups() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let status =
            std::fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        let ours = status.starts_with("Name:\tweft-");
        let line = status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"));
        let count = line.and_then(|line| line.split_whitespace().last()?.parse::<u64>().ok());
        count.filter(|_| ours).unwrap_or(0)
    };
    tasks.map(of).sum()
}
