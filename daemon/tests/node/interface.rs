use weft_daemon::interface::{Families, Landscape, Underlay, Wanted, choose, choose_again};
use weft_net::Rtnl;
use weft_netns::{World, in_world, wait_until};

const V4: Families = Families {
    v4: true,
    v6: false,
};
const BOTH: Families = Families { v4: true, v6: true };

/// ```text
///   eth0 192.168.90.10/24 fd90::10/64   default routes of both families
///   eth1 10.1.0.5/24 10.1.0.6/24        and what Weft itself makes:
///   flannel.1 10.5.1.0/32  cni0 10.5.1.1/24 ── vethd00dfeed (up in cni0)
/// ```
fn furnish(world: &World) {
    world.exec(
        "ip link add eth0 type veth peer name far0; ip link add eth1 type veth peer name far1
         for link in eth0 far0 eth1 far1; do ip link set $link up; done
         ip address add 192.168.90.10/24 dev eth0
         ip address add fd90::10/64 dev eth0 nodad
         ip address add 10.1.0.5/24 dev eth1; ip address add 10.1.0.6/24 dev eth1
         ip route add default via 192.168.90.1 metric 100; ip -6 route add default via fd90::1
         ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0
         ip address add 10.5.1.0/32 dev flannel.1; ip link set flannel.1 up
         ip link add cni0 type bridge; ip link set cni0 up
         ip address add 10.5.1.1/24 dev cni0
         ip link add vethd00dfeed type veth peer name pod0
         ip link set vethd00dfeed master cni0 up",
    );
}

fn look(wanted: &Wanted) -> Landscape {
    Landscape::look(&mut Rtnl::open().unwrap(), wanted).unwrap()
}

#[track_caller]
fn chosen(wanted: &Wanted, families: Families) -> Underlay {
    choose(wanted, families, &look(wanted)).unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn the_default_routes_name_the_interface() {
    in_world(|world| {
        furnish(world);
        let underlay = chosen(&Wanted::default(), BOTH);
        assert_eq!((underlay.name.as_str(), underlay.mtu), ("eth0", 1500));
        assert_eq!(underlay.v4, Some("192.168.90.10".parse().unwrap()));
        assert_eq!(underlay.v6, Some("fd90::10".parse().unwrap()));
        assert_eq!(underlay.public_ip, underlay.v4);

        world.exec("ip route add default dev flannel.1");
        assert_eq!(chosen(&Wanted::default(), V4).name, "eth0");
        world.exec("ip route flush exact default");
        let why = choose(&Wanted::default(), V4, &look(&Wanted::default())).unwrap_err();
        for part in ["IPv4 default route", "eth1 (10.1.0.5, 10.1.0.6", "-iface"] {
            assert!(why.contains(part), "{why:?} does not say {part:?}");
        }
    });
}

#[test]
fn the_way_to_an_address_names_interface_and_source() {
    in_world(|world| {
        furnish(world);
        world.exec("ip route add 172.16.0.0/12 via 10.1.0.1 src 10.1.0.6");
        let reaching = |address: &str| Wanted {
            can_reach: Some(address.parse().unwrap()),
            ..Wanted::default()
        };
        let underlay = chosen(&reaching("172.16.3.4"), V4);
        assert_eq!(underlay.name, "eth1");
        assert_eq!(underlay.v4, Some("10.1.0.6".parse().unwrap()));
        let itself = chosen(&reaching("10.1.0.5"), V4);
        assert_eq!(itself.name, "eth1");
        world.exec("ip route add unreachable 198.51.100.0/24");
        let nowhere = reaching("198.51.100.1");
        let why = choose(&nowhere, V4, &look(&nowhere)).unwrap_err();
        assert!(why.contains("no route to this address"), "{why}");
    });
}

#[test]
fn the_best_address_is_global_and_lasting() {
    in_world(|world| {
        furnish(world);
        world.exec(
            "ip address flush dev eth1 scope global
             ip address add 169.254.7.7/16 dev eth1
             ip address add 10.1.0.9/24 dev eth1 valid_lft 1000 preferred_lft 900
             ip address add 10.1.0.8/24 dev eth1
             ip address add fd01::dead/64 dev eth1 nodad valid_lft 1000 preferred_lft 0
             ip address add fd01::7/64 dev eth1 nodad",
        );
        let wanted = Wanted {
            names: vec!["eth1".into()],
            ..Wanted::default()
        };
        let underlay = chosen(&wanted, BOTH);
        assert_eq!(underlay.v4, Some("10.1.0.8".parse().unwrap()));
        assert_eq!(underlay.v6, Some("fd01::7".parse().unwrap()));
        world.exec("ip address add fd01::8/64 dev eth1 nodad");
        let again = choose_again(&wanted, BOTH, &look(&wanted), &underlay).unwrap();
        assert_eq!(again, underlay, "an address that comes moves nothing");
        world.exec("ip address del fd01::7/64 dev eth1");
        let moved = choose_again(&wanted, BOTH, &look(&wanted), &underlay).unwrap();
        assert_eq!(moved.v6, Some("fd01::8".parse().unwrap()));
    });
}

#[test]
fn an_address_that_somebody_else_has_is_not_chosen() {
    in_world(|world| {
        world.exec("ip link add eth0 type veth peer name far0; ip link set eth0 up");
        let far = world.netns("far");
        world.exec("ip link set far0 netns far");
        far.exec("ip link set far0 up; ip address add fd01::1/64 dev far0 nodad");
        world.exec("ip address add fd01::1/64 dev eth0");
        wait_until(
            "the duplicate to be found",
            std::time::Duration::from_secs(10),
            || {
                world
                    .exec("ip -6 address show dev eth0")
                    .contains("dadfailed")
            },
        );
        let v6 = Families {
            v4: false,
            v6: true,
        };
        world.exec("ip address add fd01::2/64 dev eth0 nodad");
        let wanted = Wanted {
            names: vec!["eth0".into()],
            ..Wanted::default()
        };
        let underlay = chosen(&wanted, v6);
        assert_eq!(underlay.v6, Some("fd01::2".parse().unwrap()));
    });
}

#[test]
fn a_device_of_the_pods_is_chosen_by_its_name_alone() {
    in_world(|world| {
        furnish(world);
        let regex = Wanted {
            regexes: vec![r"^10\.5\.|flannel|cni0|veth".parse().unwrap()],
            ..Wanted::default()
        };
        choose(&regex, V4, &look(&regex)).unwrap_err();
        let named = Wanted {
            names: vec!["cni0".into()],
            ..Wanted::default()
        };
        assert_eq!(chosen(&named, V4).name, "cni0");
    });
}
