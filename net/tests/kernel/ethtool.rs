//! Features of links, as `ethtool` sees them.

use rustix::io::Errno;
use weft_net::ethtool::{Ethtool, TX_CHECKSUM};
use weft_net::route::NewVxlan;
use weft_net::sysctl::Outcome;
use weft_net::{Error, Rtnl};

use crate::world::{in_fresh_namespace, output, veth};

#[test]
fn a_vxlans_checksums_are_switched_off_and_on_in_place() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_veth(&veth("v1", "v2"))).unwrap();
        let vxlan = NewVxlan {
            name: "flannel.1",
            mac: None,
            mtu: None,
            txqlen: None,
            vni: 1,
            local: "192.0.2.1".parse().unwrap(),
            lower: rtnl.link("v1").unwrap().index,
            port: 8472,
            learning: false,
            gbp: false,
            udp_checksum: true,
            up: true,
        };
        rtnl.one(|r| r.create_vxlan(&vxlan)).unwrap();
        let link = rtnl.link("flannel.1").unwrap().index;
        let mut ethtool = Ethtool::open().unwrap();
        let seen = || {
            let all = output("ethtool -k flannel.1");
            let line = all.lines().find(|line| line.contains(TX_CHECKSUM)).unwrap();
            line.trim().trim_start_matches(TX_CHECKSUM).to_owned()
        };
        assert!(ethtool.feature(link, TX_CHECKSUM).unwrap());
        assert_eq!(seen(), ": on");
        for (on, as_seen) in [(false, ": off"), (true, ": on")] {
            let set = |ethtool: &mut Ethtool| ethtool.set_feature(link, TX_CHECKSUM, on).unwrap();
            assert_eq!(set(&mut ethtool), Outcome::Changed);
            assert_eq!(seen(), as_seen);
            assert_eq!(ethtool.feature(link, TX_CHECKSUM).unwrap(), on);
            assert_eq!(set(&mut ethtool), Outcome::Unchanged);
        }
    });
}

#[test]
fn what_cannot_be_switched_is_an_error_and_so_is_a_link_that_is_not_there() {
    in_fresh_namespace(|| {
        let lo = Rtnl::open().unwrap().link("lo").unwrap().index;
        let mut ethtool = Ethtool::open().unwrap();
        let fixed = ethtool.set_feature(lo, TX_CHECKSUM, false).unwrap_err();
        assert_eq!(fixed.errno(), Some(Errno::OPNOTSUPP), "{fixed}");
        assert!(
            fixed
                .to_string()
                .starts_with("switch off tx-checksum-ip-generic of link 1: "),
            "{fixed}"
        );
        let absent = ethtool.feature(4711, TX_CHECKSUM).unwrap_err();
        assert!(Error::is_not_found(&absent), "{absent}");
        let unknown = ethtool.set_feature(lo, "no-such-feature", true);
        assert!(unknown.is_err(), "{unknown:?}");
    });
}
