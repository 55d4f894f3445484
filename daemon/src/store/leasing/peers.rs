//! Every lease but our own, as a snapshot, with what cannot be used told apart.

use std::sync::Arc;

use super::owner::ours;
use super::table::{Row, Table};
use crate::conf::NetConf;
use crate::lease::{Lease, Subnets};
use crate::store::{Claim, Peers, Rubbish};

/// `missing` may come back, and counts until then unless somebody else is where it was.
pub fn peers(
    table: &Table,
    missing: &Table,
    conf: Option<&NetConf>,
    claim: Option<&Claim>,
    own: Option<&Subnets>,
) -> Peers {
    let mut claims = Vec::with_capacity(table.count());
    let mut rubbish = Vec::new();
    for (key, row) in table.rows() {
        if claim.is_some_and(|claim| ours(claim, row).is_some()) {
            continue;
        }
        match usable(row, conf, own) {
            Ok(lease) => claims.extend(lease.map(|lease| Claimed::new(key, lease, true))),
            Err(why) => rubbish.push(Rubbish {
                name: key.to_owned(),
                why,
            }),
        }
    }
    for (key, row) in missing.rows() {
        let is_ours = claim.is_some_and(|claim| ours(claim, row).is_some());
        if !is_ours
            && table.get(key).is_none()
            && let Ok(lease) = usable(row, conf, own)
        {
            claims.extend(lease.map(|lease| Claimed::new(key, lease, false)));
        }
    }
    let v4_len = conf.and_then(|conf| conf.v4).map(|pool| pool.subnet_len);
    let v6_len = conf.and_then(|conf| conf.v6).map(|pool| pool.subnet_len);
    Peers {
        leases: apart(claims, [v4_len, v6_len], &mut rubbish),
        rubbish,
    }
}

/// What is left once nobody claims what another claims; who has to yield is told. `lens` are the
/// lengths that subnets of the network have, of both families.
pub(in crate::store) fn apart(
    claims: Vec<Claimed<'_>>,
    [v4_len, v6_len]: [Option<u8>; 2],
    rubbish: &mut Vec<Rubbish>,
) -> Vec<Arc<Lease>> {
    let claims = set_apart(claims, rubbish, |subnets| {
        let net = subnets.v4?;
        let bounds = [net.network(), net.broadcast()].map(|ip| u128::from(ip.to_bits()));
        Some((bounds, v4_len == Some(net.prefix())))
    });
    let claims = set_apart(claims, rubbish, |subnets| {
        let net = subnets.v6?;
        let bounds = [net.network(), net.broadcast()].map(|ip| ip.to_bits());
        Some((bounds, v6_len == Some(net.prefix())))
    });
    let mut leases: Vec<_> = claims.into_iter().map(|claimed| claimed.lease).collect();
    leases.sort_by_key(|lease| lease.subnets);
    leases
}

pub(in crate::store) struct Claimed<'a> {
    key: &'a str,
    lease: Arc<Lease>,
    /// Not missing.
    stands: bool,
}

impl<'a> Claimed<'a> {
    pub(in crate::store) fn new(key: &'a str, lease: Arc<Lease>, stands: bool) -> Self {
        Self { key, lease, stands }
    }
}

/// Of two nodes that claim the same addresses one is wrong, and would draw the other's packets:
/// the one whose subnet has not the network's length, else the later in order. `side` is a
/// lease's first and last address in one family, and whether its length is the network's.
fn set_apart<'a>(
    claims: Vec<Claimed<'a>>,
    rubbish: &mut Vec<Rubbish>,
    side: impl Fn(&Subnets) -> Option<([u128; 2], bool)>,
) -> Vec<Claimed<'a>> {
    let (mut sided, mut kept) = (Vec::with_capacity(claims.len()), Vec::new());
    for claimed in claims {
        match side(&claimed.lease.subnets) {
            Some((bounds, usual)) => sided.push((bounds, usual, claimed)),
            None => kept.push(claimed),
        }
    }
    sided.sort_by_key(|(bounds, ..)| *bounds);
    // What is kept is apart and in order, so only its last can be in the way.
    let mut apart: Vec<([u128; 2], bool, Claimed<'a>)> = Vec::with_capacity(sided.len());
    for next in sided {
        let Some(last) = apart.pop_if(|([_, last], ..)| *last >= next.0[0]) else {
            apart.push(next);
            continue;
        };
        let (right, wrong) = match (next.2.stands, next.1) > (last.2.stands, last.1) {
            true => (next, last),
            false => (last, next),
        };
        if wrong.2.stands {
            rubbish.push(Rubbish {
                name: wrong.2.key.to_owned(),
                why: format!(
                    "it claims {}, which overlaps {} of another node",
                    wrong.2.lease.subnets, right.2.lease.subnets
                ),
            });
        }
        apart.push(right);
    }
    kept.extend(apart.into_iter().map(|(.., claimed)| claimed));
    kept
}

