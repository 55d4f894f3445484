//! What there is to choose from, as one value, and how each flag finds its way in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_net::route::{Address, Link, Rtnl};

use super::{Families, Pattern, Pick, Wanted, Way};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Landscape {
    /// In the kernel's order.
    pub faces: Vec<Face>,
    /// The links of the default routes, the preferred first.
    pub default_v4: Vec<u32>,
    pub default_v6: Vec<u32>,
    /// How the kernel reaches the address of -iface-can-reach. None: not at all.
    pub reach: Option<Reach>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Face {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    /// Of the pod network itself: chosen by its very name only.
    pub of_pods: bool,
    /// Those that peers may be told, the best first.
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    pub link: u32,
    pub source: Option<IpAddr>,
    /// The address is this host's own.
    pub is_local: bool,
}

impl Landscape {
    pub fn look(rtnl: &mut Rtnl, wanted: &Wanted) -> weft_net::Result<Self> {
        let addresses = rtnl.addresses()?;
        let links = rtnl.links()?;
        let faces = links.iter().map(|link| Face::of(link, &addresses));
        Ok(Self {
            faces: faces.collect(),
            default_v4: default_links(rtnl, false)?,
            default_v6: default_links(rtnl, true)?,
            reach: wanted
                .can_reach
                .map(|address| reach(rtnl, address))
                .transpose()?
                .flatten(),
        })
    }

    fn face(&self, index: u32) -> Option<&Face> {
        self.faces.iter().find(|face| face.index == index)
    }

    /// The error says why it leads to nothing.
    pub(super) fn find(&self, way: &Way<'_>, families: Families) -> Result<Pick<'_>, String> {
        match way {
            Way::Name(name) => self
                .faces
                .iter()
                .find(|face| face.name == *name)
                .map(Pick::of)
                .ok_or_else(|| "there is no interface of this name".into()),
            Way::Address(_, address) => self.owner(*address),
            Way::Public(_, address) => self.owner(*address).map_err(|why| {
                format!("{why} (where it is translated to one, -iface must tell which)")
            }),
            Way::Regex(pattern) => self.matching(pattern, families),
            Way::CanReach(address) => self.leading_to(*address),
            Way::Default => self.by_default(families),
        }
    }

    pub(super) fn describe(&self) -> String {
        let shown: Vec<String> = self
            .faces
            .iter()
            .filter(|face| !face.addresses.is_empty())
            .map(Face::describe)
            .collect();
        if shown.is_empty() {
            return "no interface with an address".into();
        }
        shown.join(", ")
    }

    fn owner(&self, address: IpAddr) -> Result<Pick<'_>, String> {
        self.faces
            .iter()
            .find(|face| face.addresses.contains(&address))
            .map(|face| Pick::with(face, address))
            .ok_or_else(|| "no interface has this address".into())
    }

    /// By address first: for both families it must be the same interface that matches.
    fn matching(&self, pattern: &Pattern, families: Families) -> Result<Pick<'_>, String> {
        let candidates = || self.faces.iter().filter(|face| !face.of_pods);
        for face in candidates() {
            let v4 = face.v4().find(|ip| pattern.matches(&ip.to_string()));
            let v6 = face.v6().find(|ip| pattern.matches(&ip.to_string()));
            let is_matched = match families {
                Families { v4: true, v6: true } => v4.is_some() && v6.is_some(),
                Families { v4: true, .. } => v4.is_some(),
                Families { v4: false, .. } => v6.is_some(),
            };
            if is_matched {
                return Ok(Pick { face, v4, v6 });
            }
        }
        candidates()
            .find(|face| pattern.matches(&face.name))
            .map(Pick::of)
            .ok_or_else(|| "it matches no interface's address and no interface's name".into())
    }

    fn leading_to(&self, address: IpAddr) -> Result<Pick<'_>, String> {
        let reach = self
            .reach
            .ok_or("the kernel has no route to this address")?;
        if reach.is_local {
            return self.owner(address);
        }
        let face = self
            .face(reach.link)
            .ok_or("the interface of the route is gone")?;
        // An address of the loopback, which the kernel may send from, is no other node's to use.
        let source = reach.source.filter(|ip| face.addresses.contains(ip));
        Ok(source.map_or_else(|| Pick::of(face), |source| Pick::with(face, source)))
    }

    fn by_default(&self, families: Families) -> Result<Pick<'_>, String> {
        let v4 = self.routed(&self.default_v4);
        let v6 = self.routed(&self.default_v6);
        let none = |family| format!("the main table has no {family} default route to go by");
        match (families.v4, families.v6) {
            (true, true) => {
                let first4 = v4.first().ok_or_else(|| none("IPv4"))?;
                let first6 = v6.first().ok_or_else(|| none("IPv6"))?;
                let both = v4.iter().find(|face| v6.contains(face)).ok_or_else(|| {
                    format!(
                        "the default routes lead through two interfaces, IPv4's through {} and \
                         IPv6's through {}, and both families need the same one",
                        first4.name, first6.name
                    )
                })?;
                Ok(Pick::of(both))
            }
            (true, false) => v4
                .first()
                .map(|face| Pick::of(face))
                .ok_or_else(|| none("IPv4")),
            (false, _) => v6
                .first()
                .map(|face| Pick::of(face))
                .ok_or_else(|| none("IPv6")),
        }
    }

    fn routed(&self, links: &[u32]) -> Vec<&Face> {
        let faces = links.iter().filter_map(|link| self.face(*link));
        faces.filter(|face| !face.of_pods).collect()
    }
}

