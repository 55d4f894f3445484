//! Links, as the kernel makes them and `ip` sees them.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use weft_net::route::{
    Ipv4Conf, LinkChange, NewBridge, NewVeth, OperState, PortSettings, PortState, Requests,
    VlanOwner, VlanRange,
};
use weft_net::{Rtnl, Why};

use crate::world::{bridge, fresh_namespace, in_fresh_namespace, json, mac, one, output, veth};

//   host                     pod
//   br0 ── veth1  ═══════════ eth0
#[test]
fn one_message_makes_the_bridge_and_one_the_whole_way_into_the_pod() {
    in_fresh_namespace(|| {
        let pod = fresh_namespace();
        let mut rtnl = Rtnl::open().unwrap();
        let wanted = NewBridge {
            mac: Some(mac("02:00:00:00:00:01")),
            mtu: Some(1400),
            promisc: true,
            ..bridge("br0")
        };
        let mut requests = Requests::new();
        let made = requests.create_bridge(&wanted);
        let looked_up = requests.get_link("br0");
        let mut answers = rtnl.run(requests).unwrap();
        answers.take(made).unwrap();
        let br0 = answers.take(looked_up).unwrap();
        assert!(br0.is_bridge() && br0.up && br0.promisc);
        assert_eq!((br0.mtu, br0.mac), (1400, wanted.mac));
        assert_eq!(br0.bridge.map(|b| b.vlan_filtering), Some(false));

        let mut wanted = veth("veth1", "eth0");
        wanted.mac = Some(mac("02:00:00:00:00:02"));
        wanted.mtu = Some(1400);
        wanted.master = Some(br0.index);
        wanted.up = true;
        wanted.peer.mac = Some(mac("02:00:00:00:00:03"));
        wanted.peer.mtu = Some(1399);
        wanted.peer.namespace = Some(pod.as_fd());
        let mut requests = Requests::new();
        let made = requests.create_veth(&wanted);
        let looked_up = requests.get_link("veth1");
        let mut answers = rtnl.run(requests).unwrap();
        answers.take(made).unwrap();
        let seen = answers.take(looked_up).unwrap();

        let host = one("ip -j -d link show veth1");
        assert_eq!(host["master"], "br0");
        assert_eq!(host["address"], "02:00:00:00:00:02");
        assert_eq!(host["mtu"], 1400);
        assert!(host["flags"].as_array().unwrap().contains(&"UP".into()));
        let inside = pod.enter(|| one("ip -j -d link show eth0")).unwrap();
        assert_eq!(inside["address"], "02:00:00:00:00:03");
        assert_eq!(inside["mtu"], 1399);

        assert!(seen.is_veth());
        assert_eq!(seen.master, Some(br0.index));
        // The near end tells where the far end is, so nobody has to look in the pod.
        assert_eq!(seen.link.map(u64::from), inside["ifindex"].as_u64());
        assert!(seen.link_namespace.is_some());
        let eth0 = Rtnl::open_in(&pod).unwrap().link("eth0").unwrap();
        assert_eq!((eth0.name.as_str(), eth0.link), ("eth0", Some(seen.index)));
    });
}

#[test]
fn each_request_of_a_batch_has_its_own_result_and_a_refusal_does_not_stop_the_rest() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let mut requests = Requests::new();
        let first = requests.create_bridge(&bridge("br0"));
        let again = requests.create_bridge(&bridge("br0"));
        let absent = requests.get_link("nowhere");
        let loopback = requests.set_up("lo");
        let last = requests.get_link("lo");
        let mut answers = rtnl.run(requests).unwrap();
        answers.take(first).unwrap();
        assert!(answers.take(again).unwrap_err().exists());
        let error = answers.take(absent).unwrap_err();
        assert!(error.is_not_found());
        assert!(
            error
                .to_string()
                .starts_with("look up link nowhere: No such device"),
            "{error}"
        );
        answers.take(loopback).unwrap();
        let lo = answers.take(last).unwrap();
        assert!(lo.up && lo.loopback);
    });
}

#[test]
fn a_refusal_carries_the_kernels_explanation() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_bridge(&bridge("br0"))).unwrap();
        let change = LinkChange {
            mtu: Some(10),
            ..LinkChange::default()
        };
        let error = rtnl.one(|r| r.set_link("br0", &change)).unwrap_err();
        let Why::Refused {
            errno: Errno::INVAL,
            explanation: Some(text),
        } = error.why()
        else {
            panic!("{error}")
        };
        assert_eq!(text, "mtu less than device minimum");
    });
}

#[test]
fn a_batch_larger_than_any_buffer_is_carried_out_whole() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let mut requests = Requests::new();
        let tickets: Vec<_> = (0..1000).map(|_| requests.get_link("lo")).collect();
        let mut answers = rtnl.run(requests).unwrap();
        for ticket in tickets {
            assert_eq!(answers.take(ticket).unwrap().name, "lo");
        }
    });
}

