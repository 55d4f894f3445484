//! How the daemon stands: the one value that /status, /metrics, /readyz and `weft status` show.

mod json;
pub(crate) mod path;
#[cfg(test)]
pub(crate) mod testing;
mod text;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ipnetwork::IpNetwork;
use tokio::sync::watch;
use weft_dataplane::Stats;

use crate::conf::{Backend, NetConf};
use crate::firewall;
use crate::lease::Lease;
use crate::overlay::Window;
use crate::reconcile::Report;
use crate::store::{Own, View};

pub use text::Paint;
pub(crate) use text::tame;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Status {
    pub about: Arc<About>,
    pub view: View,
    pub report: Arc<Report>,
    /// When the view came: what it says of time counts from there.
    viewed: Instant,
    window: Window,
}

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct About {
    pub version: &'static str,
    /// As the command line calls it.
    pub store: &'static str,
    pub node: String,
    pub started: SystemTime,
    since: Instant,
}

/// Where the daemon's parts put what they know, each in its own time and thread; whoever shows
/// it reads the newest.
#[derive(Debug, Clone)]
pub struct Board {
    newest: watch::Sender<Arc<Status>>,
}

impl About {
    /// A daemon that starts at this moment.
    pub fn starting(version: &'static str, store: &'static str, node: impl Into<String>) -> Self {
        Self {
            version,
            store,
            node: node.into(),
            started: SystemTime::now(),
            since: Instant::now(),
        }
    }
}

impl Board {
    /// What is seen through the window is shown as it is when somebody looks.
    pub fn new(about: About, window: Window) -> Self {
        let status = Status {
            window,
            ..Status::of(View::default(), Report::default(), about)
        };
        let (newest, _) = watch::channel(Arc::new(status));
        Self { newest }
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Status>> {
        self.newest.subscribe()
    }

    pub fn put_view(&self, view: View) {
        self.newest.send_modify(|status| {
            *status = Arc::new(Status {
                view,
                viewed: Instant::now(),
                ..Status::clone(status)
            });
        });
    }

    pub fn put_report(&self, report: &Report) {
        self.newest.send_modify(|status| {
            *status = Arc::new(Status {
                report: Arc::new(report.clone()),
                ..Status::clone(status)
            });
        });
    }
}

impl Status {
    /// Of a view that came at this moment.
    pub fn of(view: View, report: Report, about: About) -> Self {
        Self {
            about: Arc::new(about),
            view,
            report: Arc::new(report),
            viewed: Instant::now(),
            window: Window::default(),
        }
    }

    /// Of the udp backend, once it runs.
    pub fn packet_path(&self) -> Option<Stats> {
        self.window.look()
    }

    /// With what the kernel has counted up to this moment.
    #[must_use]
    pub fn counted(&self) -> Self {
        let mut report = Report::clone(&self.report);
        if report.guard
            && let Ok(standing) = firewall::count_dropped()
        {
            let all = report.guard_dropped_before + standing;
            // Rules may have gone since the report was made.
            report.guard_dropped = report.guard_dropped.max(all);
        }
        Self {
            report: Arc::new(report),
            ..self.clone()
        }
    }

    /// Else why not, which may have several lines.
    pub fn ready(&self) -> Result<(), &str> {
        match &self.report.ready {
            Ok(()) => Ok(()),
            Err(why) => Err(why),
        }
    }

    pub fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.about.since)
    }

    pub fn conf(&self) -> Option<&NetConf> {
        self.view.conf.as_ref()?.as_deref().ok()
    }

    /// As the configuration calls it.
    pub fn backend(&self) -> Option<&'static str> {
        Some(match self.conf()?.backend {
            Backend::Vxlan(_) => "vxlan",
            Backend::HostGw => "host-gw",
            Backend::Udp(_) => "udp",
            Backend::Alloc => "alloc",
        })
    }

    pub fn networks(&self) -> Vec<IpNetwork> {
        self.conf().map_or(Vec::new(), |conf| conf.networks.clone())
    }

    /// The lease that pods live by: held, or lost to another node.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.view.own {
            Own::Held(lease) | Own::Lost { was: lease, .. } => Some(lease),
            Own::Unclaimed | Own::Refused(_) => None,
        }
    }

    pub fn lease_state(&self) -> LeaseState<'_> {
        match &self.view.own {
            Own::Unclaimed => LeaseState::Unclaimed,
            Own::Held(_) => LeaseState::Held,
            Own::Lost { why, .. } => LeaseState::Lost(why),
            Own::Refused(why) => LeaseState::Refused(why),
        }
    }

    pub fn subnets(&self) -> Vec<IpNetwork> {
        let Some(subnets) = self.lease().map(|lease| lease.subnets) else {
            return Vec::new();
        };
        let v4 = subnets.v4.map(IpNetwork::V4);
        let v6 = subnets.v6.map(IpNetwork::V6);
        v4.into_iter().chain(v6).collect()
    }

    /// What peers are told.
    pub fn public_addresses(&self) -> Vec<IpAddr> {
        let attrs = self.lease().map(|lease| &lease.attrs);
        let standing = self.report.standing.as_ref();
        let v4 = match attrs {
            Some(attrs) => attrs.public_ip,
            None => standing.and_then(|standing| standing.public_ip),
        };
        let v6 = match attrs {
            Some(attrs) => attrs.public_ipv6,
            None => standing.and_then(|standing| standing.public_ipv6),
        };
        let v4 = v4.map(IpAddr::V4);
        let v6 = v6.map(IpAddr::V6);
        v4.into_iter().chain(v6).collect()
    }

    /// None for a lease that lasts, and where there is none.
    pub fn lease_expires_in(&self, now: Instant) -> Option<Duration> {
        let then = self.view.health.expires_in?;
        Some(then.saturating_sub(now.saturating_duration_since(self.viewed)))
    }

    /// None until they were listed.
    pub fn peers(&self) -> Option<usize> {
        self.view.peers.as_ref().map(|peers| peers.leases.len())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState<'a> {
    Unclaimed,
    Held,
    /// Why.
    Lost(&'a str),
    /// Why.
    Refused(&'a str),
}

impl<'a> LeaseState<'a> {
    pub const NAMES: [&'static str; 4] = ["unclaimed", "held", "lost", "refused"];

    pub fn name(self) -> &'static str {
        match self {
            Self::Unclaimed => "unclaimed",
            Self::Held => "held",
            Self::Lost(_) => "lost",
            Self::Refused(_) => "refused",
        }
    }

    pub fn why(self) -> Option<&'a str> {
        match self {
            Self::Lost(why) | Self::Refused(why) => Some(why),
            Self::Unclaimed | Self::Held => None,
        }
    }
}
