//! What changes, from a listing on: two watchers (the configuration, the leases) on one stream,
//! resumed by revision after whatever broke it.

use std::time::Duration;

use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, sleep_until, timeout};

use super::fault::Fault;
use super::keys::Keys;
use super::link::{Link, Live};
use super::{CALL_LIMIT, MESSAGE_LIMIT};
use crate::store::registry::{Changes, Event, Trouble};

#[derive(Debug, Default)]
pub(super) struct Watch {
    /// None: there is no listing to go on from.
    at: Option<Position>,
    stream: Option<Stream>,
    /// Received and not handed on.
    pending: Vec<Event>,
    handed_on: Option<Instant>,
    logged_in: bool,
}

/// What each watcher has still to tell, from which revision on, and in whose count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    config: i64,
    leases: i64,
    cluster: u64,
    /// This revision is known to be one of this cluster's: it was listed a moment ago.
    fresh: bool,
}

#[derive(Debug)]
struct Stream {
    live: Live,
    messages: WatchStream,
    /// Their ids, in the order in which they were asked for.
    config: Option<i64>,
    leases: Option<i64>,
    since: Instant,
}

/// What became of a stream.
enum Heard {
    Something,
    Compacted,
    /// The server gave a watcher up, and says why.
    Cancelled(String),
}

impl Watch {
    pub(super) fn restart(&mut self, revision: i64, cluster: u64) {
        *self = Self {
            at: Some(Position {
                config: revision + 1,
                leases: revision + 1,
                cluster,
                fresh: true,
            }),
            handed_on: self.handed_on,
            ..Self::default()
        };
    }

    /// Everything that an await could lose by being dropped is kept in `self`.
    pub(super) async fn changes(
        &mut self,
        link: &mut Link,
        keys: &Keys,
    ) -> Result<Changes, Trouble> {
        loop {
            let Some(at) = self.at else {
                return Ok(Changes::Missed);
            };
            let Some(stream) = &mut self.stream else {
                if !self.pending.is_empty() {
                    return Ok(self.hand_on());
                }
                self.open(at, link, keys).await?;
                continue;
            };
            // One change is told at once; those that follow on its heels, together.
            let gathered = self.handed_on.map_or_else(Instant::now, |at| at + GATHER);
            let message = tokio::select! {
                biased;
                message = stream.messages.message() => message,
                () = sleep_until(gathered), if !self.pending.is_empty() => {
                    return Ok(self.hand_on());
                }
            };
            match message {
                Ok(Some(message)) => self.take(&message, link, keys)?,
                Ok(None) => self.broke(link, None),
                Err(error) => self.broke(link, Some(&error)),
            }
        }
    }

    fn hand_on(&mut self) -> Changes {
        self.handed_on = Some(Instant::now());
        Changes::Events(std::mem::take(&mut self.pending))
    }

    fn take(
        &mut self,
        message: &WatchResponse,
        link: &mut Link,
        keys: &Keys,
    ) -> Result<(), Trouble> {
        let (Some(at), Some(stream)) = (&mut self.at, &mut self.stream) else {
            return Ok(());
        };
        match stream.hear(message, at, keys, &mut self.pending) {
            Heard::Something => {
                // Both watchers stand: who we are is not in doubt.
                self.logged_in &= stream.leases.is_none();
                Ok(())
            }
            Heard::Compacted => {
                *self = Self::default();
                Ok(())
            }
            Heard::Cancelled(why) => self.cancelled(&why, link),
        }
    }

    /// A member gives a watcher up when it takes us for nobody: etcd 3.4 says "permission
    /// denied" of an expired token, too, so we log in again before we believe it.
    fn cancelled(&mut self, why: &str, link: &mut Link) -> Result<(), Trouble> {
        let Some(stream) = self.stream.take() else {
            return Ok(());
        };
        if link.settings().credentials().is_some() && !std::mem::replace(&mut self.logged_in, true)
        {
            link.log_in_again();
            return Ok(());
        }
        self.logged_in = false;
        link.failed();
        let asked = link.asked(&stream.live);
        Err(if why.contains("permission denied") {
            asked.denied()
        } else {
            Trouble::Garbled(asked.says("it ended our watch", why))
        })
    }

