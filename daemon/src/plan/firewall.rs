//! What the firewall has to let through, rewrite and keep out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Inputs;
use crate::conf::Backend;
use crate::firewall::{Guard, Masquerade, Spec};

pub(super) fn plan(inputs: &Inputs) -> Spec {
    let own = [
        inputs.own.subnets.v4.map(IpNetwork::V4),
        inputs.own.subnets.v6.map(IpNetwork::V6),
    ];
    let wishes = &inputs.wishes;
    Spec {
        networks: inputs.conf.networks.clone(),
        own: own.into_iter().flatten().collect(),
        masquerade: wishes.masquerade.then(|| Masquerade {
            random_fully: wishes.random_fully,
            spared: wishes.spared.clone(),
        }),
        forward: wishes.forward,
        guard: guard(inputs),
    }
}

/// None where some node's packets come from an address that it cannot tell, and where there is no
/// device of the kernel to guard: the packet path looks at each packet itself.
fn guard(inputs: &Inputs) -> Option<Guard> {
    let Backend::Vxlan(vxlan) = &inputs.conf.backend else {
        return None;
    };
    let attrs = || inputs.peers.leases.iter().map(|lease| &lease.attrs);
    let untold = attrs().any(|attrs| attrs.extra.as_ref().is_some_and(|e| e.overwritten));
    if !inputs.wishes.guard || untold {
        return None;
    }
    let from = attrs()
        .flat_map(|attrs| {
            let public = [
                attrs.public_ip.map(IpAddr::V4),
                attrs.public_ipv6.map(IpAddr::V6),
            ];
            let sources = attrs.extra.iter().flat_map(|extra| extra.sources.clone());
            public.into_iter().flatten().chain(sources)
        })
        .collect::<BTreeSet<_>>();
    Some(Guard {
        port: vxlan.port,
        from,
        lenient: inputs.remembered,
        lasting: Guard::LASTING,
    })
}
