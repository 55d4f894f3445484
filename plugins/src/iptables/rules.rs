//! What is to stand, as values: the chains, comments and forms of the reference plugins, which other
//! tools read and which reference plugins on the same node delete.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Family;
use super::script::Rule;

/// What is to stand in the nat table of one family for one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Chains that all owners use, and the rules in and before them.
    pub(super) shared_chains: Vec<&'static str>,
    pub(super) shared: Vec<Rule>,
    /// The owner's chain, the rules in it, and those that lead into it.
    pub(super) chain: String,
    pub(super) rules: Vec<Rule>,
    pub(super) entries: Vec<Rule>,
    /// Whether the container's other attachments to the network use the same chain.
    pub(super) has_room_for_others: bool,
}

/// As much of a comment as the kernel takes.
pub(super) fn trimmed(mut comment: String) -> String {
    comment.truncate(comment.floor_char_boundary(LONGEST_COMMENT));
    comment
}

pub(super) fn of_family(
    addresses: &[IpNetwork],
    family: Family,
) -> impl Iterator<Item = &IpNetwork> {
    addresses
        .iter()
        .filter(move |address| Family::of(address.ip()) == family)
}

pub(super) fn subnet(pod: IpNetwork) -> String {
    format!("{}/{}", pod.network(), pod.prefix())
}

pub(super) fn host(ip: IpAddr) -> String {
    IpNetwork::from(ip).to_string()
}

/// XT_MAX_COMMENT_LEN without its final NUL.
const LONGEST_COMMENT: usize = 255;
