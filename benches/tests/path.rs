//! What arrives over the packet path is what was sent, and random datagrams do it no harm: on two
//! real nodes, with the engine's own executable. `weft_benches::path` draws the nodes.
use std::path::Path;
use std::time::{Duration, SystemTime};

use weft_benches::path::flood::{self, Source};
use weft_benches::path::integrity::{RoughPath, Transfers};
use weft_benches::path::{Contestant, Family, Setting, Site, Wire};
use weft_netns::{Need, World, in_world, skip_unless};

const FAST: Contestant = Contestant::Ours("fast");
const PLAIN: Contestant = Contestant::Ours("plain");
const TOOLS: [Need; 4] = [
    Need::Tool("ip"),
    Need::Tool("nft"),
    Need::Tool("iperf3"),
    Need::Tool("ethtool"),
];
/// What a program may take and give back meanwhile, in KiB.
const WAVERING: u64 = 1024;

#[test]
fn the_kernels_own_path_carries_files_whole_however_rough_it_is() {
    if skip_unless(&TOOLS) {
        in_world(|world| files_arrive(world, Contestant::Vxlan, Family::V4, 8));
    }
}

#[test]
fn files_arrive_whole_over_a_path_that_loses_and_disorders_packets() {
    if skip_unless(&needs()) {
        in_world(|world| files_arrive(world, FAST, Family::V4, 64));
    }
}

#[test]
fn ipv6_files_arrive_whole_over_a_path_that_loses_and_disorders_packets() {
    if skip_unless(&needs()) {
        in_world(|world| files_arrive(world, FAST, Family::V6, 64));
    }
}

#[test]
fn files_arrive_whole_on_the_last_rung_too() {
    if skip_unless(&needs()) {
        in_world(|world| files_arrive(world, PLAIN, Family::V4, 32));
    }
}

#[test]
fn files_arrive_whole_while_peers_come_and_go() {
    if skip_unless(&needs()) {
        in_world(|world| files_arrive_while_peers_come_and_go(world, 64));
    }
}

#[test]
fn files_arrive_whole_while_an_engine_is_killed_and_started_again() {
    if skip_unless(&needs()) {
        in_world(|world| files_arrive_while_an_engine_is_killed(world, 64));
    }
}

#[test]
#[ignore = "takes minutes: make soak"]
fn soak_a_gigabyte_each_way_arrives_whole() {
    if skip_unless(&needs()) {
        in_world(|world| {
            files_arrive(world, FAST, Family::V4, GIGABYTE);
            files_arrive(world, FAST, Family::V6, GIGABYTE);
            files_arrive_while_peers_come_and_go(world, GIGABYTE);
            files_arrive_while_an_engine_is_killed(world, GIGABYTE);
        });
    }
}

#[test]
#[ignore = "takes minutes: make soak"]
fn soak_random_datagrams_from_a_stranger() {
    if skip_unless(&needs()) {
        in_world(|world| endures(world, Source::Stranger, soak() / 2));
    }
}

#[test]
#[ignore = "takes minutes: make soak"]
fn soak_random_datagrams_from_a_peers_address() {
    if skip_unless(&needs()) {
        in_world(|world| endures(world, Source::Peer, soak() / 2));
    }
}

/// In megabytes.
const GIGABYTE: u64 = 1024;

fn files_arrive(world: &World, contestant: Contestant, inner: Family, megabytes: u64) {
    let tag = format!("rough-{inner:?}");
    let mut path = RoughPath::build(world, &tag, contestant, inner);
    was_rough(&path.carry_files(megabytes << 20));
}

/// Their tables change a hundred times a second.
fn files_arrive_while_peers_come_and_go(world: &World, megabytes: u64) {
    let mut path = RoughPath::build(world, "churn", FAST, Family::V4);
    path.restart(&["--churn", "10"]);
    was_rough(&path.carry_files(megabytes << 20));
}

/// A kill -9 gives no time to say goodbye.
fn files_arrive_while_an_engine_is_killed(world: &World, megabytes: u64) {
    let mut path = RoughPath::build(world, "killed", FAST, Family::V4);
    let mut kills = 0;
    let transfers = path.carry_files_while(megabytes << 20, |engines| {
        std::thread::sleep(UNDER_WAY);
        engines.restart(&[]);
        kills += 1;
        std::thread::sleep(UNDISTURBED);
    });
    was_rough(&transfers);
    assert!(kills > 0, "{transfers:?}");
}

/// Until there is something to disturb.
const UNDER_WAY: Duration = Duration::from_millis(200);
/// A TCP whose every retransmission meets a dead engine waits longer each time.
const UNDISTURBED: Duration = Duration::from_millis(800);

fn was_rough(transfers: &Transfers) {
    assert!(transfers.lost_packets > 0, "{transfers:?}");
    assert!(transfers.disordered_packets > 0, "{transfers:?}");
}

/// How much of the traffic is kept is for the benchmark to say: it takes an idle machine.
fn endures(world: &World, source: Source, time: Duration) {
    let setting = Setting {
        wire: Wire::Virtual,
        inner: Family::V4,
        outer: Family::V4,
    };
    let site = Site::build(world, "site", FAST, setting);
    let attacker = flood::attacker(world, "site", &site, source);
    let flooded = flood::endure(&site, &attacker, time, 1);
    let (before, after) = flooded.memory;
    assert!(after <= before + WAVERING, "{flooded:?}");
    let all_flow = flooded.gbit_per_second.iter().all(|(hit, _)| *hit > 0.0);
    assert!(all_flow, "{flooded:?}");
}

/// The engine's executable is built with the whole workspace's tests, not with this package's.
#[track_caller]
fn needs() -> Vec<Need> {
    let executable = FAST.executable().expect("ours is a program");
    if let Ok(built) = executable.metadata().and_then(|file| file.modified()) {
        let dataplane = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("dataplane");
        let written = newest(&dataplane.join("src")).max(newest(&dataplane.join("examples")));
        assert!(
            built >= written,
            "{} is older than the code that it is to speak for: \
             cargo build -p weft-dataplane --example node",
            executable.display()
        );
    }
    let executable = Need::File(executable.display().to_string().leak());
    TOOLS.into_iter().chain([executable]).collect()
}

/// When the directory's newest file was written.
fn newest(dir: &Path) -> SystemTime {
    let entries = dir.read_dir().expect("the engine's code is here");
    let written = entries.map(|entry| {
        let path = entry.expect("an entry of the code").path();
        match path.is_dir() {
            true => newest(&path),
            false => path
                .metadata()
                .and_then(|file| file.modified())
                .expect("a time of writing"),
        }
    });
    written.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn soak() -> Duration {
    let asked = std::env::var("WEFT_SOAK").ok();
    Duration::from_secs(asked.and_then(|number| number.parse().ok()).unwrap_or(600))
}
