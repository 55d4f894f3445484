//! weftd, put together: the store's task, the loop's thread, and what shows how it goes. Data
//! travels one way: store → view → loop → kernel; and beside it, loop → status → listeners.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::Interval;
use weft_dataplane::{Fds, handover};
use weft_net::Rtnl;

use crate::conf::{Backend, NetConf};
use crate::conflist::Conflist;
use crate::handover::{Reception, SOCKET, Successor};
use crate::http;
use crate::interface::{self, Families, Landscape, Underlay, Wanted};
use crate::lease::{Identity, Subnets};
use crate::lock::Lock;
use crate::notify::{self, Notifier};
use crate::options::{self, Options};
use crate::overlay::Path;
use crate::plan::{Ground, Wishes};
use crate::preflight;
use crate::reconcile::{
    Begin, Choose, Ended, Outbox, Post, Reconciler, Report, Serving, Settings, Standing,
};
use crate::seat::Seat;
use crate::status::{About, Board};
use crate::store::embedded::Embedded;
#[cfg(feature = "etcd")]
use crate::store::etcd::Etcd;
#[cfg(feature = "kube")]
use crate::store::kube::Kube;
use crate::store::leased::Leased;
use crate::store::remembered::{self, Remembered};
use crate::store::{Chosen, Claim, Store, View};
use crate::subnet_file::{Found, SubnetFile};

/// Runs until it is told to stop. The error is why it could not begin; what it meets later is
/// told in the status and tried again.
pub fn run(
    options: &Options,
    identity: &Identity,
    notifier: Arc<Notifier>,
    seat: Seat,
) -> Result<(), String> {
    let (claims, claim) = watch::channel(None);
    let (views, view) = watch::channel(View::default());
    let (reports, report) = watch::channel(Report::default());
    let store = store(options, identity, &report)?;
    let store = Box::new(Remembered::new(
        store,
        options.state_dir.clone(),
        scope(options, identity),
    ));

    let (path, left) = packet_path(&notifier);
    let window = path.window();
    let (begin, seated) = seat.begin(left);
    let outbox = outbox(options, claims, reports, begin);
    let settings = settings(options, identity.clone());
    let (mut reconciler, post) =
        Reconciler::open(settings, choose(options), outbox, path).map_err(|e| e.to_string())?;
    let looping = thread::Builder::new()
        .name("reconcile".into())
        .spawn(move || reconciler.run())
        .map_err(|e| format!("start the thread that keeps the kernel true: {e}"))?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("start the runtime: {e}"))?;
    let about = About::starting(
        env!("CARGO_PKG_VERSION"),
        options.store.name(),
        identity.node.clone(),
    );
    let board = Board::new(about, window);
    let node = Node {
        options,
        board,
        view,
        report,
        post,
        place: Place::Awaited(seated),
    };
    let ended = runtime.block_on(async {
        tokio::spawn(store.run(claim, views));
        node.attend(&notifier).await
    });
    // A store's call in flight is nothing to wait for.
    runtime.shutdown_background();
    let kept = looping
        .join()
        .map_err(|_| "the thread that keeps the kernel true has panicked")?;
    // The lock is let go when nothing moves any more.
    let _place = ended?;
    match kept.map_err(|error| format!("keep the kernel true: {error}"))? {
        Ended::Stopped => Ok(()),
        Ended::Followed(successor) => {
            tell(
                successor
                    .pid()
                    .map_or(Ok(()), |pid| notifier.main_process(pid)),
            );
            Ok(())
        }
        Ended::Superfluous(why) => Err(why),
    }
}

/// And what an earlier run has left for it to go on with.
fn packet_path(notifier: &Notifier) -> (Path, Option<Fds>) {
    let names = notify::kept(|name| std::env::var(name).ok());
    let mut keeper = notifier.keeper();
    keeper.knows(names.iter().filter(|name| !name.is_empty()).cloned());
    let left = handover::left_open(names.iter().map(String::as_str));
    let keep = Box::new(move |fds: &Fds| tell(keeper.keep(fds)));
    (Path::new(keep), left)
}

/// The daemon's side that waits for many things at once.
struct Node<'a> {
    options: &'a Options,
    board: Board,
    view: watch::Receiver<View>,
    report: watch::Receiver<Report>,
    post: Post,
    place: Place,
}

impl Node<'_> {
    /// Until it is told to stop, or the loop has ended.
    async fn attend(mut self, notifier: &Notifier) -> Result<Place, String> {
        let mut stop = Stop::listen()?;
        let mut heart = Heart::of(notifier);
        let mut told_ready = false;
        loop {
            tokio::select! {
                () = stop.wait() => break,
                () = heart.beat() => tell(notifier.alive()),
                news = self.place.news() => match news {
                    News::Seated(lock) => {
                        self.place = Place::hold(lock, &self.options.run_dir);
                        show(self.options, &self.board);
                    }
                    News::Successor(successor) => self.post.step_aside(successor),
                },
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return Err("the store's task has ended".into());
                    }
                    let view = self.view.borrow_and_update().clone();
                    self.post.send(view.clone());
                    self.board.put_view(view);
                }
                changed = self.report.changed() => {
                    if changed.is_err() {
                        // The loop has ended, and says why when it is joined.
                        return Ok(self.place);
                    }
                    let report = self.report.borrow_and_update();
                    if report.ready.is_ok() && !told_ready {
                        tell(notifier.ready());
                        told_ready = true;
                    }
                    self.board.put_report(&report);
                }
            }
        }
        tracing::info!("told to stop; what is programmed stays");
        tell(notifier.stopping());
        self.post.stop();
        Ok(self.place)
    }
}

