//! VXLAN devices, as the kernel makes and changes them and `ip` sees them.

use rustix::io::Errno;
use weft_net::Rtnl;
use weft_net::route::{
    Address, FdbEntry, LinkChange, NewVxlan, Requests, Route, RouteFilter, VxlanChange,
};

use crate::world::{in_fresh_namespace, mac, one, veth};

/// v1 and its peer v2, up, with an address of each family; returns v1's index.
fn underlay(rtnl: &mut Rtnl) -> u32 {
    rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
    let v1 = rtnl.link("v1").unwrap().index;
    let mut requests = Requests::new();
    let _ = (requests.set_up("v2"), requests.set_up("v1"));
    for address in ["192.0.2.1/24", "2001:db8::1/64"] {
        let _ = requests.add_address(&Address::new(v1, address.parse().unwrap()).nodad());
    }
    rtnl.run(requests).unwrap().all().unwrap();
    v1
}

fn vxlan(lower: u32) -> NewVxlan<'static> {
    NewVxlan {
        name: "flannel.1",
        mac: Some(mac("02:00:00:00:00:01")),
        mtu: Some(1450),
        txqlen: Some(0),
        vni: 1,
        local: "192.0.2.1".parse().unwrap(),
        lower,
        port: 8472,
        learning: false,
        gbp: false,
        udp_checksum: true,
        up: true,
    }
}

#[test]
fn a_vxlan_is_made_as_asked_and_told_as_made() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let lower = underlay(&mut rtnl);
        for (gbp, learning, udp_checksum, port) in
            [(false, false, true, 8472), (true, true, false, 4789)]
        {
            let wanted = NewVxlan {
                gbp,
                learning,
                udp_checksum,
                port,
                ..vxlan(lower)
            };
            rtnl.one(|r| r.create_vxlan(&wanted)).unwrap();
            let seen = one("ip -j -d link show flannel.1");
            let data = &seen["linkinfo"]["info_data"];
            assert_eq!(seen["address"], "02:00:00:00:00:01");
            assert_eq!(seen["mtu"], 1450);
            assert!(seen.get("txqlen").is_none_or(|length| length == 0));
            assert_eq!((&data["id"], &data["port"]), (&1.into(), &port.into()));
            assert_eq!(
                (&data["local"], &data["link"]),
                (&"192.0.2.1".into(), &"v1".into())
            );
            assert_eq!(data["learning"], learning);
            assert_eq!(data["udp_csum"], udp_checksum);
            assert_eq!(data.get("gbp").is_some(), gbp);

            let link = rtnl.link("flannel.1").unwrap();
            assert!(link.is_vxlan() && link.up && link.lower_up && !link.point_to_point);
            assert_eq!((link.mtu, link.txqlen, link.mac), (1450, 0, wanted.mac));
            let told = link.vxlan.unwrap();
            assert_eq!((told.vni, told.port), (1, port));
            assert_eq!((told.local, told.lower), (Some(wanted.local), Some(lower)));
            assert_eq!(
                (told.learning, told.gbp, told.udp_checksum),
                (learning, gbp, udp_checksum)
            );
            assert!(!told.l2miss && !told.l3miss && !told.proxy && !told.gpe);
            assert_eq!((told.ageing, told.remote), (300, None));
            assert_eq!(rtnl.links_of_kind("vxlan").unwrap(), [link]);
            rtnl.one(|r| r.delete_link("flannel.1")).unwrap();
        }
    });
}

#[test]
fn over_ipv6_the_kernel_takes_seventy_bytes_and_checksums_stay() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let lower = underlay(&mut rtnl);
        let wanted = NewVxlan {
            name: "flannel-v6.1",
            local: "2001:db8::1".parse().unwrap(),
            ..vxlan(lower)
        };
        rtnl.one(|r| r.create_vxlan(&wanted)).unwrap();
        let link = rtnl.link("flannel-v6.1").unwrap();
        assert_eq!(link.mtu, 1430);
        let told = link.vxlan.unwrap();
        assert_eq!(told.local, Some(wanted.local));
        assert!(!told.zero_checksum6_tx && !told.zero_checksum6_rx);
    });
}

#[test]
fn local_address_lower_link_learning_mtu_and_mac_change_in_place_and_entries_stay() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let lower = underlay(&mut rtnl);
        rtnl.one(|r| r.create_veth(&veth("w1", "w2"))).unwrap();
        rtnl.one(|r| r.create_vxlan(&vxlan(lower))).unwrap();
        let link = rtnl.link("flannel.1").unwrap().index;
        let entry = FdbEntry::tunnel(link, mac("02:00:00:00:00:09"), "192.0.2.9".parse().unwrap());
        let route = Route {
            gateway: Some("10.1.9.0".parse().unwrap()),
            link: Some(link),
            onlink: true,
            ..Route::to("10.1.9.0/24".parse().unwrap())
        };
        let mut requests = Requests::new();
        let _ = (requests.replace_fdb(&entry), requests.replace_route(&route));
        rtnl.run(requests).unwrap().all().unwrap();

        let change = VxlanChange {
            local: Some("192.0.2.2".parse().unwrap()),
            lower: Some(rtnl.link("w1").unwrap().index),
            learning: Some(true),
        };
        let settings = LinkChange {
            mac: Some(mac("02:00:00:00:00:02")),
            mtu: Some(1400),
            ..LinkChange::default()
        };
        let mut requests = Requests::new();
        let _ = requests.change_vxlan(link, &change);
        let _ = requests.set_link(link, &settings);
        rtnl.run(requests).unwrap().all().unwrap();

        let changed = rtnl.link(link).unwrap();
        let told = changed.vxlan.unwrap();
        assert_eq!((told.local, told.lower), (change.local, change.lower));
        assert!(told.learning);
        assert_eq!((changed.mtu, changed.mac), (1400, settings.mac));
        assert!(rtnl.fdb_of_link(link).unwrap().contains(&entry));
        let routes = rtnl.routes(RouteFilter::default()).unwrap();
        assert!(routes.iter().any(|r| r.destination == route.destination));

        let change = VxlanChange {
            local: Some("2001:db8::1".parse().unwrap()),
            ..VxlanChange::default()
        };
        let refused = rtnl.one(|r| r.change_vxlan(link, &change)).unwrap_err();
        assert_eq!(refused.errno(), Some(Errno::OPNOTSUPP), "{refused}");
        // A name is changed on a link that is up.
        let renamed = LinkChange {
            name: Some("old"),
            ..LinkChange::default()
        };
        rtnl.one(|r| r.set_link(link, &renamed)).unwrap();
        assert_eq!(rtnl.link("old").unwrap().index, link);
    });
}

#[test]
fn the_mtu_given_outlives_a_lower_link_that_grows() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let lower = underlay(&mut rtnl);
        rtnl.one(|r| r.create_vxlan(&vxlan(lower))).unwrap();
        let larger = LinkChange {
            mtu: Some(9000),
            ..LinkChange::default()
        };
        rtnl.one(|r| r.set_link(lower, &larger)).unwrap();
        let change = VxlanChange {
            lower: Some(lower),
            ..VxlanChange::default()
        };
        rtnl.one(|r| r.change_vxlan("flannel.1", &change)).unwrap();
        assert_eq!(rtnl.link("flannel.1").unwrap().mtu, 1450);
    });
}
