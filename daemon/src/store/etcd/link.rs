//! One connection to one member that answers, kept as long as it does. etcd-client's own
//! balancing keeps asking dead endpoints, so each client here knows a single one.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::fault::{Asked, Fault, Particular};
use super::pace::Pace;
use super::settings::{Endpoint, Settings};
use super::{CALL_LIMIT, CALLS_LIMIT};
use crate::store::registry::Trouble;

#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    live: Option<Live>,
    /// The endpoint to try first.
    first: usize,
    pace: Pace,
    /// A connection was given up, and none stands in its place.
    lost: bool,
    reconnects: u64,
}

#[derive(Clone)]
pub(super) struct Live {
    index: usize,
    pub(super) client: Client,
    answered: bool,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    endpoints: Vec<Endpoint>,
    told_that_nobody_logs_in: AtomicBool,
}

impl Link {
    pub(super) fn new(settings: Settings, endpoints: Vec<Endpoint>) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                endpoints,
                told_that_nobody_logs_in: AtomicBool::new(false),
            }),
            live: None,
            first: 0,
            pace: Pace::default(),
            lost: false,
            reconnects: 0,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects
    }

    pub(super) fn asked(&self, live: &Live) -> Asked<'_> {
        Asked {
            answered: live.answered,
            ..self.shared.asked(live.index)
        }
    }

    /// For callers to whom no particular answer means anything.
    pub(super) fn told(&self, fault: Fault) -> Trouble {
        fault.into_trouble(self.shared.asked(self.first))
    }

    /// Asks a member, another one if it does not answer, and logs in again if need be.
    /// What was asked may have happened even when the answer is an error.
    pub(super) async fn call<T, F, Fut>(&mut self, ask: F) -> Result<T, Fault>
    where
        T: Send,
        F: Fn(Client) -> Fut + Send,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        self.wait().await;
        let begun = Instant::now();
        let mut logged_in = false;
        let mut attempts = 0..self.shared.endpoints.len();
        loop {
            let live = self.live().await?;
            let fault = match timeout(CALL_LIMIT, ask(live.client.clone())).await {
                Ok(Ok(answer)) => {
                    self.succeeded();
                    return Ok(answer);
                }
                Ok(Err(error)) => self.asked(&live).weigh(&error),
                Err(_) => self.asked(&live).timed_out(),
            };
            let go_on = match &fault {
                Fault::LoggedOut => {
                    self.log_in_again();
                    !std::mem::replace(&mut logged_in, true)
                }
                Fault::Elsewhere(trouble) => {
                    self.broke(&live, trouble);
                    attempts.next().is_some() && begun.elapsed() < CALLS_LIMIT
                }
                Fault::Particular(_) => return Err(fault),
                Fault::Final(_) => false,
            };
            if !go_on {
                self.pace.failed();
                return Err(Fault::Final(fault.into_trouble(self.asked(&live))));
            }
        }
    }

    /// Not before the time after a failure is over: whoever calls, and however often.
    pub(super) async fn wait(&self) {
        self.pace.wait().await;
    }

    /// What a caller of its own met, who does not go through [`Self::call`].
    pub(super) fn failed(&mut self) {
        self.pace.failed();
    }

    fn succeeded(&mut self) {
        self.pace.succeeded();
        if let Some(live) = &mut self.live {
            live.answered = true;
        }
    }

    pub(super) fn log_in_again(&mut self) {
        self.live = None;
    }

    /// The connection is given up; the next one is sought from the endpoint after it.
    pub(super) fn broke(&mut self, live: &Live, trouble: &Trouble) {
        if self.live.as_ref().is_none_or(|it| it.index != live.index) {
            return;
        }
        tracing::debug!(%trouble, "etcd: connection given up");
        self.live = None;
        self.first = (live.index + 1) % self.shared.endpoints.len();
        self.lost = true;
    }

    pub(super) async fn live(&mut self) -> Result<Live, Fault> {
        if let Some(live) = &self.live {
            return Ok(live.clone());
        }
        match race(&self.shared, self.first).await {
            Ok(live) => {
                self.reconnects += u64::from(std::mem::take(&mut self.lost));
                self.first = live.index;
                self.live = Some(live.clone());
                Ok(live)
            }
            Err(fault) => {
                self.pace.failed();
                Err(fault)
            }
        }
    }
}

