//! `route_localnet`: without it the kernel throws away what goes from 127.0.0.1 to a pod.

use std::net::IpAddr;

use weft_cni::{Error, Result};
use weft_net::{Rtnl, sysctl};

use crate::told::Told;

/// Lets the host's own loopback address be used on the link that leads to the pod.
pub(super) fn allow(pod: IpAddr) -> Result<()> {
    let mut rtnl = Rtnl::open().told()?;
    // A pod that the host has no way to cannot be reached from 127.0.0.1 either.
    let Ok(way) = rtnl.way_to(pod) else {
        return Ok(());
    };
    if way.is_local {
        return Ok(());
    }
    let link = rtnl.link(way.link).told()?.name;
    let key = sysctl::Key::ipv4_conf(&link, "route_localnet")
        .ok_or_else(|| Error::internal(format!("link {link:?} has no settings")))?;
    match key.set("1") {
        Err(error) if error.is_read_only() => {
            eprintln!("portmap: mapped ports will not answer on 127.0.0.1: {error}");
            Ok(())
        }
        done => done.map(drop).told(),
    }
}
