//! Rulesets asked for and changed.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::object::{Chain, Set, Table, Value};
use super::read::{
    self, Generation, StoredChain, StoredElement, StoredRule, StoredSet, StoredTable,
};
use super::set::Element;
use super::transaction::{Transaction, elements_payload, payload};
use super::wire::{Attrs, Writer, hex};
use super::{attr, kind};
use crate::batch::Batch;
use crate::error::{Error, Result, Why};
use crate::socket::{Protocol, Socket};

/// Speaks for the network namespace the thread was in when it was opened.
#[derive(Debug)]
pub struct NftSocket {
    socket: Socket,
    send_buffer: usize,
    /// When the last of what was retired is gone.
    retired_by: Option<Instant>,
}

/// Something whose presence can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object<'a> {
    Table(Table<'a>),
    Chain(Chain<'a>),
    Set(Set<'a>),
    /// An element by its key: the kernel finds it without going through the others.
    Element(Set<'a>, &'a [u8]),
}

/// What was found of the objects asked for, in their order; `None` for what is not there.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// A transaction at this generation is refused if any of it has changed since.
    pub generation: u32,
    pub found: Vec<Option<Found>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A table, chain or set, with its comment.
    Named {
        comment: String,
    },
    Element(StoredElement),
}

impl NftSocket {
    /// For the network namespace the calling thread is in.
    pub fn open() -> Result<Self> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
            send_buffer: DEFAULT_SEND_BUFFER,
            retired_by: None,
        })
    }

    /// See [`Socket::port`].
    pub fn port(&mut self) -> Result<u32> {
        self.socket.port()
    }

    /// Makes the transaction's changes, or none of them; an error tells of the first that failed.
    /// A transaction without changes costs nothing.
    pub fn commit(&mut self, transaction: Transaction) -> Result<()> {
        let empty = transaction.is_empty();
        let (mut batch, bytes) = transaction.finish()?;
        if empty {
            return Ok(());
        }
        self.make_room(bytes);
        self.socket
            .run(&mut batch)?
            .into_iter()
            .find(Result::is_err)
            .map_or(Ok(()), |e| e.map(drop))
    }

    /// Asks for the generation and all objects with one system call.
    pub fn find(&mut self, objects: &[Object<'_>]) -> Result<Snapshot> {
        let mut batch = Batch::new();
        // First: a change between this answer and the next ones then outdates the generation.
        batch.get(kind::GET_GENERATION, DOING_GENERATION.into(), |out| {
            out.extend_from_slice(Writer::payload(0, 0).bytes());
        });
        for object in objects {
            let (message_type, w) = object.request();
            if w.is_unfit() {
                return Err(Error::new(format!("look for {object}"), Errno::INVAL));
            }
            batch.get(message_type, format!("look for {object}"), |out| {
                out.extend_from_slice(w.bytes());
            });
        }
        let mut replies = self.socket.run(&mut batch)?.into_iter();
        let generation = replies.next().unwrap_or_else(|| Ok(Vec::new()))?;
        let found = objects
            .iter()
            .zip(replies)
            .map(|(object, reply)| match reply {
                Ok(payload) => Ok(object.parse(&payload)),
                Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
                Err(error) => Err(error),
            })
            .collect::<Result<_>>()?;
        Ok(Snapshot {
            generation: parse_generation(&generation)?.id,
            found,
        })
    }

    pub fn generation(&mut self) -> Result<u32> {
        Ok(self.find(&[])?.generation)
    }

    /// Repeats what ends with `ERESTART` because others changed the ruleset meanwhile.
    pub fn retry<T>(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        let mut left = ATTEMPTS;
        loop {
            let outcome = attempt(self);
            left -= 1;
            match &outcome {
                Err(error) if error.errno() == Some(Errno::RESTART) && left > 0 => {
                    std::thread::yield_now();
                }
                Ok(_) | Err(_) => return outcome,
            }
        }
    }

    /// Deletes those of the elements that are there and that `is_ours` says yes to, and returns
    /// how many. The kernel deletes by key, whatever the element holds by then: so the look and
    /// the deletion are bound by the generation.
    pub fn delete_owned(
        &mut self,
        elements: &[(Set<'_>, &[u8])],
        is_ours: &mut dyn FnMut(usize, &StoredElement) -> bool,
    ) -> Result<usize> {
        let deleted = self.change_owned(elements, is_ours, |transaction, set, element| {
            transaction.delete_elements(set, &[Element::new(element.key())]);
        });
        deleted.map(|deleted| deleted.len())
    }

    /// The same for elements of mortal sets, which it has expire instead. What is deleted must
    /// wait until no packet can be using it: whoever closes a netfilter socket before that waits
    /// too, 5 to 20 ms, and every other change of the ruleset with him. What expires goes with the
    /// next tick of the kernel's clock: see [`NftSocket::wait_for_retired`].
    pub fn retire_owned(
        &mut self,
        elements: &[(Set<'_>, &[u8])],
        is_ours: &mut dyn FnMut(usize, &StoredElement) -> bool,
    ) -> Result<usize> {
        let retired = self.change_owned(elements, is_ours, |transaction, set, element| {
            let last = Element::new(element.key())
                .holding(element.value())
                .expiring();
            transaction.expire_elements(set, &[last]);
        })?;
        let objects: Vec<_> = retired
            .iter()
            .map(|(set, key)| Object::Element(*set, key))
            .collect();
        if objects.is_empty() {
            return Ok(0);
        }
        let now = Instant::now();
        for found in self.find(&objects)?.found {
            let Some(Found::Element(element)) = found else {
                continue;
            };
            let Some(left) = element.lifetime() else {
                // Kernels before 6.12 take the new lifetime without a word and forget it.
                self.delete_owned(elements, is_ours)?;
                break;
            };
            self.retired_by = self.retired_by.max(Some(now + left));
        }
        Ok(retired.len())
    }

    /// Returns when all that was retired is gone: at once, or within a tick of the kernel's clock.
    pub fn wait_for_retired(&mut self) {
        if let Some(gone) = self.retired_by.take() {
            std::thread::sleep(gone.saturating_duration_since(Instant::now()));
        }
    }

    /// Changes those of the elements that are there and that `is_ours` says yes to, at the very
    /// generation at which it was asked, and returns their keys.
    fn change_owned<'a>(
        &mut self,
        elements: &[(Set<'a>, &'a [u8])],
        is_ours: &mut dyn FnMut(usize, &StoredElement) -> bool,
        change: impl Fn(&mut Transaction, Set<'a>, &StoredElement),
    ) -> Result<BTreeSet<(Set<'a>, &'a [u8])>> {
        if elements.is_empty() {
            return Ok(BTreeSet::new());
        }
        let objects: Vec<_> = elements
            .iter()
            .map(|(set, key)| Object::Element(*set, key))
            .collect();
        self.retry(|nft| {
            let snapshot = nft.find(&objects)?;
            let mut transaction = Transaction::at(snapshot.generation);
            let mut changed = BTreeSet::new();
            for (index, found) in snapshot.found.iter().enumerate() {
                let Some(Found::Element(element)) = found else {
                    continue;
                };
                if is_ours(index, element) && changed.insert(elements[index]) {
                    change(&mut transaction, elements[index].0, element);
                }
            }
            nft.commit(transaction)?;
            Ok(changed)
        })
    }

    /// All tables, of all families we know.
    pub fn tables(&mut self) -> Result<Vec<StoredTable>> {
        let w = Writer::payload(0, 0);
        self.dump(kind::GET_TABLE, "list tables", &w, &mut StoredTable::parse)
    }

    /// The chains of a table; none if there is no such table.
    pub fn chains(&mut self, table: Table<'_>) -> Result<Vec<StoredChain>> {
        // The kernel knows no filter by table here.
        self.dump(
            kind::GET_CHAIN,
            &format!("list chains of {table}"),
            &payload(table),
            &mut |bytes| StoredChain::parse(bytes).filter(|chain| chain.table == table.name),
        )
    }

    /// The rules of a chain, in order; none if there is no such chain.
    pub fn rules(&mut self, chain: Chain<'_>) -> Result<Vec<StoredRule>> {
        self.dump_rules(
            &format!("list rules of {chain}"),
            chain.table,
            Some(chain.name),
        )
    }

    /// The rules of all chains of a table; none if there is no such table.
    pub fn table_rules(&mut self, table: Table<'_>) -> Result<Vec<StoredRule>> {
        self.dump_rules(&format!("list rules of {table}"), table, None)
    }

    /// All chains of all tables of families we know.
    pub fn all_chains(&mut self) -> Result<Vec<StoredChain>> {
        let w = Writer::payload(0, 0);
        self.dump(kind::GET_CHAIN, "list chains", &w, &mut StoredChain::parse)
    }

    /// The sets and maps of a table; none if there is no such table.
    pub fn sets(&mut self, table: Table<'_>) -> Result<Vec<StoredSet>> {
        let mut w = payload(table);
        w.name(attr::SET_TABLE, table.name);
        let doing = format!("list sets of {table}");
        match self.dump(kind::GET_SET, &doing, &w, &mut StoredSet::parse) {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// The elements of a set, by key; `ENOENT` if there is no such set.
    ///
    /// The kernel counts its way through a hash table, which is rebuilt behind the scenes after it
    /// has grown, and does not tell: a listing of more than one datagram may then repeat elements
    /// and lack as many. So it begins again when the ruleset changed or an element came twice.
    pub fn elements(&mut self, set: Set<'_>) -> Result<Vec<StoredElement>> {
        let w = elements_payload(set);
        let doing = format!("list elements of {set}");
        self.retry(|nft| {
            let before = nft.generation()?;
            let lists = nft.dump(kind::GET_ELEMENT, &doing, &w, &mut |payload| {
                Some(StoredElement::parse_list(payload).collect::<Vec<_>>())
            })?;
            let mut elements = lists.concat();
            // Each comparison would look for both keys among their attributes again.
            elements.sort_by_cached_key(|element| {
                let (key, is_end) = element.place();
                (key.to_vec(), is_end)
            });
            let repeats = elements
                .windows(2)
                .any(|pair| pair[0].place() == pair[1].place());
            if repeats || nft.generation()? != before {
                return Err(Error::new(&doing, Errno::RESTART));
            }
            Ok(elements)
        })
    }

    fn dump_rules(
        &mut self,
        doing: &str,
        table: Table<'_>,
        chain: Option<&str>,
    ) -> Result<Vec<StoredRule>> {
        let mut w = payload(table);
        w.name(attr::RULE_TABLE, table.name);
        if let Some(chain) = chain {
            w.name(attr::RULE_CHAIN, chain);
        }
        self.dump(kind::GET_RULE, doing, &w, &mut StoredRule::parse)
    }

    fn dump<T>(
        &mut self,
        message_type: u16,
        doing: &str,
        payload: &Writer,
        parse: &mut dyn FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        if payload.is_unfit() {
            return Err(Error::new(doing, Errno::INVAL));
        }
        self.socket
            .dump(message_type, doing, payload.bytes(), |entry, entries| {
                entries.extend(parse(entry));
                Some(())
            })
    }

    /// A transaction goes out in one piece, however long it is. Without the privilege to exceed
    /// the system's limit it is raised to that; if this is not enough, sending fails and says so.
    fn make_room(&mut self, bytes: usize) {
        let needed = bytes + bytes / 4;
        if needed <= self.send_buffer {
            return;
        }
        let raised = sockopt::set_socket_send_buffer_size_force(&self.socket, needed)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&self.socket, needed));
        if raised.is_ok() {
            self.send_buffer = needed;
        }
    }
}

impl Object<'_> {
    fn request(self) -> (u16, Writer) {
        match self {
            Self::Table(table) => {
                let mut w = payload(table);
                w.name(attr::TABLE_NAME, table.name);
                (kind::GET_TABLE, w)
            }
            Self::Chain(chain) => {
                let mut w = payload(chain.table);
                w.name(attr::CHAIN_TABLE, chain.table.name);
                w.name(attr::CHAIN_NAME, chain.name);
                (kind::GET_CHAIN, w)
            }
            Self::Set(set) => {
                let mut w = payload(set.table);
                w.name(attr::SET_TABLE, set.table.name);
                w.name(attr::SET_NAME, set.name);
                (kind::GET_SET, w)
            }
            Self::Element(set, key) => {
                let mut w = elements_payload(set);
                let list = w.nest(attr::ELEMENTS);
                let element = w.nest(attr::LIST_ELEM);
                Value::Bytes(key).write(&mut w, attr::ELEMENT_KEY);
                w.end(element);
                w.end(list);
                (kind::GET_ELEMENT, w)
            }
        }
    }

    fn parse(self, payload: &[u8]) -> Option<Found> {
        let attrs = Attrs::of(payload);
        let named = |comment: &str| {
            Some(Found::Named {
                comment: comment.to_owned(),
            })
        };
        match self {
            Self::Table(_) => named(read::comment(attrs, attr::TABLE_USERDATA)),
            Self::Chain(_) => named(read::comment(attrs, attr::CHAIN_USERDATA)),
            Self::Set(_) => named(read::set_comment(attrs)),
            Self::Element(..) => StoredElement::parse_list(payload)
                .next()
                .map(Found::Element),
        }
    }
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => table.fmt(f),
            Self::Chain(chain) => chain.fmt(f),
            Self::Set(set) => set.fmt(f),
            Self::Element(set, key) => write!(f, "element {} of {set}", hex(key)),
        }
    }
}

fn parse_generation(payload: &[u8]) -> Result<Generation> {
    Generation::parse(payload)
        .ok_or_else(|| Error::new(DOING_GENERATION, Why::Garbled("no generation number")))
}

const DOING_GENERATION: &str = "read the nftables generation";

/// What a socket takes without being asked to, on kernels with the smallest pages.
const DEFAULT_SEND_BUFFER: usize = 200 * 1024;

/// Each round that is lost, somebody else has won: enough for hundreds of them.
const ATTEMPTS: usize = 500;
