//! Others' tables in the kernel, as far as pods' packets meet them: the chains at the forward hook,
//! and what flanneld left in those of iptables-nft.

use std::collections::BTreeMap;
use std::fmt;

use ipnetwork::IpNetwork;
use weft_net::Result;
use weft_net::nft::{
    Base, Chain, ChainKind, Family, Hook, NftSocket, Op, Policy, Selector, Statement, StoredChain,
    StoredRule, StoredTable, Table, Test, Transaction, Verdict, expr,
};

use super::flannels::{self, CHAINS};
use super::passage::{COMMENT, Edit, End, Filter, Handle, Match, Step, Then, When};
use super::save::target;
use super::wanted::{FAMILIES, TABLES, of_family};

/// A base chain at the forward hook, as packets of one family meet it.
#[derive(Debug)]
pub(super) struct ForeignHook {
    pub(super) family: Family,
    pub(super) table: String,
    pub(super) v6: bool,
    pub(super) priority: i32,
    pub(super) filter: Filter,
}

impl ForeignHook {
    pub(super) fn table(&self) -> Table<'_> {
        Table::new(self.family, &self.table)
    }

    /// A chain that plain rules of ours can be in: iptables-nft lists, saves and restores them.
    pub(super) fn is_iptables(&self) -> bool {
        [FILTER4, FILTER6].contains(&self.table()) && self.filter.base == "FORWARD"
    }
}

pub(super) fn read_hooks(
    nft: &mut NftSocket,
    tables: &[StoredTable],
    chains: &[StoredChain],
) -> Result<Vec<ForeignHook>> {
    let mut hooks = Vec::new();
    for (chain, base) in chains.iter().filter_map(|chain| Some((chain, chain.base?))) {
        let table = chain.chain().table;
        let is_awake = tables
            .iter()
            .any(|stored| stored.table() == table && stored.is_awake);
        if is_awake
            && base.hook == Hook::Forward
            && base.kind == ChainKind::Filter
            && !TABLES.contains(&table)
        {
            read_hook(nft, chain, base, &mut hooks)?;
        }
    }
    Ok(hooks)
}

/// Writes the edits of an iptables chain.
pub(super) fn write(hook: &ForeignHook, edits: &[Edit], transaction: &mut Transaction) {
    for edit in edits {
        match edit {
            Edit::Insert {
                chain,
                accept,
                before,
            } => {
                let chain = hook.table().chain(chain);
                let rule = [test(accept), expr::accept()];
                match before {
                    Some(Handle::Number(handle)) => {
                        transaction.insert_rule_before(chain, *handle, &rule, COMMENT);
                    }
                    Some(Handle::Line(_) | Handle::None) | None => {
                        transaction.add_rule(chain, &rule, COMMENT);
                    }
                }
            }
            Edit::Delete {
                chain,
                handle: Handle::Number(handle),
            } => {
                transaction.delete_rule(hook.table().chain(chain), *handle);
            }
            Edit::Delete {
                handle: Handle::Line(_) | Handle::None,
                ..
            } => {}
        }
    }
}

/// What flanneld left in a table of iptables-nft.
#[derive(Debug)]
pub(super) enum Leftover<'a> {
    /// With the jumps to it from this chain.
    Chain {
        chain: Chain<'a>,
        base: &'static str,
    },
    Rule {
        chain: Chain<'a>,
        handle: u64,
    },
}

/// Among all chains.
pub(super) fn leftovers<'a>(
    nft: &mut NftSocket,
    chains: &'a [StoredChain],
    networks: &[IpNetwork],
) -> Result<Vec<Leftover<'a>>> {
    let mut leftovers = Vec::new();
    for chain in chains.iter().map(StoredChain::chain) {
        let v6 = match chain.table.family {
            Family::Ip => false,
            Family::Ip6 => true,
            Family::Inet | Family::Netdev | Family::Bridge => continue,
        };
        for (table, base, its) in CHAINS {
            if chain.table.name != table {
                continue;
            }
            if chain.name == its {
                leftovers.push(Leftover::Chain { chain, base });
            } else if chain.name == base {
                let stored = nft.rules(chain)?;
                let steps: Vec<Step> = stored.iter().filter_map(|rule| step(rule, v6)).collect();
                let rules = flannels::rules(table, &steps, &of_family(networks, v6)).into_iter();
                leftovers.extend(rules.filter_map(|step| match step.handle {
                    Handle::Number(handle) => Some(Leftover::Rule { chain, handle }),
                    Handle::Line(_) | Handle::None => None,
                }));
            }
        }
    }
    Ok(leftovers)
}

