//! The packet path of the udp backend and its one owner: the loop, which tells it what should be
//! so after each look at the device. It holds the TUN's queues and the sockets, and starts the
//! engine over them; where that fails it keeps what it has, and is told again later.

mod window;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_dataplane::{Config, Engine, Fds, Notice, Notices, PeerTable, Rungs, Sockets, Tun};

use crate::plan::Overlay;

pub use window::Window;

/// Told of descriptors that a successor could go on with, whenever they are others.
pub type Keep = Box<dyn FnMut(&Fds) + Send>;

#[expect(missing_debug_implementations, reason = "it holds a closure")]
pub struct Path {
    notices: Notices,
    keep: Keep,
    engine: Shared,
    /// What the engine was started with, and what it was told since.
    runs: Option<Runs>,
    /// The link whose queues are held, here or by the engine.
    link: Option<u32>,
    /// Held while no engine does.
    queues: Option<Tun>,
    listening: Vec<Vec<std::os::fd::OwnedFd>>,
    again: Again,
}

type Shared = Arc<Mutex<Option<Engine>>>;

#[derive(Debug)]
struct Runs {
    overlay: Arc<Overlay>,
    device_addresses: Vec<IpAddr>,
}

impl Default for Path {
    fn default() -> Self {
        Self::new(Box::new(|_| ()))
    }
}

impl Path {
    pub fn new(keep: Keep) -> Self {
        Self {
            notices: Notices::new(tell),
            keep,
            engine: Shared::default(),
            runs: None,
            link: None,
            queues: None,
            listening: Vec::new(),
            again: Again::default(),
        }
    }

    pub fn window(&self) -> Window {
        let engine = Arc::downgrade(&self.engine);
        Window::new(move || {
            let engine = engine.upgrade()?;
            let engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
            Some(engine.as_ref()?.stats())
        })
    }

    /// What a former process has left to go on with.
    pub fn inherit(&mut self, fds: Fds) {
        // What belongs to a device that was deleted meanwhile is of no use.
        self.queues = Tun::from_queues(fds.queues, &RUNGS, &self.notices).ok();
        self.listening = fds.listening;
    }

    /// Makes the device, unless its queues are held: `link` says which one is there.
    pub fn attach(&mut self, name: &str, link: Option<u32>) -> Result<(), String> {
        if self.link.is_some() && self.link == link {
            return Ok(());
        }
        if self.link.is_some() {
            self.stop();
            self.queues = None;
        }
        self.link = None;
        let inherited = self.queues.take();
        let fitting = inherited.filter(|tun| link.is_some() && tun.name() == name);
        let tun = match fitting {
            Some(tun) => Ok(tun),
            None => Tun::open(name, QUEUES, &RUNGS, &self.notices),
        };
        self.queues = Some(tun.map_err(|error| self.again.failed(error.to_string()))?);
        Ok(())
    }

    /// Has packets move between the device and these peers. `link` is what [`Self::attach`] has
    /// led to. The error is for the operator; all else is as it should be.
    pub fn serve(
        &mut self,
        overlay: &Arc<Overlay>,
        device_addresses: Vec<IpAddr>,
        link: u32,
    ) -> Result<(), String> {
        self.link = Some(link);
        if self.follows(overlay, &device_addresses) {
            return Ok(());
        }
        self.stop();
        self.start(overlay, device_addresses)
            .map_err(|why| self.again.failed(why))?;
        self.again = Again::default();
        Ok(())
    }

    /// No backend wants it.
    pub fn rest(&mut self) {
        self.stop();
        let was_left = self.queues.take().is_some() | !self.listening.is_empty();
        self.link = None;
        self.listening.clear();
        if was_left {
            (self.keep)(&Fds::default());
        }
    }

    /// When to try again what failed.
    pub fn retry_at(&self) -> Option<Instant> {
        self.again.at
    }

