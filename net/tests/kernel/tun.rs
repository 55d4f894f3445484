//! TUN devices, as `ip tuntap` makes them and the kernel tells of them.

use weft_net::Rtnl;
use weft_net::route::Tun;

use crate::world::{in_fresh_namespace, output};

#[test]
fn a_tun_is_told_as_it_was_made() {
    in_fresh_namespace(|| {
        output("ip tuntap add mode tun name single");
        output("ip tuntap add mode tun name several multi_queue");
        output("ip tuntap add mode tap name frames");
        let mut rtnl = Rtnl::open().unwrap();
        let mut tun = |name: &str| rtnl.link(name).unwrap().tun.unwrap();
        let single = Tun {
            persistent: true,
            ..Tun::default()
        };
        assert_eq!(tun("single"), single);
        let several = tun("several");
        assert!(several.multi_queue && several.persistent && !several.tap);
        assert_eq!(several.queues, Some(0));
        assert!(tun("frames").tap);
    });
}