impl Leftover<'_> {
    pub(super) fn table(&self) -> Table<'_> {
        let (Self::Chain { chain, .. } | Self::Rule { chain, .. }) = self;
        chain.table
    }

    /// A chain goes with the jumps to it that flanneld made. Should others jump there, too, it stays,
    /// empty.
    pub(super) fn remove(&self, nft: &mut NftSocket, transaction: &mut Transaction) -> Result<()> {
        match *self {
            Self::Rule { chain, handle } => transaction.delete_rule(chain, handle),
            Self::Chain { chain, base } => {
                let mut is_needed = false;
                for rule in nft.table_rules(chain.table)? {
                    if rule.leads_to() != Some(chain.name) {
                        continue;
                    }
                    if rule.chain == base {
                        transaction.delete_rule(chain.table.chain(base), rule.handle);
                    } else {
                        is_needed = true;
                    }
                }
                transaction.flush_chain(chain);
                if !is_needed {
                    transaction.delete_chain(chain);
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Leftover<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain { chain, .. } => chain.fmt(f),
            Self::Rule { chain, handle } => write!(f, "rule {handle} of {chain}"),
        }
    }
}

fn read_hook(
    nft: &mut NftSocket,
    chain: &StoredChain,
    base: Base,
    hooks: &mut Vec<ForeignHook>,
) -> Result<()> {
    // All of them pass by a chain without rules.
    let mut rules: BTreeMap<String, Vec<StoredRule>> = BTreeMap::new();
    for v6 in FAMILIES.into_iter().filter(|v6| sees(chain.family, *v6)) {
        let mut steps: BTreeMap<String, Vec<Step>> = BTreeMap::new();
        let mut ahead = vec![chain.name.clone()];
        while let Some(name) = ahead.pop() {
            if steps.contains_key(&name) || steps.len() > MOST_CHAINS {
                continue;
            }
            if !rules.contains_key(&name) {
                rules.insert(name.clone(), nft.rules(chain.chain().table.chain(&name))?);
            }
            let known: Vec<Step> = rules[&name]
                .iter()
                .filter_map(|rule| step(rule, v6))
                .collect();
            ahead.extend(known.iter().filter_map(Step::surely_leads_to));
            steps.insert(name, known);
        }
        hooks.push(ForeignHook {
            family: chain.family,
            table: chain.table.clone(),
            v6,
            priority: base.priority,
            filter: Filter {
                base: chain.name.clone(),
                drops_by_policy: base.policy == Policy::Drop,
                chains: steps,
            },
        });
    }
    Ok(())
}

fn sees(family: Family, v6: bool) -> bool {
    match family {
        Family::Inet => true,
        Family::Ip => !v6,
        Family::Ip6 => v6,
        Family::Netdev | Family::Bridge => false,
    }
}

/// `None` if the rule never holds for packets of this family.
fn step(rule: &StoredRule, v6: bool) -> Option<Step> {
    let mut step = Step {
        when: When::always(),
        then: Then::GoOn,
        comment: rule.comment().to_owned(),
        handle: Handle::Number(rule.handle),
    };
    for statement in rule.statements() {
        match statement {
            Statement::Test(Test::Family(family)) if !sees(family, v6) => return None,
            Statement::Test(Test::Family(_)) => {}
            Statement::Test(Test::Source { inside, network }) => {
                step.require(End::Source, inside, network);
            }
            Statement::Test(Test::Destination { inside, network }) => {
                step.require(End::Destination, inside, network);
            }
            Statement::Test(Test::Other) => step.when = When::Sometimes,
            Statement::Verdict(verdict) => step.then = then(verdict),
            Statement::Reject => step.then = Then::Drop,
            Statement::Target(name) => step.then = target(name),
            Statement::Masquerade => step.then = Then::Masquerade,
            Statement::Counter { .. } | Statement::Idle => {}
        }
    }
    Some(step)
}

fn then(verdict: Verdict<'_>) -> Then {
    match verdict {
        Verdict::Accept => Then::Accept,
        Verdict::Drop => Then::Drop,
        Verdict::Return => Then::Return,
        Verdict::Continue => Then::GoOn,
        Verdict::Jump(chain) => Then::Jump(chain.to_owned()),
        Verdict::Goto(chain) => Then::Goto(chain.to_owned()),
    }
}

fn test(accept: &Match) -> expr::Expr {
    let v6 = accept.network.is_ipv6();
    let selector = match accept.end {
        End::Source => Selector::saddr(v6),
        End::Destination => Selector::daddr(v6),
    };
    selector.network(Op::Eq, accept.network)
}

/// Where iptables-nft keeps its filter tables.
pub(super) const FILTER4: Table<'static> = Table::new(Family::Ip, "filter");
pub(super) const FILTER6: Table<'static> = Table::new(Family::Ip6, "filter");
/// Nobody's forward hook leads surely to more.
const MOST_CHAINS: usize = 64;
