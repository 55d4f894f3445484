//! The system calls that no crate wraps. The only file with `unsafe` in it; what it hands out cannot
//! be used wrongly.
#![expect(unsafe_code, reason = "the system calls that no crate wraps")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// When a thread runs, of all that could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The moment it is woken, before every ordinary program. Takes CAP_SYS_NICE.
    First,
    /// Like any other of this nice value. Lower than it is takes CAP_SYS_NICE.
    Ordinary { nice: i8 },
}

/// Of the calling thread; its children do not inherit it.
pub fn take_turns(turn: Turn) -> io::Result<()> {
    let (policy, nice, priority) = match turn {
        Turn::First => (libc::SCHED_RR, 0, 1),
        Turn::Ordinary { nice } => (libc::SCHED_OTHER, nice.into(), 0),
    };
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0),
        sched_policy: policy.cast_unsigned(),
        sched_flags: libc::SCHED_FLAG_RESET_ON_FORK.unsigned_abs().into(),
        sched_nice: nice,
        sched_priority: priority,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: sched_setattr reads one sched_attr, whose length it finds in it; thread 0 is the
    // calling one.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A table in the kernel that a program of the kernel's virtual machine writes and we read.
#[derive(Debug)]
pub(crate) struct Table {
    descriptor: OwnedFd,
}

/// What stands under a key of a [`Table`].
pub(crate) type Cell = [u8; 24];

impl Table {
    /// Of zeros, with keys from 0 on. Takes CAP_BPF.
    pub(crate) fn new(keys: u32) -> io::Result<Self> {
        let ask = MapCreate {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: u32::try_from(size_of::<Cell>()).unwrap_or(0),
            max_entries: keys,
        };
        // SAFETY: BPF_MAP_CREATE reads these fields and gives a descriptor of our own.
        let descriptor = unsafe { bpf_descriptor(BPF_MAP_CREATE, &ask)? };
        Ok(Self { descriptor })
    }

    pub(crate) fn number(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }

    pub(crate) fn read(&self, key: u32) -> io::Result<Cell> {
        let mut cell = Cell::default();
        let ask = MapLookUp {
            map: self.number().unsigned_abs(),
            _padding: 0,
            key: (&raw const key) as u64,
            value: (&raw mut cell) as u64,
            flags: 0,
        };
        // SAFETY: the map was made with keys and values of these sizes, and both live until the
        // call is over.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &ask)? };
        Ok(cell)
    }
}

/// Has the program, instruction by instruction, filter what the socket is sent; the kernel refuses
/// one that could do harm. Takes CAP_BPF.
pub(crate) fn filter_by(socket: BorrowedFd<'_>, program: &[u64]) -> io::Result<()> {
    let ask = ProgramLoad {
        program_type: BPF_PROG_TYPE_SOCKET_FILTER,
        count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: program.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        _log: [0; 2],
    };
    // SAFETY: BPF_PROG_LOAD reads so many instructions of eight bytes and a string, which live
    // until the call is over, and gives a descriptor of our own.
    let loaded = unsafe { bpf_descriptor(BPF_PROG_LOAD, &ask)? };
    let number = loaded.as_raw_fd();
    // SAFETY: SO_ATTACH_BPF reads one int.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_BPF,
            (&raw const number).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// # Safety
/// `ask` must be what the command reads, and the command one that gives a descriptor.
unsafe fn bpf_descriptor<T>(command: libc::c_int, ask: &T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller says.
    let number = unsafe { bpf(command, ask)? };
    // SAFETY: the kernel has made it for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// # Safety
/// `ask` must be what the command reads.
unsafe fn bpf<T>(command: libc::c_int, ask: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads as many bytes as it is told, which are those of `ask`.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(ask), size_of::<T>()) };
    match i32::try_from(done) {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The first fields of the kernel's `bpf_attr`, for three of its commands.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapLookUp {
    map: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    /// Level and size, and where: none is asked for.
    _log: [u64; 2],
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
