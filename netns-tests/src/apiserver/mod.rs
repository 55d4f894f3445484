//! A Kubernetes API server, as far as a node's daemon can tell: nodes, ConfigMaps, pods and
//! Events over the real wire. It is no kinder than the real one: it keeps resource versions and
//! forgets old ones (410), pages its lists, ends its watches, writes managedFields, refuses
//! changes of a podCIDR, whom it does not know (401) and who has no right (403), and misbehaves
//! when it is told to.
//!
//! It is threads and blocking sockets: one thread a connection, which a watch holds for itself.

mod access;
mod answer;
mod change;
mod fields;
mod http;
mod node;
mod patch;
mod protobuf;
mod query;
mod shape;
mod store;
mod trouble;
mod watch;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

pub use access::{Access, Right, Tls};
pub use node::{Fat, fat_node, flannel_node, slim_node};
pub use store::Key;
pub use trouble::Trouble;

use store::Store;

/// Stops when it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    place: SocketAddr,
    tls: Option<Tls>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    listener: TcpListener,
    accepting: JoinHandle<()>,
}

/// What every connection sees.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something in the state is different.
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    access: Access,
    trouble: Trouble,
    seen: Vec<Seen>,
    connections: Vec<(u64, TcpStream)>,
    /// Watches begun before the latest end of all are to end.
    watches_ended: u64,
    stopped: bool,
}

/// A request that came, and how much was answered.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// The path and what is asked of it.
    pub target: String,
    pub accept: String,
    pub body: String,
    pub code: Arc<AtomicU64>,
    /// Bytes of heads and bodies, before TLS.
    pub sent: Arc<AtomicU64>,
}

impl ApiServer {
    /// In the namespace of the calling thread; port 0 is any free one.
    pub fn start(place: SocketAddr, tls: Option<Tls>) -> Self {
        let mut server = Self {
            shared: Arc::default(),
            place,
            tls,
            running: None,
        };
        server.resume();
        server
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.place)
    }

    /// Nobody listens, and every connection is cut.
    pub fn stop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        {
            let mut state = self.shared.lock();
            state.stopped = true;
            for (_, stream) in state.connections.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.news.notify_all();
        let _ = nix::sys::socket::shutdown(
            running.listener.as_raw_fd(),
            nix::sys::socket::Shutdown::Both,
        );
        running.accepting.join().expect("the server's thread ends");
    }

    /// With all it knew.
    pub fn resume(&mut self) {
        let listener = TcpListener::bind(self.place)
            .unwrap_or_else(|e| panic!("serve the API on {}: {e}", self.place));
        self.place = listener.local_addr().expect("an address that is bound");
        self.shared.lock().stopped = false;
        let ours = listener.try_clone().expect("a listener to be cloned");
        let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
        let accepting = thread::spawn(move || accept(&ours, &shared, tls.as_ref()));
        self.running = Some(Running {
            listener,
            accepting,
        });
    }

    /// Other certificates from the next connection on: the server is begun anew.
    pub fn present(&mut self, tls: Tls) {
        self.stop();
        self.tls = Some(tls);
        self.resume();
    }

    /// By an administrator's hand: made, or put in the place of what there was.
    pub fn put(&self, object: Value) {
        self.change(|state| state.store.put(object));
    }

    pub fn get(&self, key: &Key) -> Option<Value> {
        self.shared.lock().store.get(key).cloned()
    }

    pub fn node(&self, name: &str) -> Option<Value> {
        self.get(&Key::node(name))
    }

    /// A merge patch by an administrator's hand, of the whole object.
    pub fn merge(&self, key: &Key, patch: &Value) {
        self.change(|state| {
            let mut object = state.store.get(key).expect("an object to patch").clone();
            patch::merge(&mut object, patch);
            state.store.put(object);
        });
    }

    pub fn delete(&self, key: &Key) {
        self.change(|state| state.store.delete(key));
    }

    pub fn list(&self, kind: &str) -> Vec<Value> {
        let state = self.shared.lock();
        state.store.of_kind(kind).cloned().collect()
    }

    /// Forgets what came before: a watch from there is answered with 410.
    pub fn compact(&self) {
        self.change(|state| state.store.compact());
    }

    /// Ends all watches properly, as a server does that has enough of them.
    pub fn end_watches(&self) {
        self.change(|state| state.watches_ended += 1);
    }

    pub fn trouble(&self, trouble: Trouble) {
        self.change(|state| state.trouble = trouble);
    }

    pub fn access(&self, change: impl FnOnce(&mut Access)) {
        self.change(|state| change(&mut state.access));
    }

    /// All requests that came so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    pub fn forget_seen(&self) {
        self.shared.lock().seen.clear();
    }

    /// Bytes that went out in answers to requests of which `of` is true.
    pub fn sent(&self, of: impl Fn(&Seen) -> bool) -> u64 {
        let state = self.shared.lock();
        let seen = state.seen.iter().filter(|seen| of(seen));
        seen.map(|seen| seen.sent.load(Ordering::Relaxed)).sum()
    }

    /// Until a look at the server holds; every change of it is a reason to look again.
    #[track_caller]
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        crate::wait_for(what, limit, || look(self))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.shared.lock());
        self.shared.news.notify_all();
        done
    }
}

impl Seen {
    pub fn is_watch(&self) -> bool {
        self.target.contains("watch=")
    }

    pub fn code(&self) -> u64 {
        self.code.load(Ordering::Relaxed)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that failed has said why.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, tls: Option<&Tls>) {
    let mut number = 0;
    while let Ok((stream, _)) = listener.accept() {
        number += 1;
        {
            let mut state = shared.lock();
            if state.stopped {
                return;
            }
            if let Ok(stream) = stream.try_clone() {
                state.connections.push((number, stream));
            }
        }
        let (shared, tls) = (Arc::clone(shared), tls.cloned());
        thread::spawn(move || {
            // What a client that went away leaves behind is nothing to report.
            let _ = serve(&shared, stream, tls.as_ref());
            let mut state = shared.lock();
            state.connections.retain(|(other, _)| *other != number);
        });
    }
}

fn serve(shared: &Shared, stream: TcpStream, tls: Option<&Tls>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = access::greet(stream, tls)?;
    while answer::one(shared, &mut connection)? {}
    Ok(())
}
