//! The floor: what the kernel itself takes for a plugin's call.
//!
//! It reads a script from stdin and carries it out: the netlink messages that our plugin sent for
//! the very same call, byte for byte, with the sockets and namespaces they need, the settings
//! written below /proc/sys, the address's reservation under its lock, and as many bytes of result.
//! It parses no JSON, decides nothing, reads no settings and keeps no index. `record.rs` makes
//! the script and says how it is laid out.
use std::io::{self, Error, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use netlink_sys::Socket;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const SLOTS: usize = 32;
const NO_DIRECTORY: u8 = 255;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_DELNEIGH: u16 = 29;
const NFT_SUBSYSTEM: u16 = 10;
const NFT_MSG_NEWGEN: u16 = 0xa0f;

fn main() -> ExitCode {
    let Err(error) = carry_out() else {
        return ExitCode::SUCCESS;
    };
    let _ = writeln!(io::stdout(), "{error}");
    ExitCode::FAILURE
}

fn carry_out() -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        match io::stdin().read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    let mut script = Script(&buffer[..length]);
    let refusals = script.byte();
    let mut floor = Floor::default();
    while !script.0.is_empty() {
        floor.step(&mut script)?;
    }
    // The kernel must have refused the changes that it refused our plugin, and no others.
    if floor.refusals == refusals {
        return Ok(());
    }
    let answers = floor.refusals;
    Err(Error::other(format!(
        "the kernel refused {answers} changes, recorded were {refusals}"
    )))
}

#[derive(Default)]
struct Floor {
    slots: [Option<Open>; SLOTS],
    /// The index of the host's end of the veth pair: the kernel chose it.
    port: [u8; 4],
    /// The generation of the ruleset, which a transaction that deletes names.
    generation: [u8; 4],
    refusals: u8,
}

enum Open {
    Fd(OwnedFd),
    Socket(Socket),
}

impl Floor {
    fn step(&mut self, script: &mut Script<'_>) -> io::Result<()> {
        let (step, slot) = (script.byte(), script.byte());
        match step {
            b'o' => {
                let dir = script.byte();
                let flags = OFlags::from_bits_retain(script.number(4));
                let mode = Mode::from_bits_retain(script.number(2));
                let path = script.bytes();
                let dir = if dir == NO_DIRECTORY {
                    CWD
                } else {
                    self.fd(dir)?
                };
                let fd = rustix::fs::openat(dir, path, flags, mode)?;
                self.slots[usize::from(slot)] = Some(Open::Fd(fd));
            }
            b'n' => {
                move_into_link_name_space(self.fd(slot)?, Some(LinkNameSpaceType::Network))?;
            }
            b's' => {
                let (protocol, strict) = (script.byte(), script.byte());
                let socket = Socket::new(isize::from(protocol))?;
                if strict == 1 {
                    socket.set_netlink_get_strict_chk(true)?;
                }
                self.slots[usize::from(slot)] = Some(Open::Socket(socket));
            }
            b'm' => self.send(slot, script)?,
            b'r' => self.receive(slot, script.byte() == 1)?,
            b'w' => {
                rustix::io::write(self.fd(slot)?, script.bytes())?;
            }
            b'W' => io::stdout().write_all(script.bytes())?,
            b'k' => rustix::fs::flock(self.fd(slot)?, FlockOperation::LockExclusive)?,
            b'l' => {
                let dir = script.byte();
                let from = format!("/proc/self/fd/{}", self.fd(slot)?.as_raw_fd());
                let dir = self.fd(dir)?;
                let name = script.bytes();
                rustix::fs::linkat(CWD, from, dir, name, AtFlags::SYMLINK_FOLLOW)?;
            }
            b'u' => rustix::fs::unlinkat(self.fd(slot)?, script.bytes(), AtFlags::empty())?,
            b'x' => self.leave(slot)?,
            b'c' => self.slots[usize::from(slot)] = None,
            _ => return Err(Error::other("no such step")),
        }
        Ok(())
    }

    fn send(&self, slot: u8, script: &mut Script<'_>) -> io::Result<()> {
        let mut patches = [(0, 0, 0); 8];
        let count = usize::from(script.byte());
        for patch in &mut patches[..count] {
            let at = usize::try_from(script.number(2)).unwrap_or(0);
            *patch = (at, script.byte(), script.byte());
        }
        let mut message = script.bytes().to_vec();
        for (at, kind, of) in &patches[..count] {
            let value = match kind {
                b'f' => self.fd(*of)?.as_raw_fd().to_ne_bytes(),
                b'p' => self.port,
                _ => self.generation,
            };
            message[*at..at + 4].copy_from_slice(&value);
        }
        self.socket(slot)?.send(&message, 0).map(drop)
    }

    fn receive(&mut self, slot: u8, learn_port: bool) -> io::Result<()> {
        let mut buffer = [0; 32 << 10];
        let mut room = &mut buffer[..];
        self.socket(slot)?.recv(&mut room, 0)?;
        let four = |at: usize| [buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]];
        match u16::from_ne_bytes([buffer[4], buffer[5]]) {
            NLMSG_ERROR if four(16) == [0; 4] => {}
            NLMSG_ERROR if depends_on_time(u16::from_ne_bytes([buffer[24], buffer[25]])) => {}
            NLMSG_ERROR => self.refusals += 1,
            RTM_NEWLINK if learn_port => self.port = four(20),
            NFT_MSG_NEWGEN => self.generation = four(24),
            _ => {}
        }
        Ok(())
    }

    /// Has the kernel close the socket in its own time, as our plugins do.
    fn leave(&mut self, slot: u8) -> io::Result<()> {
        let (out, into) = socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let left = [into.as_fd(), self.socket(slot)?.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&left));
        sendmsg(
            &out,
            &[IoSlice::new(b"x")],
            &mut control,
            SendFlags::empty(),
        )?;
        self.slots[usize::from(slot)] = None;
        Ok(())
    }

    fn fd(&self, slot: u8) -> io::Result<BorrowedFd<'_>> {
        match &self.slots[usize::from(slot)] {
            Some(Open::Fd(fd)) => Ok(fd.as_fd()),
            _ => Err(Error::other("nothing is open there")),
        }
    }

    fn socket(&self, slot: u8) -> io::Result<&Socket> {
        match &self.slots[usize::from(slot)] {
            Some(Open::Socket(socket)) => Ok(socket),
            _ => Err(Error::other("there is no socket")),
        }
    }
}

/// Questions about what expires, and neighbours that may be gone already.
fn depends_on_time(message: u16) -> bool {
    let is_question = match message >> 8 {
        NFT_SUBSYSTEM => message % 256 % 3 == 1,
        _ => message % 4 == 2,
    };
    is_question || message == RTM_DELNEIGH
}

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn number(&mut self, width: usize) -> u32 {
        self.take(width)
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = self.number(2);
        self.take(usize::try_from(length).unwrap_or(0))
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }
}
