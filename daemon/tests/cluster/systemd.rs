//! A real systemd runs weftd, by the unit that is shipped: it is the first process of a namespace
//! of its own, on the first node.
//!
//! ```text
//!  pod ── cni0 ── node-1 ── eth0 ── wire-0 ── eth0 ── node-2 ── cni0 ── pod
//!                 systemd                             weftd
//!                 └─ weftd.service
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weft_netns::{Cmd, Need, World, in_world, skip_unless, wait_until};

use crate::handover::nothing_is_lost_while;
use crate::harness::{Cluster, LIMIT, Node, Pod, UDP};
use crate::stream::Stream;

const SYSTEMD: &str = "/lib/systemd/systemd";
const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/systemd");

fn can_run() -> bool {
    skip_unless(&[
        Need::File(SYSTEMD),
        Need::Root,
        Need::Other("a cgroup v2 hierarchy to write to", has_cgroups()),
    ])
}

fn has_cgroups() -> bool {
    let probe =
        "mount -t cgroup2 cgroup2 /mnt && mkdir /mnt/weft-probe-$$ && rmdir /mnt/weft-probe-$$";
    let probe = Command::new("unshare")
        .args(["--mount", "sh", "-c", probe])
        .stderr(Stdio::null())
        .status();
    probe.is_ok_and(|status| status.success())
}

/// A node whose weftd is systemd's.
struct Host<'w> {
    node: Node<'w>,
    world: &'w World,
    _cgroup: Cgroup,
}

impl<'w> Host<'w> {
    fn boots(world: &'w World, node: Node<'w>) -> Self {
        let units = units(&node);
        let cgroup = Cgroup::new(world);
        std::os::unix::fs::symlink("/run/weft", node.dir.join("run")).unwrap();
        std::os::unix::fs::symlink("/run/flannel/subnet.env", node.subnet_file()).unwrap();
        let first = format!(
            "mount -t proc proc /proc; mount -t cgroup2 cgroup2 /sys/fs/cgroup; \
             for dir in /tmp /var/tmp /var/lib; do mount -t tmpfs tmpfs $dir; done; \
             export container=weft SYSTEMD_UNIT_PATH={units} SYSTEMD_GENERATOR_PATH=/none; \
             exec {SYSTEMD} --system --unit=multi-user.target --log-target=null --show-status=no",
            units = units.display()
        );
        let line = format!(
            "echo $$ > {}/cgroup.procs; \
             exec unshare --pid --fork --kill-child --mount --cgroup bash -ec '{first}'",
            cgroup.0.display()
        );
        node.start_as(&["bash", "-ec", &line]);
        node.until_ready();
        Self {
            node,
            world,
            _cgroup: cgroup,
        }
    }

    fn inside(&self, line: &str) -> String {
        let pid = self.node.pid();
        self.world.exec(&format!(
            "nsenter -t {pid} --mount --net --pid=/proc/{pid}/ns/pid_for_children {line}"
        ))
    }

    fn systemctl(&self, words: &str) -> String {
        self.inside(&format!("systemctl {words}"))
    }

    fn property(&self, name: &str) -> String {
        let value = self.systemctl(&format!("show --value --property={name} weftd.service"));
        value.trim().to_owned()
    }

    fn number(&self, name: &str) -> u64 {
        self.property(name).parse().unwrap()
    }

    /// When the process that runs was made.
    fn executed(&self) -> Instant {
        let at = Duration::from_micros(self.number("ExecMainStartTimestampMonotonic"));
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = Duration::try_from(now).unwrap();
        Instant::now() - (now - at)
    }

