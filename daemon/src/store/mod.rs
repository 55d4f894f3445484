//! Where leases are kept. A store is a task: it is told what this node claims, speaks its
//! protocol for as long as the daemon lives, and hands on the newest view whole. Nobody asks
//! it anything; nothing it meets ends the daemon.

pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "kube")]
pub mod kube;
pub mod leased;
pub mod leasing;
pub mod registry;
pub mod remembered;

use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use std::net::IpAddr;
use tokio::sync::watch;
use weft_net::Mac;

use crate::conf::NetConf;
use crate::lease::{Identity, Lease, Subnets};

pub trait Store: Send {
    /// Runs until the process ends. `claim` is None until the node knows what to claim (its
    /// interface depends on the configuration, which the store brings).
    fn run(
        self: Box<Self>,
        claim: watch::Receiver<Option<Claim>>,
        view: watch::Sender<View>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// What this node wants to hold and to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub identity: Identity,
    pub public_ip: Option<Ipv4Addr>,
    pub public_ipv6: Option<Ipv6Addr>,
    /// The addresses that our encapsulated packets come from.
    pub sources: Vec<IpAddr>,
    /// The public address is not what our packets come from, and we cannot tell from what.
    pub overwritten: bool,
    /// What the subnet file of an earlier run says.
    pub previous: Option<Subnets>,
    /// Who this node was when it last held a lease, as its own disk says: machines get other
    /// names.
    pub formerly: Option<Identity>,
    pub offer: Offer,
}

/// What the backend publishes, as far as it is known before the subnet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// alloc.
    Nothing,
    Udp {
        port: u16,
    },
    HostGw,
    /// The MAC addresses are those of devices that exist. What is published is, in this order:
    /// what the node's own lease says, the device's, one derived from subnet and VNI.
    Vxlan {
        vni: u32,
        v4: Option<Mac>,
        v6: Option<Mac>,
    },
}

/// All that a store knows. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// None until it was read; the error is for the operator, and the store looks again.
    pub conf: Option<Result<Arc<NetConf>, String>>,
    /// The configuration changed since `conf` was read: what to tell. It counts from the next
    /// start on.
    pub conf_changed: Option<String>,
    pub own: Own,
    /// None until they were listed.
    pub peers: Option<Arc<Peers>>,
    pub health: Health,
    /// What the operator should know of what the store holds.
    pub notes: Vec<String>,
    /// What this node is to publish, whatever its interface's addresses and the command line are.
    pub chosen: Chosen,
    /// Some of it the store has not told yet: it is what an earlier run knew at that time.
    pub remembered: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chosen {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// How it stands with this node's own lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Own {
    #[default]
    Unclaimed,
    Held(Arc<Lease>),
    /// Another node holds what we held. Pods keep `was`; the node is not ready.
    Lost {
        was: Arc<Lease>,
        why: String,
    },
    /// No subnet could be had: what stands in the way. Tried again for ever.
    Refused(String),
}

/// Every lease but our own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// Sorted by subnet.
    pub leases: Vec<Arc<Lease>>,
    /// What could not be read: it is told, counted, and harms nobody else.
    pub rubbish: Vec<Rubbish>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rubbish {
    /// The key, or the node's name.
    pub name: String,
    pub why: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// None while all is well; else what the last attempt met.
    pub trouble: Option<String>,
    pub calls: u64,
    pub failures: u64,
    pub reconnects: u64,
    /// Of all calls together, for a mean; and the longest.
    pub spent: Duration,
    pub slowest: Duration,
    /// When the lease will expire, as far as the store keeps time: seconds left at renewal.
    pub expires_in: Option<Duration>,
}
