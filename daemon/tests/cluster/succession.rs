//! A successor that dies while it takes over: either its predecessor goes on, and no packet is
//! lost, or it has served already, and whoever starts next finds nothing in its way.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use weft_daemon::handover::{Aside, Predecessor};
use weft_netns::{Outcome, in_world, kill_at_syscall, wait_until};

use crate::handover::nothing_is_lost_while;
use crate::harness::{Cluster, LIMIT, Node, Pod, UDP};
use crate::stream::Stream;

/// The node that sends, and the one that receives.
#[test]
fn a_successor_that_dies_with_all_it_was_given_costs_no_packet() {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let pids: Vec<_> = nodes.iter().map(Node::pid).collect();
        nothing_is_lost_while([&pods[0], &pods[1]], || {
            for node in &nodes {
                let before = times(node, GOES_ON);
                match Predecessor::in_dir(&node.dir.join("run")).step_aside() {
                    Ok(Aside::Waits(mut turn)) => assert!(turn.take_path().is_some()),
                    other => panic!("{other:?}"),
                }
                wait_until("its predecessor goes on", LIMIT, || {
                    times(node, GOES_ON) > before
                });
            }
        });
        let after: Vec<_> = nodes.iter().map(Node::pid).collect();
        assert_eq!(after, pids);
        for node in &nodes {
            node.until_ready();
            node.is_taken_over();
        }
        pods[0].until_reaches(&pods[1]);
    });
}

#[test]
fn a_successor_killed_at_a_sample_of_its_system_calls() {
    a_successor_killed_at_every(10);
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_a_successor_killed_at_every_system_call() {
    a_successor_killed_at_every(1);
}

/// At every `step`-th system call, from the first at which its predecessor has heard of it to
/// where it serves.
fn a_successor_killed_at_every(step: u64) {
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (nodes, pods) = cluster.of(2);
        let scene = Scene {
            node: &nodes[0],
            pods: &pods,
        };
        let Fate::Served { calls } = scene.kill_at(u64::MAX) else {
            panic!("a successor that nobody kills does not serve");
        };
        let (mut unheard, mut heard) = (0, calls);
        while heard - unheard > 1 {
            let middle = unheard.midpoint(heard);
            match scene.kill_at(middle) {
                Fate::Unheard => unheard = middle,
                Fate::Heard | Fate::Served { .. } => heard = middle,
            }
        }
        let (mut times, mut served) = (0, 0);
        for n in (heard.saturating_sub(step)..).step_by(usize::try_from(step).unwrap()) {
            match scene.kill_at(n) {
                Fate::Served { .. } => served += 1,
                Fate::Unheard | Fate::Heard => served = 0,
            }
            times += 1;
            // Threads take turns as they like: what has served at one call may not at the next.
            if served == 5 {
                break;
            }
        }
        println!("{calls} system calls; killed at {times}, from the {heard}th on");
        assert!(times > 10);
        scene.node.is_taken_over();
        pods[0].until_reaches(&pods[1]);
    });
}

/// What has become of a successor's attempt.
enum Fate {
    /// Its predecessor never knew.
    Unheard,
    /// Its predecessor goes on.
    Heard,
    Served {
        calls: u64,
    },
}

struct Scene<'w> {
    node: &'w Node<'w>,
    pods: &'w [Pod],
}

impl Scene<'_> {
    /// Kills a successor about to make its n-th system call, and looks what is left.
    fn kill_at(&self, n: u64) -> Fate {
        let node = self.node;
        let (asked, gone_on) = (times(node, ASKED), times(node, GOES_ON));
        let stream = Stream::start_every(SPARSE, &self.pods[0], &self.pods[1]);
        let (calls, moved) = successor_killed_at(node, n);
        wait_until("its predecessor has made up its mind", LIMIT, || {
            !node.lives() || times(node, GOES_ON) - gone_on == times(node, ASKED) - asked
        });
        if !node.lives() {
            let done = node.has_ended();
            assert_eq!(done.code(), Some(0), "{}", done.stderr);
            node.start();
            node.until_ready();
            stream.sees_more();
            drop(stream.end());
            return Fate::Served { calls };
        }
        node.until_ready();
        assert_eq!(holder(&lock_of(node)), Some(node.pid()));
        stream.sees_more();
        let flow = stream.end();
        let in_hand = if moved { IN_HAND } else { 0 };
        assert!(flow.lost() <= in_hand, "killed at {n}: {}", flow.lost());
        assert_eq!(flow.out_of_order(), 0, "killed at {n}");
        match times(node, ASKED) > asked {
            true => Fate::Heard,
            false => Fate::Unheard,
        }
    }
}

/// How many system calls it made, and whether its packet path had begun. One that comes to serve
/// is ended in good order.
fn successor_killed_at(node: &Node<'_>, n: u64) -> (u64, bool) {
    let over = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let (lock, before, over) = (lock_of(node), node.pid(), &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Some(pid) = holder(&lock).filter(|pid| *pid != before) {
                    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
                    let _ = kill_process(pid, Signal::TERM);
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let outcome = kill_at_syscall(&node.command().arg("--take-over"), n);
        over.store(true, Ordering::Relaxed);
        outcome
    });
    match outcome {
        Outcome::Killed { said, .. } => (n, said.contains(MOVES)),
        Outcome::Finished(trace) => {
            assert_eq!(trace.done.code(), Some(0), "{}", trace.done.stderr);
            (trace.syscalls, true)
        }
    }
}

fn lock_of(node: &Node<'_>) -> PathBuf {
    node.dir.join("run/weftd.lock")
}

/// Who is named in it: whoever is seated.
fn holder(lock: &Path) -> Option<u32> {
    fs::read_to_string(lock).ok()?.trim().parse().ok()
}

fn times(node: &Node<'_>, said: &str) -> usize {
    node.log().matches(said).count()
}

const ASKED: &str = "a successor was started";
const GOES_ON: &str = "this weftd goes on";
const MOVES: &str = "packets move in userspace";
/// What a packet path takes in one go dies with it.
const IN_HAND: u64 = 64;
/// Who is traced is slow, and the TUN's queue holds a thousand packets.
const SPARSE: Duration = Duration::from_millis(1);
