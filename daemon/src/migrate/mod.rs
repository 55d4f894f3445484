//! What weftd would do on this node if it were started, and nothing of it done: the store is read
//! without a claim, the kernel without a change, and the same plan and difference are made as the
//! loop makes them. `weft migrate --plan` tells it, while flanneld still runs.

mod told;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use weft_net::Rtnl;

use crate::conflist::Conflist;
use crate::daemon;
use crate::device::{self, Step};
use crate::diff::{Actual, Difference, diff};
use crate::drift::Links;
use crate::firewall::{self, Firewall};
use crate::identity;
use crate::kernel::{self, Marks};
use crate::lease::{Lease, Subnets};
use crate::lock;
use crate::options::{self, Options};
use crate::plan::{self, Desired, Device, Family, Inputs};
use crate::reconcile::{self, Serving, Standing};
use crate::store::leasing::owner;
use crate::store::remembered;
use crate::store::{Claim, Own, Peers, View};
use crate::subnet_file::{Found, SubnetFile};

pub use told::Told;

/// What was found, and what would come of it.
#[derive(Debug)]
pub struct Migration {
    /// The process of a flanneld that runs here, as far as it can be seen.
    pub flanneld: Option<u32>,
    pub standing: Standing,
    pub holding: Holding,
    pub devices: Vec<(Device, Step)>,
    pub actual: Actual,
    pub difference: Difference,
    pub firewall: firewall::Report,
    /// What the subnet file would say, and says.
    pub file: (String, Option<String>),
    /// The runtime's configuration, where weftd is told to put it in place.
    pub conflist: Option<Conflist>,
    pub skipped: Vec<plan::Skipped>,
}

/// How the node would come by its subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// There is a lease, which is this node's by its identity (true) or by its address.
    Lease(Arc<Lease>, bool),
    /// None, but an earlier run's subnet is free.
    Earlier(Subnets),
    /// Assigned by the store, which is nothing to be leased.
    Assigned(Arc<Lease>),
}

/// For the network namespace the calling thread is in. The error is what keeps it from being told.
pub fn plan(options: &Options) -> Result<Migration, String> {
    let identity = identity::known(&options.node, &options.state_dir);
    let view = read_store(options, &identity)?;
    let conf = match &view.conf {
        Some(Ok(conf)) => Arc::clone(conf),
        Some(Err(wrong)) => return Err(wrong.clone()),
        None => return Err("the store has no configuration".into()),
    };
    let mut rtnl = Rtnl::open().map_err(|e| e.to_string())?;
    let standing = daemon::look_for_standing(options, &mut rtnl, &conf, view.chosen)?;
    let previous = previous(&options.subnet_file);
    let offer = reconcile::offer(&mut rtnl, &conf);
    let formerly = remembered::identity(&options.state_dir);
    let claim = reconcile::claim(&identity, &conf, &standing, previous, formerly, offer);
    let (holding, peers) = match options.store {
        options::Store::Kube(_) => assigned(&view)?,
        _ => hold(&view, &claim)?,
    };
    let own = Arc::new(holding.lease(&claim));
    let inputs = Inputs {
        ways: reconcile::ways(&mut rtnl, &conf, &peers),
        conf: Arc::clone(&conf),
        own: Arc::clone(&own),
        peers: Arc::new(peers),
        ground: standing.ground.clone(),
        wishes: daemon::wishes(options),
        remembered: false,
    };
    let desired = plan::plan(&inputs);
    let (devices, links) = look_at_devices(&mut rtnl, &standing, &desired)?;
    let marks = Marks {
        links,
        networks: reconcile::networks(&conf),
        first_takeover: previous.is_some() && !options.run_dir.join("devices").exists(),
    };
    let actual = kernel::read(&mut rtnl, &marks, &desired).map_err(|e| e.to_string())?;
    let serving = Serving {
        conf,
        subnets: own.subnets,
        mtu: desired.mtu,
        masquerade: options.masquerade.on,
    };
    Ok(Migration {
        flanneld: lock::living_flanneld(),
        standing,
        holding,
        devices,
        difference: diff(&desired, &actual),
        actual,
        firewall: look_at_firewall(&desired)?,
        file: (
            SubnetFile::from(&serving).to_string(),
            std::fs::read_to_string(&options.subnet_file).ok(),
        ),
        conflist: options.conflist.clone(),
        skipped: desired.skipped,
    })
}