    /// By one that is started as the service's own processes are.
    fn takes_over(&self, control: &str) {
        let before = self.number("MainPID");
        let (dir, seconds) = (self.node.dir.display(), 2);
        self.inside(&format!(
            "sh -c 'echo $$ > /sys/fs/cgroup{control}/cgroup.procs; set -a; . {dir}/weftd.env; \
             NOTIFY_SOCKET=/run/systemd/notify WATCHDOG_USEC={seconds}000000 \
             {dir}/weftd --ip-masq --healthz-port=8081 --take-over < /dev/null >> {dir}/log 2>&1 &'"
        ));
        wait_until("the service is another process", LIMIT, || {
            self.number("MainPID") != before
        });
        self.node.until_ready();
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(log(&self.node)).unwrap_or_default();
            eprintln!("--- the service said\n{log}");
        }
        self.node.kill9();
    }
}

/// The unit as it is shipped, for an executable and a configuration that are elsewhere.
fn units(node: &Node<'_>) -> PathBuf {
    let dir = node.dir.join("units");
    let executable = node.dir.join("weftd");
    let environment = node.dir.join("weftd.env");
    // Under a home directory the service does not see it.
    fs::write(&executable, "").unwrap();
    let bound = Command::new("mount")
        .args(["--bind", env!("CARGO_BIN_EXE_weftd")])
        .arg(&executable)
        .status();
    assert!(bound.unwrap().success());
    fs::write(&environment, in_environment(&node.flags)).unwrap();
    let unit = fs::read_to_string(Path::new(UNITS).join("weftd.service")).unwrap();
    let shipped = ["/usr/local/sbin/weftd", "/etc/weft/weftd.env"];
    assert!(shipped.iter().all(|path| unit.contains(path)), "{unit}");
    let unit = unit
        .replace(shipped[0], &executable.to_string_lossy())
        .replace(shipped[1], &environment.to_string_lossy());
    fs::create_dir_all(dir.join("weftd.service.d")).unwrap();
    for target in ["sysinit", "basic", "shutdown"] {
        fs::write(dir.join(format!("{target}.target")), "[Unit]\n").unwrap();
    }
    let wants = "[Unit]\nWants=weftd.service\n";
    fs::write(dir.join("multi-user.target"), wants).unwrap();
    fs::write(dir.join("weftd.service"), unit).unwrap();
    let log = format!(
        "[Service]\nStandardOutput=append:{0}\nStandardError=append:{0}\nWatchdogSec=2\n",
        log(node).display()
    );
    fs::write(dir.join("weftd.service.d/log.conf"), log).unwrap();
    dir
}

fn log(node: &Node<'_>) -> PathBuf {
    node.dir.join("log")
}

/// But for what the unit says, and for directories, which are systemd's to make.
fn in_environment(flags: &[String]) -> String {
    let pairs = flags
        .iter()
        .filter_map(|flag| flag.strip_prefix("--")?.split_once('='));
    let ours = pairs.filter(|(key, _)| !["run-dir", "state-dir", "subnet-file"].contains(key));
    let lines = ours.map(|(key, value)| {
        let key = key.to_uppercase().replace('-', "_");
        format!("WEFTD_{key}={value}\n")
    });
    lines.collect()
}

/// What systemd takes for the root of all.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(world: &World) -> Self {
        let all = world.scratch("cgroups");
        world.exec(&format!("mount -t cgroup2 cgroup2 {}", all.display()));
        let own = all.join(format!("weft-test-{}", std::process::id()));
        fs::create_dir(&own).unwrap();
        Self(own)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        wait_until("nothing runs in the cgroups", LIMIT, || {
            remove_tree(&self.0)
        });
    }
}

/// Its files are the kernel's.
fn remove_tree(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let inner = entries.filter(|entry| entry.path().is_dir());
    for entry in inner {
        remove_tree(&entry.path());
    }
    fs::remove_dir(dir).is_ok()
}

