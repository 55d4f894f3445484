//! What the reference bridge plugin makes in nftables, for pods that it wired and that we unwire: a
//! masquerade rule for each address, with a comment that begins with the owner's mark, and two
//! chains against wrong MAC addresses.

use weft_net::{
    Result,
    nft::{Chain, Family, NftSocket, Object, Table, Transaction},
};

use crate::owner::Owner;

pub(crate) fn remove_masquerade(nft: &mut NftSocket, mark: &str) -> Result<()> {
    remove_rules(nft, |comment| comment.starts_with(mark))
}

/// Removes what the network has under marks that are not among the living.
pub(crate) fn collect_masquerade(
    nft: &mut NftSocket,
    network_mark: &str,
    living: &[String],
) -> Result<()> {
    remove_rules(nft, |comment| {
        comment.starts_with(network_mark) && !living.iter().any(|mark| comment.starts_with(mark))
    })
}

/// The two chains, and the rules that lead to them.
pub(crate) fn remove_mac_check(nft: &mut NftSocket, owner: &Owner) -> Result<()> {
    let place = format!("{}-{}", owner.container_id, owner.ifname);
    let names = [
        format!("cni-br-iface-{place}"),
        format!("cni-br-iface-{place}-mac"),
    ];
    let [iface, mac] = names.each_ref().map(|name| BRIDGE_NAT.chain(name));
    if nft
        .find(&[Object::Chain(iface)])?
        .found
        .iter()
        .all(Option::is_none)
    {
        return Ok(());
    }
    let comment = format!("macspoofchk-{place}");
    let mut transaction = Transaction::new();
    for rule in nft
        .rules(BRIDGE_PREROUTING)?
        .iter()
        .filter(|rule| rule.comment() == comment)
    {
        transaction.delete_rule(BRIDGE_PREROUTING, rule.handle);
    }
    transaction.flush_chain(iface);
    transaction.flush_chain(mac);
    transaction.delete_chain(iface);
    transaction.delete_chain(mac);
    nft.commit(transaction)
}

fn remove_rules(nft: &mut NftSocket, unwanted: impl Fn(&str) -> bool) -> Result<()> {
    if nft
        .find(&[Object::Table(TABLE)])?
        .found
        .iter()
        .all(Option::is_none)
    {
        return Ok(());
    }
    for rule in nft
        .rules(CHECKS)?
        .iter()
        .filter(|rule| unwanted(rule.comment()))
    {
        let mut transaction = Transaction::new();
        transaction.delete_rule(CHECKS, rule.handle);
        match nft.commit(transaction) {
            // The plugin itself was faster: it lists and deletes as it likes.
            Err(error) if error.is_not_found() => {}
            done => done?,
        }
    }
    Ok(())
}

const TABLE: Table<'static> = Table::new(Family::Inet, "cni_plugins_masquerade");
const CHECKS: Chain<'static> = TABLE.chain("masq_checks");
const BRIDGE_NAT: Table<'static> = Table::new(Family::Bridge, "nat");
const BRIDGE_PREROUTING: Chain<'static> = BRIDGE_NAT.chain("PREROUTING");
