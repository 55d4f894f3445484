//! Whom the host believes when a router advertises itself.

use weft_cni::Result;
use weft_net::{
    route::{RouteFilter, Rtnl},
    sysctl::Key,
};

use crate::told::Told;

/// Nobody but us gives a bridge, or a pod's port of it, an address.
pub(super) fn ignore(link: &str) -> Result<()> {
    let Some(key) = Key::ipv6_conf(link, "accept_ra") else {
        return Ok(());
    };
    // Where /proc/sys is read-only the kernel's default stays: a nuisance, no failure.
    match key.set("0") {
        Err(error) if !error.is_read_only() => Err(error).told(),
        _ => Ok(()),
    }
}

/// The kernel forgets what routers advertised to the interfaces of a host that begins to forward,
/// unless those interfaces say (2) that they listen all the same. Only those that have learned a
/// route that way have anything to lose.
pub(super) fn keep_what_was_learned(host: &mut Rtnl) -> Result<()> {
    let learned = RouteFilter {
        ipv6: true,
        protocol: Some(BY_ADVERTISEMENT),
        ..RouteFilter::default()
    };
    let mut links: Vec<u32> = host
        .routes(learned)
        .told()?
        .iter()
        .filter_map(|r| r.link)
        .collect();
    links.sort_unstable();
    links.dedup();
    for index in links {
        // An interface that goes away meanwhile has no routes to keep.
        let Ok(link) = host.link(index) else { continue };
        let Some(accepts) = Key::ipv6_conf(&link.name, "accept_ra") else {
            continue;
        };
        if accepts.read().ok().flatten().as_deref() == Some("1") {
            let _ = accepts.set("2");
        }
    }
    Ok(())
}

/// RTPROT_RA.
const BY_ADVERTISEMENT: u8 = 9;
