//! Watching others change what is ours, and not ourselves.

use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_net::Rtnl;
use weft_net::route::{
    Address, FdbEntry, Link, LinkChange, Neighbour, NeighbourState, NewVxlan, Requests, Route,
};
use weft_net::watch::{Event, Filter, News, Watch, owner_of};

use crate::world::{eventually, in_fresh_namespace, mac, output, veth};

/// v1, up, with an address, under a VXLAN device; returns the VXLAN's index.
pub(crate) fn overlay(rtnl: &mut Rtnl) -> u32 {
    rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
    let v1 = rtnl.link("v1").unwrap().index;
    let mut requests = Requests::new();
    let _ = (requests.set_up("v2"), requests.set_up("v1"));
    let _ = requests.add_address(&Address::new(v1, "192.0.2.1/24".parse().unwrap()));
    rtnl.run(requests).unwrap().all().unwrap();
    let vxlan = NewVxlan {
        name: "flannel.1",
        mac: None,
        mtu: None,
        txqlen: None,
        vni: 1,
        local: "192.0.2.1".parse().unwrap(),
        lower: v1,
        port: 8472,
        learning: false,
        gbp: false,
        udp_checksum: true,
        up: true,
    };
    rtnl.one(|r| r.create_vxlan(&vxlan)).unwrap();
    // That they have a carrier is told a moment later.
    for name in ["v1", "v2"] {
        rtnl.wait_for_link(name, Duration::from_secs(5), Link::is_operational)
            .unwrap();
    }
    rtnl.link("flannel.1").unwrap().index
}

/// What IPv6 does by itself would wake the watch too, at a moment of its own choosing.
fn without_ipv6() {
    for of in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6"), "1").unwrap();
    }
}

pub(crate) fn peer(link: u32, number: u8) -> (Neighbour, FdbEntry, Route) {
    let gateway = [10, 1, number, 0].into();
    let address = mac(&format!("02:00:00:00:00:{number:02x}"));
    let neighbour = Neighbour {
        link,
        address: gateway,
        mac: Some(address),
        state: NeighbourState::Permanent,
    };
    let route = Route {
        gateway: Some(gateway),
        link: Some(link),
        onlink: true,
        protocol: 84,
        ..Route::to(format!("10.1.{number}.0/24").parse().unwrap())
    };
    let remote = [192, 0, 2, number].into();
    (neighbour, FdbEntry::tunnel(link, address, remote), route)
}

fn own(rtnl: &mut Rtnl, link: u32) -> Filter {
    Filter {
        own_ports: vec![rtnl.port().unwrap()],
        neighbours_on: Some(vec![link]),
        mute_forwarding: false,
    }
}

fn is_readable(watch: &impl AsFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&now)).unwrap() > 0
}

#[track_caller]
fn assert_nothing_wakes(watch: &mut Watch) {
    if is_readable(watch) {
        let mut events = Vec::new();
        watch.read(&mut events).unwrap();
        panic!("{events:?}");
    }
}

/// What happened until `enough`.
#[track_caller]
fn events_until(watch: &mut Watch, enough: impl Fn(&Event) -> bool) -> Vec<Event> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut events = Vec::new();
    while !events.iter().any(&enough) {
        assert!(Instant::now() < deadline, "it never came: {events:?}");
        let wait = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&wait)).unwrap();
        watch.read(&mut events).unwrap();
    }
    events
}

/// Runs a program and says which process it was.
fn process_of(command: &str) -> u32 {
    let mut words = command.split_whitespace();
    let mut child = Command::new(words.next().unwrap())
        .args(words)
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success(), "{command}");
    child.id()
}

#[test]
fn a_thousand_own_changes_wake_nobody_and_one_of_anothers_does_and_is_named() {
    in_fresh_namespace(|| {
        without_ipv6();
        let mut rtnl = Rtnl::open().unwrap();
        let link = overlay(&mut rtnl);
        let filter = own(&mut rtnl, link);
        let mut watch = Watch::open(&filter).unwrap();
        for _ in 0..5 {
            let mut requests = Requests::new();
            for number in 1..=50 {
                let (neighbour, _, route) = peer(link, number);
                let _ = requests.replace_neighbour(&neighbour);
                let _ = requests.replace_route(&route);
            }
            for number in 1..=50 {
                let (neighbour, _, route) = peer(link, number);
                let _ = requests.delete_route(&route);
                let _ = requests.delete_neighbour(link, neighbour.address);
            }
            rtnl.run(requests).unwrap().all().unwrap();
        }
        assert_nothing_wakes(&mut watch);

        let (neighbour, _, route) = peer(link, 1);
        let mut requests = Requests::new();
        let _ = requests.replace_neighbour(&neighbour);
        let _ = requests.replace_route(&route);
        rtnl.run(requests).unwrap().all().unwrap();
        assert_nothing_wakes(&mut watch);
        let culprit = process_of("ip route del 10.1.1.0/24");
        assert!(is_readable(&watch));
        let mut events = Vec::new();
        watch.read(&mut events).unwrap();
        let [event] = events[..] else {
            panic!("{events:?}")
        };
        let News::Route { route: told, gone } = event.news else {
            panic!("{event:?}")
        };
        assert_eq!((event.by, gone), (culprit, true));
        assert_eq!(told.destination, route.destination);
        assert_eq!((told.gateway, told.link), (route.gateway, route.link));
        assert_eq!((told.protocol, told.onlink), (84, true));
    });
}