/// The daemon's place on the node. While another holds it, nothing is shown nor programmed.
enum Place {
    Awaited(oneshot::Receiver<Lock>),
    /// The loop has ended before it had one, and is heard of elsewhere.
    None,
    Held {
        #[expect(dead_code, reason = "it locks by being there")]
        lock: Lock,
        reception: Option<Reception>,
    },
}

enum News {
    Seated(Lock),
    Successor(Successor),
}

impl Place {
    fn hold(lock: Lock, run_dir: &path::Path) -> Self {
        let reception = Reception::open(run_dir, &lock).inspect_err(|error| {
            tracing::warn!(
                "open {} in {}: {error}; the next weftd cannot be started before this one ends",
                SOCKET,
                run_dir.display()
            );
        });
        Self::Held {
            lock,
            reception: reception.ok(),
        }
    }

    async fn news(&mut self) -> News {
        match self {
            Self::Awaited(seated) => match seated.await {
                Ok(lock) => News::Seated(lock),
                Err(_) => {
                    *self = Self::None;
                    std::future::pending().await
                }
            },
            Self::Held {
                reception: Some(reception),
                ..
            } => News::Successor(reception.successor().await),
            Self::Held { .. } | Self::None => std::future::pending().await,
        }
    }
}

/// Beats as often as the service manager wants to hear from us; never, if nobody does.
struct Heart {
    interval: Option<Interval>,
}

impl Heart {
    fn of(notifier: &Notifier) -> Self {
        Self {
            interval: notifier.watchdog().map(tokio::time::interval),
        }
    }

    async fn beat(&mut self) {
        match &mut self.interval {
            Some(interval) => drop(interval.tick().await),
            None => std::future::pending().await,
        }
    }
}

/// Who asked to be told and does not listen loses nothing but the news.
fn tell(told: std::io::Result<()>) {
    if let Err(error) = told {
        tracing::warn!("tell the service manager: {error}");
    }
}

fn show(options: &Options, board: &Board) {
    let port = options.health.map(http::Place::Tcp);
    for place in port
        .into_iter()
        .chain([http::Place::socket_in(&options.run_dir)])
    {
        let told = |error: &http::Error| tracing::warn!("{error}");
        tokio::spawn(http::serve(place, board.watch(), told));
    }
}

struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|e| format!("listen for signals: {e}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

pub(crate) fn wishes(options: &Options) -> Wishes {
    Wishes {
        masquerade: options.masquerade.on,
        random_fully: options.masquerade.random_fully,
        forward: options.forward_rules,
        guard: options.peer_guard,
        spared: options.masquerade.exempt.clone(),
        tunnel_checksums: preflight::tunnel_checksums(options.vxlan_checksum),
        blackhole: options.blackhole_route,
    }
}

fn settings(options: &Options, identity: Identity) -> Settings {
    Settings {
        identity,
        wishes: wishes(options),
        previous: previous(&options.subnet_file),
        formerly: remembered::identity(&options.state_dir),
        resync: options.resync,
        memory: options.run_dir.join("devices"),
    }
}

/// What an earlier run held. Without it any subnet will do.
fn previous(path: &path::Path) -> Option<Subnets> {
    match Found::read(path) {
        Ok(found) => found.map(|found| found.subnets),
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

fn outbox(
    options: &Options,
    claims: watch::Sender<Option<Claim>>,
    reports: watch::Sender<Report>,
    begin: Begin,
) -> Outbox {
    let subnet_file = options.subnet_file.clone();
    let mut conflist = options.conflist.clone();
    Outbox {
        claim: Box::new(move |claim| drop(claims.send_replace(Some(claim)))),
        report: Box::new(move |report| drop(reports.send_replace(report.clone()))),
        serve: Box::new(move |serving| {
            serve(&subnet_file, serving)?;
            publish(&mut conflist)
        }),
        begin,
    }
}

fn serve(path: &path::Path, serving: &Serving) -> Result<(), String> {
    let written = SubnetFile::from(serving).write(path);
    written.map(drop).map_err(|e| e.to_string())
}

/// Once; from then on it is kept by itself. In this order, for the plugin that it names wants the
/// subnet file.
fn publish(conflist: &mut Option<Conflist>) -> Result<(), String> {
    let Some(unpublished) = conflist else {
        return Ok(());
    };
    let changes = unpublished.publish().map_err(|e| e.to_string())?;
    changes.iter().for_each(|change| tracing::info!("{change}"));
    if let Some(published) = conflist.take()
        && let Err(error) = published.keep()
    {
        tracing::warn!("{error}");
    }
    Ok(())
}

fn choose(options: &Options) -> Choose {
    let wanted = options.interface.clone();
    let mut chosen: Option<Underlay> = None;
    let mut is_prepared = false;
    Box::new(move |rtnl, conf, published| {
        let wanted = wanted_with(&wanted, published);
        let families = families(conf);
        if !is_prepared {
            // What the machine lacks depends on the families, so it is known no sooner.
            let notes = preflight::prepare(rtnl, families);
            notes.iter().for_each(|note| tracing::warn!("{note}"));
            is_prepared = true;
        }
        let landscape = Landscape::look(rtnl, &wanted).map_err(|e| e.to_string())?;
        let underlay = match &chosen {
            Some(standing) => interface::choose_again(&wanted, families, &landscape, standing),
            None => interface::choose(&wanted, families, &landscape),
        }?;
        if conf.backend == Backend::HostGw {
            interface::check_host_gw(&underlay)?;
        }
        chosen = Some(underlay.clone());
        Ok(standing(underlay))
    })
}

/// Where this node would stand, with nothing prepared for it.
pub(crate) fn look_for_standing(
    options: &Options,
    rtnl: &mut Rtnl,
    conf: &NetConf,
    published: Chosen,
) -> Result<Standing, String> {
    let wanted = wanted_with(&options.interface, published);
    let landscape = Landscape::look(rtnl, &wanted).map_err(|e| e.to_string())?;
    interface::choose(&wanted, families(conf), &landscape).map(standing)
}

/// What the store says is published goes before the command line.
fn wanted_with(wanted: &Wanted, published: Chosen) -> Wanted {
    Wanted {
        public_ip: published.v4.or(wanted.public_ip),
        public_ipv6: published.v6.or(wanted.public_ipv6),
        ..wanted.clone()
    }
}

fn families(conf: &NetConf) -> Families {
    Families {
        v4: conf.v4.is_some(),
        v6: conf.v6.is_some(),
    }
}

fn standing(underlay: Underlay) -> Standing {
    Standing {
        name: underlay.name,
        ground: Ground {
            link: underlay.index,
            mtu: underlay.mtu,
            v4: underlay.v4,
            v6: underlay.v6,
        },
        public_ip: underlay.public_ip,
        public_ipv6: underlay.public_ipv6,
    }
}

/// `report` is for stores that tell others of how it goes.
#[cfg_attr(
    not(feature = "kube"),
    expect(unused_variables, reason = "the others tell nobody")
)]
pub(crate) fn store(
    options: &Options,
    identity: &Identity,
    report: &watch::Receiver<Report>,
) -> Result<Box<dyn Store>, String> {
    let (margin, seed) = (options.renew_margin, seed(identity));
    match &options.store {
        options::Store::Embedded(dir) => {
            Ok(Box::new(Leased::new(Embedded::open(dir), margin, seed)))
        }
        #[cfg(feature = "etcd")]
        options::Store::Etcd(etcd) => {
            let registry = Etcd::new(etcd_settings(etcd)).map_err(|e| e.to_string())?;
            Ok(Box::new(Leased::new(registry, margin, seed)))
        }
        #[cfg(feature = "kube")]
        options::Store::Kube(kube) => {
            let node = options.node.name.clone();
            // A node that nobody named is known to its kubelet by the host's name.
            let node = node.or_else(|| {
                let of_host = || identity.node.to_lowercase();
                kube.pod.is_none().then(of_host)
            });
            let store = Kube::new(kube.clone(), node, report.clone(), seed);
            Ok(Box::new(store))
        }
        #[cfg(not(all(feature = "etcd", feature = "kube")))]
        other => Err(format!(
            "this weftd was built without the store {}: install a full build, or use the \
             embedded store (-embedded-dir)",
            other.name()
        )),
    }
}

/// What is remembered counts for this store and this node alone: a disk may be copied, and a
/// cluster may move.
fn scope(options: &Options, identity: &Identity) -> String {
    let place = match &options.store {
        options::Store::Etcd(etcd) => etcd.prefix.clone(),
        options::Store::Embedded(dir) => dir.display().to_string(),
        options::Store::Kube(_) => String::new(),
    };
    let (store, Identity { machine, node }) = (options.store.name(), identity);
    format!("{store} {place} {machine} {node}")
}

#[cfg(feature = "etcd")]
fn etcd_settings(given: &options::Etcd) -> crate::store::etcd::Settings {
    crate::store::etcd::Settings {
        endpoints: given.endpoints.clone(),
        prefix: given.prefix.clone(),
        cafile: given.ca_file.clone(),
        certfile: given.cert_file.clone(),
        keyfile: given.key_file.clone(),
        username: given.username.clone(),
        password: given.password.clone(),
    }
}

/// Nodes that start at once choose by it, so it must differ even between clones.
fn seed(identity: &Identity) -> u64 {
    let mut hasher = DefaultHasher::new();
    (identity, std::process::id(), SystemTime::now()).hash(&mut hasher);
    hasher.finish()
}
