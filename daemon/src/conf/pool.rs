//! Which subnets there are to give out. Both families are reckoned in one way: an address is a
//! number of `width` bits.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use weft_cni::Object;

use super::{Checks, Error, Pool4, Pool6};

pub(super) fn v4(
    conf: &Object<'_>,
    network: Ipv4Network,
    checks: Checks<'_>,
) -> Result<Pool4, Error> {
    let base = u32::from(network.network());
    let pool = Numbers::read(conf, &V4, checks, base.into(), network.prefix())?;
    Ok(Pool4 {
        network,
        subnet_len: pool.subnet_len,
        min: v4_address(pool.min),
        max: v4_address(pool.max),
    })
}

pub(super) fn v6(
    conf: &Object<'_>,
    network: Ipv6Network,
    checks: Checks<'_>,
) -> Result<Pool6, Error> {
    let base = u128::from(network.network());
    let pool = Numbers::read(conf, &V6, checks, base, network.prefix())?;
    Ok(Pool6 {
        network,
        subnet_len: pool.subnet_len,
        min: Ipv6Addr::from(pool.min),
        max: Ipv6Addr::from(pool.max),
    })
}

/// What sets one family apart from the other.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) network: &'static str,
    pub(super) other_network: &'static str,
    subnet_len: &'static str,
    min: &'static str,
    max: &'static str,
    pub(super) width: u8,
    /// The length of a subnet, unless the network leaves too little room for it.
    usual_len: u8,
    /// The longest network with room for subnets of a length nobody chose.
    longest_network: u8,
    pub(super) example: &'static str,
}

pub(super) const V4: Family = Family {
    name: "IPv4",
    network: "Network",
    other_network: "IPv6Network",
    subnet_len: "SubnetLen",
    min: "SubnetMin",
    max: "SubnetMax",
    width: 32,
    usual_len: 24,
    longest_network: 28,
    example: "10.244.0.0/16",
};

pub(super) const V6: Family = Family {
    name: "IPv6",
    network: "IPv6Network",
    other_network: "Network",
    subnet_len: "IPv6SubnetLen",
    min: "IPv6SubnetMin",
    max: "IPv6SubnetMax",
    width: 128,
    usual_len: 64,
    longest_network: 124,
    example: "fd05::/48",
};

/// The pool, in numbers of one family.
struct Numbers {
    subnet_len: u8,
    min: u128,
    max: u128,
}

impl Numbers {
    fn read(
        conf: &Object<'_>,
        family: &Family,
        checks: Checks<'_>,
        base: u128,
        network_len: u8,
    ) -> Result<Self, Error> {
        let judged = checks == Checks::Leases;
        let subnet_len = subnet_len(conf, family, network_len, judged)?;
        let size = host_mask(family.width, subnet_len);
        let last = base | host_mask(family.width, network_len);
        let first_of_last = last - size.min(last - base);
        let second = base
            .saturating_add(size)
            .saturating_add(1)
            .min(first_of_last);
        let min = bound(conf, family, family.min)?;
        let max = bound(conf, family, family.max)?;
        let pool = Self {
            subnet_len,
            min: min.unwrap_or(second),
            max: max.unwrap_or(first_of_last),
        };
        if judged {
            for (key, bound) in [(family.min, pool.min), (family.max, pool.max)] {
                judge_bound(family, key, bound, base, last, subnet_len)?;
            }
            pool.judge_order(family, min.is_some())?;
        }
        Ok(pool)
    }

    fn judge_order(&self, family: &Family, min_is_given: bool) -> Result<(), Error> {
        if self.min <= self.max {
            return Ok(());
        }
        let Family { min, max, .. } = family;
        let default = match min_is_given {
            true => "",
            false => " (the second subnet, since the first would own the network's address)",
        };
        Err(Error::value(
            format!(
                "{min:?} is {}{default}, which lies behind {max:?}, {}",
                address(family, self.min),
                address(family, self.max)
            ),
            format!("choose {min} lower, or {max} higher"),
        ))
    }
}

fn subnet_len(
    conf: &Object<'_>,
    family: &Family,
    network_len: u8,
    judged: bool,
) -> Result<u8, Error> {
    let Family {
        network,
        subnet_len: key,
        width,
        usual_len,
        longest_network,
        ..
    } = family;
    let longest = width - 2;
    let remedy = format!(
        "write a number between {} and {longest}",
        network_len.saturating_add(2)
    );
    let given: Option<i64> = conf
        .number(key)
        .map_err(|why| Error::value(why.msg, &remedy))?;
    // Go cannot tell a 0 from nothing.
    let Some(given) = given.filter(|len| *len != 0) else {
        if judged && network_len > *longest_network {
            return Err(Error::value(
                format!("{network:?} is a /{network_len}, too small to be cut into subnets"),
                format!(
                    "a /{longest_network} is the least, a /{} is usual",
                    usual_len - 8
                ),
            ));
        }
        return Ok(usual_len
            .to_owned()
            .max(network_len.saturating_add(2))
            .min(*width));
    };
    let least = network_len.saturating_add(2);
    let len = u8::try_from(given).ok().filter(|len| len <= width);
    match len {
        Some(len) if !judged || (least..=longest).contains(&len) => Ok(len),
        _ if judged && least > longest => Err(Error::value(
            format!("{network:?} is a /{network_len}, too small to be cut into subnets"),
            format!("a /{longest_network} is the least"),
        )),
        Some(len) if len < least => Err(Error::value(
            format!(
                "{key:?} is {len}, but {network:?} is a /{network_len}: it has to be cut into at least four subnets"
            ),
            remedy,
        )),
        _ => Err(Error::value(
            format!("{key:?} is {given}, but a subnet needs at least four addresses"),
            remedy,
        )),
    }
}

fn bound(conf: &Object<'_>, family: &Family, key: &str) -> Result<Option<u128>, Error> {
    let wanted = format!("an {} address", family.name);
    let remedy = format!(
        "write the first address of a subnet within {}",
        family.network
    );
    let parsed = match family.width {
        32 => conf
            .parsed::<Ipv4Addr>(key, &wanted)
            .map(|ip| ip.map(|ip| u32::from(ip).into())),
        _ => conf
            .parsed::<Ipv6Addr>(key, &wanted)
            .map(|ip| ip.map(u128::from)),
    };
    parsed.map_err(|why| Error::value(why.msg, remedy))
}

fn judge_bound(
    family: &Family,
    key: &str,
    bound: u128,
    base: u128,
    last: u128,
    subnet_len: u8,
) -> Result<(), Error> {
    let shown = address(family, bound);
    if !(base..=last).contains(&bound) {
        let (base, last) = (address(family, base), address(family, last));
        return Err(Error::value(
            format!(
                "{key:?} is {shown}, which lies outside of {:?}",
                family.network
            ),
            format!("choose it between {base} and {last}"),
        ));
    }
    let start = bound & !host_mask(family.width, subnet_len);
    match bound == start {
        true => Ok(()),
        false => Err(Error::value(
            format!("{key:?} is {shown}, which is not the first address of a /{subnet_len}"),
            format!("{} is", address(family, start)),
        )),
    }
}

fn host_mask(width: u8, len: u8) -> u128 {
    let bits = u32::from(width.saturating_sub(len));
    1u128.checked_shl(bits).map_or(u128::MAX, |size| size - 1)
}

fn address(family: &Family, number: u128) -> impl Display + use<> {
    match family.width {
        32 => IpAddr::V4(v4_address(number)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

fn v4_address(number: u128) -> Ipv4Addr {
    Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))
}
