//! What goes out: views, each whole, and no more of them than anybody can use.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::config::Config;
use super::missing::Missing;
use crate::store::leasing::Leasing;
use crate::store::leasing::peers::peers;
use crate::store::leasing::table::Table;
use crate::store::{Health, Own, Peers, View};

pub(super) struct Publisher {
    pub(super) view: watch::Sender<View>,
    /// Something other than the peers is different from the last view.
    pub(super) differs: bool,
    pub(super) peers_differ: bool,
    own: Own,
    disturbance: Option<String>,
    peers: Option<Arc<Peers>>,
    last: Option<Instant>,
}

impl Publisher {
    pub(super) fn new(view: watch::Sender<View>) -> Self {
        Self {
            view,
            differs: false,
            peers_differ: false,
            own: Own::Unclaimed,
            disturbance: None,
            peers: None,
            last: None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.view.is_closed()
    }

    /// Whether it stands otherwise with our own lease.
    pub(super) fn notice(&mut self, leasing: &Leasing, now: Duration) {
        let own = leasing.own();
        if own != self.own {
            (self.own, self.differs, self.peers_differ) = (own, true, true);
        }
        let disturbance = leasing.disturbance(now);
        if disturbance != self.disturbance.as_deref() {
            if let Some(told) = disturbance {
                tracing::warn!("{told}");
            }
            self.disturbance = disturbance.map(str::to_owned);
            self.differs = true;
        }
    }

    /// When the next view is due, if there is anything to tell: at once after a quiet time, and
    /// within a storm whenever [`PAUSE`] has passed.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let due = self.differs || self.peers_differ;
        due.then(|| self.last.map_or_else(Instant::now, |last| last + PAUSE))
    }

    pub(super) fn publish(
        &mut self,
        config: &Config,
        leasing: &Leasing,
        listed: Option<&Table>,
        missing: &Missing,
        health: Health,
        now: Duration,
    ) {
        if !self.differs && !self.peers_differ {
            return;
        }
        if let Some(table) = listed.filter(|_| self.peers_differ || self.differs) {
            let conf = config.known().and_then(|conf| conf.as_ref().ok());
            let own = leasing.subnets();
            let peers = peers(
                table,
                missing.table(),
                conf.map(|conf| &**conf),
                leasing.claim(),
                own.as_ref(),
            );
            if self.peers.as_deref() != Some(&peers) {
                self.peers = Some(Arc::new(peers));
            }
        }
        (self.differs, self.peers_differ) = (false, false);
        self.last = Some(Instant::now());
        let trouble = health.trouble.or_else(|| self.disturbance.clone());
        self.view.send_replace(View {
            conf: config.known().cloned(),
            conf_changed: config.changed().map(str::to_owned),
            own: self.own.clone(),
            peers: self.peers.clone(),
            health: Health {
                trouble,
                expires_in: leasing.expires_in(now),
                ..health
            },
            ..View::default()
        });
    }
}

/// The most that coalescing delays a view.
const PAUSE: Duration = Duration::from_millis(5);
