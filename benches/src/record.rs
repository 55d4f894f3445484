//! What a plugin asked of the kernel, recorded with strace, as a script for the floor.
//!
//! Kept are the netlink messages with their answers, the sockets and namespaces they need, what is
//! written (settings, reservations, the result), and the lock. Dropped is all that is only read,
//! the index of addresses, and what starting a process costs, which the floor has of its own.
//!
//! ```text
//! script   = number of refusals, then steps
//! step     = letter, slot, operands       a slot stands for a file descriptor
//! bytes    = length (2 bytes), bytes      numbers are little-endian
//! ```
use std::fs;
use std::path::Path;

use crate::process::Program;
use crate::strace::{Call, calls, small};

const TRACED: &str = "trace=open,openat,setns,socket,setsockopt,sendto,sendmsg,sendmmsg,recvfrom,\
recvmsg,write,writev,linkat,unlink,unlinkat,rename,renameat,renameat2,link,flock,close,poll,ppoll";
const NO_DIRECTORY: u8 = 255;
/// `MSG_PEEK`: a look at the size of an answer.
const PEEK: u64 = 2;
const STRICT_CHECK: u64 = 12;
const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const DELLINK: u16 = 17;
const BATCH_BEGIN: u16 = 16;
const NETFILTER: u8 = 12;

/// One process's steps.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    refusals: u8,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        slot: u8,
        dir: u8,
        flags: u32,
        mode: u16,
        path: String,
    },
    Enter {
        slot: u8,
    },
    Socket {
        slot: u8,
        protocol: u8,
        strict: bool,
    },
    Send {
        slot: u8,
        message: Vec<u8>,
        patches: Vec<Patch>,
    },
    Receive {
        slot: u8,
        learn_port: bool,
    },
    Write {
        slot: u8,
        bytes: Vec<u8>,
    },
    Lock {
        slot: u8,
    },
    Link {
        slot: u8,
        dir: u8,
        name: String,
    },
    Unlink {
        dir: u8,
        name: String,
    },
    Close {
        slot: u8,
    },
    /// Closed by the kernel in its own time: left in a socket that nobody can reach.
    Leave {
        slot: u8,
    },
}

/// Four bytes of a message that the kernel decides anew each time.
#[derive(Clone, Copy, Debug)]
struct Patch {
    at: u16,
    kind: u8,
    of: u8,
}

/// Runs the program under strace, on the node of the calling thread.
pub(crate) fn record(program: &Program, log: &Path) -> (Script, Vec<u8>) {
    let log_name = log.display().to_string();
    let strace = [
        "-qq",
        "-X",
        "raw",
        "-s",
        "4096",
        "-e",
        TRACED,
        "-e",
        "write=all",
        "-o",
    ];
    let cost = program.wrapped("/usr/bin/strace", &strace, &log_name).run();
    let log = fs::read(log).expect("read what strace wrote");
    (Script::parse(&String::from_utf8_lossy(&log)), cost.stdout)
}

impl Script {
    fn parse(log: &str) -> Self {
        let calls = calls(log);
        let mut script = Self {
            refusals: 0,
            steps: Vec::new(),
        };
        for call in &calls {
            script.push(call);
        }
        script.drop_unused_files();
        script.find_ports();
        script
    }

    fn push(&mut self, call: &Call<'_>) {
        let Some(result) = call.result else { return };
        let step = match call.name {
            "open" => Step::Open {
                slot: small(result),
                dir: NO_DIRECTORY,
                flags: call.number(1).try_into().unwrap_or(0),
                mode: call.octal(2),
                path: call.text(0),
            },
            "openat" => Step::Open {
                slot: small(result),
                dir: u8::try_from(call.number(0)).unwrap_or(NO_DIRECTORY),
                flags: call.number(2).try_into().unwrap_or(0),
                mode: call.octal(3),
                path: call.text(1),
            },
            "setns" => Step::Enter { slot: call.slot(0) },
            "socket" => Step::Socket {
                slot: small(result),
                protocol: call.slot(2),
                strict: false,
            },
            "setsockopt" => return self.set_strict(call),
            "sendto" => {
                let message = call.dump.clone();
                Step::Send {
                    slot: call.slot(0),
                    message,
                    patches: Vec::new(),
                }
            }
            "recvfrom" => {
                if call.flags_of_receive() & PEEK != 0 {
                    return;
                }
                if call
                    .refused()
                    .is_some_and(|message| !depends_on_time(message))
                {
                    self.refusals += 1;
                }
                Step::Receive {
                    slot: call.slot(0),
                    learn_port: false,
                }
            }
            "write" => Step::Write {
                slot: call.slot(0),
                bytes: call.dump.clone(),
            },
            "flock" => Step::Lock { slot: call.slot(0) },
            "linkat" => {
                let from = call.text(1);
                let slot = from.rsplit('/').next().and_then(|fd| fd.parse().ok());
                let slot = slot.expect("a file without a name is linked by its descriptor");
                Step::Link {
                    slot,
                    dir: call.slot(2),
                    name: call.text(3),
                }
            }
            "unlinkat" => Step::Unlink {
                dir: call.slot(0),
                name: call.text(1),
            },
            "sendmsg" => Step::Leave {
                slot: call.passed_on(),
            },
            "close" => Step::Close { slot: call.slot(0) },
            "poll" | "ppoll" => return,
            other => panic!("the floor cannot do {other} yet: {}", call.line),
        };
        self.steps.push(step);
    }