/// Its newest view of what there is, as a node sees it that claims nothing.
fn read_store(options: &Options, identity: &crate::lease::Identity) -> Result<View, String> {
    // Nobody is told how it goes.
    let (_reports, report) = watch::channel(reconcile::Report::default());
    let store = daemon::store(options, identity, &report)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("start the runtime: {e}"))?;
    let view = runtime.block_on(async {
        // Kept: a store whose claimant is gone may end.
        let (_claims, claim) = watch::channel(None);
        let (views, mut view) = watch::channel(View::default());
        tokio::spawn(store.run(claim, views));
        let is_whole = |view: &View| {
            matches!(view.conf, Some(Err(_))) || (view.conf.is_some() && view.peers.is_some())
        };
        let waited = timeout(PATIENCE, view.wait_for(is_whole)).await;
        let found = waited.map(|whole| whole.map(|view| view.clone()));
        match found {
            Ok(Ok(whole)) => Ok(whole),
            Ok(Err(_)) => Err("the store's task has ended".to_owned()),
            Err(_) => {
                let trouble = view.borrow().health.trouble.clone();
                let why = trouble.unwrap_or_else(|| "it has no configuration".into());
                Err(format!(
                    "read the store: no answer within {PATIENCE:?}: {why}"
                ))
            }
        }
    });
    runtime.shutdown_background();
    view
}

/// What this node has published of its own subnet, which a subnet file could not give it.
fn assigned(view: &View) -> Result<(Holding, Peers), String> {
    let peers = view.peers.as_deref().cloned().unwrap_or_default();
    match &view.own {
        Own::Held(lease) => Ok((Holding::Assigned(Arc::clone(lease)), peers)),
        _ => Err(
            "this node's Node has no podCIDR, or none of flannel's annotations with the backend \
             that is configured: there is nothing to take over. Are --node-name and \
             --kube-annotation-prefix flanneld's own, and does net-conf.json name its backend? \
             `kubectl get node NAME -o yaml` shows what it has published"
                .into(),
        ),
    }
}

/// Which of all leases is ours, and the others.
fn hold(view: &View, claim: &Claim) -> Result<(Holding, Peers), String> {
    let mut peers = view.peers.as_deref().cloned().unwrap_or_default();
    let judged = |lease: &Arc<Lease>| owner::ours_of(claim, lease).map(|how| (how, lease.clone()));
    let ours = peers.leases.iter().filter_map(judged);
    if let Some((how, lease)) = ours.max_by_key(|(how, _)| *how) {
        peers
            .leases
            .retain(|other| owner::ours_of(claim, other).is_none());
        let by_identity = how != owner::Ours::ByAddress;
        return Ok((Holding::Lease(lease, by_identity), peers));
    }
    let is_free = |subnets: &Subnets| {
        let mut leases = peers.leases.iter();
        !leases.any(|lease| lease.subnets.overlaps(subnets))
    };
    match claim.previous.filter(is_free) {
        Some(previous) => Ok((Holding::Earlier(previous), peers)),
        None => Err(
            "this node has no lease, and no subnet file names one that is free: weftd would lease \
             any free subnet, and there is nothing to take over. Pods that run here lose their \
             addresses' way; is the command line weftd's own (--etcd-prefix, --public-ip, \
             --subnet-file)?"
                .into(),
        ),
    }
}

impl Holding {
    fn lease(&self, claim: &Claim) -> Lease {
        let (subnets, existing) = match self {
            Self::Lease(lease, _) | Self::Assigned(lease) => (lease.subnets, Some(&lease.attrs)),
            Self::Earlier(subnets) => (*subnets, None),
        };
        Lease {
            subnets,
            attrs: claim.attrs(subnets, existing),
        }
    }
}

fn look_at_devices(
    rtnl: &mut Rtnl,
    standing: &Standing,
    desired: &Desired,
) -> Result<(Vec<(Device, Step)>, Links), String> {
    let mut links = Links {
        ground: standing.ground.link,
        ..Links::default()
    };
    let mut devices = Vec::new();
    for wanted in &desired.devices {
        let held = match rtnl.link(wanted.name.as_str()) {
            Ok(link) => Some(link),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.to_string()),
        };
        let step = device::step(wanted, held.as_ref());
        let stays = matches!(step, Step::Keep | Step::Change(_));
        let index = held.filter(|_| stays).map(|link| link.index);
        for family in wanted.families() {
            match family {
                Family::V4 => links.v4 = index,
                Family::V6 => links.v6 = index,
            }
        }
        devices.push((wanted.clone(), step));
    }
    Ok((devices, links))
}

fn look_at_firewall(desired: &Desired) -> Result<firewall::Report, String> {
    let mut firewall = Firewall::open().map_err(|e| e.to_string())?;
    firewall
        .inspect(&desired.firewall)
        .map_err(|e| e.to_string())
}

fn previous(path: &Path) -> Option<Subnets> {
    Found::read(path).ok()?.map(|found| found.subnets)
}

/// For an answer of the store.
const PATIENCE: Duration = Duration::from_secs(15);
