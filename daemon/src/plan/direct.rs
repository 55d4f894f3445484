//! The host-gw backend: a route a peer, over the underlay's own link.

use super::{By, Desired, Inputs, Route, Seen, Side};
use crate::lease::Published;

pub(super) fn plan(inputs: &Inputs) -> Desired {
    let mut desired = Desired {
        mtu: inputs.ground.mtu,
        ..Desired::default()
    };
    let mut subnets = Seen::none();
    for peer in &inputs.peers.leases {
        for side in Side::of(peer, &inputs.conf, &mut desired.skipped) {
            if side.backend != &Published::HostGw {
                let why = format!(
                    "its backend is {}, ours is host-gw; give all nodes one configuration",
                    side.backend.name()
                );
                desired.skipped.push(side.skip(why));
            } else if [
                inputs.ground.v4.map(Into::into),
                inputs.ground.v6.map(Into::into),
            ]
            .contains(&Some(side.public))
            {
                let why = format!("it publishes our own address {}", side.public);
                desired.skipped.push(side.skip(why));
            } else if subnets.twice(side.subnet) {
                let why = "another node holds the same subnet".into();
                desired.skipped.push(side.skip(why));
            } else {
                desired.routes.push(Route {
                    destination: side.subnet,
                    metric: side.family.metric(),
                    by: By::Link {
                        link: inputs.ground.link,
                        peer: side.public,
                    },
                });
            }
        }
    }
    desired
}
