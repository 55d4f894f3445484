//! The memory as a file: a head, then a line for each peer. It is read line by line, since it
//! may be long; one that was not written to its end counts for nothing.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde_json::{Map, Value};
use weft_cni::Object;

use crate::conf::{Checks, NetConf};
use crate::lease::{Attrs, Identity, Lease, Subnets};
use crate::store::{Own, Peers, View};

/// In the state directory; and what a run that was killed while it wrote has left.
pub const FILE: &str = "remembered";
pub const BESIDE: &str = "remembered.new";

#[derive(Debug, Clone)]
pub(super) struct Memory {
    pub(super) conf: Arc<NetConf>,
    /// None where it was not held, or has run out since.
    pub(super) own: Option<Arc<Lease>>,
    pub(super) peers: Arc<Peers>,
    pub(super) written: SystemTime,
    /// When the own lease runs out. None: never.
    until: Option<SystemTime>,
}

impl Memory {
    /// None where there is nothing to go on with.
    pub(super) fn of(view: &View, now: SystemTime) -> Option<Self> {
        let (Some(Ok(conf)), Some(peers)) = (&view.conf, &view.peers) else {
            return None;
        };
        let own = match &view.own {
            Own::Held(lease) => Some(Arc::clone(lease)),
            // What another node holds is not remembered as ours.
            Own::Lost { .. } => None,
            Own::Unclaimed | Own::Refused(_) => return None,
        };
        Some(Self {
            conf: Arc::clone(conf),
            own,
            peers: Arc::clone(peers),
            written: now,
            until: view.health.expires_in.map(|left| now + left),
        })
    }

    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.conf == other.conf
            && self.own == other.own
            && (Arc::ptr_eq(&self.peers, &other.peers) || self.peers.leases == other.peers.leases)
            && is_near(self.until, other.until)
    }
}

/// The time left is told by clocks that do not go alike; a renewal makes it another.
fn is_near(one: Option<SystemTime>, other: Option<SystemTime>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => {
            let apart = one
                .duration_since(other)
                .unwrap_or_else(|later| later.duration());
            apart < Duration::from_secs(60)
        }
        _ => false,
    }
}

#[derive(Debug)]
pub(super) struct Page {
    path: PathBuf,
    scope: String,
}

impl Page {
    pub(super) fn new(state_dir: PathBuf, scope: String) -> Self {
        Self {
            path: state_dir.join(FILE),
            scope,
        }
    }

