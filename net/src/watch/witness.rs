//! Who was running when something was told. The kernel tells its news in the context of who makes
//! them, and has each listener's filter run there; so a filter can note whose process that is, with
//! certainty, however short its life. It takes a program of the kernel's virtual machine, for which
//! a kernel from 6.17 on and CAP_BPF are needed, and a place where processes have the numbers that
//! the kernel itself calls them by.

use std::fs;
use std::os::fd::AsFd;

use super::event::{Event, News};
use super::owner::LIBNL_PID;
use super::{GROUPS, Owner};
use crate::error::{Error, Result};
use crate::route::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH,
    RTM_NEWROUTE,
};
use crate::socket::{Protocol, Socket};
use crate::sys::{self, Cell, Table};

/// Notes who tells rtnetlink's news in one network namespace: of each sort of news, the last.
/// Itself it hears nothing, and is never woken.
#[derive(Debug)]
pub struct Witness {
    _listening: Socket,
    notes: Table,
}

impl Witness {
    /// In the namespace the calling thread is in. Our own process is not noted.
    pub fn open() -> Result<Self> {
        let failed = |error| Error::new("note who changes links and routes", error);
        if !numbers_are_the_kernels() {
            return Err(failed(std::io::ErrorKind::Unsupported.into()));
        }
        let notes = Table::new(SORTS).map_err(failed)?;
        let mut listening = Socket::open(Protocol::Route)?;
        let program = program(&notes, std::process::id());
        sys::filter_by(listening.as_fd(), &program).map_err(failed)?;
        for group in GROUPS {
            listening.subscribe(group)?;
        }
        Ok(Self {
            _listening: listening,
            notes,
        })
    }

    /// Who made an event that was told a moment ago.
    pub fn saw(&self, event: &Event) -> Option<Owner> {
        let sorts = sorts_of(&event.news);
        let mut noted = sorts.into_iter().filter_map(|sort| self.note(sort));
        match event.by {
            // The first sort is what the event itself was told as.
            0 => noted.next(),
            port => noted.find(|owner| [port, port & LIBNL_PID].contains(&owner.pid)),
        }
    }

    fn note(&self, sort: u8) -> Option<Owner> {
        read(&self.notes.read(sort.into()).ok()?)
    }
}

/// A note is the process's number, and its name of at most 15 bytes.
fn read(cell: &Cell) -> Option<Owner> {
    let (number, name) = cell.split_at(NAME_AT);
    let pid = u32::from_ne_bytes(number[..4].try_into().ok()?);
    let end = name.iter().position(|byte| *byte == 0)?;
    let program = String::from_utf8_lossy(&name[..end]).into_owned();
    // The kernel's own threads are nobody: whoever set them to work is not known.
    let is_thread = KERNEL_THREADS.iter().any(|kind| program.starts_with(kind));
    (pid != 0 && !is_thread).then_some(Owner { pid, program })
}

/// What the event was told as, and what the same deed may have been told as besides.
fn sorts_of(news: &News) -> [u8; 2] {
    let (new, gone, is_gone, mark) = match news {
        News::Link { gone, .. } => (RTM_NEWLINK, RTM_DELLINK, *gone, 0),
        News::Address { gone, .. } => (RTM_NEWADDR, RTM_DELADDR, *gone, 0),
        News::Route { gone, .. } => (RTM_NEWROUTE, RTM_DELROUTE, *gone, 0),
        News::Neighbour { gone, .. } => (RTM_NEWNEIGH, RTM_DELNEIGH, *gone, 0),
        News::Fdb { gone, .. } => (RTM_NEWNEIGH, RTM_DELNEIGH, *gone, FORWARDING),
        News::Overrun => return [0, 0],
    };
    let sort = |message_type: u16| message_type.to_le_bytes()[0] | mark;
    match is_gone {
        true => [sort(gone), sort(new)],
        false => [sort(new), sort(gone)],
    }
}

/// What number a process has depends on who asks; the filter is told the kernel's own.
fn numbers_are_the_kernels() -> bool {
    let namespace = fs::read_link("/proc/self/ns/pid");
    namespace.is_ok_and(|name| name.as_os_str() == INITIAL_PIDS)
}

