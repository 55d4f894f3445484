//! A private world: its own network, its own mounts, and for those who are not
//! root its own user namespace in which they are.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::unistd::{getegid, geteuid};

use crate::command::{Cmd, Running};
use crate::namespace::Netns;
use crate::private_dir::{hide, private_dir};

/// Where CNI plugins and runtimes keep their state.
const STATE: [&str; 1] = ["/var/lib/cni"];

/// How a world is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As the root of the machine: nothing is refused. Nothing is mapped.
    Root,
    /// As the root of a user namespace: what an ordinary user can have.
    Rootless,
}

impl Kind {
    /// `Root` for root, unless `WEFT_ROOTLESS` asks for the other.
    pub fn fitting() -> Self {
        let forced = std::env::var_os("WEFT_ROOTLESS").is_some_and(|value| !value.is_empty());
        if geteuid().is_root() && !forced {
            Self::Root
        } else {
            Self::Rootless
        }
    }
}

/// The world this process lives in. It ends with its processes: there is
/// nothing to clean up on the host, not even after a crash.
#[derive(Debug)]
pub struct World {
    kind: Kind,
}

impl World {
    /// Moves this process, which must have a single thread, into a fresh world.
    /// Tests use [`crate::in_world`] instead.
    pub fn enter(kind: Kind) -> io::Result<Self> {
        let (uid, gid) = (geteuid(), getegid());
        let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        if kind == Kind::Rootless {
            flags |= CloneFlags::CLONE_NEWUSER;
        }
        unshare(flags).map_err(context("create the namespaces of a private world"))?;
        if kind == Kind::Rootless {
            // Whoever may not set groups may map a group: the kernel's order.
            write("/proc/self/setgroups", "deny")?;
            write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
            write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
        }
        Self::furnish(kind)
    }

    /// Makes a world of namespaces that are fresh already.
    pub(crate) fn furnish(kind: Kind) -> io::Result<Self> {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(context("make the mounts private"))?;
        hide(Path::new("/run"))?;
        for dir in STATE {
            private_dir(Path::new(dir))?;
        }
        bring_loopback_up().map_err(|e| io::Error::new(e.kind(), format!("loopback up: {e}")))?;
        Ok(Self { kind })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A network namespace with a name, removed when dropped.
    #[track_caller]
    pub fn netns(&self, name: &str) -> Netns {
        Netns::create(name)
    }

    /// `count` namespaces, named `prefix-0`, `prefix-1` and so on.
    pub fn many_netns(&self, prefix: &str, count: usize) -> Vec<Netns> {
        (0..count)
            .map(|i| self.netns(&format!("{prefix}-{i}")))
            .collect()
    }

    pub fn command(&self, program: &str) -> Cmd {
        Cmd::new(program)
    }

    /// Runs a line of shell on the node; what it printed. Its failure fails the test.
    #[track_caller]
    pub fn exec(&self, line: &str) -> String {
        Cmd::shell(line).run().ok().stdout
    }

    /// A line of shell in the background, killed when dropped.
    pub fn spawn(&self, line: &str) -> Running {
        Cmd::shell(&format!("exec {line}")).spawn()
    }

    /// A fresh directory that nobody else sees and that ends with the world.
    pub fn scratch(&self, name: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/run/weft-test/{name}-{number}"));
        fs::create_dir_all(&dir).expect("create a scratch directory");
        dir
    }

    /// Gives the world its own, empty `path` (such as /etc/cni/net.d), whether or
    /// not the host has one. Its neighbours stay visible.
    #[track_caller]
    pub fn private_dir(&self, path: &str) -> PathBuf {
        private_dir(Path::new(path)).unwrap_or_else(|e| panic!("cannot make {path} private: {e}"));
        PathBuf::from(path)
    }
}

fn write(path: &str, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|e| io::Error::new(e.kind(), format!("write {path}: {e}")))
}

pub(crate) fn context(what: impl Into<String>) -> impl FnOnce(nix::Error) -> io::Error {
    let what = what.into();
    move |e| io::Error::new(io::Error::from(e).kind(), format!("cannot {what}: {e}"))
}

/// A new namespace's loopback is down. One message by hand, because neither the
/// code under test nor iproute2 should be needed to make a world.
fn bring_loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    const LOOPBACK: u32 = 1; // always the first link of a namespace
    const LENGTH: u32 = 32;

    let mut message = Vec::new();
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    message.extend([0; 4]); // family, padding, type
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // flags
    message.extend(IFF_UP.to_ne_bytes()); // of which to change

    use std::os::fd::AsRawFd;
    let protocol = SockProtocol::NetlinkRoute;
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    sendto(
        netlink.as_raw_fd(),
        &message,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 128];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match answer[..length]
        .get(16..20)
        .and_then(|code| code.try_into().ok())
    {
        Some(code) if i32::from_ne_bytes(code) == 0 => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(code))),
        None => Err(io::Error::other("the kernel's answer is too short")),
    }
}
