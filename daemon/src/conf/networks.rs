//! Which networks pods live in: named by the configuration, or left to be found elsewhere.

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde_json::Value;
use weft_cni::Object;

use super::pool::{Family, V4, V6};
use super::{Checks, Error};

/// Whether a configuration leaves it to others to say what network pods live in.
pub fn leaves_networks_out(text: &str) -> bool {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return false;
    };
    let Ok(conf) = Object::of(&value, "") else {
        return false;
    };
    let on = |key, usual| conf.truth(key).ok().flatten().unwrap_or(usual);
    (on("EnableIPv4", true) && is_left_out(&conf, &V4))
        || (on("EnableIPv6", false) && is_left_out(&conf, &V6))
}

/// Which families are on unless the configuration says so: those that were found, if it names no
/// network either.
pub(super) fn families(conf: &Object<'_>, checks: Checks<'_>) -> (bool, bool) {
    match checks {
        Checks::Assigned { found } if is_left_out(conf, &V4) && is_left_out(conf, &V6) => {
            let v6 = found.iter().any(IpNetwork::is_ipv6);
            (!v6 || found.iter().any(IpNetwork::is_ipv4), v6)
        }
        _ => (true, false),
    }
}

pub(super) fn v4(conf: &Object<'_>, checks: Checks<'_>) -> Result<Vec<Ipv4Network>, Error> {
    let networks = networks(conf, &V4, checks)?.into_iter();
    let of_family = networks.filter_map(|network| match network {
        IpNetwork::V4(v4) => Ipv4Network::new_checked(v4.network(), v4.prefix()),
        IpNetwork::V6(_) => None,
    });
    Ok(of_family.collect())
}

pub(super) fn v6(conf: &Object<'_>, checks: Checks<'_>) -> Result<Vec<Ipv6Network>, Error> {
    let networks = networks(conf, &V6, checks)?.into_iter();
    let of_family = networks.filter_map(|network| match network {
        IpNetwork::V4(_) => None,
        IpNetwork::V6(v6) => Ipv6Network::new_checked(v6.network(), v6.prefix()),
    });
    Ok(of_family.collect())
}

/// One of each.
pub(super) fn all<'a>(
    v4: impl Iterator<Item = &'a Ipv4Network>,
    v6: impl Iterator<Item = &'a Ipv6Network>,
) -> Vec<IpNetwork> {
    let v4 = v4.map(|network| IpNetwork::V4(*network));
    let v6 = v6.map(|network| IpNetwork::V6(*network));
    let mut all = Vec::new();
    for network in v4.chain(v6) {
        if !all.contains(&network) {
            all.push(network);
        }
    }
    all
}

/// Never empty.
fn networks(
    conf: &Object<'_>,
    family: &Family,
    checks: Checks<'_>,
) -> Result<Vec<IpNetwork>, Error> {
    let Family {
        name,
        network: key,
        example,
        ..
    } = family;
    let Some(text) = given(conf, family, checks)? else {
        let found: Vec<_> = match checks {
            Checks::Leases => Vec::new(),
            Checks::Assigned { found } => {
                found.iter().copied().filter(|n| is_of(family, n)).collect()
            }
        };
        if found.is_empty() {
            let what = format!("\"{key}\" is missing, the {name} network that pods live in");
            return Err(Error::value(
                what,
                format!("add it, like \"{key}\": \"{example}\""),
            ));
        }
        return Ok(found);
    };
    match checks {
        Checks::Leases => Ok(vec![network(text, text, family)?]),
        // As kubeadm lists them.
        Checks::Assigned { .. } => {
            let parts = text.split(',').map(str::trim);
            parts.map(|part| network(part, text, family)).collect()
        }
    }
}

/// None for what is to be found elsewhere.
fn given<'a>(
    conf: &'a Object<'_>,
    family: &Family,
    checks: Checks<'_>,
) -> Result<Option<&'a str>, Error> {
    let Family {
        network: key,
        example,
        ..
    } = family;
    let text = conf.text(key);
    let text = text
        .map_err(|why| Error::value(why.msg, format!("write it like \"{key}\": \"{example}\"")))?;
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    let assigned = checks != Checks::Leases;
    Ok(text.filter(|text| !(assigned && text.eq_ignore_ascii_case(AUTO))))
}

fn is_left_out(conf: &Object<'_>, family: &Family) -> bool {
    let anything = Checks::Assigned { found: &[] };
    matches!(given(conf, family, anything), Ok(None))
}

fn network(text: &str, whole: &str, family: &Family) -> Result<IpNetwork, Error> {
    let Family {
        name,
        network: key,
        example,
        ..
    } = family;
    let network: Option<IpNetwork> = text.contains('/').then(|| text.parse().ok()).flatten();
    let Some(network) = network else {
        return Err(Error::value(
            format!("\"{key}\" is {whole:?}, not an {name} network"),
            format!("write it like \"{key}\": \"{example}\""),
        ));
    };
    match is_of(family, &network) {
        true => Ok(network),
        false => Err(Error::value(
            format!("\"{key}\" is {whole:?}, which is of the other family"),
            format!(
                "an {name} network belongs there; this one is for {:?}",
                family.other_network
            ),
        )),
    }
}

fn is_of(family: &Family, network: &IpNetwork) -> bool {
    network.is_ipv4() == (family.width == 32)
}

const AUTO: &str = "auto";