#[test]
fn every_setting_of_a_link_can_be_changed_in_one_message() {
    in_fresh_namespace(|| {
        let pod = fresh_namespace();
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_bridge(&bridge("br0"))).unwrap();
        rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
        let br0 = rtnl.link("br0").unwrap().index;
        let change = LinkChange {
            up: Some(true),
            promisc: Some(true),
            mac: Some(mac("02:00:00:00:00:07")),
            mtu: Some(1280),
            txqlen: Some(77),
            master: Some(br0),
            alias: Some("of pod 7"),
            ..LinkChange::default()
        };
        rtnl.one(|r| r.set_link("v1", &change)).unwrap();
        let seen = one("ip -j -d link show v1");
        assert_eq!(seen["address"], "02:00:00:00:00:07");
        assert_eq!((&seen["mtu"], &seen["txqlen"]), (&1280.into(), &77.into()));
        assert_eq!(
            (&seen["master"], &seen["ifalias"]),
            (&"br0".into(), &"of pod 7".into())
        );
        let link = rtnl.link("v1").unwrap();
        assert!(link.up && link.promisc);
        assert_eq!((link.txqlen, link.alias.as_deref()), (77, Some("of pod 7")));

        let back = LinkChange {
            master: Some(0),
            promisc: Some(false),
            ..LinkChange::default()
        };
        rtnl.one(|r| r.set_link(link.index, &back)).unwrap();
        rtnl.one(|r| r.set_down("v1")).unwrap();
        let link = rtnl.link("v1").unwrap();
        assert!(!link.up && !link.promisc && link.master.is_none());

        let away = LinkChange {
            name: Some("eth9"),
            namespace: Some(pod.as_fd()),
            ..LinkChange::default()
        };
        rtnl.one(|r| r.set_link(link.index, &away)).unwrap();
        assert!(rtnl.link("v1").unwrap_err().is_not_found());
        assert_eq!(
            Rtnl::open_in(&pod).unwrap().link("eth9").unwrap().mac,
            link.mac
        );
    });
}

#[test]
fn ipv4_settings_are_switched_on_and_off_without_a_file() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
        let key = weft_net::sysctl::Key::ipv4_conf("v1", "arp_notify").unwrap();
        for value in [1, 0] {
            let settings = [(Ipv4Conf::ArpNotify, value)];
            let change = LinkChange {
                ipv4_conf: &settings,
                ..LinkChange::default()
            };
            rtnl.one(|r| r.set_link("v1", &change)).unwrap();
            assert_eq!(key.read().unwrap(), Some(value.to_string()));
        }
    });
}

#[test]
fn ports_are_listed_by_their_bridge_and_links_by_their_kind() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        for name in ["br0", "br1"] {
            rtnl.one(|r| r.create_bridge(&bridge(name))).unwrap();
        }
        let br1 = rtnl.link("br1").unwrap().index;
        for (name, peer, master) in [
            ("a1", "a2", None),
            ("b1", "b2", Some(br1)),
            ("c1", "c2", Some(br1)),
        ] {
            rtnl.one(|r| {
                r.create_veth(&NewVeth {
                    master,
                    ..veth(name, peer)
                })
            })
            .unwrap();
        }
        let names = |links: Vec<weft_net::route::Link>| {
            let mut names: Vec<String> = links.into_iter().map(|l| l.name).collect();
            names.sort();
            names
        };
        assert_eq!(names(rtnl.links_of_master(br1).unwrap()), ["b1", "c1"]);
        assert_eq!(names(rtnl.links_of_kind("bridge").unwrap()), ["br0", "br1"]);
        let all = json("ip -j link show").len();
        assert_eq!(rtnl.links().unwrap().len(), all);
    });
}

#[test]
fn a_link_is_deleted_by_name_with_no_look_up_and_its_peer_goes_with_it() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
        rtnl.one(|r| r.delete_link("v1")).unwrap();
        assert!(rtnl.link("v2").unwrap_err().is_not_found());
        assert!(
            rtnl.one(|r| r.delete_link("v1"))
                .unwrap_err()
                .is_not_found()
        );
    });
}

