//! A TUN device by way of the crate tun-tap: what most programs begin with.
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tun_tap::{Iface, Mode};

const DEVICE: &str = "/dev/net/tun";

/// Why there can be none, if so.
pub(super) fn lacks_tun() -> Option<String> {
    let opened = File::options().read(true).write(true).open(DEVICE);
    let why = opened.err()?;
    Some(format!(
        "{DEVICE}: {why} (chmod 666 {DEVICE}, as udev does)"
    ))
}

/// In the calling thread's namespace; `settings` are lines of shell that make it useful.
pub fn open_tun(name: &str, settings: &str) -> io::Result<Iface> {
    let tun = Iface::without_packet_info(name, Mode::Tun)?;
    let set = Command::new("/bin/sh").args(["-ec", settings]).status()?;
    if !set.success() {
        return Err(io::Error::other(format!("cannot set up {name}: {set}")));
    }
    Ok(tun)
}

/// The device's descriptor in a form one can poll, no longer blocking. The crate hands out its
/// number alone, and turning that into a descriptor takes this detour where `unsafe` is forbidden.
pub fn pollable(tun: &Iface) -> io::Result<OwnedFd> {
    let ourselves: Pid = getpid();
    let process = pidfd_open(ourselves, PidfdFlags::empty())?;
    let fd = pidfd_getfd(process, tun.as_raw_fd(), PidfdGetfdFlags::empty())?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}
