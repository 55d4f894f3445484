//! The rules that give a pod's packets the node's address when they leave its subnet.
//!
//! ```text
//! POSTROUTING ── -s POD ── CNI-<hash> ── -d SUBNET ── ACCEPT
//!                                    └─ ! -d MULTICAST ── MASQUERADE
//! ```

use ipnetwork::IpNetwork;

use super::Family;
use super::rules::{Wanted, host, of_family, subnet, trimmed};
use super::script::Rule;
use crate::owner::Owner;

/// A pod's addresses, behind which nothing but its own subnet sees them.
#[derive(Clone, Copy, Debug)]
pub struct Masquerade<'a> {
    pub owner: &'a Owner,
    /// Each with the prefix of its subnet.
    pub addresses: &'a [IpNetwork],
}

impl Masquerade<'_> {
    pub(super) fn chain_of(owner: &Owner) -> String {
        owner.chain(PREFIX)
    }

    pub(super) fn wanted(&self, family: Family) -> Option<Wanted> {
        let addresses: Vec<_> = of_family(self.addresses, family).collect();
        if addresses.is_empty() {
            return None;
        }
        let chain = Self::chain_of(self.owner);
        let comment = trimmed(comment_of(self.owner));
        let commented = |chain: &str, matches: &[&str], target: &str| {
            let comment = ["-m", "comment", "--comment", &comment, "-j", target];
            Rule::new(chain, &[matches, &comment].concat())
        };

        let mut subnets: Vec<_> = addresses.iter().map(|pod| subnet(**pod)).collect();
        subnets.sort();
        subnets.dedup();
        let mut rules: Vec<_> = subnets
            .iter()
            .map(|subnet| commented(&chain, &["-d", subnet], "ACCEPT"))
            .collect();
        let beyond = ["!", "-d", family.multicast()];
        rules.push(commented(&chain, &beyond, "MASQUERADE"));
        let entries = addresses
            .iter()
            .map(|pod| commented("POSTROUTING", &["-s", &host(pod.ip())], &chain))
            .collect();
        Some(Wanted {
            shared_chains: Vec::new(),
            shared: Vec::new(),
            chain,
            rules,
            entries,
            has_room_for_others: true,
        })
    }
}

/// What the comments of all that belongs to `network` begin with.
pub(super) fn comments_of(network: &str) -> [String; 1] {
    [format!("name: \"{network}\" id: \"")]
}

fn comment_of(owner: &Owner) -> String {
    let [begin] = comments_of(&owner.network);
    format!("{begin}{}\"", owner.container_id)
}

pub(super) const PREFIX: &str = "CNI-";

#[cfg(test)]
mod tests {
    use super::super::save::addition;
    use super::*;

    fn owner(network: &str, container_id: &str) -> Owner {
        Owner {
            network: network.into(),
            container_id: container_id.into(),
            ifname: "eth0".into(),
        }
    }

    fn pods() -> Vec<IpNetwork> {
        ["10.99.0.5/24", "fd99::5/64"]
            .map(|pod| pod.parse().unwrap())
            .into()
    }

    /// The lines of the ordinary transaction, behind those that require shared rules.
    fn own_lines(wanted: Option<Wanted>) -> Vec<String> {
        let text = addition(&wanted.unwrap()).unwrap().text();
        let own = text.lines().skip_while(|line| !line.starts_with("-N"));
        own.map(str::to_owned).collect()
    }

    #[test]
    fn masquerading_is_as_the_bridge_plugin_writes_it() {
        let (owner, pods) = (owner("n1", "cid1.1.0"), pods());
        let masquerade = Masquerade {
            owner: &owner,
            addresses: &pods,
        };
        let comment = r#"-m comment --comment "name: \"n1\" id: \"cid1.1.0\"""#;
        let chain = "CNI-42977637b9c8524712aa47f1";
        assert_eq!(
            own_lines(masquerade.wanted(Family::V4)),
            [
                format!("-N {chain}"),
                format!("-A {chain} -d 10.99.0.0/24 {comment} -j ACCEPT"),
                format!("-A {chain} ! -d 224.0.0.0/4 {comment} -j MASQUERADE"),
                format!("-A POSTROUTING -s 10.99.0.5/32 {comment} -j {chain}"),
                "COMMIT".into(),
            ]
        );
        assert_eq!(
            own_lines(masquerade.wanted(Family::V6)),
            [
                format!("-N {chain}"),
                format!("-A {chain} -d fd99::/64 {comment} -j ACCEPT"),
                format!("-A {chain} ! -d ff00::/8 {comment} -j MASQUERADE"),
                format!("-A POSTROUTING -s fd99::5/128 {comment} -j {chain}"),
                "COMMIT".into(),
            ]
        );
    }

    #[test]
    fn a_comment_is_no_longer_than_the_kernel_takes() {
        let (owner, pods) = (owner("n1", &"c".repeat(300)), pods());
        let wanted = Masquerade {
            owner: &owner,
            addresses: &pods,
        }
        .wanted(Family::V4)
        .unwrap();
        assert_eq!(wanted.entries[0].comment().unwrap().len(), 255);
    }
}