#[test]
fn a_ports_settings_are_changed_one_by_one_and_read_back() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_bridge(&bridge("br0"))).unwrap();
        let master = Some(rtnl.link("br0").unwrap().index);
        rtnl.one(|r| {
            r.create_veth(&NewVeth {
                master,
                ..veth("v1", "v2")
            })
        })
        .unwrap();
        let v1 = rtnl.link("v1").unwrap();
        let port = v1.port.unwrap();
        assert!(!port.hairpin && !port.isolated && port.learning);
        assert_eq!(port.state, PortState::Disabled);

        let some = PortSettings {
            hairpin: Some(true),
            isolated: Some(true),
            learning: None,
        };
        rtnl.one(|r| r.set_port(v1.index, &some)).unwrap();
        let port = rtnl.link("v1").unwrap().port.unwrap();
        assert!(port.hairpin && port.isolated && port.learning);
        let seen = one("bridge -j -d link show dev v1");
        assert_eq!(
            (&seen["hairpin"], &seen["isolated"]),
            (&true.into(), &true.into())
        );

        let others = PortSettings {
            isolated: Some(false),
            learning: Some(false),
            hairpin: None,
        };
        rtnl.one(|r| r.set_port(v1.index, &others)).unwrap();
        let port = rtnl.link("v1").unwrap().port.unwrap();
        assert!(port.hairpin && !port.isolated && !port.learning);
    });
}

#[test]
fn vlans_are_put_on_a_port_or_the_kernel_says_it_cannot() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let made = rtnl.one(|r| {
            r.create_bridge(&NewBridge {
                vlan_filtering: Some(true),
                ..bridge("br0")
            })
        });
        if let Err(error) = made {
            assert!(error.is_not_supported(), "{error}");
            // Nothing is left behind, and without the feature the same bridge can be made.
            assert!(rtnl.link("br0").unwrap_err().is_not_found());
            rtnl.one(|r| r.create_bridge(&bridge("br0"))).unwrap();
            let br0 = rtnl.link("br0").unwrap().index;
            let add = |owner| move |r: &mut Requests| r.add_vlans(owner, &[VlanRange::access(5)]);
            let error = rtnl.one(add(VlanOwner::Bridge(br0))).unwrap_err();
            assert!(error.is_not_supported(), "{error}");
            return;
        }
        let br0 = rtnl.link("br0").unwrap().index;
        let new = NewVeth {
            master: Some(br0),
            ..veth("v1", "v2")
        };
        rtnl.one(|r| r.create_veth(&new)).unwrap();
        let v1 = rtnl.link("v1").unwrap().index;
        let range = VlanRange {
            first: 10,
            last: 20,
            pvid: false,
            untagged: false,
        };
        rtnl.one(|r| r.delete_vlans(VlanOwner::Port(v1), &[VlanRange::tagged(1)]))
            .unwrap();
        rtnl.one(|r| r.add_vlans(VlanOwner::Port(v1), &[VlanRange::access(5), range]))
            .unwrap();
        let told = rtnl.vlans().unwrap();
        let of_v1: Vec<_> = told
            .into_iter()
            .filter(|v| v.link == v1)
            .map(|v| v.range)
            .collect();
        assert_eq!(of_v1, [VlanRange::access(5), range]);
    });
}

#[test]
fn a_wait_ends_with_the_event_that_fulfils_it() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| {
            r.create_veth(&NewVeth {
                up: true,
                ..veth("v1", "v2")
            })
        })
        .unwrap();
        assert_eq!(
            rtnl.link("v1").unwrap().operstate,
            OperState::LowerLayerDown
        );
        let mut other = Rtnl::open().unwrap();
        let raise = thread::spawn(move || other.one(|r| r.set_up("v2")));
        let link = rtnl.wait_for_link("v1", Duration::from_secs(10), |l| l.is_operational());
        assert_eq!(link.unwrap().operstate, OperState::Up);
        raise.join().unwrap().unwrap();
        // The socket that waited is still good for requests.
        assert!(rtnl.link("v2").unwrap().up);
        rtnl.one(|r| r.delete_link("v1")).unwrap();
    });
}

#[test]
fn a_wait_in_vain_ends_at_its_deadline() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| {
            r.create_veth(&NewVeth {
                up: true,
                ..veth("v1", "v2")
            })
        })
        .unwrap();
        let patience = Duration::from_millis(30);
        let error = rtnl
            .wait_for_link("v1", patience, |l| l.is_operational())
            .unwrap_err();
        assert_eq!(error.why(), &Why::TimedOut(patience));
    });
}

#[test]
fn a_listing_is_whole_even_while_links_come_and_go() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        for i in 0..60 {
            let (name, peer) = (format!("a{i}"), format!("b{i}"));
            rtnl.one(|r| r.create_veth(&veth(&name, &peer))).unwrap();
        }
        let mut other = Rtnl::open().unwrap();
        let churn = thread::spawn(move || {
            for _ in 0..20 {
                other.one(|r| r.create_bridge(&bridge("zz"))).unwrap();
                other.one(|r| r.delete_link("zz")).unwrap();
            }
        });
        while !churn.is_finished() {
            // A table that changes all the time may defeat every attempt, but is never told torn.
            if let Ok(links) = rtnl.links() {
                let steady = links.iter().filter(|l| l.is_veth()).count();
                assert_eq!(steady, 120);
            }
        }
        churn.join().unwrap();
        assert_eq!(output("ip -o link show type veth").lines().count(), 120);
    });
}
