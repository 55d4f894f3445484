//! Health, metrics and status over HTTP/1.1: on the address that probes and Prometheus know, and
//! on a socket in the run directory for `weft`. The same answers on both.
//!
//! One answer a connection. Nobody holds it up: a head is small, a connection lives a few
//! seconds, and where there are too many the oldest gives way.

mod answer;
mod connection;
mod place;
mod request;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::status::Status;

pub use place::{BESIDE, Error, Listener, Place, SOCKET};

/// Serves for as long as the daemon runs. What stands in the way is told, once each time that it
/// is another thing, and tried again: nothing else waits for it.
pub async fn serve(
    place: Place,
    status: watch::Receiver<Arc<Status>>,
    mut tell: impl FnMut(&Error),
) -> Infallible {
    let mut told = None;
    let mut pause = FIRST_PAUSE;
    let listener = loop {
        match place.listen() {
            Ok(listener) => break listener,
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tell(&error);
                    told = Some(text);
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    listener.serve(status).await
}

impl Listener {
    pub async fn serve(self, status: watch::Receiver<Arc<Status>>) -> Infallible {
        let mut open = Connections::default();
        loop {
            match self.accept().await {
                Ok(stream) => {
                    let connection = connection::run(stream, status.clone());
                    open.add(tokio::spawn(connection).abort_handle());
                }
                // The peer is gone, or there are no file descriptors left for the moment.
                Err(_) => tokio::time::sleep(FIRST_PAUSE).await,
            }
        }
    }
}

/// At most so many at once, the oldest first.
#[derive(Default)]
struct Connections {
    open: VecDeque<AbortHandle>,
}

impl Connections {
    fn add(&mut self, connection: AbortHandle) {
        self.open.retain(|connection| !connection.is_finished());
        if self.open.len() >= MOST_CONNECTIONS
            && let Some(oldest) = self.open.pop_front()
        {
            oldest.abort();
        }
        self.open.push_back(connection);
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.open.iter().for_each(AbortHandle::abort);
    }
}

const MOST_CONNECTIONS: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
