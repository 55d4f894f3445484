//! Neighbours and forwarding entries.

use std::net::IpAddr;

use weft_net::Rtnl;
use weft_net::route::{FdbEntry, Neighbour, NeighbourState, NewVeth};

use crate::world::{bridge, in_fresh_namespace, json, mac, one, output, veth};

#[test]
fn neighbours_are_set_replaced_listed_and_deleted() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
        let link = rtnl.link("v1").unwrap().index;
        for address in ["10.1.0.9", "fd00::9"] {
            let address: IpAddr = address.parse().unwrap();
            let mut neighbour = Neighbour {
                link,
                address,
                mac: Some(mac("02:00:00:00:00:09")),
                state: NeighbourState::Permanent,
            };
            rtnl.one(|r| r.replace_neighbour(&neighbour)).unwrap();
            neighbour.mac = Some(mac("02:00:00:00:00:0a"));
            rtnl.one(|r| r.replace_neighbour(&neighbour)).unwrap();
            let seen = one(&format!("ip -j neigh show {address} dev v1 nud permanent"));
            assert_eq!(seen["lladdr"], "02:00:00:00:00:0a");
            let told = rtnl.neighbours_of(link).unwrap();
            assert!(told.contains(&neighbour), "{told:?}");
            rtnl.one(|r| r.delete_neighbour(link, address)).unwrap();
            assert!(
                rtnl.one(|r| r.delete_neighbour(link, address))
                    .unwrap_err()
                    .is_not_found()
            );
        }
    });
}

#[test]
fn a_bridges_forwarding_entries_are_told_apart_from_its_ports_own() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        for name in ["br0", "br1"] {
            rtnl.one(|r| r.create_bridge(&bridge(name))).unwrap();
        }
        let br0 = rtnl.link("br0").unwrap().index;
        let br1 = rtnl.link("br1").unwrap().index;
        let new = NewVeth {
            master: Some(br0),
            ..veth("v1", "v2")
        };
        rtnl.one(|r| r.create_veth(&new)).unwrap();
        let entry = FdbEntry {
            link: rtnl.link("v1").unwrap().index,
            mac: mac("02:00:00:00:00:0b"),
            remote: None,
            vlan: None,
            port: None,
            vni: None,
            of_master: true,
            state: NeighbourState::Noarp,
        };
        rtnl.one(|r| r.replace_fdb(&entry)).unwrap();
        assert!(rtnl.fdb_of_bridge(br0).unwrap().contains(&entry));
        assert!(rtnl.fdb_of_link(entry.link).unwrap().contains(&entry));
        assert!(
            !rtnl
                .fdb_of_bridge(br1)
                .unwrap()
                .iter()
                .any(|e| e.mac == entry.mac)
        );
        let seen = json("bridge -j fdb show br br0");
        assert!(
            seen.iter()
                .any(|e| e["mac"] == "02:00:00:00:00:0b" && e["master"] == "br0")
        );
        rtnl.one(|r| r.delete_fdb(&entry)).unwrap();
        assert!(
            rtnl.one(|r| r.delete_fdb(&entry))
                .unwrap_err()
                .is_not_found()
        );
    });
}

#[test]
fn a_vxlans_forwarding_entries_name_the_far_end() {
    in_fresh_namespace(|| {
        output("ip link add vx type vxlan id 1 dstport 8472 local 127.0.0.1 nolearning");
        let mut rtnl = Rtnl::open().unwrap();
        let entry = |mac_address, remote: &str| FdbEntry {
            link: rtnl.link("vx").unwrap().index,
            mac: mac(mac_address),
            remote: Some(remote.parse().unwrap()),
            vlan: None,
            port: None,
            vni: None,
            of_master: false,
            state: NeighbourState::Permanent,
        };
        let mut entry = entry;
        let first = entry("02:00:00:00:00:0c", "192.0.2.1");
        let moved = entry("02:00:00:00:00:0c", "192.0.2.2");
        let flood = entry("00:00:00:00:00:00", "192.0.2.3");
        let flood_too = entry("00:00:00:00:00:00", "192.0.2.4");
        rtnl.one(|r| r.replace_fdb(&first)).unwrap();
        rtnl.one(|r| r.replace_fdb(&moved)).unwrap();
        rtnl.one(|r| r.append_fdb(&flood)).unwrap();
        rtnl.one(|r| r.append_fdb(&flood_too)).unwrap();
        let told = rtnl.fdb_of_link(first.link).unwrap();
        assert_eq!(told.len(), 3);
        for entry in [moved, flood, flood_too] {
            assert!(told.contains(&entry), "{entry:?} in {told:?}");
        }
        rtnl.one(|r| r.delete_fdb(&flood)).unwrap();
        assert!(rtnl.fdb_of_link(first.link).unwrap().contains(&flood_too));
    });
}
