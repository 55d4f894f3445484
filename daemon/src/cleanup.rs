//! Takes away all that weftd, or flanneld before it, made on this node, and nothing else. It may
//! be run again and again; what fails is told, and the rest goes on. Settings under /proc/sys stay:
//! nobody knows who else counts on them by then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use weft_net::Rtnl;
use weft_net::route::{Link, Requests, Route, RouteFilter};

use crate::device;
use crate::firewall::Firewall;
use crate::handover;
use crate::http::{BESIDE, SOCKET};
use crate::kernel::is_our_protocol;
use crate::lock::{self, Lock};
use crate::options::Options;
use crate::store::remembered;

/// The files of this node's weftd.
#[derive(Debug, Clone)]
pub struct Places {
    pub subnet_file: PathBuf,
    pub run_dir: PathBuf,
    pub state_dir: PathBuf,
}

impl From<&Options> for Places {
    fn from(options: &Options) -> Self {
        Self {
            subnet_file: options.subnet_file.clone(),
            run_dir: options.run_dir.clone(),
            state_dir: options.state_dir.clone(),
        }
    }
}

/// A line for each thing.
#[derive(Debug, Default)]
pub struct Outcome {
    pub removed: Vec<String>,
    /// What could not be removed, and why; or what the operator has to look after.
    pub problems: Vec<String>,
}

/// For the network namespace the calling thread is in. Refused while a daemon works there.
pub fn clean_up(places: &Places) -> Result<Outcome, lock::Error> {
    lock::refuse_beside_flanneld()?;
    let lock = Lock::take(&places.run_dir)?;
    Ok(clean_up_with(lock, places))
}

/// By the daemon itself, at its end.
pub fn clean_up_with(lock: Lock, places: &Places) -> Outcome {
    let mut outcome = Outcome::default();
    match Rtnl::open() {
        Ok(mut rtnl) => {
            outcome.remove_routes(&mut rtnl);
            outcome.remove_devices(&mut rtnl, &places.run_dir.join(MEMORY));
        }
        Err(error) => outcome.problems.push(error.to_string()),
    }
    outcome.remove_firewall();
    outcome.remove_file(&places.subnet_file);
    outcome.remove_ids(&places.state_dir);
    for name in [remembered::FILE, remembered::BESIDE] {
        outcome.remove_file(&places.state_dir.join(name));
    }
    for name in RUN_FILES {
        outcome.remove_file(&places.run_dir.join(name));
    }
    if let Err(error) = lock.remove() {
        let path = places.run_dir.join("weftd.lock");
        outcome.fail(&format!("remove {}", path.display()), error);
    }
    remove_if_empty(&places.run_dir);
    remove_if_empty(&places.state_dir);
    outcome
}

impl Outcome {
    fn remove_routes(&mut self, rtnl: &mut Rtnl) {
        for ipv6 in [false, true] {
            match our_routes(rtnl, ipv6) {
                Ok(routes) => self.remove_each(
                    rtnl,
                    &routes,
                    |route| format!("route {}", route.destination),
                    |requests, route| requests.delete_route_of_protocol(route),
                ),
                Err(error) => self.problems.push(error.to_string()),
            }
        }
    }

    fn remove_devices(&mut self, rtnl: &mut Rtnl, memory: &Path) {
        let remembered = fs::read_to_string(memory).unwrap_or_default();
        let links = match rtnl.links() {
            Ok(links) => links,
            Err(error) => return self.problems.push(error.to_string()),
        };
        let ours: Vec<Link> = links
            .into_iter()
            .filter(|link| is_ours(link, &remembered))
            .collect();
        self.remove_each(
            rtnl,
            &ours,
            |link| format!("device {}", link.name),
            |requests, link| requests.delete_link(link.index),
        );
    }

    /// In one batch. What is gone by itself is not told of.
    fn remove_each<T>(
        &mut self,
        rtnl: &mut Rtnl,
        things: &[T],
        name: impl Fn(&T) -> String,
        request: impl Fn(&mut Requests, &T) -> weft_net::route::Ticket<()>,
    ) {
        let mut requests = Requests::new();
        let tickets: Vec<_> = things.iter().map(|it| request(&mut requests, it)).collect();
        let mut answers = match rtnl.run(requests) {
            Ok(answers) => answers,
            Err(error) => return self.problems.push(error.to_string()),
        };
        for (thing, ticket) in things.iter().zip(tickets) {
            match answers.take(ticket) {
                Ok(()) => self.removed.push(name(thing)),
                Err(error) if error.is_not_found() => {}
                Err(error) => self.problems.push(error.to_string()),
            }
        }
    }

    fn remove_firewall(&mut self) {
        match Firewall::open().and_then(|mut firewall| firewall.remove()) {
            Ok(report) => {
                let repaired = report.repaired.iter();
                self.removed.extend(
                    repaired.map(|edit| format!("firewall, {}: {}", edit.table, edit.what)),
                );
                self.problems.extend(report.notes);
            }
            Err(error) => self.problems.push(error.to_string()),
        }
    }

    /// Ours, and what a run killed while it made one has left beside it.
    fn remove_ids(&mut self, state_dir: &Path) {
        let files = fs::read_dir(state_dir).into_iter().flatten().flatten();
        for file in files {
            let name = file.file_name();
            if name == "machine-id" || name.to_string_lossy().starts_with("machine-id.") {
                self.remove_file(&file.path());
            }
        }
    }

    fn remove_file(&mut self, path: &Path) {
        match fs::remove_file(path) {
            Ok(()) => self.removed.push(format!("file {}", path.display())),
            // Or something on the way to it is no directory: then it is not there either.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => self.fail(&format!("remove {}", path.display()), error),
        }
    }

    fn fail(&mut self, doing: &str, error: io::Error) {
        self.problems.push(format!("{doing}: {error}"));
    }
}

fn our_routes(rtnl: &mut Rtnl, ipv6: bool) -> weft_net::Result<Vec<Route>> {
    let listed = rtnl.routes(RouteFilter {
        ipv6,
        table: Some(Route::MAIN_TABLE),
        of_any_kind: true,
        ..RouteFilter::default()
    });
    match listed {
        Ok(mut routes) => {
            routes.retain(|route| is_our_protocol(route.protocol));
            Ok(routes)
        }
        // A kernel without IPv6.
        Err(error) if error.is_not_supported() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_ours(link: &Link, remembered: &str) -> bool {
    let is_remembered = || remembered.lines().any(|name| name == link.name);
    device::is_flannels(link) || (link.is_vxlan() && is_remembered())
}

fn remove_if_empty(dir: &Path) {
    // Not empty, not there, a mount point: it stays, and does no harm.
    let _ = fs::remove_dir(dir);
}

/// Names of the devices of our making: see [`crate::reconcile::Settings::memory`].
const MEMORY: &str = "devices";
/// What the parts of the daemon keep in the run directory, besides the lock.
const RUN_FILES: [&str; 6] = [
    MEMORY,
    "devices.new",
    SOCKET,
    BESIDE,
    handover::SOCKET,
    handover::BESIDE,
];
