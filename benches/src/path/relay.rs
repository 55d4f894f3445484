//! A router's neighbour that disorders packets: the router hands it everything that is to be
//! forwarded, and gets it back in another order.
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_tap::Iface;
use weft_netns::Netns;

use super::random::Random;
use super::{open_tun, pollable};

/// One packet in so many is held back.
const HELD_BACK: u64 = 50;
/// By up to so many later ones.
const OVERTAKEN_BY: u64 = 8;
/// What nobody overtakes goes on after so many milliseconds.
const PATIENCE: u16 = 2;
const LARGEST: usize = 65_536;

/// Works until it is dropped.
#[derive(Debug)]
pub struct Relay {
    over: Arc<AtomicBool>,
    disordered: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Puts itself into the path of all that `router` forwards.
    pub fn start(router: &Netns, seed: u64) -> io::Result<Self> {
        let tun = router.enter(|| open_tun("relay0", DETOUR))?;
        let ready = pollable(&tun)?;
        let over = Arc::new(AtomicBool::new(false));
        let disordered = Arc::new(AtomicU64::new(0));
        let mut shuffle = Shuffle {
            random: Random::new(seed),
            held: VecDeque::new(),
            disordered: Arc::clone(&disordered),
        };
        let thread = {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    shuffle.some(&tun, &ready);
                }
            })
        };
        Ok(Self {
            over,
            disordered,
            thread: Some(thread),
        })
    }

    /// How many packets others have overtaken.
    pub fn disordered(&self) -> u64 {
        self.disordered.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What comes from the nodes goes to the relay; what comes from the relay goes on. The longer
/// queue is there so that it is the ruleset that decides what is lost, and not the relay.
const DETOUR: &str = "ip link set relay0 mtu 1500 txqueuelen 5000 up
    for port in eth1 eth2; do
        ip rule add iif $port lookup 100
        ip -6 rule add iif $port lookup 100
    done
    ip route add default dev relay0 table 100
    ip -6 route add default dev relay0 table 100";

struct Shuffle {
    random: Random,
    held: VecDeque<Held>,
    disordered: Arc<AtomicU64>,
}

struct Held {
    packet: Vec<u8>,
    /// So many packets are still to go first.
    after: u64,
}

impl Shuffle {
    /// Hands on what there is, and waits for more.
    fn some(&mut self, tun: &Iface, ready: &OwnedFd) {
        let mut room = vec![0; LARGEST];
        while let Ok(length) = tun.recv(&mut room) {
            for packet in self.next(&room[..length]) {
                // A packet that the router refuses is a lost one: the path must bear it.
                let _ = tun.send(&packet);
            }
        }
        let mut wait = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wait, PollTimeout::from(PATIENCE)) == Ok(0) {
            for held in self.held.drain(..) {
                let _ = tun.send(&held.packet);
            }
        }
    }

    /// What goes out when `packet` comes in.
    fn next(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        if self.random.below(HELD_BACK) == 0 {
            self.disordered.fetch_add(1, Ordering::Relaxed);
            self.held.push_back(Held {
                packet: packet.to_vec(),
                after: 1 + self.random.below(OVERTAKEN_BY),
            });
            return Vec::new();
        }
        let mut out = vec![packet.to_vec()];
        for held in &mut self.held {
            held.after -= 1;
            if held.after == 0 {
                out.push(std::mem::take(&mut held.packet));
            }
        }
        self.held.retain(|held| held.after > 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_once_each_and_in_another_order() {
        let mut shuffle = Shuffle {
            random: Random::new(1),
            held: VecDeque::new(),
            disordered: Arc::default(),
        };
        let sent: Vec<Vec<u8>> = (0..1000_u32).map(|n| n.to_be_bytes().to_vec()).collect();
        let mut received: Vec<_> = sent
            .iter()
            .flat_map(|packet| shuffle.next(packet))
            .collect();
        received.extend(shuffle.held.drain(..).map(|held| held.packet));
        assert_ne!(received, sent);
        received.sort();
        assert_eq!(received, sent);
    }
}
