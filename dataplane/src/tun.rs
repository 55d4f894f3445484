//! The TUN device: created or found again, with as many offloads as the kernel grants.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::{IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TUN, IFF_VNET_HDR};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::packet::virtio;
use crate::rungs::{Notice, Notices, Rungs};
use crate::sys;

/// A device and one or more of its queues. It outlives this value, and the process.
#[derive(Debug)]
pub struct Tun {
    name: String,
    queues: Vec<OwnedFd>,
    offloads: Offloads,
}

/// What the device does for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    pub vnet_header: bool,
    pub tso: bool,
    pub uso: bool,
}

impl Tun {
    /// Makes the persistent device, or attaches to the one that a former process has left.
    pub fn open(name: &str, queues: usize, rungs: &Rungs, notices: &Notices) -> Result<Self> {
        let first = open_queue(name, rungs.vnet_header)?;
        let (first, vnet_header) = match first {
            Some(queue) => (queue, rungs.vnet_header),
            None => {
                notices.give(Notice::VnetHeaderRefused);
                let plain = open_queue(name, false)?;
                (plain.ok_or_else(|| refused(name))?, false)
            }
        };
        let mut all = vec![first];
        for _ in 1..queues.max(1) {
            all.push(open_queue(name, vnet_header)?.ok_or_else(|| refused(name))?);
        }
        sys::set_persistent(all[0].as_fd(), true)
            .map_err(|why| Error::new(format!("make TUN device {name} persistent"), why))?;
        let offloads = set_up(name, &all, vnet_header, rungs, notices)?;
        Ok(Self {
            name: name.to_owned(),
            queues: all,
            offloads,
        })
    }

    /// Goes on with the queues that another process has handed over.
    pub fn from_queues(queues: Vec<OwnedFd>, rungs: &Rungs, notices: &Notices) -> Result<Self> {
        let first = queues
            .first()
            .ok_or_else(|| Error::new("take over a TUN device without queues", Errno::INVAL))?;
        let (name, flags) = sys::queue_of(first.as_fd())
            .map_err(|why| Error::new("ask a handed over descriptor for its TUN device", why))?;
        let vnet_header = flags & IFF_VNET_HDR != 0;
        let offloads = set_up(&name, &queues, vnet_header, rungs, notices)?;
        Ok(Self {
            name,
            queues,
            offloads,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Lets the device go with its last queue.
    pub fn forget(&self) -> Result<()> {
        let Some(queue) = self.queues.first() else {
            return Ok(());
        };
        sys::set_persistent(queue.as_fd(), false)
            .map_err(|why| Error::new(format!("let go of TUN device {}", self.name), why))
    }

    pub fn into_queues(self) -> Vec<OwnedFd> {
        self.queues
    }
}

/// `None` if the kernel does not know virtio headers.
fn open_queue(name: &str, vnet_header: bool) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let queue = rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(cannot_open)?;
    let mut features = IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE;
    if vnet_header {
        features |= IFF_VNET_HDR;
    }
    match sys::attach_queue(queue.as_fd(), name, features) {
        Ok(_) if !vnet_header => Ok(Some(queue)),
        Ok(_) => match sys::set_vnet_header_size(queue.as_fd(), virtio::Header::LENGTH) {
            Ok(()) => Ok(Some(queue)),
            Err(_) => Ok(None),
        },
        Err(why) => {
            let doing = format!("open TUN device {name}");
            let error = Error::new(doing, why);
            Err(match error.errno() {
                Some(Errno::PERM) => error.with_remedy("grant CAP_NET_ADMIN"),
                Some(Errno::BUSY) => error
                    .with_remedy("another program holds it: stop it (a flanneld that still runs?)"),
                Some(Errno::INVAL) => error.with_remedy(
                    "a device of that name and of another kind is there: remove it with \
                     `ip link delete`",
                ),
                _ => error,
            })
        }
    }
}

fn cannot_open(why: Errno) -> Error {
    let error = Error::new(format!("open {DEVICE}"), why);
    match why {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => error
            .with_remedy("load the module tun, and in a container mount the host's /dev/net/tun"),
        Errno::PERM | Errno::ACCESS => {
            error.with_remedy("run as root, or let the container use the device 10:200")
        }
        _ => error,
    }
}

fn refused(name: &str) -> Error {
    Error::new(
        format!("set the header size of TUN device {name}"),
        Errno::INVAL,
    )
}

fn set_up(
    name: &str,
    queues: &[OwnedFd],
    vnet_header: bool,
    rungs: &Rungs,
    notices: &Notices,
) -> Result<Offloads> {
    for queue in queues {
        rustix::io::ioctl_fionbio(queue, true)
            .map_err(|why| Error::new(format!("set TUN device {name} non-blocking"), why))?;
    }
    // Offloads are the device's, so one queue speaks for all.
    Ok(set_offloads(queues[0].as_fd(), vnet_header, rungs, notices))
}

fn set_offloads(
    queue: BorrowedFd<'_>,
    vnet_header: bool,
    rungs: &Rungs,
    notices: &Notices,
) -> Offloads {
    let none = Offloads {
        vnet_header,
        tso: false,
        uso: false,
    };
    if !vnet_header {
        // A device that was left with offloads hands out superpackets even without a header.
        let _ = sys::set_offload(queue, 0);
        return none;
    }
    let checksum = libc::TUN_F_CSUM;
    let tso = checksum | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let uso = tso | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    if rungs.tso && rungs.uso {
        if sys::set_offload(queue, uso).is_ok() {
            return Offloads {
                tso: true,
                uso: true,
                ..none
            };
        }
        notices.give(Notice::UsoRefused);
    }
    if rungs.tso {
        if sys::set_offload(queue, tso).is_ok() {
            return Offloads { tso: true, ..none };
        }
        notices.give(Notice::TsoRefused);
    }
    if sys::set_offload(queue, checksum).is_err() {
        let _ = sys::set_offload(queue, 0);
    }
    none
}

const DEVICE: &str = "/dev/net/tun";
