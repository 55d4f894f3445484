//! What the kernel drops before it is ever queued: classic BPF, run on each message of a group.

use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef};

use crate::error::{Error, Result};
use crate::route::{
    RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE,
};

/// What a watch is not to be woken by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// What these ports do: [`Rtnl::port`](crate::Rtnl::port),
    /// [`NftSocket::port`](crate::nft::NftSocket::port).
    pub own_ports: Vec<u32>,
    /// Of neighbours and forwarding entries only those on these links; None: on all.
    pub neighbours_on: Option<Vec<u32>>,
    /// Forwarding entries are not told of. The kernel does not say who changed one, so whoever
    /// changes many himself says this first, and afterwards looks at all of them.
    pub mute_forwarding: bool,
}

impl Filter {
    /// Takes the place of the filter before it; what is queued stays.
    pub(super) fn attach(&self, socket: &impl AsFd) -> Result<()> {
        SockRef::from(socket)
            .attach_filter(&assemble(&self.blocks()))
            .map_err(|e| Error::new("filter the events of a netlink socket", e))
    }

    fn blocks(&self) -> Vec<(Block, Vec<Step>)> {
        vec![
            (Block::Start, self.start()),
            (Block::Link, link()),
            (Block::Route, route()),
            (Block::Neighbour, self.neighbour()),
            (Block::Forwarding, self.forwarding()),
            (Block::Keep, vec![Step::Return(WHOLE)]),
            (Block::Drop, vec![Step::Return(0)]),
        ]
    }

    fn start(&self) -> Vec<Step> {
        let mut steps = vec![Step::Word(PORT)];
        let own = self.own_ports.iter();
        steps.extend(own.map(|port| Step::IfEqual(port.to_be(), Block::Drop)));
        steps.push(Step::Half(TYPE));
        for (message_type, block) in [
            (RTM_NEWLINK, Block::Link),
            (RTM_DELLINK, Block::Link),
            (RTM_NEWROUTE, Block::Route),
            (RTM_DELROUTE, Block::Route),
            (RTM_NEWNEIGH, Block::Neighbour),
            (RTM_DELNEIGH, Block::Neighbour),
        ] {
            steps.push(Step::IfEqual(half(message_type), block));
        }
        steps.push(Step::Goto(Block::Keep));
        steps
    }

    /// Of IP neighbours, what somebody asked for and what happened to permanent ones: that a
    /// neighbour answers, or does not any more, is the kernel's daily work.
    fn neighbour(&self) -> Vec<Step> {
        let mut steps = vec![Step::Byte(FAMILY), Step::IfEqual(BRIDGE, Block::Forwarding)];
        steps.extend(self.elsewhere());
        steps.extend([
            Step::Word(PORT),
            Step::UnlessEqual(0, Block::Keep),
            Step::Half(NEIGHBOUR_STATE),
            Step::IfAny(half(PERMANENT), Block::Keep),
            Step::UnlessAny(half(FAILED), Block::Drop),
            // Deleting one is told twice: as its failure, with the port of who did it, and then
            // as its end, without.
            Step::Half(TYPE),
            Step::IfEqual(half(RTM_NEWNEIGH), Block::Keep),
            Step::Goto(Block::Drop),
        ]);
        steps
    }

    /// Of forwarding entries, what did not come of learning.
    fn forwarding(&self) -> Vec<Step> {
        if self.mute_forwarding {
            return vec![Step::Goto(Block::Drop)];
        }
        let mut steps = self.elsewhere();
        steps.extend([
            Step::Half(NEIGHBOUR_STATE),
            Step::IfAny(half(PERMANENT | NOARP), Block::Keep),
            Step::Goto(Block::Drop),
        ]);
        steps
    }

    /// Drops what is on a link that does not matter.
    fn elsewhere(&self) -> Vec<Step> {
        let Some(links) = &self.neighbours_on else {
            return Vec::new();
        };
        let mut steps = vec![Step::Word(NEIGHBOUR_LINK)];
        let found = |link: &u32| Step::SkipIfEqual(link.to_be());
        // A link that is found skips the rest of this list.
        steps.extend(links.iter().map(found));
        steps.push(Step::Goto(Block::Drop));
        steps.push(Step::Landing);
        steps
    }
}

/// A bridge tells of its ports as if they were links of a family of their own.
fn link() -> Vec<Step> {
    vec![
        Step::Byte(FAMILY),
        Step::IfEqual(BRIDGE, Block::Drop),
        Step::Goto(Block::Keep),
    ]
}

