//! ADD, in the order in which a crash at any point leaves only what DEL finds again: the
//! reservation first, since all that is keyed by address is found by it, and then what is named
//! after the attachment.

use std::os::fd::AsFd;

use weft_cni::{Call, Delegate, Error, Interface, Outcome, Result};
use weft_net::{
    Mac, Namespace,
    route::{Link, NewVeth, PortSettings, PortState, Requests, Rtnl, VethPeer},
};

use super::{
    addressing, advertisements,
    conf::{Gateway, Plan},
    gateway, host, masquerade, pod,
    remove::remove,
    spoof, vlan,
};
use crate::{namespace, owner::Owner, told::Told};

pub(super) fn add(call: &Call, plan: &Plan) -> Result<Outcome> {
    let namespace = namespace::required(call)?;
    let mut pod = Rtnl::open_in(&namespace).told()?;
    refuse_taken_name(&mut pod, call)?;
    // Before the reservation: from there on every failure is undone.
    let host = Rtnl::open().told()?;
    let mut outcome = addresses(call, plan)?;
    let wiring = Wiring {
        call,
        plan,
        owner: Owner::of(call),
        namespace,
        pod,
        host,
    };
    match wiring.build(&mut outcome) {
        Ok(()) => Ok(outcome),
        Err(error) => {
            // What failed is what the operator needs to know; what could not be undone as well is
            // named by the DEL that the runtime must send.
            let _ = remove(call);
            Err(error)
        }
    }
}

/// Before anything is made: what has this name may be a living pod's, and an undo would take it.
fn refuse_taken_name(pod: &mut Rtnl, call: &Call) -> Result<()> {
    let ifname = call.ifname();
    match pod.link(ifname) {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error).told(),
        Ok(_) => Err(
            Error::config(format!("container veth name {ifname:?} already exists")).with_details(
                format!(
                    "{} has an interface of that name; DEL removes it",
                    call.env.netns
                ),
            ),
        ),
    }
}

fn addresses(call: &Call, plan: &Plan) -> Result<Outcome> {
    let mut outcome = match &plan.ipam {
        None => Outcome::default(),
        Some(ipam) => {
            let ipam = Delegate::find(call, ipam)?;
            // Ours undoes its own failure, and knows what was there before the call.
            let added = if ipam.is_ours() {
                ipam.add(call)
            } else {
                ipam.add_or_undo(call)
            };
            let mut outcome = added?;
            if let Err(error) = addressing::complete(&mut outcome, plan.gateway, POD_INDEX) {
                let _ = ipam.del(call);
                return Err(error);
            }
            outcome
        }
    };
    if let Some(dns) = &plan.dns {
        outcome.dns = dns.clone();
    }
    Ok(outcome)
}

/// All that the steps of an ADD share.
struct Wiring<'a> {
    call: &'a Call,
    plan: &'a Plan,
    owner: Owner,
    namespace: Namespace,
    pod: Rtnl,
    host: Rtnl,
}

