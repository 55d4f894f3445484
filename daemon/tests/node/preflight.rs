use weft_daemon::interface::Families;
use weft_daemon::preflight;
use weft_net::Rtnl;
use weft_netns::{World, in_world};

const BOTH: Families = Families { v4: true, v6: true };

fn prepare(families: Families) -> Vec<String> {
    preflight::prepare(&mut Rtnl::open().unwrap(), families)
}

fn setting(path: &str) -> String {
    let value = std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap();
    value.trim().to_owned()
}

fn route_nothing(world: &World) {
    world.exec(
        "echo 0 > /proc/sys/net/ipv4/ip_forward
         echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
    );
}

/// Whatever this kernel has: `has` files of br_netfilter.
fn show_bridge_settings(world: &World, has: &[&str]) {
    let dir = world.scratch("bridge");
    for name in has {
        std::fs::write(dir.join(name), "1\n").unwrap();
    }
    let net = world.scratch("net");
    // A directory cannot be made in /proc, so all of /proc/sys/net is shown from elsewhere.
    world.exec(&format!(
        "mkdir {net}/bridge {net}/ipv4 {net}/ipv6
         mount --rbind /proc/sys/net/ipv4 {net}/ipv4
         mount --rbind /proc/sys/net/ipv6 {net}/ipv6
         mount --bind {dir} {net}/bridge
         mount --rbind {net} /proc/sys/net",
        net = net.display(),
        dir = dir.display()
    ));
}

#[test]
fn the_node_forwards_the_families_there_are_pods_of() {
    in_world(|world| {
        route_nothing(world);
        show_bridge_settings(
            world,
            &["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"],
        );
        let v4 = Families {
            v4: true,
            v6: false,
        };
        assert_eq!(prepare(v4), [""; 0]);
        assert_eq!(setting("ipv4/ip_forward"), "1");
        assert_eq!(setting("ipv6/conf/all/forwarding"), "0");
        assert_eq!(prepare(BOTH), [""; 0]);
        assert_eq!(setting("ipv6/conf/all/forwarding"), "1");
        assert_eq!(prepare(BOTH), [""; 0]);
    });
}

#[test]
fn a_default_route_that_routers_announce_outlives_forwarding() {
    in_world(|world| {
        route_nothing(world);
        world.exec(
            "ip link add eth0 type veth peer name far0; ip link set eth0 up; ip link set far0 up
             echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra
             echo 1 > /proc/sys/net/ipv6/conf/far0/accept_ra
             ip address add fd90::10/64 dev eth0 nodad
             ip -6 route add default via fd90::1 dev eth0 proto ra",
        );
        prepare(BOTH);
        assert_eq!(setting("ipv6/conf/eth0/accept_ra"), "2");
        assert_eq!(setting("ipv6/conf/far0/accept_ra"), "1");
    });
}

#[test]
fn a_missing_br_netfilter_is_one_warning() {
    in_world(|world| {
        show_bridge_settings(world, &[]);
        let notes = prepare(BOTH);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("modprobe br_netfilter"), "{notes:?}");
    });
}

#[test]
fn settings_that_cannot_be_written_matter_only_where_they_are_wrong() {
    in_world(|world| {
        show_bridge_settings(
            world,
            &["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"],
        );
        world.exec(
            "echo 0 > /proc/sys/net/ipv4/ip_forward
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
             mount -o remount,bind,ro /proc/sys/net/ipv4
             mount -o remount,bind,ro /proc/sys/net/ipv6",
        );
        let notes = prepare(BOTH);
        assert_eq!(notes.len(), 1, "{notes:?}");
        let remedy = "sysctl -w net.ipv4.ip_forward=1";
        assert!(notes[0].contains(remedy), "{notes:?}");
    });
}
