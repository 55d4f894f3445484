//! A file through the packet path, both ways at once, while peers come and go and daemons are
//! replaced and killed: it arrives as it was sent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use weft_netns::in_world;

use crate::harness::{Cluster, LIMIT, Node, Pod, UDP};

const CHUNK: usize = 1 << 20;

/// Of at least so many bytes, and until `over`: how many it was, and their sum.
fn send(from: &Pod, to: SocketAddr, least: usize, over: &AtomicBool) -> (usize, Vec<u8>) {
    let connect = || TcpStream::connect_timeout(&to, LIMIT).unwrap();
    let mut stream = from.netns.enter(connect);
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    let (mut sum, mut sent, mut state) = (Sha256::new(), 0, 0x9e37_79b9_7f4a_7c15_u64);
    let mut chunk = vec![0; CHUNK];
    while sent < least || !over.load(Ordering::Relaxed) {
        for word in chunk.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        sum.update(&chunk);
        stream.write_all(&chunk).unwrap();
        sent += chunk.len();
    }
    (sent, sum.finalize().to_vec())
}

fn receive(listener: &TcpListener) -> (usize, Vec<u8>) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let (mut sum, mut received) = (Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk).unwrap() {
            0 => return (received, sum.finalize().to_vec()),
            length => {
                sum.update(&chunk[..length]);
                received += length;
            }
        }
    }
}

/// Peers that come and go, a successor on one node, a kill on the other.
fn upheave(cluster: &Cluster<'_>, nodes: &[Node<'_>], rounds: u8) {
    let lease = r#"{"PublicIP":"192.168.9.99","PublicIPv6":null}"#;
    for round in 0..rounds {
        let keys: Vec<String> = (200..220).map(|n| cluster.put_peer(n, lease)).collect();
        nodes[0].is_taken_over();
        keys.iter().for_each(|key| cluster.store.delete(key));
        if round % 2 == 0 {
            nodes[1].kill9();
            nodes[1].start();
        } else {
            nodes[1].is_taken_over();
        }
        nodes[1].until_ready();
    }
}

fn arrives(least: usize, rounds: u8) {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let over = AtomicBool::new(false);
        let listen = |pod: &Pod| {
            let bind = || TcpListener::bind(SocketAddr::new(pod.ip(), 0)).unwrap();
            pod.netns.enter(bind)
        };
        let listeners = [listen(&pods[0]), listen(&pods[1])];
        std::thread::scope(|scope| {
            let over = &over;
            let ways = [(0, 1), (1, 0)].map(|(from, to): (usize, usize)| {
                let (listener, pod) = (&listeners[to], &pods[from]);
                let address = listener.local_addr().unwrap();
                let sending = scope.spawn(move || send(pod, address, least, over));
                (sending, scope.spawn(move || receive(listener)))
            });
            upheave(&cluster, &nodes, rounds);
            over.store(true, Ordering::Relaxed);
            for (sending, receiving) in ways {
                let (sent, received) = (sending.join().unwrap(), receiving.join().unwrap());
                println!("{} bytes sent, {} received", sent.0, received.0);
                assert!(sent == received, "not what was sent");
            }
        });
    });
}

#[test]
fn a_file_arrives_whole_while_peers_and_daemons_change() {
    arrives(16 << 20, 2);
}

#[test]
#[ignore = "for make soak: a minute"]
fn soak_a_gigabyte_arrives_whole_while_peers_and_daemons_change() {
    arrives(1 << 30, 20);
}
