//! Which interface other nodes are reached by, and at which addresses they reach us.

mod landscape;
mod pattern;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use landscape::{Face, Landscape};
pub use pattern::Pattern;

/// What the command line says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names or addresses, tried in this order.
    pub names: Vec<String>,
    /// Tried after the names: an address that matches, else a name that does.
    pub regexes: Vec<Pattern>,
    /// Tried last: the interface that leads there.
    pub can_reach: Option<IpAddr>,
    /// What is published, whatever the interface's address is.
    pub public_ip: Option<Ipv4Addr>,
    pub public_ipv6: Option<Ipv6Addr>,
}

/// Which families the pod network has. The interface needs an address of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

/// The interface that was chosen. Of a family that the pod network does not have, nothing is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    /// The interface's own addresses.
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    /// What is published: the same, unless the command line says otherwise.
    pub public_ip: Option<Ipv4Addr>,
    pub public_ipv6: Option<Ipv6Addr>,
}

/// The error is for the operator: each flag that was tried, why it led to nothing, and what there
/// is to choose from.
pub fn choose(wanted: &Wanted, families: Families, land: &Landscape) -> Result<Underlay, String> {
    choose_beside(wanted, families, land, None)
}

/// As [`choose`], while a choice stands: an address that came to the same interface does not move
/// the node, as long as the one it is known by stays good.
pub fn choose_again(
    wanted: &Wanted,
    families: Families,
    land: &Landscape,
    standing: &Underlay,
) -> Result<Underlay, String> {
    choose_beside(wanted, families, land, Some(standing))
}

fn choose_beside(
    wanted: &Wanted,
    families: Families,
    land: &Landscape,
    standing: Option<&Underlay>,
) -> Result<Underlay, String> {
    let mut told = Vec::new();
    for way in ways(wanted) {
        let found = land.find(&way, families);
        match found.and_then(|pick| pick.keeping(standing).underlay(wanted, families)) {
            Ok(underlay) => return Ok(underlay),
            Err(why) => told.push(format!("{way}: {why}")),
        }
    }
    Err(format!(
        "no interface to reach other nodes by: {}; there is {}; {REMEDY}",
        told.join("; "),
        land.describe()
    ))
}

/// host-gw has peers send to the public address as to a neighbour: it must be the interface's own.
pub fn check_host_gw(underlay: &Underlay) -> Result<(), String> {
    let v4 = (
        "-public-ip",
        underlay.v4.map(IpAddr::V4),
        underlay.public_ip.map(IpAddr::V4),
    );
    let v6 = (
        "-public-ipv6",
        underlay.v6.map(IpAddr::V6),
        underlay.public_ipv6.map(IpAddr::V6),
    );
    for (flag, own, public) in [v4, v6] {
        if let (Some(own), Some(public)) = (own, public)
            && own != public
        {
            return Err(format!(
                "the backend host-gw cannot publish {public} ({flag}): {} has {own}, and host-gw \
                 reaches nodes by their interface's own address; leave {flag} out, choose the \
                 interface that has {public} with -iface, or use the backend vxlan",
                underlay.name
            ));
        }
    }
    Ok(())
}

/// One thing to try.
#[derive(Debug)]
enum Way<'a> {
    Address(&'a str, IpAddr),
    Name(&'a str),
    Regex(&'a Pattern),
    CanReach(IpAddr),
    /// No flag names an interface: the one that has what is published.
    Public(&'static str, IpAddr),
    Default,
}

fn ways(wanted: &Wanted) -> Vec<Way<'_>> {
    let mut ways: Vec<Way<'_>> = wanted.names.iter().map(|name| Way::named(name)).collect();
    ways.extend(wanted.regexes.iter().map(Way::Regex));
    ways.extend(wanted.can_reach.map(Way::CanReach));
    if ways.is_empty() {
        ways.push(match (wanted.public_ip, wanted.public_ipv6) {
            (Some(v4), _) => Way::Public("-public-ip", v4.into()),
            (None, Some(v6)) => Way::Public("-public-ipv6", v6.into()),
            (None, None) => Way::Default,
        });
    }
    ways
}

impl<'a> Way<'a> {
    fn named(name: &'a str) -> Self {
        name.parse()
            .map_or(Self::Name(name), |address| Self::Address(name, address))
    }
}

impl std::fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(given, _) => write!(f, "-iface={given}"),
            Self::Name(name) => write!(f, "-iface={name}"),
            Self::Regex(pattern) => write!(f, "-iface-regex={pattern}"),
            Self::CanReach(address) => write!(f, "-iface-can-reach={address}"),
            Self::Public(flag, address) => write!(f, "{flag}={address}"),
            Self::Default => write!(f, "without -iface"),
        }
    }
}

/// An interface, with the addresses that led to it.
#[derive(Debug)]
struct Pick<'a> {
    face: &'a Face,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl<'a> Pick<'a> {
    fn of(face: &'a Face) -> Self {
        Self {
            face,
            v4: None,
            v6: None,
        }
    }

    fn with(face: &'a Face, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self {
                v4: Some(v4),
                ..Self::of(face)
            },
            IpAddr::V6(v6) => Self {
                v6: Some(v6),
                ..Self::of(face)
            },
        }
    }

    fn keeping(self, standing: Option<&Underlay>) -> Self {
        let Some(standing) = standing.filter(|standing| standing.index == self.face.index) else {
            return self;
        };
        let has = |ip: &IpAddr| self.face.addresses.contains(ip);
        let (v4, v6) = (
            standing.v4.filter(|ip| has(&IpAddr::V4(*ip))),
            standing.v6.filter(|ip| has(&IpAddr::V6(*ip))),
        );
        Self {
            v4: self.v4.or(v4),
            v6: self.v6.or(v6),
            ..self
        }
    }

    fn underlay(self, wanted: &Wanted, families: Families) -> Result<Underlay, String> {
        let face = self.face;
        if face.mtu == 0 {
            return Err(format!("{} has no MTU", face.name));
        }
        let v4 = (families.v4)
            .then(|| {
                let address = self.v4.or_else(|| face.v4().next());
                address.ok_or_else(|| lacks(face, "IPv4", "address, other than for loopback"))
            })
            .transpose()?;
        let v6 = (families.v6)
            .then(|| {
                let address = self.v6.or_else(|| face.v6().next());
                address.ok_or_else(|| lacks(face, "IPv6", "address that is not deprecated"))
            })
            .transpose()?;
        Ok(Underlay {
            index: face.index,
            name: face.name.clone(),
            mtu: face.mtu,
            v4,
            v6,
            public_ip: v4.map(|own| wanted.public_ip.unwrap_or(own)),
            public_ipv6: v6.map(|own| wanted.public_ipv6.unwrap_or(own)),
        })
    }
}

fn lacks(face: &Face, family: &str, what: &str) -> String {
    format!(
        "{} has no {family} {what}, and the pod network has {family}",
        face.name
    )
}

const REMEDY: &str =
    "name one with -iface, by its name or its address, or give the interface what it lacks";
