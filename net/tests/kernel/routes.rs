//! Routes with all their attributes, both families.

use ipnetwork::IpNetwork;
use rustix::io::Errno;
use weft_net::Rtnl;
use weft_net::route::{Address, Requests, Route, RouteFilter, RouteKind, Scope};

use crate::world::{eventually, in_fresh_namespace, json, one, output, veth};

/// v1, up, with 10.1.0.2/24 and fd00::2/64; returns its index.
fn link_with_addresses(rtnl: &mut Rtnl) -> u32 {
    rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
    let v1 = rtnl.link("v1").unwrap().index;
    let mut requests = Requests::new();
    let _ = (requests.set_up("v2"), requests.set_up("v1"));
    for address in ["10.1.0.2/24", "fd00::2/64"] {
        let _ = requests.add_address(&Address::new(v1, address.parse().unwrap()).nodad());
    }
    rtnl.run(requests).unwrap().all().unwrap();
    v1
}

fn to(destination: &str) -> Route {
    Route::to(destination.parse::<IpNetwork>().unwrap())
}

#[test]
fn a_route_keeps_every_attribute_it_is_given() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let link = Some(link_with_addresses(&mut rtnl));
        let cases = [
            (
                "10.7.0.0/16",
                "10.1.0.1",
                "10.1.0.2",
                "ip -j route show table 300",
            ),
            (
                "fd07::/16",
                "fd00::1",
                "fd00::2",
                "ip -6 -j route show table 300",
            ),
        ];
        for (destination, gateway, source, command) in cases {
            let route = Route {
                gateway: Some(gateway.parse().unwrap()),
                link,
                source: Some(source.parse().unwrap()),
                priority: Some(77),
                table: 300,
                scope: Some(Scope::UNIVERSE),
                mtu: Some(1300),
                advmss: Some(1200),
                protocol: 84,
                ..to(destination)
            };
            rtnl.one(|r| r.add_route(&route)).unwrap();
            let seen = one(command);
            assert_eq!(
                (&seen["dst"], &seen["gateway"]),
                (&destination.into(), &gateway.into())
            );
            assert_eq!(
                (&seen["prefsrc"], &seen["metric"]),
                (&source.into(), &77.into())
            );
            assert_eq!(seen["protocol"], "84");
            let metrics = &seen["metrics"][0];
            assert_eq!(
                (&metrics["mtu"], &metrics["advmss"]),
                (&1300.into(), &1200.into())
            );

            let ipv6 = route.destination.is_ipv6();
            let filter = RouteFilter {
                ipv6,
                table: Some(300),
                protocol: Some(84),
                link,
                ..RouteFilter::default()
            };
            assert_eq!(rtnl.routes(filter).unwrap(), [route]);
            assert!(rtnl.one(|r| r.add_route(&route)).unwrap_err().exists());
            rtnl.one(|r| r.delete_route(&route)).unwrap();
            assert!(
                rtnl.one(|r| r.delete_route(&route))
                    .unwrap_err()
                    .is_not_found()
            );
            assert_eq!(rtnl.routes(filter).unwrap(), []);
        }
    });
}

#[test]
fn a_gateway_off_the_link_needs_onlink() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let link = Some(link_with_addresses(&mut rtnl));
        for (destination, gateway) in [("0.0.0.0/0", "169.254.1.1"), ("::/0", "fd99::1")] {
            let gateway = Some(gateway.parse().unwrap());
            let route = Route {
                gateway,
                link,
                ..to(destination)
            };
            let refused = rtnl.one(|r| r.add_route(&route)).unwrap_err();
            let unreachable = [Some(Errno::NETUNREACH), Some(Errno::HOSTUNREACH)];
            assert!(unreachable.contains(&refused.errno()), "{refused}");
            let route = Route {
                onlink: true,
                ..route
            };
            rtnl.one(|r| r.add_route(&route)).unwrap();
            let filter = RouteFilter {
                ipv6: route.destination.is_ipv6(),
                ..RouteFilter::default()
            };
            let told = rtnl
                .routes(filter)
                .unwrap()
                .into_iter()
                .find(Route::is_default)
                .unwrap();
            assert_eq!((told.gateway, told.onlink), (gateway, true));
        }
    });
}