/// None for a reservation that nobody uses.
fn usable(
    row: &Row,
    conf: Option<&NetConf>,
    own: Option<&Subnets>,
) -> Result<Option<Arc<Lease>>, String> {
    let lease = row.lease.as_ref().map_err(Clone::clone)?;
    if let Some(conf) = conf {
        judge_network(&lease.subnets, conf)?;
    }
    if let Some(own) = own.filter(|own| own.overlaps(&lease.subnets)) {
        return Err(format!(
            "it claims {}, which overlaps this node's own {own}",
            lease.subnets
        ));
    }
    match (lease.attrs.public_ip, lease.attrs.public_ipv6) {
        (None, None) if row.lasts => Ok(None),
        (None, None) => Err("it has no public address".to_owned()),
        _ => Ok(Some(lease.clone())),
    }
}

fn judge_network(subnets: &Subnets, conf: &NetConf) -> Result<(), String> {
    let v4 = subnets.v4.zip(conf.v4);
    if let Some((net, pool)) = v4.filter(|(net, pool)| !net.is_subnet_of(pool.network)) {
        return Err(format!(
            "{net} lies outside of the network {}",
            pool.network
        ));
    }
    let v6 = subnets.v6.zip(conf.v6);
    if let Some((net, pool)) = v6.filter(|(net, pool)| !net.is_subnet_of(pool.network)) {
        return Err(format!(
            "{net} lies outside of the network {}",
            pool.network
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Checks;
    use crate::store::registry::Entry;

    fn split(keys: &[&str]) -> (Vec<String>, Vec<String>) {
        let conf = r#"{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd05::/48",
            "Backend": {"Type": "host-gw"}}"#;
        let conf = NetConf::parse(conf, Checks::Leases).unwrap();
        let mut table = Table::default();
        table.replace(
            keys.iter()
                .map(|key| Entry {
                    key: format!("subnets/{key}"),
                    value: r#"{"PublicIP":"192.0.2.1","BackendType":"host-gw"}"#.to_owned(),
                    version: 1,
                    lasts: false,
                })
                .collect(),
        );
        let peers = peers(&table, &Table::default(), Some(&conf), None, None);
        let kept = peers.leases.iter().filter_map(|l| l.subnets.to_key());
        let wrong = peers.rubbish.into_iter().map(|rubbish| rubbish.name);
        (kept.collect(), wrong.collect())
    }

    #[test]
    fn of_claims_that_overlap_those_of_the_network_s_length_stay() {
        let (kept, wrong) = split(&[
            "10.5.1.0-25",
            "10.5.1.0-24",
            "10.5.2.128-25",
            "10.5.2.0-24",
            "10.5.4.0-22",
            "10.5.5.0-24",
            "10.5.7.0-24",
            "10.5.9.0-24",
        ]);
        let usual = ["10.5.1.0-24", "10.5.2.0-24", "10.5.5.0-24"];
        assert_eq!(kept[..3], usual);
        assert_eq!(kept[3..], ["10.5.7.0-24", "10.5.9.0-24"]);
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        // Alone, a subnet of another length is a peer's like any other.
        assert_eq!(split(&["10.5.4.0-22"]).0, ["10.5.4.0-22"]);
    }

    #[test]
    fn claims_are_held_apart_in_both_families() {
        let (kept, wrong) = split(&[
            "10.5.1.0-24&fd05:0:0:1::-64",
            "10.5.2.0-24&fd05:0:0:1::-65",
            "10.5.3.0-24&fd05:0:0:3::-64",
            "10.5.3.0-24",
        ]);
        assert_eq!(kept, ["10.5.1.0-24&fd05:0:0:1::-64", "10.5.3.0-24"]);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }
}