impl Wiring<'_> {
    fn build(mut self, outcome: &mut Outcome) -> Result<()> {
        let plan = self.plan;
        let bridge = host::ensure_bridge(&mut self.host, plan)?;
        let mac = plan.mac.unwrap_or_else(|| self.pod_mac(outcome));
        let port = self.create_veth(&bridge, mac)?;
        advertisements::ignore(&port.name)?;
        self.set_port(port.index)?;
        let pod_link = port
            .link
            .ok_or_else(|| Error::internal("the pod's interface is gone already"))?;

        // From here on the order keeps a promise: no packet of the pod before its rules stand.
        if plan.check_source_mac {
            spoof::guard(&self.owner, mac).told()?;
        }
        masquerade::admit(plan, &self.owner, outcome)?;
        let gateway_link = self.give_bridge_its_addresses(&bridge, outcome)?;
        let pod_end = (pod_link, self.call.ifname());
        pod::configure(&mut self.pod, &self.namespace, pod_end, plan, outcome)?;
        if !plan.leave_pod_link_down {
            let up = self
                .host
                .wait_for_link(port.index, PORT_PATIENCE, lets_frames_through);
            let up = up.told()?;
            pod::announce(&mut self.pod, pod_link, mac, outcome)?;
            let gateway = gateway_link.as_ref().unwrap_or(&bridge);
            // Only the first pod brings the bridge up.
            let is_first = plan.gateway != Gateway::No && !gateway.is_operational();
            if is_first && up.is_forwarding() {
                // What more it could wait for, no pod can give it.
                let _ = self
                    .host
                    .wait_for_link(gateway.index, PORT_PATIENCE, Link::is_operational);
            }
        }
        host::greet(
            &mut self.host,
            gateway_link.as_ref().unwrap_or(&bridge),
            mac,
            outcome,
        )?;

        outcome.interfaces = self.interfaces(&bridge, &port.name, mac, gateway_link.as_ref());
        Ok(())
    }

    /// One message makes both ends, each where it belongs. The host's end, which comes back, knows
    /// the index of the pod's.
    fn create_veth(&mut self, bridge: &Link, mac: Mac) -> Result<Link> {
        let name = self.owner.host_veth();
        let veth = NewVeth {
            name: &name,
            mac: Some(Mac(self.owner.mac("host"))),
            mtu: self.plan.mtu,
            master: Some(bridge.index),
            up: true,
            peer: VethPeer {
                name: self.call.ifname(),
                mac: Some(mac),
                mtu: self.plan.mtu,
                namespace: Some(self.namespace.as_fd()),
            },
        };
        let mut requests = Requests::new();
        let made = requests.create_veth(&veth);
        let host_end = requests.get_link(name.as_str());
        let mut answers = self.host.run(requests).told()?;
        match answers.take(made) {
            // A crash left it: the name is this attachment's own, and free to be taken again.
            Err(error) if error.exists() => {
                self.host.one(|r| r.delete_link(name.as_str())).told()?;
                self.host.one(|r| r.create_veth(&veth)).told()?;
                self.host.link(name.as_str()).told()
            }
            made => {
                made.told()?;
                answers.take(host_end).told()
            }
        }
    }

    fn set_port(&mut self, port: u32) -> Result<()> {
        let Plan {
            hairpin,
            isolated,
            vlans,
            ..
        } = self.plan;
        if *hairpin || *isolated {
            let settings = PortSettings {
                hairpin: hairpin.then_some(true),
                isolated: isolated.then_some(true),
                learning: None,
            };
            self.host.one(|r| r.set_port(port, &settings)).told()?;
        }
        match vlans {
            Some(vlans) => vlan::restrict(&mut self.host, port, vlans),
            None => Ok(()),
        }
    }

    /// A pod that gets the address of one that went gets its MAC too, so that no neighbour is left
    /// with a wrong one.
    fn pod_mac(&self, outcome: &Outcome) -> Mac {
        let first = outcome.ips.first().map(|ip| ip.address.ip());
        first.map_or_else(|| Mac(self.owner.mac("pod")), pod::mac_of)
    }

    /// The link that has the gateway's addresses, if that is not the bridge.
    fn give_bridge_its_addresses(
        &mut self,
        bridge: &Link,
        outcome: &Outcome,
    ) -> Result<Option<Link>> {
        let plan = self.plan;
        if plan.gateway == Gateway::No || plan.ipam.is_none() {
            return Ok(None);
        }
        let access = plan.vlans.as_ref().and_then(|vlans| vlans.access);
        let of_vlan = match access {
            Some(vlan) => Some(vlan::gateway_link(&mut self.host, bridge, vlan, plan)?),
            None => None,
        };
        gateway::establish(
            &mut self.host,
            of_vlan.as_ref().unwrap_or(bridge),
            plan,
            outcome,
        )?;
        Ok(of_vlan)
    }

    fn interfaces(
        &self,
        bridge: &Link,
        host_veth: &str,
        mac: Mac,
        gateway: Option<&Link>,
    ) -> Vec<Interface> {
        let of = |link: &Link| Interface {
            name: link.name.clone(),
            mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            ..Interface::default()
        };
        let mut interfaces = vec![
            of(bridge),
            Interface {
                name: host_veth.to_owned(),
                mac: Mac(self.owner.mac("host")).to_string(),
                ..Interface::default()
            },
            Interface {
                name: self.call.ifname().to_owned(),
                mac: mac.to_string(),
                sandbox: self.call.env.netns.clone(),
                ..Interface::default()
            },
        ];
        interfaces.extend(gateway.map(of));
        interfaces
    }
}

/// The port is enabled a moment after its carrier comes; what is sent before is lost. With spanning
/// tree it listens for half a minute first, which no ADD waits for.
fn lets_frames_through(port: &Link) -> bool {
    let state = port.port.map(|port| port.state);
    port.is_operational() && state.is_some_and(|state| state != PortState::Disabled)
}

/// Where the pod's own interface stands among the result's.
const POD_INDEX: usize = 2;
/// The port comes up with the pod's end, and with its first port the bridge, which drops what the
/// host sends until then; the kernel's own work queue may take its time over both.
const PORT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
