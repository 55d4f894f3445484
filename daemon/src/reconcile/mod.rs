//! The one loop that keeps the kernel true: a start, a restart, a peer that comes, a route
//! deleted by hand, a lost device, a flushed ruleset and a periodic check are all the same round.
//! It has a thread of its own and is synchronous; nothing else programs the kernel.

mod basis;
mod inbox;
mod memory;
mod mend;
mod report;
mod succession;
mod watch;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_net::Rtnl;
use weft_net::sys::{Turn, take_turns};

use crate::conf::NetConf;
use crate::diff::Actual;
use crate::drift::{Links, Rivalry, Suspects};
use crate::firewall::Firewall;
use crate::lease::{Identity, Lease, Subnets};
use crate::overlay::Path;
use crate::plan::{self, Desired, Device, Ground, Inputs, Wishes};
use crate::rfc3339::Utc;
use crate::store::{Chosen, Claim, Own, Peers, View};

pub use basis::{claim, networks, offer, ways};
pub use inbox::{Inbox, Post};
pub use report::{Repaired, Report};
pub use succession::{Begin, Beginning, Conclude, Ended};

use memory::Memory;
use watch::{Dirty, Eyes, Ours};

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Settings {
    pub identity: Identity,
    pub wishes: Wishes,
    /// Of an earlier run, from the subnet file.
    pub previous: Option<Subnets>,
    /// Of an earlier run, from what was remembered.
    pub formerly: Option<Identity>,
    /// When all is looked at though nothing happened.
    pub resync: Duration,
    /// Remembers, for as long as the machine is up, which devices are of our making.
    pub memory: PathBuf,
}

/// Where the node stands in the underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub name: String,
    pub ground: Ground,
    pub public_ip: Option<std::net::Ipv4Addr>,
    pub public_ipv6: Option<std::net::Ipv6Addr>,
}

impl Standing {
    /// What is published is not what packets come from: somebody on the way translates, and
    /// what they are translated to, only the operator knows.
    fn overwritten(&self) -> bool {
        let differs4 = self.public_ip.is_some() && self.public_ip != self.ground.v4;
        let differs6 = self.public_ipv6.is_some() && self.public_ipv6 != self.ground.v6;
        differs4 || differs6
    }
}

/// Chooses the interface, as things are; the error is for the operator.
pub type Choose = Box<dyn FnMut(&mut Rtnl, &NetConf, Chosen) -> Result<Standing, String> + Send>;

/// What the loop hands out.
#[expect(
    missing_debug_implementations,
    reason = "closures have nothing to show"
)]
pub struct Outbox {
    /// Told whenever it changes.
    pub claim: Box<dyn FnMut(Claim) + Send>,
    /// Told after each round that did something.
    pub report: Box<dyn FnMut(&Report) + Send>,
    /// Told what pods' plugins need, once all that stands was programmed, and when it changes.
    pub serve: Serve,
    /// Asked once, when there is something to program: whoever did it before steps aside then.
    pub begin: Begin,
}

pub type Serve = Box<dyn FnMut(&Serving) -> Result<(), String> + Send>;

/// What a subnet file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    pub conf: Arc<NetConf>,
    pub subnets: Subnets,
    pub mtu: u32,
    pub masquerade: bool,
}

#[expect(missing_debug_implementations, reason = "it holds closures")]
pub struct Reconciler {
    settings: Settings,
    choose: Choose,
    outbox: Outbox,
    inbox: Arc<Inbox>,
    rtnl: Rtnl,
    firewall: Firewall,
    path: Path,
    has_begun: bool,
    conclude: Option<Conclude>,
    /// Why whoever was here before goes on.
    superfluous: Option<String>,
    eyes: Eyes,
    view: View,
    /// What the node stands and claims by. It changes once at most: where an earlier run's is
    /// remembered, and the store then tells another.
    conf: Option<Arc<NetConf>>,
    standing: Option<Standing>,
    claimed: Option<Claim>,
    /// The plan, and what it was made from.
    planned: Option<(Inputs, Arc<Desired>)>,
    links: Links,
    links_before: Links,
    /// As they were last seen to.
    devices: Vec<Device>,
    believed: Actual,
    has_plan: bool,
    /// The tables were read at least once with today's devices.
    knows: bool,
    dirty: Dirty,
    looked: Option<Instant>,
    suspects: Suspects,
    rivalry: Rivalry,
    /// When the newest view is taken, at the soonest.
    next_view: Instant,
    /// When something is put back that a rival's sake has left waiting.
    retry_at: Option<Instant>,
    memory: Memory,
    served: Option<Serving>,
    report: Report,
}

