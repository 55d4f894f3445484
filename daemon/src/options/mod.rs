//! The command line and the environment, in flanneld's own words (Go's flag syntax), checked:
//! what the daemon is told to do, with nothing left to look up.
//!
//! `go` splits arguments as Go does, `flags` is the table of all there are, `settle` holds what
//! depends on several of them at once.

mod annotation_prefix;
mod flags;
mod go;
mod help;
mod hint;
mod settle;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;

pub use annotation_prefix::annotation_prefix;
pub(crate) use hint::distance;

use crate::conflist::Conflist;
use crate::interface::Wanted;
use flags::{FLAGS, Flag};
use go::Argument;
use settle::Given;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Run(Box<Options>),
    /// Remove all that is ours, and end.
    Cleanup(Box<Options>),
    /// For stderr, where flanneld prints it.
    Version,
    /// For stdout.
    Help(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub store: Store,
    pub interface: Wanted,
    pub node: Node,
    pub subnet_file: PathBuf,
    /// How long before its end a lease is renewed.
    pub renew_margin: Duration,
    pub masquerade: Masquerade,
    /// Accept rules where forwarding is refused.
    pub forward_rules: bool,
    /// A blackhole route for our own subnet.
    pub blackhole_route: bool,
    /// Drop encapsulated packets from addresses that are no peer.
    pub peer_guard: bool,
    pub vxlan_checksum: Checksum,
    /// Where health and metrics are served. None: nowhere.
    pub health: Option<SocketAddr>,
    /// The slow timer of the loop; what matters wakes it at once.
    pub resync: Duration,
    pub log: Log,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    /// Where another weftd runs, take its place and let it end.
    pub take_over: bool,
    /// The runtime's configuration, if it is the daemon that puts it in place.
    pub conflist: Option<Conflist>,
    /// What was passed over, and why: to be logged once there is a log.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    Etcd(Etcd),
    /// A directory that several daemons share.
    Embedded(PathBuf),
    Kube(Kube),
}

#[derive(Clone, PartialEq, Eq)]
pub struct Etcd {
    /// At least one.
    pub endpoints: Vec<String>,
    pub prefix: String,
    pub key_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kube {
    /// None, and no kubeconfig: the service account of the pod.
    pub api_url: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    /// Normalised: see [`annotation_prefix`].
    pub annotation_prefix: String,
    pub net_conf: PathBuf,
    pub set_node_network_unavailable: bool,
    /// Namespace and name of our own pod: they lead to the node where its name is not given.
    pub pod: Option<(String, String)>,
    pub patience: Patience,
}

/// How long it takes until something is believed to be what it seems. Tests have less time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// A watch is none, of which nothing comes though the server says each minute where it stands.
    pub quiet: Duration,
    /// A connection is none, whose other end does not even acknowledge.
    pub unanswered: Duration,
    /// A node is to be kept free of pods that is not ready.
    pub unready: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(150),
            unanswered: Duration::from_secs(25),
            unready: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// None: the host's name.
    pub name: Option<String>,
    pub machine_id: MachineId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineId {
    File(PathBuf),
    Is(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    pub on: bool,
    pub random_fully: bool,
    /// Destinations that see the pods' own addresses.
    pub exempt: Vec<IpNetwork>,
}

/// Whether VXLAN's outer UDP checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// As this kernel can be trusted with it.
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// klog's numbers: 0 tells what matters, 1 and more is for debugging, 4 and more for tracing.
    pub verbosity: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// A command line that cannot be followed: what is wrong with it and how to put it right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Mistake {
    text: String,
    exit_code: u8,
}

impl Options {
    /// `args` without the program's name. `env` answers None for what is not set.
    pub fn parse(
        args: impl IntoIterator<Item = String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Command, Mistake> {
        let mut given = Given::default();
        let mut seen: Vec<&str> = Vec::new();
        let mut args = args.into_iter();
        while let Some(argument) = Argument::next(&mut args)? {
            let (name, value) = match argument {
                Argument::Flag { name, value } => (name, value),
                Argument::Rest(rest) => {
                    given.passed_over(&rest);
                    break;
                }
            };
            if matches!(name.as_str(), "h" | "help") {
                return Ok(Command::Help(help::text()));
            }
            let flag = Flag::named(&name).ok_or_else(|| Mistake::unknown(&name))?;
            let value = go::value_of(flag, value, &mut args)?;
            (flag.set)(&mut given, &value)
                .map_err(|why| Mistake::usage(format!("-{name}={value}: {why}")))?;
            seen.push(flag.name);
        }
        for flag in FLAGS.iter().filter(|flag| !seen.contains(&flag.name)) {
            given.take_from_environment(flag, &env);
        }
        given.settle(&env)
    }
}

impl Store {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Etcd(_) => "etcd",
            Self::Embedded(_) => "embedded",
            Self::Kube(_) => "kube",
        }
    }
}

impl Mistake {
    /// What a program called wrongly ends with: 2, but 1 for a value out of range where flanneld
    /// ends with 1.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    fn usage(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            exit_code: 2,
        }
    }

    fn out_of_range(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            exit_code: 1,
        }
    }

    fn unknown(name: &str) -> Self {
        Self::usage(match hint::for_unknown(name) {
            Some(hint) => format!("unknown flag -{name}: {hint} (weftd -help lists all flags)"),
            None => format!("unknown flag -{name} (weftd -help lists all flags)"),
        })
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("key_file", &self.key_file)
            .field("cert_file", &self.cert_file)
            .field("ca_file", &self.ca_file)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(secret)"))
            .finish()
    }
}

/// Where health is served when only a port is given: on every address, IPv4.
const EVERYWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
