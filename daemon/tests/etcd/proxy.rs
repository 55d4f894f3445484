//! A link to a member that can be slow, cut, silent, or lose an answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::server::{Member, unused};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    Up,
    /// Connections end, and those that come end at once.
    Cut,
    /// Connections stay, and no byte comes through.
    Silent,
    /// What is asked comes through; the next answer ends its connection, and the link is up.
    LosesAnswer,
}

pub(crate) struct Proxy {
    host: Ipv4Addr,
    port: u16,
    link: watch::Sender<Link>,
    accepted: Arc<AtomicU32>,
}

#[derive(Clone)]
struct Wire {
    to: SocketAddr,
    delay: Duration,
    link: watch::Sender<Link>,
}

impl Proxy {
    /// Half of `round_trip` each way; what is sent meanwhile travels side by side.
    pub(crate) fn to(member: &Member, round_trip: Duration) -> Self {
        let (host, port) = unused();
        let accepted = Arc::new(AtomicU32::new(0));
        let wire = Wire {
            to: (member.host, member.port).into(),
            delay: round_trip / 2,
            link: watch::Sender::new(Link::Up),
        };
        let proxy = Self {
            host,
            port,
            link: wire.link.clone(),
            accepted: Arc::clone(&accepted),
        };
        let listener = std::net::TcpListener::bind((host, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        // A thread of its own: the link does not get slower by what the test does.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(serve(listener, &wire, &accepted));
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    pub(crate) fn is(&self, link: Link) -> bool {
        *self.link.borrow() == link
    }

    pub(crate) fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Link::Cut);
    }
}

async fn serve(listener: std::net::TcpListener, wire: &Wire, accepted: &AtomicU32) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((near, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(connect(near, wire.clone()));
    }
}

async fn connect(near: TcpStream, wire: Wire) {
    if *wire.link.borrow() == Link::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(wire.to).await else {
        return;
    };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let mut link = wire.link.subscribe();
    let cut = async move {
        let _ = link.wait_for(|&link| link == Link::Cut).await;
    };
    tokio::select! {
        () = cut => {}
        () = carry(near_in, far_out, &wire, false) => {}
        () = carry(far_in, near_out, &wire, true) => {}
    }
}

/// Ends with its connection.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, wire: &Wire, answers: bool) {
    let (send, mut receive) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let link = *wire.link.borrow();
            if link == Link::LosesAnswer && answers {
                wire.link.send_replace(Link::Up);
                return;
            }
            if link != Link::Silent {
                let due = Instant::now() + wire.delay;
                let _ = send.send((due, buffer[..length].to_vec()));
            }
        }
    };
    let writing = async {
        while let Some((due, bytes)) = receive.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}
