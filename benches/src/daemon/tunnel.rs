//! The device that peers' entries are on, where nobody but us makes it.
use std::net::IpAddr;

use weft_net::route::NewVxlan;
use weft_net::{Mac, Rtnl};

use super::field::Node;

pub(crate) const NAME: &str = "flannel.1";
pub(crate) const MAC: Mac = Mac([2, 0xff, 0, 0, 0, 1]);

/// As flanneld and weftd make it.
pub(crate) fn device(local: IpAddr, lower: u32) -> NewVxlan<'static> {
    NewVxlan {
        name: NAME,
        mac: Some(MAC),
        mtu: Some(1450),
        txqlen: None,
        vni: 1,
        local,
        lower,
        port: 8472,
        learning: false,
        gbp: false,
        udp_checksum: true,
        up: true,
    }
}

/// Makes it on the node; its index.
pub(crate) fn make(node: &Node) -> u32 {
    let made = node.netns.enter(|| {
        let mut rtnl = Rtnl::open()?;
        let lower = rtnl.link("eth0")?.index;
        rtnl.one(|r| r.create_vxlan(&device(node.address.into(), lower)))?;
        Ok::<_, weft_net::Error>(rtnl.link(NAME)?.index)
    });
    made.expect("make a tunnel device")
}