#[test]
fn ipv4_goes_by_way_of_an_ipv6_neighbour() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let link = Some(link_with_addresses(&mut rtnl));
        let route = Route {
            gateway: Some("fd00::1".parse().unwrap()),
            link,
            ..to("10.8.0.0/16")
        };
        rtnl.one(|r| r.add_route(&route)).unwrap();
        assert_eq!(
            one("ip -j route show 10.8.0.0/16")["via"]["host"],
            "fd00::1"
        );
        let told = rtnl.routes(RouteFilter::default()).unwrap();
        let told = told
            .iter()
            .find(|r| r.destination == route.destination)
            .unwrap();
        assert_eq!(told.gateway, route.gateway);
    });
}

#[test]
fn a_second_gateway_is_added_beside_the_first_and_replace_leaves_one() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let link = Some(link_with_addresses(&mut rtnl));
        for (destination, gateways) in [
            ("10.8.0.0/16", ["10.1.0.7", "10.1.0.8"]),
            ("fd08::/16", ["fd00::7", "fd00::8"]),
        ] {
            let route = |gateway: &str| Route {
                gateway: Some(gateway.parse().unwrap()),
                link,
                ..to(destination)
            };
            let filter = RouteFilter {
                ipv6: destination.contains(':'),
                link,
                ..RouteFilter::default()
            };
            let gateways_told = |rtnl: &mut Rtnl| {
                let mut told = rtnl.routes(filter).unwrap();
                told.retain(|r| r.destination == destination.parse().unwrap());
                let mut told: Vec<_> = told.into_iter().filter_map(|r| r.gateway).collect();
                told.sort();
                told.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            for gateway in gateways {
                rtnl.one(|r| r.add_route(&route(gateway))).unwrap();
            }
            assert_eq!(gateways_told(&mut rtnl), gateways);
            rtnl.one(|r| r.delete_route(&route(gateways[1]))).unwrap();
            rtnl.one(|r| r.replace_route(&route(gateways[1]))).unwrap();
            assert_eq!(gateways_told(&mut rtnl), gateways[1..]);
        }
    });
}

#[test]
fn thousands_of_routes_are_added_in_batches_and_listed_whole() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let link = Some(link_with_addresses(&mut rtnl));
        let mut requests = Requests::new();
        let count = 3000_u32;
        for i in 0..count {
            let destination = std::net::Ipv4Addr::from(0x0a40_0000 + (i << 8));
            let destination = IpNetwork::new(destination.into(), 24).unwrap();
            let gateway = Some("10.1.0.1".parse().unwrap());
            let _ = requests.add_route(&Route {
                gateway,
                link,
                ..Route::to(destination)
            });
        }
        rtnl.run(requests).unwrap().all().unwrap();
        let listed = rtnl
            .routes(RouteFilter {
                link,
                ..RouteFilter::default()
            })
            .unwrap();
        assert_eq!(
            listed.iter().filter(|r| r.gateway.is_some()).count(),
            count as usize
        );
    });
}

#[test]
fn routes_of_other_links_do_not_leave_the_kernel_and_an_unknown_table_is_empty() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let v1 = link_with_addresses(&mut rtnl);
        let v2 = rtnl.link("v2").unwrap().index;
        let of = |link| RouteFilter {
            link: Some(link),
            ..RouteFilter::default()
        };
        assert_eq!(
            rtnl.routes(of(v1)).unwrap().len(),
            json("ip -j route show dev v1").len()
        );
        assert_eq!(rtnl.routes(of(v2)).unwrap(), []);
        for ipv6 in [false, true] {
            let filter = RouteFilter {
                ipv6,
                table: Some(4711),
                ..RouteFilter::default()
            };
            assert_eq!(rtnl.routes(filter).unwrap(), []);
        }
    });
}

