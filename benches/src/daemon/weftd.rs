//! A release weftd on a node, watched from outside.
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_netns::{Cmd, Running, wait_until};

use super::field::Node;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Weftd {
    pub(crate) running: Running,
    /// Just before it was executed.
    pub(crate) begun: Instant,
}

/// Where its leases are.
#[derive(Clone, Debug)]
pub(crate) enum Leases {
    Etcd { endpoint: String, prefix: String },
    Embedded(PathBuf),
}

/// How it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way<'a> {
    Straight,
    /// As any other program, even where we ourselves come first.
    Ordinary,
    /// Under strace.
    Traced {
        calls: &'a str,
        log: &'a Path,
    },
}

impl Weftd {
    pub(crate) fn start(node: &Node, leases: &Leases) -> Self {
        Self::run(&command(node, leases, Way::Straight))
    }

    pub(crate) fn start_ordinary(node: &Node, leases: &Leases) -> Self {
        Self::run(&command(node, leases, Way::Ordinary))
    }

    pub(crate) fn run(command: &Cmd) -> Self {
        let begun = Instant::now();
        let running = command.spawn();
        Self { running, begun }
    }

    /// Until pods could be added.
    #[track_caller]
    pub(crate) fn until_serving(&self, node: &Node) {
        let file = subnet_file(node);
        wait_until("weftd serves", PATIENCE, || {
            self.assert_alive();
            file.exists()
        });
    }

    /// Until it says that all is programmed, as it is after a restart, too.
    #[track_caller]
    pub(crate) fn until_ready(&self, node: &Node) {
        wait_until("weftd is ready", PATIENCE, || {
            self.assert_alive();
            node.netns.enter(is_ready)
        });
    }

    #[track_caller]
    pub(crate) fn assert_alive(&self) {
        let said = || self.running.said_so_far();
        assert!(
            !self.running.ends_within(Duration::ZERO),
            "weftd ended: {}",
            said()
        );
    }

    pub(crate) fn stop(self, signal: Signal) {
        match self.traced() {
            Some(pid) => drop(kill(pid, signal)),
            None => self.running.signal(signal),
        }
        let _ = self.running.finish();
    }

    /// The child of a strace, which itself takes no orders.
    fn traced(&self) -> Option<Pid> {
        let of = self.running.pid();
        let tracer = fs::read_to_string(format!("/proc/{of}/comm")).ok()? == "strace\n";
        let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
        let child = children.split_whitespace().next().filter(|_| tracer)?;
        Some(Pid::from_raw(child.parse().ok()?))
    }

    /// A line of /proc's status, in KiB.
    pub(crate) fn memory(&self, what: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.pid()));
        let status = status.expect("weftd lives");
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let number = line.and_then(|line| line.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .unwrap_or(f64::NAN)
    }

    /// Of all its threads, to the nanosecond.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.running.pid()));
        let nanos = tasks.into_iter().flatten().flatten().filter_map(|task| {
            let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }
}

/// On the node of the calling thread.
fn is_ready() -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", HEALTHZ))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: weftd\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    ask().is_ok_and(|answer| {
        answer
            .lines()
            .next()
            .is_some_and(|line| line.contains(" 200 "))
    })
}

pub(crate) fn command(node: &Node, leases: &Leases, way: Way<'_>) -> Cmd {
    let program = program();
    let command = match way {
        Way::Straight => node.command(&program.display().to_string()),
        Way::Ordinary => node.command("chrt").args(["-o", "0"]).arg(program),
        Way::Traced { calls, log } => {
            let strace = node.command("strace").args(["-f", "-qq", "-e"]);
            let strace = strace.arg(format!("trace={calls}"));
            strace.arg("-o").arg(log).arg(program)
        }
    };
    arguments(command, node, leases)
}

fn arguments(command: Cmd, node: &Node, leases: &Leases) -> Cmd {
    let dir = node.dir.display();
    let command = match leases {
        Leases::Etcd { endpoint, prefix } => command
            .arg(format!("--etcd-endpoints={endpoint}"))
            .arg(format!("--etcd-prefix={prefix}")),
        Leases::Embedded(leases) => command.arg(format!("--embedded-dir={}", leases.display())),
    };
    command
        .args(["--iface=eth0", "--ip-masq", "--healthz-ip=127.0.0.1"])
        .arg(format!("--healthz-port={HEALTHZ}"))
        .arg(format!("--subnet-file={}", subnet_file(node).display()))
        .arg(format!("--run-dir={dir}/run"))
        .arg(format!("--state-dir={dir}/state"))
        .arg(format!("--node-name={}", node.name))
        .arg(format!("--machine-id={}", machine_id(&node.name)))
}

pub(crate) fn subnet_file(node: &Node) -> PathBuf {
    node.dir.join("subnet.env")
}

/// As `make bench-daemon` leaves it, else as cargo does; `WEFTD` names another.
pub(crate) fn program() -> PathBuf {
    if let Some(given) = std::env::var_os("WEFTD") {
        return given.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("");
    let triples = fs::read_dir(root.join("target")).into_iter().flatten();
    let triples = triples
        .flatten()
        .map(|dir| dir.path().join("release/weftd"));
    let places = [
        root.join("dist/bench/weftd"),
        root.join("target/release/weftd"),
    ];
    let mut places = places.into_iter().chain(triples);
    places
        .find(|place| place.is_file())
        .expect("a release weftd: `make bench-daemon` builds it")
}

fn machine_id(name: &str) -> String {
    let digits = name.bytes().map(|byte| format!("{byte:02x}"));
    format!("{:0>32}", digits.collect::<String>())
}

const HEALTHZ: u16 = 8081;
