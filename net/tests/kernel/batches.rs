//! Batches of thousands.

use weft_net::Rtnl;
use weft_net::route::{FdbEntry, Neighbour, NeighbourState, Requests, Route, RouteFilter};

use crate::world::{in_fresh_namespace, mac, output, veth};

#[test]
fn of_thousands_of_requests_each_refusal_is_told_and_all_others_are_carried_out() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
        rtnl.one(|r| r.set_up("v1")).unwrap();
        // Before there is any address, the kernel takes no gateway at all.
        output("ip addr add 192.0.2.1/32 dev v1");
        output("ip link add vx type vxlan id 1 dstport 8472 local 127.0.0.1 nolearning");
        let v1 = rtnl.link("v1").unwrap().index;
        let vx = rtnl.link("vx").unwrap().index;
        let mut requests = Requests::new();
        let mut tickets = Vec::new();
        for number in 0..2000_u16 {
            let [high, low] = number.to_be_bytes();
            let refused = number % 3 == 0;
            let gateway = [10, high, low, 1].into();
            tickets.push((
                refused,
                requests.replace_route(&Route {
                    gateway: Some(gateway),
                    link: Some(v1),
                    // Without it the gateway is nowhere.
                    onlink: !refused,
                    ..Route::to(format!("10.{high}.{low}.0/24").parse().unwrap())
                }),
            ));
            tickets.push((
                refused,
                requests.replace_neighbour(&Neighbour {
                    link: if refused { 4711 } else { v1 },
                    address: gateway,
                    mac: Some(mac("02:00:00:00:00:01")),
                    state: NeighbourState::Permanent,
                }),
            ));
            let address = mac(&format!("02:00:00:00:{high:02x}:{low:02x}"));
            let link = if refused { 4711 } else { vx };
            let entry = FdbEntry::tunnel(link, address, [192, 0, 2, 1].into());
            tickets.push((refused, requests.replace_fdb(&entry)));
        }
        let mut answers = rtnl.run(requests).unwrap();
        let mut messages = Vec::new();
        for (refused, ticket) in tickets {
            let answer = answers.take(ticket);
            assert_eq!(answer.is_err(), refused, "{answer:?}");
            messages.extend(answer.err().map(|error| error.to_string()));
        }
        let told = |text: &str| messages.iter().any(|m| m.starts_with(text));
        assert!(told(&format!(
            "replace route 10.0.3.0/24 via 10.0.3.1 on link {v1}: "
        )));
        assert!(told("set neighbour 10.0.3.1 on link 4711: No such device"));
        assert!(told(
            "set forwarding entry 02:00:00:00:00:03 on link 4711: No such device"
        ));
        let carried_out = 2000 - 667;
        let routes = rtnl.routes(RouteFilter::default()).unwrap();
        assert_eq!(routes.len(), carried_out);
        assert_eq!(rtnl.neighbours_of(v1).unwrap().len(), carried_out);
        assert_eq!(rtnl.fdb_of_link(vx).unwrap().len(), carried_out);
    });
}