#[test]
fn the_way_to_an_address_tells_the_link_and_whether_it_is_our_own() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let link = link_with_addresses(&mut rtnl);
        let to = |address: &str| address.parse().unwrap();
        for (own, other) in [("10.1.0.2", "10.1.0.9"), ("fd00::2", "fd00::9")] {
            // The kernel makes an IPv6 address's own route a moment after the address.
            eventually(|| rtnl.way_to(to(own)).is_ok_and(|way| way.is_local));
            let way = rtnl.way_to(to(other)).unwrap();
            assert_eq!((way.link, way.is_local), (link, false));
        }
        let nowhere = rtnl.way_to(to("192.0.2.1")).unwrap_err();
        assert_eq!(nowhere.errno(), Some(Errno::NETUNREACH));
    });
}

#[test]
fn a_blackhole_is_made_listed_when_asked_for_and_deleted() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        link_with_addresses(&mut rtnl);
        for (destination, ip) in [("10.9.0.0/16", "ip"), ("fd09::/16", "ip -6")] {
            let route = Route {
                protocol: 84,
                ..Route::blackhole(destination.parse().unwrap())
            };
            rtnl.one(|r| r.replace_route(&route)).unwrap();
            rtnl.one(|r| r.replace_route(&route)).unwrap();
            let seen = one(&format!("{ip} -j route show type blackhole"));
            assert_eq!(seen["dst"], destination);
            let unicast = RouteFilter {
                ipv6: route.destination.is_ipv6(),
                protocol: Some(84),
                ..RouteFilter::default()
            };
            assert_eq!(rtnl.routes(unicast).unwrap(), []);
            let any = RouteFilter {
                of_any_kind: true,
                ..unicast
            };
            let told = rtnl.routes(any).unwrap();
            assert_eq!(told.len(), 1);
            assert_eq!(told[0].kind, RouteKind::Blackhole);
            rtnl.one(|r| r.delete_route_of_protocol(&told[0])).unwrap();
            assert_eq!(rtnl.routes(any).unwrap(), []);
        }
    });
}

#[test]
fn of_routes_that_differ_in_protocol_or_metric_the_one_meant_is_deleted() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let link = Some(link_with_addresses(&mut rtnl));
        for (destination, gateway) in [("10.7.0.0/16", "10.1.0.1"), ("fd07::/16", "fd00::1")] {
            let route = |protocol, priority| Route {
                gateway: Some(gateway.parse().unwrap()),
                link,
                priority: Some(priority),
                protocol,
                ..to(destination)
            };
            for route in [route(84, 10), route(4, 20), route(84, 30)] {
                rtnl.one(|r| r.add_route(&route)).unwrap();
            }
            let refused = rtnl
                .one(|r| r.delete_route_of_protocol(&route(84, 20)))
                .unwrap_err();
            assert!(refused.is_not_found(), "{refused}");
            rtnl.one(|r| r.delete_route_of_protocol(&route(84, 30)))
                .unwrap();
            let filter = RouteFilter {
                ipv6: route(4, 20).destination.is_ipv6(),
                ..RouteFilter::default()
            };
            let mut left = rtnl.routes(filter).unwrap();
            left.retain(|r| r.destination == route(4, 20).destination);
            let left: Vec<_> = left.iter().map(|r| (r.protocol, r.priority)).collect();
            assert_eq!(left, [(84, Some(10)), (4, Some(20))]);
        }
    });
}

#[test]
fn a_route_with_several_next_hops_is_told_as_such() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        link_with_addresses(&mut rtnl);
        output("ip route add 10.7.0.0/16 nexthop via 10.1.0.3 dev v1 nexthop via 10.1.0.4 dev v1");
        let mut told = rtnl.routes(RouteFilter::default()).unwrap();
        told.retain(|r| r.multipath);
        let gateways: Vec<_> = told
            .iter()
            .map(|r| r.gateway.unwrap().to_string())
            .collect();
        assert_eq!(gateways, ["10.1.0.3", "10.1.0.4"]);
    });
}
