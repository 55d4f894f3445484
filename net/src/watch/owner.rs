//! Whose a netlink port is.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// A process that still lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub pid: u32,
    /// What the kernel calls it: at most 15 bytes of its program's name.
    pub program: String,
}

/// Who has the port of an [`Event`](super::Event), in the network namespace of the calling thread.
/// None if it was the kernel, if the process is gone, or if it is in a place that our /proc does
/// not show.
///
/// The first socket of a process has its id for a port, by the kernel's habit, and libnl's sockets
/// have it in the lower bits. Any other number is looked up among all sockets of all processes,
/// which takes milliseconds: not to be done for each of thousands of events.
pub fn owner_of(port: u32) -> Option<Owner> {
    if port == 0 {
        return None;
    }
    let likely = port & LIBNL_PID;
    let sockets = fs::read_to_string("/proc/thread-self/net/netlink").unwrap_or_default();
    let inodes = inodes_of(&sockets, port);
    if inodes.is_empty() {
        // The socket is closed, but the process may be there. What the kernel makes up is negative.
        let told = port.cast_signed() > 0 && is_here(likely);
        return told.then_some(likely).and_then(owner);
    }
    let holds = |pid: &u32| holds_one_of(*pid, &inodes);
    let holder = Some(likely)
        .filter(holds)
        .or_else(|| processes().find(holds));
    holder.and_then(owner)
}

/// The ports of all NETLINK_ROUTE sockets in the network namespace of the calling thread. Who has
/// just changed something that the kernel tells of without a name has one of them, most likely.
pub fn open_ports() -> Vec<u32> {
    let sockets = fs::read_to_string("/proc/thread-self/net/netlink").unwrap_or_default();
    let port = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let route = words.next()? == "0";
        route.then(|| words.next()?.parse().ok())?
    };
    let ports = sockets.lines().filter_map(port);
    ports.filter(|port| *port != 0).collect()
}

/// The numbers of all NETLINK_ROUTE sockets that have the port. Lines are: address, protocol,
/// port, and more, the last being the number.
fn inodes_of(sockets: &str, port: u32) -> Vec<u64> {
    let inode = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let route = words.next()? == "0";
        let found = words.next()?.parse() == Ok(port);
        (route && found).then(|| words.last()?.parse().ok())?
    };
    sockets.lines().filter_map(inode).collect()
}

fn holds_one_of(pid: u32, inodes: &[u64]) -> bool {
    let Ok(descriptors) = fs::read_dir(of_process(pid).join("fd")) else {
        return false;
    };
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mut numbers = targets.filter_map(|target| socket_number(&target));
    numbers.any(|number| inodes.contains(&number))
}

/// Of `socket:[4711]`.
fn socket_number(target: &Path) -> Option<u64> {
    let text = target.to_str()?.strip_prefix("socket:[")?;
    text.strip_suffix(']')?.parse().ok()
}

/// In our network namespace, so that it can have done something to it.
fn is_here(pid: u32) -> bool {
    let namespace = |path: PathBuf| fs::read_link(path.join("ns/net")).ok();
    let its = namespace(of_process(pid));
    its.is_some() && its == namespace("/proc/thread-self".into())
}

fn processes() -> impl Iterator<Item = u32> {
    let all = fs::read_dir("/proc").into_iter().flatten();
    let pid = |name: &OsStr| name.to_str()?.parse().ok();
    all.filter_map(move |entry| pid(&entry.ok()?.file_name()))
}

fn owner(pid: u32) -> Option<Owner> {
    let name = fs::read_to_string(of_process(pid).join("comm")).ok()?;
    Some(Owner {
        pid,
        program: name.trim_end().to_owned(),
    })
}

fn of_process(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// Where libnl keeps the process in a port.
pub(super) const LIBNL_PID: u32 = (1 << 22) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_protocol_and_port() {
        let table = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 0   1234       00000111 0        0        0     2        0        77
0000000000000000 12  1234       00000111 0        0        0     2        0        78
0000000000000000 0   4294963200 00000000 0        0        0     2        0        79
0000000000000000 0   0          00000000 0        0        0     2        0        80
garbage
";
        assert_eq!(inodes_of(table, 1234), [77]);
        assert_eq!(inodes_of(table, 4_294_963_200), [79]);
        assert!(inodes_of(table, 4711).is_empty());
    }

    #[test]
    fn the_number_of_a_socket_is_between_brackets() {
        assert_eq!(socket_number(Path::new("socket:[4711]")), Some(4711));
        assert_eq!(socket_number(Path::new("pipe:[4711]")), None);
        assert_eq!(socket_number(Path::new("/dev/null")), None);
    }
}