#[test]
fn who_deletes_or_changes_a_neighbour_is_named_and_it_is_told_once() {
    in_fresh_namespace(|| {
        without_ipv6();
        let mut rtnl = Rtnl::open().unwrap();
        let link = overlay(&mut rtnl);
        let (neighbour, ..) = peer(link, 1);
        rtnl.one(|r| r.replace_neighbour(&neighbour)).unwrap();
        let filter = own(&mut rtnl, link);
        let mut watch = Watch::open(&filter).unwrap();

        let other =
            "ip neigh replace 10.1.1.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent";
        let changer = process_of(other);
        let deleter = process_of("ip neigh del 10.1.1.0 dev flannel.1");
        let mut events = Vec::new();
        watch.read(&mut events).unwrap();
        let told: Vec<_> = events
            .iter()
            .map(|event| match event.news {
                News::Neighbour { neighbour, gone } => {
                    (event.by, neighbour.address, neighbour.mac, gone)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            told,
            [
                (
                    changer,
                    neighbour.address,
                    Some(mac("02:00:00:00:00:99")),
                    false
                ),
                (deleter, neighbour.address, None, true)
            ]
        );
    });
}

#[test]
fn forwarding_entries_are_told_of_unless_muted() {
    in_fresh_namespace(|| {
        without_ipv6();
        let mut rtnl = Rtnl::open().unwrap();
        let link = overlay(&mut rtnl);
        let filter = own(&mut rtnl, link);
        let mut watch = Watch::open(&filter).unwrap();
        let (_, entry, _) = peer(link, 1);

        let muted = Filter {
            mute_forwarding: true,
            ..filter.clone()
        };
        watch.set_filter(&muted).unwrap();
        rtnl.one(|r| r.replace_fdb(&entry)).unwrap();
        assert_nothing_wakes(&mut watch);
        watch.set_filter(&filter).unwrap();
        output("bridge fdb del 02:00:00:00:00:01 dev flannel.1 dst 192.0.2.1");
        let mut events = Vec::new();
        watch.read(&mut events).unwrap();
        let gone = News::Fdb { entry, gone: true };
        // The kernel does not say who did it.
        assert_eq!(events, [Event { by: 0, news: gone }]);

        let elsewhere = Filter {
            neighbours_on: Some((1000..1400).collect()),
            ..filter
        };
        watch.set_filter(&elsewhere).unwrap();
        output("bridge fdb add 02:00:00:00:00:01 dev flannel.1 dst 192.0.2.1");
        assert_nothing_wakes(&mut watch);
    });
}

#[test]
fn links_and_addresses_are_told_of_as_they_come_change_and_go() {
    in_fresh_namespace(|| {
        without_ipv6();
        let mut rtnl = Rtnl::open().unwrap();
        let link = overlay(&mut rtnl);
        let filter = own(&mut rtnl, link);
        let mut watch = Watch::open(&filter).unwrap();
        output("ip addr add 10.1.7.0/32 dev flannel.1");
        let events = events_until(&mut watch, |_| true);
        let News::Address { address, gone } = events[0].news else {
            panic!("{events:?}")
        };
        assert_eq!(address.address.to_string(), "10.1.7.0/32");
        assert_eq!((address.link, gone), (link, false));

        output("ip link set flannel.1 mtu 1400");
        let events = events_until(&mut watch, |_| true);
        let News::Link {
            index,
            name,
            mtu,
            up,
            gone,
            ..
        } = events[0].news
        else {
            panic!("{events:?}")
        };
        assert_eq!((index, name.as_str(), mtu), (link, "flannel.1", 1400));
        assert!(up && !gone);

        let culprit = process_of("ip link del flannel.1");
        let is_gone = |event: &Event| matches!(event.news, News::Link { index, gone: true, .. } if index == link);
        let events = events_until(&mut watch, is_gone);
        let last = events.iter().find(|event| is_gone(event)).unwrap();
        // Kernels before 6.2 do not say.
        assert!(last.by == culprit || last.by == 0, "{last:?}");
    });
}

#[test]
fn what_overflows_is_an_event_and_not_an_error() {
    in_fresh_namespace(|| {
        without_ipv6();
        let mut rtnl = Rtnl::open().unwrap();
        let link = overlay(&mut rtnl);
        let mut watch = Watch::open(&Filter::default()).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&watch, 4096).unwrap();
        let mut requests = Requests::new();
        for number in 1..=100 {
            let _ = requests.replace_route(&peer(link, number).2);
        }
        rtnl.run(requests).unwrap().all().unwrap();
        let overrun = |event: &Event| event.news == News::Overrun;
        events_until(&mut watch, overrun);

        let lower = LinkChange {
            mtu: Some(1300),
            ..LinkChange::default()
        };
        rtnl.one(|r| r.set_link(link, &lower)).unwrap();
        let told = |event: &Event| matches!(event.news, News::Link { mtu: 1300, .. });
        events_until(&mut watch, told);
    });
}

#[test]
fn a_port_leads_to_its_process_whatever_number_it_is() {
    in_fresh_namespace(|| {
        // The second socket of a process has a number of its own.
        let mut sockets = [Rtnl::open().unwrap(), Rtnl::open().unwrap()];
        let ports = sockets.each_mut().map(|rtnl| rtnl.port().unwrap());
        assert_ne!(ports[0], ports[1]);
        for port in ports {
            assert_eq!(owner_of(port).unwrap().pid, std::process::id());
        }
        let mut other = Command::new("ip")
            .args(["monitor", "link"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        eventually(|| owner_of(other.id()).is_some_and(|owner| owner.program == "ip"));
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(owner_of(other.id()), None);
        assert_eq!(owner_of(0), None);
    });
}
