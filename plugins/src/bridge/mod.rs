//! `bridge`: a veth pair from the pod to a bridge of the host, addresses, routes, masquerade.

mod add;
mod addressing;
mod advertisements;
mod check;
mod conf;
mod gateway;
mod gc;
mod host;
mod masquerade;
mod pod;
mod remove;
mod spoof;
mod vlan;

use weft_cni::{Call, Code, Delegate, Error, Outcome, Plugin, Result};
use weft_net::Rtnl;

use crate::told::Told;

pub(crate) use spoof::{TABLE as SPOOF_TABLE, collect as collect_spoof, comments};

#[derive(Debug)]
pub struct Bridge;

impl Plugin for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn add(&self, call: &Call) -> Result<Outcome> {
        add::add(call, &conf::Plan::of(call)?)
    }

    fn del(&self, call: &Call) -> Result<()> {
        remove::remove(call)
    }

    fn check(&self, call: &Call) -> Result<()> {
        check::check(call, &conf::Plan::of(call)?)
    }

    fn gc(&self, call: &Call) -> Result<()> {
        gc::collect(call)
    }

    /// Ready when the configuration makes sense, the kernel answers, and addresses can be had.
    fn status(&self, call: &Call) -> Result<()> {
        let unready = |error: Error| Error {
            code: Code::NotAvailable,
            ..error
        };
        let plan = conf::Plan::of(call).map_err(unready)?;
        Rtnl::open().told().map_err(unready)?;
        masquerade::status(&plan).map_err(unready)?;
        match &plan.ipam {
            Some(ipam) => Delegate::find(call, ipam).map_err(unready)?.status(call),
            None => Ok(()),
        }
    }
}

/// What fuzzing feeds: the plan, and all that DEL reads.
pub(crate) fn plan_anything(call: &Call) {
    if let Ok(plan) = conf::Plan::of(call) {
        assert!((1..=15).contains(&plan.bridge.len()), "{plan:?}");
    }
    let _ = conf::bridge_name(&call.conf);
}