impl Face {
    fn of(link: &Link, addresses: &[Address]) -> Self {
        let mut own: Vec<&Address> = addresses
            .iter()
            .filter(|address| address.link == link.index && is_usable(address))
            .collect();
        // Stable: among equals the kernel's order counts. One that is still being checked for
        // duplicates is placed as if it had passed, so that the choice does not change when it has.
        own.sort_by_key(|address| {
            (
                is_link_local(address),
                !address.permanent,
                address.secondary,
            )
        });
        Self {
            index: link.index,
            name: link.name.clone(),
            mtu: link.mtu,
            of_pods: is_of_pods(link),
            addresses: own.iter().map(|address| address.address.ip()).collect(),
        }
    }

    pub fn v4(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().filter_map(|ip| match ip {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        })
    }

    pub fn v6(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.addresses.iter().filter_map(|ip| match ip {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        })
    }

    fn describe(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        format!("{} ({})", self.name, addresses.join(", "))
    }
}

fn is_usable(address: &Address) -> bool {
    let ip = address.address.ip();
    !(address.deprecated
        || address.dad_failed
        || ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast())
}

fn is_link_local(address: &Address) -> bool {
    match address.address.ip() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Tunnel devices, the pods' bridge, and the node's end of a pod's veth pair. That a veth leads
/// to another namespace says nothing: a node that is a container has such an interface too.
fn is_of_pods(link: &Link) -> bool {
    let is_pods_veth = || {
        let made = |rest: &str| rest.len() >= 8 && rest.bytes().all(|b| b.is_ascii_alphanumeric());
        link.is_veth()
            && (link.master.is_some() || link.name.strip_prefix("veth").is_some_and(made))
    };
    link.name.starts_with("flannel") || link.name == "cni0" || is_pods_veth()
}

fn default_links(rtnl: &mut Rtnl, ipv6: bool) -> weft_net::Result<Vec<u32>> {
    match rtnl.default_routes(ipv6) {
        Ok(routes) => Ok(routes.iter().filter_map(|route| route.link).collect()),
        // A kernel without IPv6.
        Err(error) if error.is_not_supported() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn reach(rtnl: &mut Rtnl, address: IpAddr) -> weft_net::Result<Option<Reach>> {
    match rtnl.way_to(address) {
        Ok(way) => Ok(Some(Reach {
            link: way.link,
            source: way.source,
            is_local: way.is_local,
        })),
        Err(error) if error.is_no_way() || error.is_not_supported() => Ok(None),
        Err(error) => Err(error),
    }
}
