//! What the reference plugin left for a container: rules in nftables tables of its own, with the
//! container's id for a comment; or chains of iptables.

use weft_net::{
    Result,
    nft::{Family, NftSocket, Object, Table, Transaction},
};

use super::{entry::Wanted, publish::again};
use crate::owner::Owner;

pub(super) const TABLES: [Table<'static>; 2] = [
    Table::new(Family::Ip, "cni_hostport"),
    Table::new(Family::Ip6, "cni_hostport"),
];

/// Whether each mapping has its rule. Its own CHECK counts too.
pub(super) fn has_rules_for(nft: &mut NftSocket, wanted: &Wanted<'_>) -> Result<bool> {
    for table in TABLES {
        let is_ipv6 = table.family == Family::Ip6;
        let of_family = wanted
            .published
            .iter()
            .filter(|p| p.key.is_ipv6() == is_ipv6);
        let rules = nft.rules(table.chain("hostports"))?;
        let ours = rules
            .iter()
            .filter(|rule| rule.comment() == wanted.owner.container_id);
        if ours.count() < of_family.count() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether iptables would find the container's chain. In legacy tables nobody can tell without
/// starting it.
pub(super) fn has_chain_of(nft: &mut NftSocket, owner: &Owner) -> Result<bool> {
    let name = owner.chain("CNI-DN-");
    let chain = |family| Object::Chain(Table::new(family, "nat").chain(&name));
    let found = nft.find(&[chain(Family::Ip), chain(Family::Ip6)])?.found;
    Ok(found.iter().any(Option::is_some))
}

pub(super) fn remove_rules(
    nft: &mut NftSocket,
    table: Table<'_>,
    container_id: &str,
) -> Result<()> {
    again(|| {
        let mut transaction = Transaction::at(nft.generation()?);
        for rule in nft.table_rules(table)? {
            if rule.comment() == container_id {
                transaction.delete_rule(table.chain(&rule.chain), rule.handle);
            }
        }
        nft.commit(transaction)
    })
}