    fn set_strict(&mut self, call: &Call<'_>) {
        let option = call.number(2);
        let wanted = call.slot(0);
        let last = self.steps.iter_mut().rev().find_map(|step| match step {
            Step::Socket { slot, strict, .. } if *slot == wanted => Some(strict),
            _ => None,
        });
        if let Some(strict) = last {
            *strict |= option == STRICT_CHECK;
        }
    }

    /// Files that were only read, with their closing.
    fn drop_unused_files(&mut self) {
        let mut kept = vec![true; self.steps.len()];
        // Backwards, so that a directory goes when nothing is opened in it any more.
        for index in (0..self.steps.len()).rev() {
            let Step::Open { slot, .. } = self.steps[index] else {
                continue;
            };
            let closed = (index + 1..self.steps.len())
                .find(|i| matches!(self.steps[*i], Step::Close { slot: s } if s == slot));
            let end = closed.unwrap_or(self.steps.len());
            if !(index + 1..end).any(|i| kept[i] && self.steps[i].uses(slot)) {
                kept[index] = false;
                if let Some(closed) = closed {
                    kept[closed] = false;
                }
            }
        }
        let mut kept = kept.into_iter();
        self.steps.retain(|_| kept.next().unwrap_or(true));
    }

    /// The places in messages that the floor fills in.
    fn find_ports(&mut self) {
        let mut protocols = [0; 256];
        let mut learnt_after = None;
        let mut veth_made_on = None;
        for index in 0..self.steps.len() {
            match &mut self.steps[index] {
                Step::Socket { slot, protocol, .. } => protocols[usize::from(*slot)] = *protocol,
                Step::Send {
                    slot,
                    message,
                    patches,
                } => {
                    let protocol = protocols[usize::from(*slot)];
                    *patches = patches_of(message, protocol, veth_made_on == Some(*slot));
                    if patches.iter().any(|patch| patch.kind == b'f') {
                        veth_made_on = Some(*slot);
                        learnt_after = Some(*slot);
                    }
                }
                Step::Receive { slot, learn_port } if learnt_after == Some(*slot) => {
                    *learn_port = true;
                    learnt_after = None;
                }
                _ => {}
            }
        }
    }

    /// The script for a pod in another namespace than the recorded one.
    pub(crate) fn bytes(&self, recorded: &str, netns: &str) -> Vec<u8> {
        let mut out = vec![self.refusals];
        for step in &self.steps {
            step.write(&mut out, recorded, netns);
        }
        out
    }

    pub(crate) fn sends(&self) -> usize {
        self.steps
            .iter()
            .filter(|step| matches!(step, Step::Send { .. }))
            .count()
    }
}

impl Step {
    fn uses(&self, wanted: u8) -> bool {
        match self {
            Self::Open { dir, .. } => *dir == wanted,
            Self::Enter { slot } | Self::Write { slot, .. } | Self::Lock { slot } => {
                *slot == wanted
            }
            Self::Link { slot, dir, .. } => *slot == wanted || *dir == wanted,
            Self::Unlink { dir, .. } => *dir == wanted,
            Self::Socket { .. }
            | Self::Send { .. }
            | Self::Receive { .. }
            | Self::Leave { .. }
            | Self::Close { .. } => false,
        }
    }

