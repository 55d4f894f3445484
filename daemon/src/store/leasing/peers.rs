//! Every lease but our own, as a snapshot, with what cannot be used told apart.

use std::sync::Arc;

use super::owner::ours;
use super::table::{Row, Table};
use crate::conf::NetConf;
use crate::lease::{Lease, Subnets};
use crate::store::{Claim, Peers, Rubbish};

pub fn peers(
    table: &Table,
    conf: Option<&NetConf>,
    claim: Option<&Claim>,
    own: Option<&Subnets>,
) -> Peers {
    let mut peers = Peers::default();
    peers.leases.reserve(table.count());
    for (key, row) in table.rows() {
        if claim.is_some_and(|claim| ours(claim, row).is_some()) {
            continue;
        }
        match usable(row, conf, own) {
            Ok(lease) => peers.leases.extend(lease),
            Err(why) => peers.rubbish.push(Rubbish {
                name: key.to_owned(),
                why,
            }),
        }
    }
    peers.leases.sort_by_key(|lease| lease.subnets);
    peers
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
