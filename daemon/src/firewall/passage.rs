//! Whether others' rules let pods' packets pass where packets are forwarded, and where an accept
//! of ours must stand so that they do. Pure.
//!
//! Every base chain at that hook has its say: an accept ends only the chain it stands in, and a
//! drop is the end. So each chain that drops what it does not know needs an accept of its own.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

/// A base chain with those it leads to, as far as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) base: String,
    pub(super) drops_by_policy: bool,
    pub(super) chains: BTreeMap<String, Vec<Step>>,
}

/// A rule of somebody, as far as it decides about our packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) when: When,
    pub(super) then: Then,
    pub(super) comment: String,
    /// What it is deleted by.
    pub(super) handle: Handle,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Handle {
    Number(u64),
    /// As iptables-save prints it, behind `-A`.
    Line(String),
    /// Not there yet.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum When {
    /// All of these hold; always, if there are none.
    All(Vec<Match>),
    /// It depends on what we do not look into.
    Sometimes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Match {
    pub(super) end: End,
    pub(super) inside: bool,
    pub(super) network: IpNetwork,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Source,
    Destination,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Then {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    Masquerade,
    /// It counts, marks, logs.
    GoOn,
}

/// What becomes of a packet that starts a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage {
    Passes,
    /// By what: `its policy`, `a rule of chain X`.
    Dropped(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edit {
    /// An accept of ours, in front of a rule or behind all of them.
    Insert {
        chain: String,
        accept: Match,
        before: Option<Handle>,
    },
    Delete {
        chain: String,
        handle: Handle,
    },
}

impl Filter {
    /// The fate of packets with one end in `network` and the other outside of all pods' networks.
    pub(super) fn passage(&self, end: End, network: IpNetwork) -> Passage {
        match self.walk(&self.base, end, network, DEEPEST) {
            Flow::Accepted => Passage::Passes,
            Flow::Dropped(chain) => Passage::Dropped(format!("a rule of chain {chain}")),
            Flow::Through if self.drops_by_policy => Passage::Dropped("its policy".into()),
            Flow::Through => Passage::Passes,
        }
    }

    /// What makes it let pods' packets pass, or takes away what we put there for that when it is
    /// not needed. Rules of ours count as needed only if the filter drops without them.
    pub(super) fn edits(&self, networks: &[IpNetwork]) -> Vec<Edit> {
        let bare = self.without(|step| step.is_ours() || step.is_flannels());
        let wanted: Vec<Match> = networks
            .iter()
            .flat_map(|network| ENDS.map(|end| Match::inside(end, *network)))
            .filter(|accept| !bare.lets_pass(accept))
            .collect();
        let stands = self.without(Step::is_flannels);
        let is_good = |accept: &Match| {
            wanted.contains(accept) && stands.lets_pass(accept) && self.times_ours(accept) == 1
        };

        let mut edits = Vec::new();
        for (chain, step) in self.ours() {
            if !step.accepted().as_ref().is_some_and(is_good) {
                edits.push(Edit::Delete {
                    chain: chain.to_owned(),
                    handle: step.handle.clone(),
                });
            }
        }
        let missing: Vec<Match> = wanted.iter().copied().filter(|a| !is_good(a)).collect();
        let chain = bare.place(&missing);
        edits.extend(missing.iter().map(|accept| Edit::Insert {
            chain: chain.to_owned(),
            accept: *accept,
            before: bare.slot(chain, accept),
        }));
        edits
    }

    /// Itself after the edits.
    pub(super) fn edited(mut self, edits: &[Edit]) -> Self {
        for edit in edits {
            match edit {
                Edit::Insert {
                    chain,
                    accept,
                    before,
                } => self.insert(chain, *accept, before.as_ref()),
                Edit::Delete { chain, handle } => {
                    let steps = self.chains.entry(chain.clone()).or_default();
                    steps.retain(|step| step.handle != *handle);
                }
            }
        }
        self
    }

    fn lets_pass(&self, accept: &Match) -> bool {
        self.passage(accept.end, accept.network) == Passage::Passes
    }

    fn ours(&self) -> impl Iterator<Item = (&str, &Step)> {
        self.chains.iter().flat_map(|(chain, steps)| {
            let ours = steps.iter().filter(|step| step.is_ours());
            ours.map(move |step| (chain.as_str(), step))
        })
    }

    fn times_ours(&self, accept: &Match) -> usize {
        let same = |step: &Step| step.accepted().as_ref() == Some(accept);
        self.ours().filter(|(_, step)| same(step)).count()
    }

    /// Which rule of a chain this is, counted from one.
    pub(super) fn number_of(&self, chain: &str, handle: &Handle) -> Option<usize> {
        let steps = self.chains.get(chain)?;
        Some(steps.iter().position(|step| step.handle == *handle)? + 1)
    }

    /// Docker keeps one chain for others' rules, which it never empties.
    fn place(&self, accepts: &[Match]) -> &str {
        let works = |accept: &Match| {
            let mut tried = self.clone();
            tried.insert(
                DOCKER_USER,
                *accept,
                self.slot(DOCKER_USER, accept).as_ref(),
            );
            tried.lets_pass(accept)
        };
        if self.chains.contains_key(DOCKER_USER) && accepts.iter().all(works) {
            return DOCKER_USER;
        }
        &self.base
    }

    /// The rule of a chain in front of which an accept must stand: the first that surely decides.
    /// No further ahead, for what others refuse to some pods' packets stays refused: network
    /// policies, broken connections, an operator's own exceptions.
    fn slot(&self, chain: &str, accept: &Match) -> Option<Handle> {
        let steps = self.chains.get(chain)?;
        let mut deciding = steps.iter().filter(|step| {
            self.decides(chain, step, accept.end, accept.network, DEEPEST)
                .is_some()
        });
        deciding.next().map(|step| step.handle.clone())
    }

    fn insert(&mut self, chain: &str, accept: Match, before: Option<&Handle>) {
        let step = Step {
            when: When::All(vec![accept]),
            then: Then::Accept,
            comment: COMMENT.into(),
            handle: Handle::None,
        };
        let steps = self.chains.entry(chain.to_owned()).or_default();
        let at = before.and_then(|handle| steps.iter().position(|step| step.handle == *handle));
        steps.insert(at.unwrap_or(steps.len()), step);
    }

    fn without(&self, unwanted: impl Fn(&Step) -> bool) -> Self {
        let mut filter = self.clone();
        for steps in filter.chains.values_mut() {
            steps.retain(|step| !unwanted(step));
        }
        filter
    }

    fn walk(&self, chain: &str, end: End, network: IpNetwork, depth: usize) -> Flow {
        let steps = self.chains.get(chain).map_or(&[][..], Vec::as_slice);
        let decides = |step| self.decides(chain, step, end, network, depth);
        steps.iter().find_map(decides).unwrap_or(Flow::Through)
    }

    /// What the step makes of all such packets, if they go no further in its chain.
    fn decides(
        &self,
        chain: &str,
        step: &Step,
        end: End,
        network: IpNetwork,
        depth: usize,
    ) -> Option<Flow> {
        if !step.when.surely_holds(end, network) {
            return None;
        }
        let (to, comes_back) = match &step.then {
            Then::Accept => return Some(Flow::Accepted),
            Then::Drop => return Some(Flow::Dropped(chain.to_owned())),
            Then::Return => return Some(Flow::Through),
            Then::Masquerade | Then::GoOn => return None,
            Then::Jump(to) => (to, true),
            Then::Goto(to) => (to, false),
        };
        let flow = self.walk(to, end, network, depth.checked_sub(1)?);
        (flow != Flow::Through || !comes_back).then_some(flow)
    }
}

impl Step {
    /// The match of a rule that accepts one network's packets and looks at nothing else.
    pub(super) fn accepted(&self) -> Option<Match> {
        match (&self.when, &self.then) {
            (When::All(matches), Then::Accept) => match matches.as_slice() {
                [only] if only.inside => Some(*only),
                _ => None,
            },
            _ => None,
        }
    }

    /// The chain it leads every packet to that it holds for.
    pub(super) fn surely_leads_to(&self) -> Option<String> {
        match (&self.when, &self.then) {
            (When::All(_), Then::Jump(chain) | Then::Goto(chain)) => Some(chain.clone()),
            _ => None,
        }
    }

    pub(super) fn require(&mut self, end: End, inside: bool, network: IpNetwork) {
        if let When::All(all) = &mut self.when {
            all.push(Match {
                end,
                inside,
                network,
            });
        }
    }

    /// By what it does, and by its comment, which survives saving and restoring in another form.
    fn is_ours(&self) -> bool {
        self.accepted().is_some() && self.comment == COMMENT
    }

    fn is_flannels(&self) -> bool {
        matches!(&self.then, Then::Jump(chain) | Then::Goto(chain) if chain == FLANNEL_FORWARD)
            || self.is_accept_of_flannel()
    }

    /// Before 0.20 it had no chain of its own.
    pub(super) fn is_accept_of_flannel(&self) -> bool {
        self.accepted().is_some() && self.comment == "flanneld forward"
    }
}

impl When {
    pub(super) const fn always() -> Self {
        Self::All(Vec::new())
    }

    /// Whether it holds for all packets with one end in `network` and the other anywhere.
    fn surely_holds(&self, end: End, network: IpNetwork) -> bool {
        match self {
            Self::All(matches) => matches.iter().all(|m| m.surely_holds(end, network)),
            Self::Sometimes => false,
        }
    }
}

impl Match {
    pub(super) const fn inside(end: End, network: IpNetwork) -> Self {
        Self {
            end,
            inside: true,
            network,
        }
    }

    fn surely_holds(&self, end: End, network: IpNetwork) -> bool {
        if self.network.prefix() == 0 {
            return self.inside;
        }
        if self.end != end {
            return false;
        }
        match self.inside {
            true => holds(self.network, network),
            false => !holds(self.network, network) && !holds(network, self.network),
        }
    }
}

/// Whether all addresses of `part` are in `whole`.
fn holds(whole: IpNetwork, part: IpNetwork) -> bool {
    whole.is_ipv4() == part.is_ipv4()
        && whole.prefix() <= part.prefix()
        && whole.contains(part.network())
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Flow {
    Accepted,
    Dropped(String),
    Through,
}

pub(super) const ENDS: [End; 2] = [End::Source, End::Destination];
/// What our rules in others' chains are marked with.
pub(super) const COMMENT: &str = "weft: pods";
pub(super) const FLANNEL_FORWARD: &str = "FLANNEL-FWD";
const DOCKER_USER: &str = "DOCKER-USER";
/// Deeper than the kernel lets chains jump.
const DEEPEST: usize = 16;

#[cfg(test)]
mod tests;