    fn write(&self, out: &mut Vec<u8>, recorded: &str, netns: &str) {
        match self {
            Self::Open {
                slot,
                dir,
                flags,
                mode,
                path,
            } => {
                out.extend([b'o', *slot, *dir]);
                out.extend(flags.to_le_bytes());
                out.extend(mode.to_le_bytes());
                bytes(out, if path == recorded { netns } else { path }.as_bytes());
            }
            Self::Enter { slot } => out.extend([b'n', *slot]),
            Self::Socket {
                slot,
                protocol,
                strict,
            } => {
                out.extend([b's', *slot, *protocol, u8::from(*strict)]);
            }
            Self::Send {
                slot,
                message,
                patches,
            } => {
                out.extend([b'm', *slot, small(patches.len() as u64)]);
                for patch in patches {
                    out.extend(patch.at.to_le_bytes());
                    out.extend([patch.kind, patch.of]);
                }
                bytes(out, message);
            }
            Self::Receive { slot, learn_port } => out.extend([b'r', *slot, u8::from(*learn_port)]),
            Self::Write { slot, bytes: text } => {
                out.extend([if *slot == 1 { b'W' } else { b'w' }, *slot]);
                bytes(out, text);
            }
            Self::Lock { slot } => out.extend([b'k', *slot]),
            Self::Link { slot, dir, name } => {
                out.extend([b'l', *slot, *dir]);
                bytes(out, name.as_bytes());
            }
            Self::Unlink { dir, name } => {
                out.extend([b'u', *dir]);
                bytes(out, name.as_bytes());
            }
            Self::Leave { slot } => out.extend([b'x', *slot]),
            Self::Close { slot } => out.extend([b'c', *slot]),
        }
    }
}

/// Questions about what expires, and neighbours that may be gone already.
fn depends_on_time(message: u16) -> bool {
    const NFT_SUBSYSTEM: u16 = 10;
    const DELNEIGH: u16 = 29;
    let is_question = match message >> 8 {
        NFT_SUBSYSTEM => message % 256 % 3 == 1,
        _ => message % 4 == 2,
    };
    is_question || message == DELNEIGH
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("a message is short");
    out.extend(length.to_le_bytes());
    out.extend(bytes);
}

/// Where the messages of one send name a namespace's descriptor, the host's end of the veth pair
/// (whose index is asked for once it is made), or the ruleset's generation.
fn patches_of(sent: &[u8], protocol: u8, veth_is_made: bool) -> Vec<Patch> {
    let mut patches = Vec::new();
    let mut start = 0;
    while let Some(header) = sent.get(start..start + 16) {
        let length = usize::try_from(u32_at(header, 0)).unwrap_or(0);
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let end = (start + length).min(sent.len());
        let mut patch = |at: usize, kind: u8, of: u8| {
            patches.push(Patch {
                at: u16::try_from(at).expect("a message is short"),
                kind,
                of,
            });
        };
        if protocol == NETFILTER {
            // The batch's only attribute is the generation it is meant for.
            if kind == BATCH_BEGIN && length == 28 {
                patch(start + 24, b'g', 0);
            }
        } else if kind == NEWLINK {
            // IFLA_NET_NS_FD, eight bytes long.
            let attribute = [8, 0, 28, 0];
            if let Some(at) = (start..end - 7).find(|at| sent[*at..at + 4] == attribute) {
                patch(at + 4, b'f', small(u64::from(u32_at(sent, at + 4))));
            }
        } else if [GETLINK, SETLINK, DELLINK].contains(&kind) && veth_is_made {
            // ifi_index; zero where the link is named.
            if u32_at(sent, start + 20) != 0 {
                patch(start + 20, b'p', 0);
            }
        }
        if length < 16 {
            break;
        }
        start += length.next_multiple_of(4);
    }
    patches
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|four| four.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_read_is_not_for_the_floor() {
        let log = "openat(-100, \"/proc/self/maps\", 0x80000) = 3\n\
                   close(3)                                = 0\n\
                   openat(-100, \"/proc/sys/net/x\", 0x80001) = 3\n\
                   write(3, \"0\", 1)                        = 1\n \
                   | 00000  30                                                0                |\n\
                   close(3)                                = 0\n";
        let script = Script::parse(log);
        assert_eq!(script.steps.len(), 3, "{script:?}");
        assert!(matches!(&script.steps[1], Step::Write { bytes, .. } if bytes == b"0"));
    }

    #[test]
    fn a_look_at_an_answers_size_is_not_an_answer() {
        let peek = "recvfrom(5, [{nlmsg_len=36, nlmsg_type=0x2}, {error=-17, \
                    msg={nlmsg_len=40, nlmsg_type=0xa<<8|0xc, nlmsg_flags=0}}], 64, 0x22, {sa_family=0x10, nl_pid=0, nl_groups=00000000}, [12]) = 36\n";
        let answer = peek.replace("0x22", "0");
        let script = Script::parse(&format!("{peek}{answer}"));
        assert_eq!((script.steps.len(), script.refusals), (1, 1), "{script:?}");
    }

    #[test]
    fn the_descriptor_of_the_pods_namespace_is_filled_in_anew() {
        let mut message = vec![0; 40];
        message[0] = 40;
        message[4] = 16;
        message[32..40].copy_from_slice(&[8, 0, 28, 0, 3, 0, 0, 0]);
        let patches = patches_of(&message, 0, false);
        assert_eq!(
            (patches[0].at, patches[0].kind, patches[0].of),
            (36, b'f', 3)
        );
    }
}
