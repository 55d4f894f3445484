//! Addresses, and when they can be used.

use weft_net::Rtnl;
use weft_net::route::{Address, Requests};

use crate::world::{in_fresh_namespace, one, veth};

#[test]
fn addresses_are_added_listed_for_one_link_and_deleted() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
        let v1 = rtnl.link("v1").unwrap().index;
        let v2 = rtnl.link("v2").unwrap().index;
        let four = Address::new(v1, "10.1.2.3/24".parse().unwrap()).with_broadcast();
        let six = Address::new(v1, "fd00::3/64".parse().unwrap()).nodad();
        let other = Address::new(v2, "10.9.9.9/32".parse().unwrap());
        let mut requests = Requests::new();
        for address in [&four, &six, &other] {
            let _ = requests.add_address(address);
        }
        rtnl.run(requests).unwrap().all().unwrap();

        let seen = &one("ip -j addr show dev v1")["addr_info"];
        assert_eq!(
            (&seen[0]["local"], &seen[0]["prefixlen"]),
            (&"10.1.2.3".into(), &24.into())
        );
        assert_eq!(seen[0]["broadcast"], "10.1.2.255");
        assert_eq!(
            (&seen[1]["local"], &seen[1]["prefixlen"]),
            (&"fd00::3".into(), &64.into())
        );
        assert_eq!(rtnl.addresses_of(v1).unwrap(), [four, six]);
        assert_eq!(rtnl.addresses().unwrap().len(), 3);

        assert!(rtnl.one(|r| r.add_address(&four)).unwrap_err().exists());
        rtnl.one(|r| r.delete_address(&four)).unwrap();
        assert!(
            rtnl.one(|r| r.delete_address(&four))
                .unwrap_err()
                .is_not_found()
        );
        assert_eq!(rtnl.addresses_of(v1).unwrap(), [six]);
    });
}

#[test]
fn an_ipv6_address_without_dad_is_usable_at_once_and_one_with_it_is_not() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
        let v1 = rtnl.link("v1").unwrap().index;
        let now = Address::new(v1, "fd00::1/64".parse().unwrap()).nodad();
        let later = Address::new(v1, "fd00::2/64".parse().unwrap());
        let mut requests = Requests::new();
        let _ = (requests.set_up("v2"), requests.set_up("v1"));
        let _ = (requests.add_address(&now), requests.add_address(&later));
        rtnl.run(requests).unwrap().all().unwrap();
        let all = rtnl.addresses_of(v1).unwrap();
        let tentative = |wanted: &Address| {
            all.iter()
                .find(|a| a.address == wanted.address)
                .map(|a| a.tentative)
        };
        assert_eq!(
            (tentative(&now), tentative(&later)),
            (Some(false), Some(true))
        );
    });
}