    /// None where there is none, or none of use: then the daemon waits for its store.
    pub(super) fn read(&self, now: SystemTime) -> Option<Memory> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return None,
            Err(why) => {
                tracing::warn!("read {}: {why}", self.path.display());
                return None;
            }
        };
        match self.parse(BufReader::new(file), now) {
            Ok(memory) => memory,
            Err(why) => {
                tracing::warn!(
                    "{} is passed over, since {why}; it is written anew once the store answers",
                    self.path.display()
                );
                None
            }
        }
    }

    pub(super) fn write(&self, memory: &Memory) -> Result<(), String> {
        let failed = |why| format!("write {}: {why}", self.path.display());
        let beside = self.path.with_file_name(BESIDE);
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        let mut out = BufWriter::new(File::create(&beside).map_err(failed)?);
        let written = self
            .put(&mut out, memory)
            .and_then(|()| fs::rename(&beside, &self.path));
        if written.is_err() {
            // Half a page is of no use to anybody, least of all on a disk that is full.
            let _ = fs::remove_file(&beside);
        }
        written.map_err(failed)
    }

    fn put(&self, out: &mut impl Write, memory: &Memory) -> io::Result<()> {
        writeln!(out, "{}", self.head(memory))?;
        for peer in &memory.peers.leases {
            writeln!(out, "{}", lease_to_json(peer))?;
        }
        out.flush()
    }

    fn head(&self, memory: &Memory) -> Value {
        let mut head = Map::new();
        head.insert("Version".into(), VERSION.into());
        head.insert("Scope".into(), self.scope.as_str().into());
        head.insert("Written".into(), seconds(memory.written).into());
        head.insert("Until".into(), memory.until.map(seconds).into());
        head.insert("Config".into(), memory.conf.to_json());
        let own = memory.own.as_deref().map(lease_to_json);
        head.insert("Own".into(), own.unwrap_or(Value::Null));
        head.insert("Peers".into(), memory.peers.leases.len().into());
        head.into()
    }

    /// None: it is of another node, store or version.
    fn parse(&self, lines: impl BufRead, now: SystemTime) -> Result<Option<Memory>, String> {
        let mut lines = lines.lines();
        let mut next = || match lines.next() {
            Some(Ok(line)) => serde_json::from_str(&line).map_err(|why| why.to_string()),
            Some(Err(why)) => Err(why.to_string()),
            None => Err("it ends too early".to_owned()),
        };
        let head: Value = next()?;
        let head = Object::of(&head, "").map_err(|why| why.msg)?;
        let version: Option<u32> = head.number("Version").map_err(|why| why.msg)?;
        if version != Some(VERSION) || head.text("Scope").ok().flatten() != Some(&self.scope) {
            return Ok(None);
        }
        let conf = head.get("Config").ok_or("it has no configuration")?;
        let anything = Checks::Assigned { found: &[] };
        let conf = NetConf::parse(&conf.to_string(), anything).map_err(|why| why.to_string())?;
        let until = time(&head, "Until")?;
        let lasts = until.is_none_or(|until| now < until);
        let own = head.get("Own").filter(|_| lasts).map(lease_from_json);
        let count: Option<usize> = head.number("Peers").map_err(|why| why.msg)?;
        let mut leases = Vec::new();
        for _ in 0..count.unwrap_or(0) {
            leases.push(Arc::new(lease_from_json(&next()?)?));
        }
        Ok(Some(Memory {
            conf: Arc::new(conf),
            own: own.transpose()?.map(Arc::new),
            peers: Arc::new(Peers {
                leases,
                rubbish: Vec::new(),
            }),
            written: time(&head, "Written")?.ok_or("it does not say when it was written")?,
            until,
        }))
    }
}

/// Who the node was, whatever it is called today, and whichever store that was.
pub fn identity(state_dir: &Path) -> Option<Identity> {
    let file = File::open(state_dir.join(FILE)).ok()?;
    let mut head = String::new();
    BufReader::new(file).read_line(&mut head).ok()?;
    let head: Value = serde_json::from_str(&head).ok()?;
    let head = Object::of(&head, "").ok()?;
    let own = lease_from_json(head.get("Own")?).ok()?;
    own.attrs.extra?.identity
}

fn lease_to_json(lease: &Lease) -> Value {
    let Subnets { v4, v6 } = lease.subnets;
    let mut map = Map::new();
    map.insert("V4".into(), v4.map(|net| net.to_string()).into());
    map.insert("V6".into(), v6.map(|net| net.to_string()).into());
    map.insert("Value".into(), lease.attrs.to_json().into());
    map.into()
}

fn lease_from_json(value: &Value) -> Result<Lease, String> {
    let lease = Object::of(value, "").map_err(|why| why.msg)?;
    let v4: Option<Ipv4Network> = lease.parsed("V4", "a subnet").map_err(|why| why.msg)?;
    let v6: Option<Ipv6Network> = lease.parsed("V6", "a subnet").map_err(|why| why.msg)?;
    let value = lease.text("Value").map_err(|why| why.msg)?;
    Ok(Lease {
        subnets: Subnets { v4, v6 },
        attrs: Attrs::parse(value.ok_or("a lease has no value")?)?,
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn time(head: &Object<'_>, key: &str) -> Result<Option<SystemTime>, String> {
    let seconds: Option<u64> = head.number(key).map_err(|why| why.msg)?;
    Ok(seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))))
}

const VERSION: u32 = 1;