/// The first that answers wins; the others are asked a little later, or once one has failed.
async fn race(shared: &Arc<Shared>, first: usize) -> Result<Live, Fault> {
    let count = shared.endpoints.len();
    let mut waiting = (0..count).map(|i| (first + i) % count).peekable();
    let mut asked = JoinSet::new();
    let mut troubles = Vec::new();
    loop {
        if let Some(index) = waiting.next() {
            let shared = Arc::clone(shared);
            asked.spawn(async move { shared.open(index).await });
        }
        let more = waiting.peek().is_some();
        tokio::select! {
            answer = asked.join_next() => match answer {
                Some(Ok(Ok(live))) => return Ok(live),
                Some(Ok(Err(trouble))) => troubles.push(trouble),
                Some(Err(died)) => troubles.push(Trouble::Garbled(format!("etcd: {died}"))),
                None if more => {}
                None => return Err(Fault::Final(together(troubles))),
            },
            () = sleep(HEAD_START), if more => {}
        }
    }
}

impl Shared {
    fn asked(&self, index: usize) -> Asked<'_> {
        Asked {
            url: &self.endpoints[index].url,
            tls: self.endpoints[index].tls,
            settings: &self.settings,
            answered: false,
        }
    }

    /// With several endpoints a connection counts only when its member has answered; a single
    /// one is as well asked what is wanted.
    async fn open(&self, index: usize) -> Result<Live, Trouble> {
        let asked = self.asked(index);
        let client = match self.connect(index, true).await {
            Err(Fault::Particular(Particular::Precondition)) => {
                if !self.told_that_nobody_logs_in.swap(true, Ordering::Relaxed) {
                    tracing::warn!("etcd: authentication is off there: --etcd-username is unused");
                }
                self.connect(index, false).await
            }
            other => other,
        };
        let client = client.map_err(|fault| fault.into_trouble(asked))?;

        if self.endpoints.len() > 1 {
            let mut probe = client.clone();
            let fault = match timeout(CALL_LIMIT, probe.status()).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(asked.weigh(&error)),
                Err(_) => Some(asked.timed_out()),
            };
            if let Some(Fault::Elsewhere(trouble)) = fault {
                return Err(trouble);
            }
        }
        Ok(Live {
            index,
            client,
            answered: false,
        })
    }

    async fn connect(&self, index: usize, log_in: bool) -> Result<Client, Fault> {
        let asked = self.asked(index);
        let endpoint = &self.endpoints[index];
        let options = self
            .settings
            .options(endpoint.tls, log_in)
            .map_err(|error| Fault::Final(Trouble::Refused(error.to_string())))?;
        let connecting = Client::connect([&endpoint.url], Some(options));
        match timeout(CALL_LIMIT, connecting).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(asked.weigh(&error)),
            Err(_) => Err(asked.timed_out()),
        }
    }
}

/// All of them said, and the worst kind named: a refusal does not pass by itself.
fn together(troubles: Vec<Trouble>) -> Trouble {
    let text = troubles
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    if troubles.iter().any(|t| matches!(t, Trouble::Refused(_))) {
        Trouble::Refused(text)
    } else if troubles.iter().any(|t| matches!(t, Trouble::Garbled(_))) {
        Trouble::Garbled(text)
    } else {
        Trouble::Unreachable(text)
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// How long an endpoint is asked alone: longer than a healthy one needs, shorter than anybody
/// minds.
const HEAD_START: Duration = Duration::from_millis(150);
