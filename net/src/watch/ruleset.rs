//! Who changed the nftables ruleset.

use std::os::fd::{AsFd, BorrowedFd};

use super::{Filter, drain};
use crate::error::Result;
use crate::message::Messages;
use crate::nft::{Family, Generation, Table, table_of};
use crate::socket::{Protocol, Socket};

/// Watches the rulesets of one network namespace, iptables-nft's among them.
#[derive(Debug)]
pub struct RulesetWatch {
    socket: Socket,
    reader: Reader,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulesetEvent {
    /// A transaction, by whom, and which of the tables watched it changed: their places in the
    /// list given.
    Commit {
        generation: Generation,
        touched: Vec<usize>,
    },
    /// Events were lost: any table may have changed, by anybody.
    Overrun,
}

impl RulesetWatch {
    /// In the namespace the calling thread is in. Of the filter, only the ports matter.
    pub fn open(filter: &Filter, tables: &[Table<'_>]) -> Result<Self> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        socket.enlarge_receive_buffer(RECEIVE_BUFFER)?;
        ports(filter).attach(&socket)?;
        socket.subscribe(NFNLGRP_NFTABLES)?;
        Ok(Self {
            socket,
            reader: Reader::new(tables),
        })
    }

    /// Filters differently from here on.
    pub fn set_filter(&mut self, filter: &Filter) -> Result<()> {
        ports(filter).attach(&self.socket)
    }

    /// Appends what has happened; does not wait.
    pub fn read(&mut self, events: &mut Vec<RulesetEvent>) -> Result<()> {
        let reader = &mut self.reader;
        let overrun = drain(&mut self.socket, |messages| reader.read(messages, events))?;
        if overrun {
            self.reader.touched.clear();
            events.push(RulesetEvent::Overrun);
        }
        Ok(())
    }
}

impl AsFd for RulesetWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Collects a transaction's changes until its end, which may be some datagrams later.
#[derive(Debug)]
pub(super) struct Reader {
    tables: Vec<(Family, String)>,
    touched: Vec<usize>,
}

impl Reader {
    pub(super) fn new(tables: &[Table<'_>]) -> Self {
        let owned = |table: &Table<'_>| (table.family, table.name.to_owned());
        Self {
            tables: tables.iter().map(owned).collect(),
            touched: Vec::new(),
        }
    }

    pub(super) fn read(&mut self, messages: Messages<'_>, events: &mut Vec<RulesetEvent>) {
        for message in messages {
            if let Some(generation) = Generation::of_event(&message) {
                let touched = std::mem::take(&mut self.touched);
                events.push(RulesetEvent::Commit {
                    generation,
                    touched,
                });
            } else if let Some((family, name)) = table_of(message.payload) {
                let place = self
                    .tables
                    .iter()
                    .position(|t| t.0 == family && t.1 == name);
                let fresh = place.filter(|place| !self.touched.contains(place));
                self.touched.extend(fresh);
            }
        }
    }
}

/// Netfilter numbers its messages apart from rtnetlink's, but they may be equal.
fn ports(filter: &Filter) -> Filter {
    Filter {
        own_ports: filter.own_ports.clone(),
        ..Filter::default()
    }
}

const NFNLGRP_NFTABLES: u32 = 7;
/// Memory of the kernel's that is taken only while something waits.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;

/// On bytes that a little-endian kernel sent, kept as seeds for fuzzing.
#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_told_at_its_end_wherever_its_datagrams_are_cut() {
        let whole = include_bytes!("../../../fuzz/seeds/netlink/event-ruleset");
        let tables = [
            Table::new(Family::Ip, "weft"),
            Table::new(Family::Inet, "weft"),
        ];
        let mut cut = 0;
        for message in Messages::of(whole) {
            cut += crate::message::align(crate::message::HEADER + message.payload.len());
            let mut reader = Reader::new(&tables);
            let mut events = Vec::new();
            reader.read(Messages::of(&whole[..cut]), &mut events);
            assert_eq!(events.is_empty(), cut < whole.len());
            reader.read(Messages::of(&whole[cut..]), &mut events);
            let [
                RulesetEvent::Commit {
                    generation,
                    touched,
                },
            ] = &events[..]
            else {
                panic!("{events:?}")
            };
            assert_eq!(
                (generation.program.as_str(), &touched[..]),
                ("nft", &[1][..])
            );
        }
        assert_eq!(cut, whole.len());
    }
}