/// The host's own addresses have their routes in a table of the kernel's, and IPv6 tells of what
/// it learned about single destinations.
fn route() -> Vec<Step> {
    vec![
        Step::Byte(ROUTE_TABLE),
        Step::IfEqual(LOCAL_TABLE, Block::Drop),
        Step::Word(ROUTE_FLAGS),
        Step::IfAny(RTM_F_CLONED.to_be(), Block::Drop),
        Step::Goto(Block::Keep),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Start,
    Link,
    Route,
    Neighbour,
    Forwarding,
    Keep,
    Drop,
}

/// BPF loads in network order, so what is compared is in network order too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Word(u32),
    Half(u32),
    Byte(u32),
    IfEqual(u32, Block),
    UnlessEqual(u32, Block),
    IfAny(u32, Block),
    UnlessAny(u32, Block),
    /// To the next [`Step::Landing`].
    SkipIfEqual(u32),
    Landing,
    Goto(Block),
    Return(u32),
}

impl Step {
    /// A conditional jump reaches 255 instructions, an unconditional one all: so each condition is
    /// one that leads to the unconditional jump after it or past that.
    fn length(self) -> usize {
        match self {
            Self::IfEqual(..)
            | Self::UnlessEqual(..)
            | Self::IfAny(..)
            | Self::UnlessAny(..)
            | Self::SkipIfEqual(_) => 2,
            Self::Landing => 0,
            Self::Word(_) | Self::Half(_) | Self::Byte(_) | Self::Goto(_) | Self::Return(_) => 1,
        }
    }
}

fn assemble(blocks: &[(Block, Vec<Step>)]) -> Vec<SockFilter> {
    let steps: Vec<Step> = blocks
        .iter()
        .flat_map(|(_, steps)| steps)
        .copied()
        .collect();
    let start_of = |wanted: Block| -> usize {
        let before = blocks.iter().take_while(|(block, _)| *block != wanted);
        before
            .flat_map(|(_, steps)| steps)
            .map(|s| s.length())
            .sum()
    };
    let mut program = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let landing = || {
            let between = steps[index..].iter().take_while(|s| **s != Step::Landing);
            program.len() + between.map(|s| s.length()).sum::<usize>()
        };
        let condition = match *step {
            Step::IfEqual(value, to) => Some((JUMP_EQUAL, (0, 1), value, start_of(to))),
            Step::UnlessEqual(value, to) => Some((JUMP_EQUAL, (1, 0), value, start_of(to))),
            Step::IfAny(bits, to) => Some((JUMP_ANY, (0, 1), bits, start_of(to))),
            Step::UnlessAny(bits, to) => Some((JUMP_ANY, (1, 0), bits, start_of(to))),
            Step::SkipIfEqual(value) => Some((JUMP_EQUAL, (0, 1), value, landing())),
            _ => None,
        };
        if let Some((code, (yes, no), value, target)) = condition {
            program.push(SockFilter::new(code, yes, no, value));
            program.push(jump(program.len(), target));
            continue;
        }
        match *step {
            Step::Word(at) => program.push(SockFilter::new(LOAD_WORD, 0, 0, at)),
            Step::Half(at) => program.push(SockFilter::new(LOAD_HALF, 0, 0, at)),
            Step::Byte(at) => program.push(SockFilter::new(LOAD_BYTE, 0, 0, at)),
            Step::Goto(to) => program.push(jump(program.len(), start_of(to))),
            Step::Return(length) => program.push(SockFilter::new(RETURN, 0, 0, length)),
            _ => {}
        }
    }
    program
}

/// BPF jumps forward only, counted from the next instruction.
fn jump(from: usize, to: usize) -> SockFilter {
    let distance = u32::try_from(to.saturating_sub(from + 1)).unwrap_or(u32::MAX);
    SockFilter::new(JUMP, 0, 0, distance)
}

fn half(number: u16) -> u32 {
    number.to_be().into()
}

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_ANY: u16 = 0x45;
const RETURN: u16 = 0x06;
const WHOLE: u32 = u32::MAX;

/// Where things are, from the start of the message's header.
const TYPE: u32 = 4;
const PORT: u32 = 12;
const FAMILY: u32 = 16;
const NEIGHBOUR_LINK: u32 = 20;
const NEIGHBOUR_STATE: u32 = 24;
const ROUTE_TABLE: u32 = 20;
const ROUTE_FLAGS: u32 = 24;

/// `AF_BRIDGE`
const BRIDGE: u32 = 7;
const FAILED: u16 = 0x20;
const NOARP: u16 = 0x40;
const PERMANENT: u16 = 0x80;
const LOCAL_TABLE: u32 = 255;
const RTM_F_CLONED: u32 = 0x200;