impl Reconciler {
    /// For the network namespace the calling thread is in, which is the one that must run it.
    pub fn open(
        settings: Settings,
        choose: Choose,
        outbox: Outbox,
        path: Path,
    ) -> Result<(Self, Post), crate::firewall::Error> {
        let mut rtnl = Rtnl::open()?;
        let mut firewall = Firewall::open()?;
        let eyes = Eyes::open(vec![rtnl.port()?, firewall.port()?])?;
        let inbox = Arc::new(Inbox::default());
        let post = Post::new(Arc::clone(&inbox), eyes.nudge()?);
        let memory = Memory::read(&settings.memory);
        let reconciler = Self {
            settings,
            choose,
            outbox,
            inbox,
            rtnl,
            firewall,
            path,
            has_begun: false,
            conclude: None,
            superfluous: None,
            eyes,
            view: View::default(),
            conf: None,
            standing: None,
            claimed: None,
            planned: None,
            links: Links::default(),
            links_before: Links::default(),
            devices: Vec::new(),
            believed: Actual::default(),
            has_plan: false,
            knows: false,
            dirty: Dirty::ALL,
            looked: None,
            suspects: Suspects::default(),
            rivalry: Rivalry::default(),
            next_view: Instant::now(),
            retry_at: None,
            memory,
            served: None,
            report: Report::default(),
        };
        Ok((reconciler, post))
    }

    /// Until it is told to stop, or is followed; what it has programmed stays.
    pub fn run(&mut self) -> weft_net::Result<Ended> {
        come(BEFORE_OTHERS);
        let mut next_look = Instant::now();
        while !self.inbox.is_stopped() {
            let deadline = self.deadline(next_look);
            self.wait(deadline)?;
            if let Some(successor) = self.inbox.successor()
                && let Some(successor) = self.step_aside(successor)
            {
                return Ok(Ended::Followed(successor));
            }
            let now = Instant::now();
            if self.retry_at.is_some_and(|at| at <= now) {
                self.dirty.tables = true;
            }
            if now >= next_look {
                self.dirty.merge(Dirty::ALL);
                next_look = now + self.settings.resync;
                self.rivalry.forgive(now);
                self.eyes.know_residents();
            }
            self.suspects.forget_before(now - SUSPECTED_FOR);
            if now >= self.next_view
                && let Some(view) = self.inbox.take()
            {
                self.dirty.ground |= view.chosen != self.view.chosen;
                self.view = view;
                self.round();
                if self.has_plan {
                    self.next_view = Instant::now() + pause_after(now.elapsed());
                }
            } else if self.is_urgent() && self.may_look(now) {
                self.round();
            }
            if let Some(why) = self.superfluous.take() {
                return Ok(Ended::Superfluous(why));
            }
            let path = self.path.retry_at().filter(|at| *at > now);
            let predecessor = (self.has_plan && !self.has_begun).then(|| now + LOOK_APART);
            let guard = self.firewall.due().filter(|at| *at > now);
            let waiting = [self.rivalry.next(now), path, predecessor, guard];
            self.retry_at = waiting.into_iter().flatten().min();
        }
        Ok(Ended::Stopped)
    }

    /// Until the deadline, or until something happened; and hears what.
    fn wait(&mut self, deadline: Instant) -> weft_net::Result<()> {
        if self.eyes.has_witness() {
            self.eyes.wait(Some(deadline))?;
            return self.listen();
        }
        // Who is woken late finds the culprit gone, which is there for some 30 microseconds more.
        come(Turn::First);
        self.eyes.wait(Some(deadline))?;
        self.listen()?;
        come(BEFORE_OTHERS);
        Ok(())
    }