    /// An ended stream is no error: it goes on elsewhere, or there as soon as it answers.
    fn broke(&mut self, link: &mut Link, error: Option<&etcd_client::Error>) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        if let Some(at) = &mut self.at {
            at.fresh = false;
        }
        if stream.since.elapsed() < SHORT_LIVED {
            link.failed();
        }
        let fault = error.map(|error| link.asked(&stream.live).weigh(error));
        match fault {
            Some(Fault::LoggedOut) => link.log_in_again(),
            Some(Fault::Elsewhere(trouble)) => link.broke(&stream.live, &trouble),
            _ => {
                let trouble = Trouble::Unreachable("its stream of changes ended".to_owned());
                link.broke(&stream.live, &trouble);
            }
        }
    }

    async fn open(&mut self, at: Position, link: &mut Link, keys: &Keys) -> Result<(), Trouble> {
        link.wait().await;
        if !at.fresh && !is_still_there(at, link, keys).await? {
            self.at = None;
            return Ok(());
        }
        let live = match link.live().await {
            Ok(live) => live,
            Err(fault) => return Err(link.told(fault)),
        };
        match timeout(CALL_LIMIT, watch(live.client.clone(), at, keys)).await {
            Ok(Ok(messages)) => {
                self.stream = Some(Stream {
                    live,
                    messages,
                    config: None,
                    leases: None,
                    since: Instant::now(),
                });
                Ok(())
            }
            Ok(Err(error)) => {
                let fault = link.asked(&live).weigh(&error);
                self.unopened(link, &live, fault)
            }
            Err(_) => {
                let fault = link.asked(&live).timed_out();
                self.unopened(link, &live, fault)
            }
        }
    }

    fn unopened(&mut self, link: &mut Link, live: &Live, fault: Fault) -> Result<(), Trouble> {
        link.failed();
        if let Some(at) = &mut self.at {
            at.fresh = false;
        }
        match &fault {
            Fault::LoggedOut => link.log_in_again(),
            Fault::Elsewhere(trouble) => link.broke(live, trouble),
            _ => {}
        }
        Err(fault.into_trouble(link.asked(live)))
    }
}

impl Stream {
    fn hear(
        &mut self,
        message: &WatchResponse,
        at: &mut Position,
        keys: &Keys,
        pending: &mut Vec<Event>,
    ) -> Heard {
        if message.compact_revision() > 0 {
            return Heard::Compacted;
        }
        if message.canceled() {
            return Heard::Cancelled(message.cancel_reason().to_owned());
        }
        if message.created() {
            // Answered in the order of the requests.
            if self.config.is_none() {
                self.config = Some(message.watch_id());
            } else {
                self.leases = Some(message.watch_id());
            }
            return Heard::Something;
        }
        let is_config = self.config == Some(message.watch_id());
        let next = if is_config {
            &mut at.config
        } else {
            &mut at.leases
        };
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            *next = (*next).max(kv.mod_revision() + 1);
            let Some(key) = keys.relative(kv.key()) else {
                continue;
            };
            pending.push(match event.event_type() {
                EventType::Put => Event::Put(Keys::entry(key, kv)),
                EventType::Delete => Event::Gone { key },
            });
        }
        // Without events it says how far its silence reaches.
        if let Some(header) = message.header().filter(|_| message.events().is_empty()) {
            *next = (*next).max(header.revision() + 1);
        }
        Heard::Something
    }
}

async fn watch(
    client: Client,
    at: Position,
    keys: &Keys,
) -> Result<WatchStream, etcd_client::Error> {
    let from = |revision| {
        WatchOptions::new()
            .with_start_revision(revision)
            .with_progress_notify()
    };
    let mut watcher = client
        .watch_client()
        .max_decoding_message_size(MESSAGE_LIMIT);
    let mut stream = watcher.watch(keys.config(), Some(from(at.config))).await?;
    let leases = from(at.leases).with_prefix();
    stream.watch(keys.leases(), Some(leases)).await?;
    Ok(stream)
}

/// A cluster restored from a backup, or begun anew, counts revisions of its own: a watch from
/// ours would wait in silence for a number that stands for something else.
async fn is_still_there(at: Position, link: &mut Link, keys: &Keys) -> Result<bool, Trouble> {
    let asked = link
        .call(|mut client| async move {
            let options = GetOptions::new().with_count_only();
            client.get(keys.config(), Some(options)).await
        })
        .await;
    let answer = match asked {
        Ok(answer) => answer,
        Err(fault) => return Err(link.told(fault)),
    };
    let seen = at.config.max(at.leases) - 1;
    Ok(answer
        .header()
        .is_some_and(|header| header.cluster_id() == at.cluster && header.revision() >= seen))
}

/// Long enough to make few batches of a storm, short against what a batch costs.
const GATHER: Duration = Duration::from_millis(20);
/// A stream that ends sooner counts as a failure, or a server that ends each at once would be
/// asked again without a pause.
const SHORT_LIVED: Duration = Duration::from_secs(1);
