//! `loopback`: the pod's own `lo`, up.

use ipnetwork::IpNetwork;
use weft_cni::{Address, Call, Error, Interface, Outcome, Plugin, Result};
use weft_net::{
    Namespace,
    route::{Requests, Rtnl},
};

use crate::{namespace, told::Told};

#[derive(Debug)]
pub struct Loopback;

impl Plugin for Loopback {
    fn name(&self) -> &'static str {
        "loopback"
    }

    fn add(&self, call: &Call) -> Result<Outcome> {
        let mut pod = Rtnl::open_in(&namespace::required(call)?).told()?;
        let mut requests = Requests::new();
        let raised = requests.set_up(LO);
        let lo = requests.get_link(LO);
        let mut answers = pod.run(requests).told()?;
        answers.take(raised).told()?;
        let lo = answers.take(lo).told()?;
        let addresses = pod.addresses_of(lo.index).told()?;
        let addresses: Vec<IpNetwork> = addresses.iter().map(|found| found.address).collect();
        if let Some(strange) = addresses.iter().find(|address| !address.ip().is_loopback()) {
            return Err(Error::config(format!(
                "loopback interface has the address {strange}, which is none of its own"
            ))
            .with_details("remove it: pods reach themselves by 127.0.0.1 and ::1"));
        }
        // What the plugins before us said is the chain's result; ours is one only when we are first.
        match call.conf.prev_result()? {
            Some(result) => Ok(result),
            None => Ok(result(call, &addresses)),
        }
    }

    fn del(&self, call: &Call) -> Result<()> {
        // Without a namespace there is no loopback left to lower.
        let Some(pod) = namespace::if_there(call)? else {
            return Ok(());
        };
        match Rtnl::open_in(&pod).told()?.one(|r| r.set_down(LO)) {
            Err(error) if error.is_not_found() => Ok(()),
            done => done.told(),
        }
    }

    fn check(&self, call: &Call) -> Result<()> {
        let lo = Rtnl::open_in(&namespace::required(call)?)
            .told()?
            .link(LO)
            .told()?;
        if lo.up {
            return Ok(());
        }
        Err(Error::internal("loopback interface is down"))
    }

    /// A loopback lives and dies with its namespace: there is nothing to collect.
    fn gc(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    /// Ready where namespaces and netlink are to be had at all.
    fn status(&self, _: &Call) -> Result<()> {
        Namespace::current()
            .and_then(|_| Rtnl::open())
            .map(drop)
            .told()
    }
}

fn result(call: &Call, addresses: &[IpNetwork]) -> Outcome {
    let lo = Interface {
        name: LO.into(),
        mac: "00:00:00:00:00:00".into(),
        sandbox: call.env.netns.clone(),
        ..Interface::default()
    };
    let ip = |address: &IpNetwork| Address {
        interface: Some(0),
        address: *address,
        gateway: None,
    };
    Outcome {
        interfaces: vec![lo],
        ips: addresses.iter().map(ip).collect(),
        ..Outcome::default()
    }
}

const LO: &str = "lo";
