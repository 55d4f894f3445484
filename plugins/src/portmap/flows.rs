//! Connections that were tracked before a port's mapping changed. UDP has no end of its own: a
//! sender that does not pause would go on being led to where the port led at its first datagram.

use std::net::IpAddr;

use weft_net::{
    Result, Rtnl,
    conntrack::{Connection, Conntrack, Filter},
};

use super::{
    conf::Published,
    holdings::Mapped,
    key::{Key, Protocol},
};

/// Forgets connections to host ports that lead elsewhere than to the pod they are published for.
pub(super) fn forget_before(published: &[Published]) {
    let lasting: Vec<&Published> = published.iter().filter(|p| lasts(&p.key)).collect();
    if lasting.is_empty() {
        return;
    }
    tell(forget_strays(&lasting));
}

/// Whether [`forget_after`] has anything to do.
pub(super) fn must_be_forgotten(mapped: &[Mapped]) -> bool {
    mapped
        .iter()
        .any(|mapped| lasts(&mapped.key) && mapped.pod.is_some())
}

/// Forgets connections that lead to pods which have given up their ports.
pub(super) fn forget_after(mapped: &[Mapped]) {
    let filters: Vec<Filter> = mapped
        .iter()
        .filter(|mapped| lasts(&mapped.key) && mapped.pod.is_some())
        .map(|mapped| Filter {
            reply_source: mapped.pod,
            ..filter(&mapped.key)
        })
        .collect();
    if !filters.is_empty() {
        tell(
            Conntrack::open()
                .and_then(|mut conntrack| conntrack.delete(&filters))
                .map(drop),
        );
    }
}

/// A connection to that port of some other machine is none of ours, so each address is asked for.
fn forget_strays(published: &[&Published]) -> Result<()> {
    let mut conntrack = Conntrack::open()?;
    let mut strays: Vec<Filter> = Vec::new();
    for published in published {
        let filter = filter(&published.key);
        for Connection {
            original, reply, ..
        } in conntrack.list(&filter)?
        {
            let stray = Filter {
                original_address: Some(original.destination),
                reply_source: Some(reply.source),
                ..filter
            };
            let is_led_right = reply.source == published.pod;
            if !is_led_right && !strays.contains(&stray) && is_ours(original.destination) {
                strays.push(stray);
            }
        }
    }
    conntrack.delete(&strays).map(drop)
}

fn is_ours(address: IpAddr) -> bool {
    Rtnl::open()
        .and_then(|mut rtnl| rtnl.way_to(address))
        .is_ok_and(|way| way.is_local)
}

fn filter(key: &Key) -> Filter {
    Filter {
        is_ipv6: key.is_ipv6(),
        protocol: Some(key.protocol.number()),
        original_port: Some(key.port),
        original_address: key.address(),
        reply_source: None,
    }
}

/// TCP ends its connections, and a new one is tracked anew.
fn lasts(key: &Key) -> bool {
    matches!(
        key.protocol,
        Protocol::Sctp | Protocol::Udp | Protocol::UdpLite
    )
}

/// The mapping itself stands, so this is no failure of it.
fn tell(done: Result<()>) {
    if let Err(error) = done {
        eprintln!("portmap: connections tracked before may go on where they went: {error}");
    }
}
