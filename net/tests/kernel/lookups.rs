//! What the choice of an interface and an address is made of.

use std::net::IpAddr;

use weft_net::Rtnl;
use weft_net::route::{Address, Requests, Scope};

use crate::world::{in_fresh_namespace, output, veth};

/// v1, up, with an address of each family and the default routes; returns its index.
fn uplink(rtnl: &mut Rtnl) -> u32 {
    rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
    let v1 = rtnl.link("v1").unwrap().index;
    let mut requests = Requests::new();
    let _ = (requests.set_up("v2"), requests.set_up("v1"));
    for address in ["192.0.2.1/24", "2001:db8::1/64"] {
        let _ = requests.add_address(&Address::new(v1, address.parse().unwrap()).nodad());
    }
    rtnl.run(requests).unwrap().all().unwrap();
    output("ip route add default via 192.0.2.254 metric 100");
    output("ip route add default via 192.0.2.253 metric 50");
    output("ip -6 route add default via 2001:db8::fe");
    v1
}

#[test]
fn a_way_tells_the_link_the_source_and_the_gateway() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let link = uplink(&mut rtnl);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (to, source, gateway) in [
            ("198.51.100.1", "192.0.2.1", Some("192.0.2.253")),
            ("192.0.2.7", "192.0.2.1", None),
            ("2001:db8:1::1", "2001:db8::1", Some("2001:db8::fe")),
            ("2001:db8::7", "2001:db8::1", None),
        ] {
            let way = rtnl.way_to(ip(to)).unwrap();
            assert_eq!((way.link, way.is_local), (link, false), "{to}");
            assert_eq!(way.source, Some(ip(source)), "{to}");
            assert_eq!(way.gateway, gateway.map(ip), "{to}");
        }
        assert!(rtnl.way_to(ip("192.0.2.1")).unwrap().is_local);
        output("ip route add 203.0.113.0/24 via inet6 2001:db8::9 dev v1");
        let mixed = rtnl.way_to(ip("203.0.113.1")).unwrap();
        assert_eq!(mixed.gateway, Some(ip("2001:db8::9")));
    });
}

#[test]
fn default_routes_are_told_by_family_the_preferred_first() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        assert_eq!(rtnl.default_routes(false).unwrap(), []);
        let link = uplink(&mut rtnl);
        let mut told = |ipv6| -> Vec<String> {
            let routes = rtnl.default_routes(ipv6).unwrap();
            assert!(routes.iter().all(|route| route.link == Some(link)));
            let gateway = |gateway: Option<IpAddr>| gateway.unwrap().to_string();
            routes.iter().map(|route| gateway(route.gateway)).collect()
        };
        assert_eq!(told(false), ["192.0.2.253", "192.0.2.254"]);
        assert_eq!(told(true), ["2001:db8::fe"]);
    });
}

#[test]
fn addresses_tell_their_scope_and_whether_they_last() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let link = uplink(&mut rtnl);
        output("ip addr add 192.0.2.2/24 dev v1");
        output("ip addr add 169.254.7.7/16 scope link dev v1");
        output("ip addr add 2001:db8::2/64 dev v1 nodad valid_lft 600 preferred_lft 0");
        let all = rtnl.addresses().unwrap();
        let told = |text: &str| {
            let ip: IpAddr = text.parse().unwrap();
            let address = all.iter().find(|a| a.address.ip() == ip).unwrap();
            assert_eq!(address.link, link);
            let Address {
                scope,
                permanent,
                secondary,
                deprecated,
                ..
            } = *address;
            (scope, permanent, secondary, deprecated)
        };
        assert_eq!(told("192.0.2.1"), (Scope::UNIVERSE, true, false, false));
        assert_eq!(told("192.0.2.2"), (Scope::UNIVERSE, true, true, false));
        assert_eq!(told("169.254.7.7"), (Scope::LINK, true, false, false));
        assert_eq!(told("2001:db8::1"), (Scope::UNIVERSE, true, false, false));
        assert_eq!(told("2001:db8::2"), (Scope::UNIVERSE, false, false, true));
    });
}
