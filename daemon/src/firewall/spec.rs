//! What the firewall is asked for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

/// What the node's firewall shall do, for both families at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    /// The networks of all pods of the cluster.
    pub networks: Vec<IpNetwork>,
    /// This node's part of them.
    pub own: Vec<IpNetwork>,
    pub masquerade: Option<Masquerade>,
    /// Whether forwarded packets from and to pods are accepted.
    pub forward: bool,
    pub guard: Option<Guard>,
}

/// Pods' packets leave the cluster under the node's address, and others' reach pods under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    pub random_fully: bool,
    /// Networks besides the pods' own which their packets reach under the pod's address.
    pub spared: Vec<IpNetwork>,
}

/// Encapsulated packets from an address that is no peer's are dropped.
///
/// A peer that moves to another address is a stranger there until its lease arrives: what it
/// sends before that is dropped, as are our packets to the address where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The UDP port of the tunnel.
    pub port: u16,
    /// All that may send, before the guard begins: whoever is missing is cut off.
    pub from: BTreeSet<IpAddr>,
    /// `from` may lack some: who is let in already stays so.
    pub lenient: bool,
    /// How long it stands at least when nobody keeps it any more. Then it lets everybody in.
    pub lasting: Duration,
}

impl Guard {
    /// Enough for an upgrade, a reboot of what weftd needs, or an operator who has a look first; and
    /// a node that came meanwhile does not wait for longer.
    pub const LASTING: Duration = Duration::from_secs(3600);
}

impl Spec {
    /// Networks by their first address, each once and in order: two specs that ask for the same
    /// are equal.
    pub(super) fn canonical(&self) -> Self {
        Self {
            networks: canonical(&self.networks),
            own: canonical(&self.own),
            masquerade: self.masquerade.as_ref().map(|masquerade| Masquerade {
                spared: canonical(&masquerade.spared),
                ..masquerade.clone()
            }),
            ..self.clone()
        }
    }
}

fn canonical(networks: &[IpNetwork]) -> Vec<IpNetwork> {
    let first = |network: &IpNetwork| IpNetwork::new(network.network(), network.prefix()).ok();
    let sorted: BTreeSet<IpNetwork> = networks.iter().filter_map(first).collect();
    sorted.into_iter().collect()
}