    /// From here on packets wait in the queues, for whoever goes on with these: a successor, or
    /// [`Self::resume`].
    pub fn pause(&mut self) -> Option<Fds> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let fds = engine.take()?.stop();
        fds.inspect_err(|error| tracing::warn!("{error}")).ok()
    }

    /// As before the pause. What fails is tried again when this is next told what should be so.
    pub fn resume(&mut self, fds: Fds) {
        self.inherit(fds);
        if let Some(runs) = self.runs.take()
            && let Err(why) = self.start(&runs.overlay, runs.device_addresses)
        {
            tracing::warn!("{}", self.again.failed(why));
        }
    }

    /// True if the engine that runs has taken up whatever is new.
    fn follows(&mut self, overlay: &Arc<Overlay>, device_addresses: &[IpAddr]) -> bool {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(engine), Some(runs)) = (engine.as_ref(), &mut self.runs) else {
            return false;
        };
        let at_the_same_place = runs.overlay.locals == overlay.locals
            && runs.overlay.port == overlay.port
            && runs.device_addresses == device_addresses;
        if !engine.runs() || !at_the_same_place {
            return false;
        }
        if !Arc::ptr_eq(&runs.overlay, overlay) {
            if runs.overlay != *overlay {
                engine.swap(table(overlay));
            }
            runs.overlay = Arc::clone(overlay);
        }
        true
    }

    fn start(
        &mut self,
        overlay: &Arc<Overlay>,
        device_addresses: Vec<IpAddr>,
    ) -> Result<(), String> {
        let Some(tun) = self.queues.take() else {
            self.link = None;
            return Err("the packet path's device was deleted; it is made again".into());
        };
        let listening = std::mem::take(&mut self.listening);
        let sockets = if Sockets::fit(&listening, &overlay.locals, overlay.port, QUEUES) {
            Sockets::from_listening(listening, &RUNGS, &self.notices)
        } else {
            drop(listening);
            let (locals, port) = (&overlay.locals, overlay.port);
            Sockets::open(locals, port, QUEUES, &RUNGS, &self.notices)
        };
        let sockets = match sockets {
            Ok(sockets) => sockets,
            Err(error) => {
                self.queues = Some(tun);
                return Err(error.to_string());
            }
        };
        let config = Config {
            device_addresses: device_addresses.clone(),
            rungs: RUNGS,
            notices: self.notices.clone(),
            ..Config::default()
        };
        tracing::info!(
            port = overlay.port,
            "packets move in userspace from here on"
        );
        let engine = Engine::start(config, tun, sockets, table(overlay));
        let engine = engine.map_err(|error| {
            self.link = None;
            error.to_string()
        })?;
        match engine.fds() {
            Ok(fds) => (self.keep)(&fds),
            Err(error) => tracing::warn!("{error}"),
        }
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine);
        self.runs = Some(Runs {
            overlay: Arc::clone(overlay),
            device_addresses,
        });
        Ok(())
    }

    /// Keeps what the engine held.
    fn stop(&mut self) {
        let Some(engine) = self.take_engine() else {
            return;
        };
        match engine.stop() {
            Ok(fds) => self.inherit(fds),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    fn take_engine(&mut self) -> Option<Engine> {
        self.runs = None;
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.take()
    }
}

fn table(overlay: &Overlay) -> PeerTable {
    PeerTable::new(&overlay.own, overlay.port, &overlay.peers)
}

/// Each is said once.
fn tell(notice: Notice) {
    tracing::warn!("packet path: {notice}");
}

/// When a failure is worth another attempt.
#[derive(Debug, Default)]
struct Again {
    at: Option<Instant>,
    pause: Duration,
}

impl Again {
    fn failed(&mut self, why: String) -> String {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.at = Some(Instant::now() + self.pause);
        why
    }
}

/// One pair of threads carries what two cores can; more do not pay on few cores.
const QUEUES: usize = 1;
const RUNGS: Rungs = Rungs::FAST;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
