//! One connection: a head is read, one answer is written, and it is closed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::answer::Answer;
use super::place::Stream;
use super::request::{Refusal, Request, end_of_head};
use crate::status::Status;

pub(super) async fn run(mut stream: Box<dyn Stream>, status: watch::Receiver<Arc<Status>>) {
    // A client that goes away is nobody's trouble.
    timeout(LONGEST, exchange(&mut *stream, &status)).await.ok();
    timeout(LINGERING, drain(&mut *stream)).await.ok();
}

async fn exchange(
    stream: &mut dyn Stream,
    status: &watch::Receiver<Arc<Status>>,
) -> io::Result<()> {
    let head = match timeout(LONGEST_HEAD, read_head(stream)).await {
        Ok(head) => head?,
        Err(_) => Some(Err(Refusal::TooSlow)),
    };
    let answer = match head {
        None => return Ok(()),
        Some(Err(refusal)) => Answer::refusing(refusal),
        Some(Ok(head)) => match Request::parse(&head) {
            Ok(request) => {
                let status = Arc::clone(&status.borrow());
                Answer::to(&request, &status, Instant::now())
            }
            Err(refusal) => Answer::refusing(refusal),
        },
    };
    stream.write_all(&answer.into_bytes()).await?;
    stream.shutdown().await
}

/// None if nothing is asked.
async fn read_head(stream: &mut dyn Stream) -> io::Result<Option<Result<Vec<u8>, Refusal>>> {
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    loop {
        let length = stream.read(&mut part).await?;
        if length == 0 {
            let is_silent = bytes.is_empty();
            return Ok((!is_silent).then_some(Err(Refusal::Garbled)));
        }
        bytes.extend_from_slice(&part[..length]);
        if let Some(end) = end_of_head(&bytes).filter(|end| *end <= LARGEST_HEAD) {
            bytes.truncate(end);
            return Ok(Some(Ok(bytes)));
        }
        if bytes.len() > LARGEST_HEAD {
            return Ok(Some(Err(Refusal::TooLarge)));
        }
    }
}

/// A socket closed with something unread resets the connection, and the client may lose the
/// answer by that.
async fn drain(stream: &mut dyn Stream) -> io::Result<()> {
    let mut part = [0; 1024];
    while stream.read(&mut part).await? > 0 {}
    Ok(())
}

const LARGEST_HEAD: usize = 8 * 1024;
const LONGEST_HEAD: Duration = Duration::from_secs(4);
/// For head and answer together.
const LONGEST: Duration = Duration::from_secs(5);
const LINGERING: Duration = Duration::from_millis(500);
