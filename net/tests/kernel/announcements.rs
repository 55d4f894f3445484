//! When a new pod can be reached by those who knew its address's former owner.
//!
//! Found on kernel 6.18: as soon as eth0 is raised in the pod, the first look at the near end
//! says up and forwarding, since the look itself brings the carrier's state up to date (older
//! kernels do that a moment later and send an event, see `wait_for_link`). Yet what eth0 sends
//! while it is being raised, an announcement for instance, comes before that: it is lost three
//! times in four. So announce once the near end has been seen forwarding.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use weft_net::route::{
    Address, Ipv4Conf, LinkChange, Neighbour, NeighbourState, NewVeth, Requests,
};
use weft_net::sysctl::Key;
use weft_net::{Namespace, Protocol, Rtnl, Socket};

use crate::world::{bridge, fresh_namespace, in_fresh_namespace, mac, veth};

const ADDRESSES: [&str; 4] = ["10.0.0.2/24", "10.0.0.3/24", "fd00::2/64", "fd00::3/64"];
const PATIENCE: Duration = Duration::from_secs(10);

//   host                    pods
//        ┌─ old ═════════ eth0   10.0.0.9, fd00::9; remembers the new pod's elsewhere
//   br0 ─┤
//        └─ new ═════════ eth0   10.0.0.2 and 3, fd00::2 and 3
#[test]
fn an_announcement_corrects_what_other_pods_remember_of_a_reused_address() {
    in_fresh_namespace(|| {
        let mut host = Rtnl::open().unwrap();
        host.one(|r| r.create_bridge(&bridge("br0"))).unwrap();
        let (old_pod, new_pod) = (fresh_namespace(), fresh_namespace());
        let mut old = plug_in(&mut host, "old", &old_pod);
        let mut new = plug_in(&mut host, "new", &new_pod);

        raise(&mut old, &["10.0.0.9/24", "fd00::9/64"]);
        host.wait_for_link("old", PATIENCE, |l| l.is_forwarding())
            .unwrap();
        let stale_mac = mac("02:00:00:00:dd:dd");
        remember(&mut old, stale_mac);
        let mut events = old_pod
            .enter(|| Socket::open(Protocol::Route))
            .unwrap()
            .unwrap();
        events.subscribe(RTNLGRP_NEIGH).unwrap();

        raise(&mut new, &ADDRESSES);
        host.wait_for_link("new", PATIENCE, |l| l.is_forwarding())
            .unwrap();
        let settings = [(Ipv4Conf::ArpNotify, 1)];
        let change = LinkChange {
            ipv4_conf: &settings,
            ..LinkChange::default()
        };
        new.one(|r| r.set_link("eth0", &change)).unwrap();
        let ndisc_notify = Key::ipv6_conf("eth0", "ndisc_notify").unwrap();
        new_pod.enter(|| ndisc_notify.set("1")).unwrap().unwrap();
        assert_eq!(remembered(&mut old), [Some(stale_mac); 4]);

        let true_mac = new.link("eth0").unwrap().mac.unwrap();
        new.one(|r| r.announce("eth0", true_mac)).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while remembered(&mut old) != [Some(true_mac); 4] {
            assert!(
                events.wait(deadline).unwrap(),
                "still {:?}",
                remembered(&mut old)
            );
            events.receive().unwrap();
        }
    });
}

fn plug_in(host: &mut Rtnl, name: &str, pod: &Namespace) -> Rtnl {
    let mut new = NewVeth {
        up: true,
        ..veth(name, "eth0")
    };
    new.master = Some(host.link("br0").unwrap().index);
    new.peer.namespace = Some(pod.as_fd());
    host.one(|r| r.create_veth(&new)).unwrap();
    Rtnl::open_in(pod).unwrap()
}

fn raise(pod: &mut Rtnl, addresses: &[&str]) {
    let link = pod.link("eth0").unwrap().index;
    let mut requests = Requests::new();
    for address in addresses {
        let _ = requests.add_address(&Address::new(link, address.parse().unwrap()).nodad());
    }
    let _ = requests.set_up(link);
    pod.run(requests).unwrap().all().unwrap();
}

fn remember(pod: &mut Rtnl, mac: weft_net::Mac) {
    let link = pod.link("eth0").unwrap().index;
    for address in the_addresses() {
        let state = NeighbourState::Stale;
        let neighbour = Neighbour {
            link,
            address,
            mac: Some(mac),
            state,
        };
        pod.one(|r| r.replace_neighbour(&neighbour)).unwrap();
    }
}

fn remembered(pod: &mut Rtnl) -> [Option<weft_net::Mac>; 4] {
    let link = pod.link("eth0").unwrap().index;
    let all = pod.neighbours_of(link).unwrap();
    the_addresses().map(|ip| all.iter().find(|n| n.address == ip).and_then(|n| n.mac))
}

fn the_addresses() -> [IpAddr; 4] {
    ADDRESSES.map(|a| a.parse::<ipnetwork::IpNetwork>().unwrap().ip())
}

const RTNLGRP_NEIGH: u32 = 3;