    fn listen(&mut self) -> weft_net::Result<()> {
        let ours = Ours {
            links: self.links,
            devices: &self.devices,
            believed: &self.believed,
        };
        let dirty = self.eyes.look(&ours, &mut self.suspects)?;
        self.dirty.merge(dirty);
        Ok(())
    }

    /// Until there is something to program, only what could change that counts: the store's
    /// next view comes by itself.
    fn is_urgent(&self) -> bool {
        if self.has_plan {
            self.dirty.any()
        } else {
            self.dirty.ground && matches!(self.view.conf, Some(Ok(_)))
        }
    }

    /// When to wake if nothing happens.
    fn deadline(&self, next_look: Instant) -> Instant {
        let now = Instant::now();
        let mut deadline = next_look;
        if self.inbox.has_news() {
            deadline = deadline.min(self.next_view);
        }
        if self.is_urgent() {
            deadline = deadline.min(self.looked.map_or(now, |at| at + LOOK_APART));
        }
        self.retry_at.map_or(deadline, |at| deadline.min(at))
    }

    fn may_look(&self, now: Instant) -> bool {
        self.looked
            .is_none_or(|at| now.saturating_duration_since(at) >= LOOK_APART)
    }

    /// From the view to the kernel, once.
    fn round(&mut self) {
        let began = Instant::now();
        self.report.begin();
        let outcome = self.try_round();
        self.report.set_ready(outcome);
        self.report.end(began.elapsed());
        (self.outbox.report)(&self.report);
    }

    /// The error says why the node cannot serve; what can be programmed is, all the same.
    fn try_round(&mut self) -> Result<(), String> {
        let may_look = self.may_look(Instant::now());
        self.has_plan = false;
        let conf = match &self.view.conf {
            None => return Err(waiting("the network's configuration", &self.view)),
            Some(Err(wrong)) => return Err(wrong.clone()),
            Some(Ok(conf)) => Arc::clone(conf),
        };
        if self.conf.as_ref() != Some(&conf) {
            (self.standing, self.claimed) = (None, None);
            self.conf = Some(Arc::clone(&conf));
        }
        if self.standing.is_none() || (self.dirty.ground && may_look) {
            self.dirty.ground = false;
            self.looked = Some(Instant::now());
            self.stand(&conf)?;
        }
        let Some(standing) = self.standing.clone() else {
            return Err("no interface is chosen".into());
        };
        self.tell_of_overlap(&conf, &standing);
        self.claim(&conf, &standing);
        let (own, trouble) = match &self.view.own {
            Own::Unclaimed => return Err(waiting("a subnet", &self.view)),
            Own::Refused(why) => return Err(why.clone()),
            Own::Held(lease) => (Arc::clone(lease), None),
            Own::Lost { was, why } => (Arc::clone(was), Some(why.clone())),
        };
        let Some(peers) = self.view.peers.clone() else {
            return Err(waiting("the other nodes' leases", &self.view));
        };
        self.report.read(&peers.rubbish);
        let desired = self.plan(&conf, &own, &peers, &standing);
        desired.check_mtu(&conf, &standing.ground)?;
        self.has_plan = true;
        self.begin()?;
        let programmed = self.program(&desired, may_look);
        self.conclude(&programmed)?;
        programmed?;
        self.serve(conf, &own, &desired)?;
        trouble.or_else(|| self.unanswered()).map_or(Ok(()), Err)
    }

    /// What is programmed is an earlier run's knowledge: it serves, and may be out of date.
    fn unanswered(&self) -> Option<String> {
        let since = Utc::of(self.view.remembered?).to_the_second();
        let why = self.view.health.trouble.as_deref();
        Some(format!(
            "the store has not answered yet{}{}; pods are served by what was known at {since}",
            if why.is_some() { ": " } else { "" },
            why.unwrap_or_default()
        ))
    }

