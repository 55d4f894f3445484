//! weftd killed with -9: at random moments, and at its system calls one after another. Pods'
//! traffic does not notice, unless it goes through the daemon itself, and then goes on with the
//! next; and whoever starts next leaves nothing stale.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft_netns::{Outcome, in_world, kill_at_syscall};

use crate::harness::{Cluster, HOST_GW, Node, Pod, UDP, VXLAN, vxlan_lease};
use crate::strip::Strip;

/// A peer that is there for one start and gone for the next.
const FICKLE: &str = "subnets/10.244.209.0-24";

struct Scene<'w> {
    cluster: Cluster<'w>,
    nodes: Vec<Node<'w>>,
    _pods: Vec<Pod>,
    strip: Strip,
    /// Packets move while no daemon lives.
    kernel_moves: bool,
    lease: String,
    /// What the first node's kernel holds without the fickle peer, and with it.
    states: [String; 2],
}

impl<'w> Scene<'w> {
    /// Two nodes with traffic; the first one's daemon is down.
    fn set(world: &'w weft_netns::World, conf: &str) -> Self {
        let cluster = Cluster::new(world, conf);
        let (nodes, pods) = cluster.of(2);
        let lease = match conf {
            HOST_GW => r#"{"PublicIP":"192.168.9.209","BackendType":"host-gw"}"#.to_owned(),
            UDP => r#"{"PublicIP":"192.168.9.209","PublicIPv6":null}"#.to_owned(),
            _ => vxlan_lease(209),
        };
        let kernel_moves = conf != UDP;
        let without = nodes[0].state();
        cluster.store.put(FICKLE, &lease);
        if kernel_moves {
            nodes[0].until_says("ip route", "10.244.209.0/24", true);
        }
        nodes[0].until_says("nft list ruleset", "masquerade", true);
        nodes[0].restart();
        let with = nodes[0].state();
        cluster.store.delete(FICKLE);
        nodes[0].until_state(&without);
        let strip = pods[0].strip_to(&pods[1]);
        nodes[0].terminate();
        Self {
            cluster,
            nodes,
            _pods: pods,
            strip,
            kernel_moves,
            lease,
            states: [without, with],
        }
    }

    fn fickle(&self, is_there: bool) {
        match is_there {
            true => self.cluster.store.put(FICKLE, &self.lease),
            false if self.cluster.store.get(FICKLE).is_some() => {
                self.cluster.store.delete(FICKLE);
            }
            false => {}
        }
    }

    /// The next daemon puts everything right.
    fn next_one_is_right(&self, with: bool) {
        self.nodes[0].start();
        self.nodes[0].until_ready();
        self.nodes[0].until_state(&self.states[usize::from(with)]);
        if !self.kernel_moves {
            self.strip.sees_more();
        }
        self.nodes[0].kill9();
    }

    fn ends(self) {
        if self.kernel_moves {
            self.strip.ends_whole();
        }
    }
}

fn killed_at_random_moments(times: u32) {
    in_world(|world| {
        let scene = Scene::set(world, VXLAN);
        let mut dice = Dice::seeded();
        let node = &scene.nodes[0];
        // The moments are spread over what a start takes here, and a little more.
        let begun = Instant::now();
        scene.next_one_is_right(false);
        let span = begun.elapsed() + Duration::from_millis(50);
        for round in 0..times {
            scene.fickle(round % 2 == 1);
            node.start();
            // The fault's moment, not a wait for anything.
            std::thread::sleep(span.mul_f64(dice.fraction()));
            node.kill9();
        }
        for with in [true, false] {
            scene.fickle(with);
            scene.next_one_is_right(with);
        }
        scene.ends();
    });
}

#[test]
fn killed_at_random_moments_no_ping_is_lost_and_nothing_stale_left() {
    killed_at_random_moments(20);
}

#[test]
#[ignore = "for make soak: minutes"]
fn soak_killed_at_a_hundred_random_moments() {
    killed_at_random_moments(100);
}

/// Kills it about to make its n-th system call, or ends it in good order when it was in its steady
/// state before. How many calls it made, and whether the last one left a trace.
fn killed_at(node: &Node<'_>, n: u64) -> (u64, bool) {
    // It is written when all that stands is programmed.
    let _ = fs::remove_file(node.subnet_file());
    let over = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let (file, dir, over) = (node.subnet_file(), node.dir.clone(), &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if file.exists() {
                    terminate_daemon_of(&dir.to_string_lossy());
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let outcome = kill_at_syscall(&node.command(), n);
        over.store(true, Ordering::Relaxed);
        outcome
    });
    match outcome {
        Outcome::Killed { in_vain, .. } => (n, !in_vain),
        Outcome::Finished(trace) => {
            assert_eq!(trace.done.code(), Some(0), "{}", trace.done.stderr);
            (trace.syscalls, true)
        }
    }
}

/// Worlds look alike: another test's daemon may have the very same command line.
fn terminate_daemon_of(dir: &str) {
    let world = fs::read_link("/proc/self/ns/mnt").unwrap();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let is_ours = fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|ns| ns == world);
        if is_ours && line.starts_with(env!("CARGO_BIN_EXE_weftd")) && line.contains(dir) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

/// From exec to the end, at every `step`-th system call.
fn killed_at_system_calls(conf: &str, points: Option<u64>) {
    in_world(|world| {
        let scene = Scene::set(world, conf);
        let (all, _) = killed_at(&scene.nodes[0], u64::MAX);
        let step = points.map_or(1, |points| (all / points).max(1));
        let mut at = Vec::new();
        let first = 1 + Dice::seeded().below(step);
        for n in (first..=all).step_by(usize::try_from(step).unwrap()) {
            let with = at.len() % 2 == 0;
            scene.fickle(with);
            at.push((n, scene.strip.elapsed()));
            let (_, left_a_trace) = killed_at(&scene.nodes[0], n);
            // What the death before has left was looked at, if every one is.
            if left_a_trace || step > 1 {
                scene.next_one_is_right(with);
            }
        }
        println!("{all} system calls; killed at number and time {at:?}");
        assert!(at.len() > 10);
        scene.ends();
    });
}

#[test]
fn vxlan_killed_at_a_sample_of_its_system_calls() {
    killed_at_system_calls(VXLAN, Some(50));
}

#[test]
fn host_gw_killed_at_a_sample_of_its_system_calls() {
    killed_at_system_calls(HOST_GW, Some(50));
}

#[test]
fn udp_killed_at_a_sample_of_its_system_calls() {
    killed_at_system_calls(UDP, Some(40));
}

#[test]
#[ignore = "for make soak: many minutes"]
fn soak_udp_killed_at_every_system_call() {
    killed_at_system_calls(UDP, None);
}

#[test]
#[ignore = "for make soak: many minutes"]
fn soak_vxlan_killed_at_every_system_call() {
    killed_at_system_calls(VXLAN, None);
}

#[test]
#[ignore = "for make soak: many minutes"]
fn soak_host_gw_killed_at_every_system_call() {
    killed_at_system_calls(HOST_GW, None);
}

/// xorshift: moments that differ from run to run, and can be had again.
struct Dice(u64);

impl Dice {
    fn seeded() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = u64::from(now.subsec_nanos()) | 1;
        println!("seed {seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.below(1 << 20)).unwrap()) / f64::from(1 << 20)
    }
}
