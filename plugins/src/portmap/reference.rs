//! What the reference plugin's nftables back-end left for a container: rules in tables of its own,
//! with the container's id for a comment.

use weft_net::{
    Result,
    nft::{Family, NftSocket, Table, Transaction},
};

use super::publish::again;

pub(super) const TABLES: [Table<'static>; 2] = [
    Table::new(Family::Ip, "cni_hostport"),
    Table::new(Family::Ip6, "cni_hostport"),
];

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