/// Notes in the table, under the sort of the message, the process that runs, and drops the message.
fn program(notes: &Table, ourselves: u32) -> [u64; 27] {
    let map = notes.number();
    [
        copy(R6, R1),
        call(GET_CURRENT_PID_TGID),
        shift_right(R0, 32),
        // Past all the rest but the last two.
        skip_if_equal(R0, ourselves.cast_signed(), 21),
        store(PID, R0),
        set(R1, 0),
        store(PID + 4, R1),
        address_of(R1),
        add(R1, NAME),
        set(R2, 16),
        call(GET_CURRENT_COMM),
        load_byte(TYPE),
        copy(R7, R0),
        load_byte(FAMILY),
        skip_unless_equal(R0, AF_BRIDGE, 1),
        or(R7, FORWARDING.into()),
        store(KEY, R7),
        map_address(R1, map),
        0,
        address_of(R2),
        add(R2, KEY),
        address_of(R3),
        add(R3, PID),
        set(R4, 0),
        call(MAP_UPDATE_ELEM),
        set(R0, 0),
        exit(),
    ]
}

/// One instruction: eight bytes, of which the second holds both registers.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [o0, o1] = offset.to_ne_bytes();
    let [v0, v1, v2, v3] = value.to_ne_bytes();
    let registers = match cfg!(target_endian = "little") {
        true => from << 4 | to,
        false => to << 4 | from,
    };
    u64::from_ne_bytes([code, registers, o0, o1, v0, v1, v2, v3])
}

const fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

const fn set(to: u8, value: i32) -> u64 {
    instruction(0xb7, to, 0, 0, value)
}

const fn add(to: u8, value: i16) -> u64 {
    instruction(0x07, to, 0, 0, value as i32)
}

const fn or(to: u8, value: i32) -> u64 {
    instruction(0x47, to, 0, 0, value)
}

const fn shift_right(to: u8, by: i32) -> u64 {
    instruction(0x77, to, 0, 0, by)
}

/// Four bytes, onto the stack.
const fn store(at: i16, from: u8) -> u64 {
    instruction(0x63, STACK, from, at, 0)
}

/// The end of the stack, which grows down.
const fn address_of(to: u8) -> u64 {
    copy(to, STACK)
}

/// Of the message in R6, into R0; a message that is too short ends the program.
const fn load_byte(at: i32) -> u64 {
    instruction(0x30, 0, 0, 0, at)
}

/// The first half of an instruction of two.
const fn map_address(to: u8, number: i32) -> u64 {
    instruction(0x18, to, PSEUDO_MAP, 0, number)
}

const fn skip_if_equal(register: u8, value: i32, skipped: i16) -> u64 {
    instruction(0x15, register, 0, skipped, value)
}

const fn skip_unless_equal(register: u8, value: i32, skipped: i16) -> u64 {
    instruction(0x55, register, 0, skipped, value)
}

const fn call(function: i32) -> u64 {
    instruction(0x85, 0, 0, 0, function)
}

const fn exit() -> u64 {
    instruction(0x95, 0, 0, 0, 0)
}

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R6: u8 = 6;
const R7: u8 = 7;
const STACK: u8 = 10;
const PSEUDO_MAP: u8 = 1;

const MAP_UPDATE_ELEM: i32 = 2;
const GET_CURRENT_PID_TGID: i32 = 14;
const GET_CURRENT_COMM: i32 = 16;

/// Where a note is put together, from the end of the stack.
const PID: i16 = -24;
const NAME: i16 = -16;
const KEY: i16 = -28;
/// Of the name, within a note.
const NAME_AT: usize = 8;

/// The low byte of the message's type, which no type exceeds.
const TYPE: i32 = if cfg!(target_endian = "little") { 4 } else { 5 };
const FAMILY: i32 = 16;
const AF_BRIDGE: i32 = 7;
/// Marks the sorts of neighbours that are forwarding entries: types are smaller.
const FORWARDING: u8 = 0x80;
const SORTS: u32 = 256;

/// What the kernel calls its first namespace of process numbers.
const INITIAL_PIDS: &str = "pid:[4026531836]";
const KERNEL_THREADS: [&str; 4] = ["kworker/", "ksoftirqd/", "swapper/", "rcu"];

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(pid: u32, name: &str) -> Cell {
        let mut cell = Cell::default();
        cell[..4].copy_from_slice(&pid.to_ne_bytes());
        cell[NAME_AT..NAME_AT + name.len()].copy_from_slice(name.as_bytes());
        cell
    }

    #[test]
    fn a_note_is_a_number_and_a_name() {
        let owner = read(&cell(4711, "NetworkManager")).unwrap();
        assert_eq!((owner.pid, &*owner.program), (4711, "NetworkManager"));
    }

    #[test]
    fn nobody_was_noted_yet_or_a_thread_of_the_kernel_s() {
        assert_eq!(read(&Cell::default()), None);
        assert_eq!(read(&cell(12, "kworker/u8:0")), None);
    }
}
