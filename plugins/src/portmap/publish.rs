//! Mappings made, removed and judged: look, decide, commit; and again, when somebody was faster.

use std::{collections::BTreeSet, thread};

use rustix::io::Errno;
use weft_net::{
    Error, Result,
    nft::{Element, Found, NftSocket, Object, Set, StoredElement, Transaction},
};

use super::{
    entry::{Entry, Place, Wanted, chains_of, mark_of},
    holdings::{Holdings, delete},
    key::Key,
    skeleton::{self, Group, TABLE, VERSION},
};

/// A host port that somebody else had until it was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TakenOver {
    pub(super) key: Key,
    /// The comment of the one that had it.
    pub(super) from: String,
}

/// Makes it so that the owner has all that is wanted, and nothing else. A port that somebody else
/// has is taken over: the newest wins, since an old owner may have gone without a word.
pub(super) fn publish(nft: &mut NftSocket, wanted: &Wanted<'_>) -> Result<Vec<TakenOver>> {
    let entries = wanted.entries();
    if !wanted.has_conditions && create(nft, &entries)? {
        return Ok(Vec::new());
    }
    again(|| publish_once(nft, wanted, &entries))
}

/// Removes all that the owner has: what the record tells, and what else stands under `guesses`.
pub(super) fn withdraw(
    nft: &mut NftSocket,
    mark: &str,
    guesses: &[Key],
    others: &[Object<'_>],
) -> Result<Holdings> {
    again(|| {
        let holdings = Holdings::look(nft, mark, guesses, others)?;
        if holdings.has_conditions {
            let mut transaction = Transaction::at(holdings.generation);
            holdings.delete_all(&mut transaction);
            nft.commit(transaction)?;
        } else {
            let elements: Vec<(Set<'_>, &[u8])> = holdings
                .places
                .iter()
                .map(|place| (place.set(), place.key.as_slice()))
                .collect();
            nft.retire_owned(&elements, &mut |_, element| mark_of(element) == mark)?;
        }
        Ok(holdings)
    })
}

/// What of the wanted is missing or wrong; nothing when all stands.
pub(super) fn first_fault(nft: &mut NftSocket, wanted: &Wanted<'_>) -> Result<Option<String>> {
    let rules = nft.table_rules(TABLE)?;
    if !skeleton::stands(&rules) {
        return Ok(Some(format!(
            "the rules of {TABLE} are not as they were made"
        )));
    }
    let broken = wanted
        .groups
        .iter()
        .find(|group| !skeleton::group_stands(group, &rules));
    if let Some(group) = broken {
        let name = group.chain();
        return Ok(Some(format!(
            "the rules around chain {name} of {TABLE} are not as they were made"
        )));
    }
    let mark = wanted.owner.mark();
    if wanted.has_conditions {
        let count = |chain: &str| rules.iter().filter(|rule| rule.chain == chain).count();
        let [conditions, targets] = chains_of(&mark);
        if count(&conditions) == 0 || count(&targets) != wanted.rules().len() {
            return Ok(Some(format!(
                "the rules around chain {conditions} of {TABLE} are not as they were made"
            )));
        }
    }
    let entries = wanted.entries();
    let objects: Vec<Object<'_>> = entries.iter().map(|entry| entry.place.object()).collect();
    let found = nft.find(&objects)?.found;
    let mut pairs = entries.iter().zip(&found);
    Ok(pairs.find_map(|(entry, found)| entry.fault(&mark, found.as_ref())))
}

/// The ordinary case: all that the elements rest on stands, and nothing stands in their place. No
/// look is needed, for else the kernel refuses.
fn create(nft: &mut NftSocket, entries: &[Entry]) -> Result<bool> {
    let mut transaction = Transaction::new();
    skeleton::require(&mut transaction);
    add(&mut transaction, entries);
    match nft.commit(transaction) {
        Err(error) if error.exists() || error.errno() == Some(Errno::NOENT) => Ok(false),
        done => done.map(|()| true),
    }
}

fn publish_once(
    nft: &mut NftSocket,
    wanted: &Wanted<'_>,
    entries: &[Entry],
) -> Result<Vec<TakenOver>> {
    let names: Vec<[String; 2]> = wanted
        .groups
        .iter()
        .map(|group| [group.chain(), group.postrouting()])
        .collect();
    let mut objects = vec![Object::Chain(VERSION)];
    objects.extend(
        names
            .as_flattened()
            .iter()
            .map(|name| Object::Chain(TABLE.chain(name))),
    );
    objects.extend(entries.iter().map(|entry| entry.place.object()));
    let snapshot = nft.find(&objects)?;
    let (chains, elements) = snapshot.found.split_at(1 + names.as_flattened().len());
    let standing: Vec<(&Entry, &StoredElement)> = entries
        .iter()
        .zip(elements)
        .filter_map(|(entry, found)| match found {
            Some(Found::Element(element)) => Some((entry, element)),
            _ => None,
        })
        .collect();

    let leaving = standing
        .iter()
        .filter_map(|(_, element)| element.lifetime());
    if let Some(left) = leaving.max() {
        // Somebody has just given the port up. To delete what goes by itself within a tick of the
        // kernel's clock would take longer.
        thread::sleep(left);
        return Err(Error::new("map a port", Errno::RESTART));
    }
    let is_laid = chains[0].is_some();
    // Who only creates cannot spoil what others do meanwhile, and need not begin again for them.
    let only_creates = is_laid && standing.is_empty();
    let mut transaction = match only_creates {
        true => Transaction::new(),
        false => Transaction::at(snapshot.generation),
    };
    if !is_laid {
        lay_skeleton(nft, &mut transaction)?;
    }
    lay_groups(&mut transaction, &wanted.groups, &chains[1..]);
    make_room(nft, &mut transaction, wanted, &standing)?;
    if wanted.has_conditions {
        lay_rules(&mut transaction, wanted);
    }
    add(&mut transaction, entries);
    nft.commit(transaction)?;
    Ok(taken_over(&wanted.owner.mark(), &standing))
}

fn lay_skeleton(nft: &mut NftSocket, transaction: &mut Transaction) -> Result<()> {
    let is_there = nft.find(&[Object::Table(TABLE)])?.found[0].is_some();
    let chains = if is_there {
        Some(nft.chains(TABLE)?)
    } else {
        None
    };
    skeleton::lay(transaction, chains.as_deref());
    Ok(())
}

fn lay_groups(transaction: &mut Transaction, groups: &[Group], found: &[Option<Found>]) {
    let mut laid: Vec<String> = Vec::new();
    for (group, found) in groups.iter().zip(found.chunks(2)) {
        let postrouting = group.postrouting();
        if found[1].is_none() && !laid.contains(&postrouting) {
            group.lay_postrouting(transaction);
            laid.push(postrouting);
        }
        if found[0].is_none() {
            group.lay(transaction);
        }
    }
}

/// Deletes what stands in the way of the new elements, what else the owner has, and the marking of
/// sources that another owner wanted for a port that is taken over.
fn make_room(
    nft: &mut NftSocket,
    transaction: &mut Transaction,
    wanted: &Wanted<'_>,
    standing: &[(&Entry, &StoredElement)],
) -> Result<()> {
    if standing.is_empty() {
        return Ok(());
    }
    let mut doomed: BTreeSet<Place> = standing
        .iter()
        .map(|(entry, _)| entry.place.clone())
        .collect();
    let ours = wanted.owner.mark();
    let marks: BTreeSet<&str> = standing
        .iter()
        .map(|(_, element)| mark_of(element))
        .collect();
    let keys: Vec<Vec<u8>> = wanted.published.iter().map(|p| p.key.bytes()).collect();
    for mark in marks {
        let holdings = Holdings::look(nft, mark, &[], &[])?;
        let is_ours = mark == ours;
        if is_ours && !wanted.has_conditions {
            delete(transaction, &holdings.places);
            holdings.delete_conditions(transaction);
            doomed = doomed.difference(&holdings.places).cloned().collect();
            continue;
        }
        let in_the_way = holdings
            .places
            .into_iter()
            .filter(|place| is_ours || keys.contains(&place.key));
        doomed.extend(in_the_way);
    }
    delete(transaction, &doomed);
    Ok(())
}

/// In one message for each set, in which each element would fail if it stood.
fn add(transaction: &mut Transaction, entries: &[Entry]) {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by(|a, b| a.place.set.cmp(&b.place.set));
    for of_set in entries.chunk_by(|a, b| a.place.set == b.place.set) {
        let elements: Vec<Element<'_>> = of_set.iter().map(|entry| entry.element()).collect();
        transaction.create_elements(of_set[0].place.set(), &elements);
    }
}

fn lay_rules(transaction: &mut Transaction, wanted: &Wanted<'_>) {
    let [_, targets] = chains_of(&wanted.owner.mark());
    let chain = TABLE.chain(&targets);
    transaction.flush_chain(chain);
    for rule in wanted.rules() {
        transaction.add_rule(chain, &rule, "");
    }
}

fn taken_over(mark: &str, standing: &[(&Entry, &StoredElement)]) -> Vec<TakenOver> {
    let others = standing
        .iter()
        // What is about to go by itself is nobody's any more.
        .filter(|(_, element)| mark_of(element) != mark && !element.is_expiring());
    others
        .filter_map(|(entry, element)| {
            Some(TakenOver {
                key: entry.host_port?,
                from: element.comment().to_owned(),
            })
        })
        .collect()
}

/// Repeats what failed because others were faster: they changed what was looked at, or made what
/// was to be made, or removed what was built upon.
pub(super) fn again<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let mut left = ATTEMPTS;
    loop {
        let outcome = attempt();
        let error = match outcome {
            Err(error) if left > 0 => error,
            done => return done,
        };
        left = match error.errno() {
            Some(Errno::RESTART) => left - 1,
            // It may also be that somebody else has something of that name, for ever.
            Some(Errno::EXIST) => left.min(ATTEMPTS_TO_CREATE) - 1,
            // A kernel that lacks a module says so too.
            Some(Errno::NOENT) => left.min(ATTEMPTS_TO_BUILD_UPON) - 1,
            _ => return Err(error),
        };
        thread::yield_now();
    }
}

/// Each round that is lost, somebody else has won: enough for hundreds of them.
const ATTEMPTS: usize = 500;
const ATTEMPTS_TO_CREATE: usize = 50;
const ATTEMPTS_TO_BUILD_UPON: usize = 3;
