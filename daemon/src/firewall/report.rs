//! What is told of a reconciliation: to the log, the metrics and `weft doctor`.

use std::fmt::Display;

use ipnetwork::IpNetwork;
use weft_net::nft::Table;

use super::foreign::ForeignHook;
use super::legacy::program;
use super::passage::{Edit, End, Filter, Handle, Passage};
use super::plan::name;

/// What a reconciliation found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What was not as it should be and has been put right, by table.
    pub repaired: Vec<Repair>,
    /// The same spec stood complete before: so somebody else has taken away what was repaired.
    pub is_drift: bool,
    /// The generations of the ruleset that our own commits made, for telling them from others'.
    pub generations: Vec<u32>,
    /// What the operator should know, with the remedy; each is told once as long as it holds.
    pub notes: Vec<String>,
    /// Others' chains that forwarded packets pass.
    pub hooks: Vec<ForwardHook>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// As nft names it: `ip flannel-ipv4`; or `iptables-legacy filter`.
    pub table: String,
    pub what: String,
}

/// A base chain of others at the forward hook, and what it does to pods' packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardHook {
    /// As nft names it: `inet firewalld`; or `iptables-legacy filter`.
    pub table: String,
    pub chain: String,
    pub priority: i32,
    /// Packets that come from a pod.
    pub leaving: Passage,
    /// Packets that go to a pod.
    pub arriving: Passage,
    pub networks: Vec<IpNetwork>,
}

impl Report {
    pub fn has_changed(&self) -> bool {
        !self.repaired.is_empty()
    }
}

impl Repair {
    pub(super) fn of(table: Table<'_>, what: impl Display) -> Self {
        Self {
            table: name(table),
            what: what.to_string(),
        }
    }
}

impl ForwardHook {
    pub fn passes(&self) -> bool {
        self.leaving == Passage::Passes && self.arriving == Passage::Passes
    }

    /// What is dropped by what, and what the operator can do.
    pub fn note(&self) -> Option<String> {
        Some(format!(
            "{}, and no rule of ours elsewhere can prevent that: {}",
            self.complaint()?,
            self.remedy()
        ))
    }

    /// What is dropped by what.
    pub fn complaint(&self) -> Option<String> {
        let (which, by) = match (&self.leaving, &self.arriving) {
            (Passage::Passes, Passage::Passes) => return None,
            (Passage::Dropped(by), Passage::Dropped(_)) => ("from and to pods", by),
            (Passage::Dropped(by), Passage::Passes) => ("from pods", by),
            (Passage::Passes, Passage::Dropped(by)) => ("to pods", by),
        };
        let Self { table, chain, .. } = self;
        Some(format!(
            "forwarded packets {which} are dropped by chain {chain} of table {table} ({by})"
        ))
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        let Self {
            table,
            chain,
            networks,
            ..
        } = self;
        let each = |command: &dyn Fn(&IpNetwork) -> String| -> String {
            networks.iter().map(command).collect::<Vec<_>>().join("; ")
        };
        if table.ends_with(" firewalld") {
            let sources = each(&|network| {
                format!("firewall-cmd --permanent --zone=trusted --add-source={network}")
            });
            let mut remedy =
                format!("have firewalld trust them: `{sources}; firewall-cmd --reload`");
            if self.leaving == Passage::Passes {
                remedy = "let firewalld forward to its trusted zone: `firewall-cmd --permanent --new-policy=to-pods; firewall-cmd --permanent --policy=to-pods --add-ingress-zone=ANY --add-egress-zone=trusted --set-target=ACCEPT; firewall-cmd --reload`".into();
            }
            return remedy;
        }
        let rules = each(&|network| {
            let family = if network.is_ipv6() { "ip6" } else { "ip" };
            format!(
                "nft insert rule {table} {chain} {family} saddr {network} accept; nft insert rule {table} {chain} {family} daddr {network} accept"
            )
        });
        format!("`{rules}`, and the same in the file that makes this table")
    }
}

/// `None` if there are no networks whose packets it sees.
pub(super) fn hook(
    hook: &ForeignHook,
    edits: &[Edit],
    networks: &[IpNetwork],
) -> Option<ForwardHook> {
    let filter = hook.filter.clone().edited(edits);
    judged(name(hook.table()), hook.priority, &filter, networks)
}

/// The same for the filter table of iptables-legacy.
pub(super) fn legacy_hook(filter: Filter, networks: &[IpNetwork], v6: bool) -> Option<ForwardHook> {
    judged(
        format!("{}-legacy filter", program(v6)),
        0,
        &filter,
        networks,
    )
}

pub(super) fn describe(edit: &Edit) -> String {
    match edit {
        Edit::Insert { chain, accept, .. } => {
            let end = match accept.end {
                End::Source => "saddr",
                End::Destination => "daddr",
            };
            format!(
                "`{end} {} accept` inserted in chain {chain}",
                accept.network
            )
        }
        Edit::Delete {
            chain,
            handle: Handle::Number(number),
        } => {
            format!("rule {number} of ours deleted from chain {chain}")
        }
        Edit::Delete { chain, .. } => format!("a rule of ours deleted from chain {chain}"),
    }
}

fn judged(
    table: String,
    priority: i32,
    filter: &Filter,
    networks: &[IpNetwork],
) -> Option<ForwardHook> {
    let passage = |end| {
        let mut passages = networks.iter().map(|network| filter.passage(end, *network));
        passages
            .find(|passage| *passage != Passage::Passes)
            .unwrap_or(Passage::Passes)
    };
    (!networks.is_empty()).then(|| ForwardHook {
        table,
        chain: filter.base.clone(),
        priority,
        leaving: passage(End::Source),
        arriving: passage(End::Destination),
        networks: networks.to_vec(),
    })
}