    fn stand(&mut self, conf: &NetConf) -> Result<(), String> {
        match (self.choose)(&mut self.rtnl, conf, self.view.chosen) {
            Ok(standing) => {
                if self.standing.as_ref() != Some(&standing) {
                    tracing::info!(
                        interface = standing.name,
                        mtu = standing.ground.mtu,
                        v4 = standing.ground.v4.map(tracing::field::display),
                        v6 = standing.ground.v6.map(tracing::field::display),
                        public_ip = standing.public_ip.map(tracing::field::display),
                        public_ipv6 = standing.public_ipv6.map(tracing::field::display),
                        "the underlay"
                    );
                    self.report.standing = Some(standing.clone());
                    self.links.ground = standing.ground.link;
                    self.standing = Some(standing);
                }
                Ok(())
            }
            // What was chosen before may come back; until then pods' traffic is not touched.
            Err(why) if self.standing.is_some() => {
                self.report.note(why);
                Ok(())
            }
            Err(why) => Err(why),
        }
    }

    fn tell_of_overlap(&mut self, conf: &NetConf, standing: &Standing) {
        let addresses = [
            standing.ground.v4.map(IpAddr::V4),
            standing.ground.v6.map(IpAddr::V6),
        ];
        for address in addresses.into_iter().flatten() {
            for network in conf.networks.iter().filter(|n| n.contains(address)) {
                self.report.note(format!(
                    "the pod network {network} overlaps the underlay: {} has {address}; pods \
                     and nodes of one address cannot reach each other, so give the pods a \
                     network that no node is in",
                    standing.name
                ));
            }
        }
    }

    fn claim(&mut self, conf: &NetConf, standing: &Standing) {
        let offer = match &self.claimed {
            // The devices' addresses count only at the start: then they are the lease's.
            Some(claimed) => claimed.offer.clone(),
            None => offer(&mut self.rtnl, conf),
        };
        let Settings {
            identity,
            previous,
            formerly,
            ..
        } = &self.settings;
        let claim = claim(identity, conf, standing, *previous, formerly.clone(), offer);
        if self.claimed.as_ref() != Some(&claim) {
            (self.outbox.claim)(claim.clone());
            self.claimed = Some(claim);
        }
    }

    fn plan(
        &mut self,
        conf: &Arc<NetConf>,
        own: &Arc<Lease>,
        peers: &Arc<Peers>,
        standing: &Standing,
    ) -> Arc<Desired> {
        let inputs = Inputs {
            conf: Arc::clone(conf),
            own: Arc::clone(own),
            peers: Arc::clone(peers),
            ground: standing.ground.clone(),
            wishes: self.settings.wishes.clone(),
            ways: ways(&mut self.rtnl, conf, peers),
            remembered: self.view.remembered.is_some(),
        };
        if let Some((known, desired)) = &self.planned
            && known.is_same(&inputs)
        {
            return Arc::clone(desired);
        }
        let desired = Arc::new(plan::plan(&inputs));
        self.planned = Some((inputs, Arc::clone(&desired)));
        desired
    }

    fn serve(&mut self, conf: Arc<NetConf>, own: &Lease, desired: &Desired) -> Result<(), String> {
        let serving = Serving {
            conf,
            subnets: own.subnets,
            mtu: desired.mtu,
            masquerade: self.settings.wishes.masquerade,
        };
        if self.served.as_ref() != Some(&serving) {
            (self.outbox.serve)(&serving)?;
            self.served = Some(serving);
        }
        Ok(())
    }
}

/// A round is short and somebody's packets wait for repairs. Without permission it goes as it goes.
fn come(turn: Turn) {
    let _ = take_turns(turn);
}

/// A storm of views is a few rounds: the longer one takes, and it takes long where many share the
/// processors, the more news the next one has. After a quiet time the first view waits for nothing.
fn pause_after(round: Duration) -> Duration {
    (round * SHARE_LEFT_TO_OTHERS).min(LONGEST_PAUSE)
}

fn waiting(for_what: &str, view: &View) -> String {
    match &view.health.trouble {
        Some(trouble) => format!("waiting for {for_what}: {trouble}"),
        None => format!("waiting for {for_what} from the store"),
    }
}

const BEFORE_OTHERS: Turn = Turn::Ordinary { nice: -15 };
const SHARE_LEFT_TO_OTHERS: u32 = 4;
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// A look at all tables costs milliseconds at thousands of peers; ten a second are enough.
const LOOK_APART: Duration = Duration::from_millis(100);
/// What somebody did longer ago explains nothing.
const SUSPECTED_FOR: Duration = Duration::from_secs(10);