#[test]
fn a_real_systemd_restarts_it_without_a_packet_lost() {
    if !can_run() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (host, pods, _other) = scene(&cluster);
        assert_eq!(host.number("NFileDescriptorStore"), 2);
        for pods in [[&pods[0], &pods[1]], [&pods[1], &pods[0]]] {
            nothing_is_lost_while(pods, || {
                let before = host.number("MainPID");
                host.systemctl("restart weftd");
                assert_ne!(host.number("MainPID"), before);
            });
        }
        assert_eq!(host.number("NFileDescriptorStore"), 2);
        // One that was started beside it is the service from then on, and has the store.
        let (before, control) = (host.number("MainPID"), host.property("ControlGroup"));
        nothing_is_lost_while([&pods[0], &pods[1]], || host.takes_over(&control));
        assert_ne!(host.number("MainPID"), before);
        assert_eq!(host.number("NRestarts"), 0);
        assert_eq!(host.number("NFileDescriptorStore"), 2);
        nothing_is_lost_while([&pods[0], &pods[1]], || {
            host.systemctl("restart weftd");
        });
    });
}

/// What arrives while nobody runs waits in the sockets that the store keeps open, and what pods send
/// waits in the TUN, as far as there is room.
#[test]
fn a_real_systemd_starts_it_again_when_it_was_killed_or_hangs() {
    if !can_run() {
        return;
    }
    in_world(|world| {
        let cluster = Cluster::new(world, UDP);
        let (host, pods, _other) = scene(&cluster);
        let streams = [
            Stream::start(&pods[1], &pods[0]),
            Stream::start(&pods[0], &pods[1]),
        ];
        let mut kills = Vec::new();
        for _ in 0..3 {
            let restarts = host.number("NRestarts");
            let killed = Instant::now();
            host.systemctl("kill --signal=KILL weftd");
            wait_until("it is started again", LIMIT, || {
                host.number("NRestarts") > restarts && host.property("ActiveState") == "active"
            });
            kills.push((killed, host.executed()));
            streams.iter().for_each(Stream::sees_more);
        }
        for (stream, way) in streams.into_iter().zip(["to", "from"]) {
            let flow = stream.end();
            let gaps: Vec<_> = kills
                .iter()
                .map(|(killed, executed)| (*executed - *killed, flow.gap_after(*executed)))
                .collect();
            println!("{way} it: from kill to start, and on to the first packet: {gaps:.0?}");
            println!("{} sent, {} lost", flow.sent, flow.lost());
        }
        let restarts = host.number("NRestarts");
        host.systemctl("kill --signal=STOP weftd");
        wait_until("the watchdog has seen to it", LIMIT, || {
            host.number("NRestarts") > restarts
        });
        pods[1].until_reaches(&pods[0]);
        assert_eq!(host.number("NFileDescriptorStore"), 2);
    });
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !skip_unless(&[Need::Tool("systemd-analyze")]) {
        return;
    }
    in_world(|world| {
        let dir = world.scratch("units");
        let unit = fs::read_to_string(Path::new(UNITS).join("weftd.service")).unwrap();
        let unit = unit.replace("/usr/local/sbin/weftd", "/bin/true");
        fs::write(dir.join("weftd.service"), unit).unwrap();
        let docker = "[Service]\nExecStart=/bin/true\n";
        fs::write(dir.join("docker.service"), docker).unwrap();
        let drop_in = Path::new(UNITS).join("docker.service.d/weft.conf");
        let drop_in = fs::read_to_string(drop_in).unwrap();
        let drop_in = drop_in
            .replace("/usr/local/sbin/weft", "/bin/true")
            .replace("/usr/bin/dockerd", "/bin/true");
        fs::create_dir(dir.join("docker.service.d")).unwrap();
        fs::write(dir.join("docker.service.d/weft.conf"), drop_in).unwrap();
        for unit in ["weftd.service", "docker.service"] {
            let done = Cmd::new("systemd-analyze")
                .args(["verify", "--man=no"])
                .arg(dir.join(unit))
                .run()
                .ok();
            assert_eq!(done.stdout + &done.stderr, "", "{unit}");
        }
    });
}

/// One node that is systemd's, another that is not, and a pod on each.
fn scene<'w>(cluster: &Cluster<'w>) -> (Host<'w>, [Pod; 2], Node<'w>) {
    let host = Host::boots(cluster.world, cluster.node(1));
    let other = cluster.node(2);
    other.start();
    other.until_ready();
    let pods = [host.node.pod(), other.pod()];
    (host, pods, other)
}
