//! What `iptables-save` says, and what follows from it: the transactions that lead from what
//! stands to what is wanted, or to nothing of an owner being left.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use weft_cni::Result;

use super::rules::Wanted;
use super::script::{Rule, Script, unquote};

/// The nat table of one family, as far as CNI plugins made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) chains: BTreeSet<String>,
    pub(super) rules: Vec<Rule>,
}

impl Saved {
    /// `None` when there is no nat table to be read: iptables-nft says so of one in which somebody
    /// keeps what iptables has no words for.
    pub(super) fn parse(saved: &str) -> Option<Self> {
        let mut lines = saved.lines();
        lines.find(|line| *line == "*nat")?;
        let mut state = Self::default();
        for line in lines.take_while(|line| *line != "COMMIT") {
            // A node's other rules may be many, and none of them is read.
            if !line.contains("CNI-") {
                continue;
            }
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                state.chains.insert(name.to_owned());
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let mut words = unquote(rule);
                if !words.is_empty() {
                    let chain = words.remove(0);
                    state.rules.push(Rule { chain, spec: words });
                }
            }
        }
        Some(state)
    }

    fn entries<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules
            .iter()
            .filter(move |rule| rule.target() == Some(chain))
    }
}

/// The transaction of the ordinary case: all that is shared stands, nothing of the owner does.
/// It fails when that is not so, and has then changed nothing.
pub(super) fn addition(wanted: &Wanted) -> Result<Script> {
    let mut script = Script::new();
    for rule in &wanted.shared {
        script.require(rule)?;
    }
    script.create_chain(&wanted.chain)?;
    for rule in wanted.rules.iter().chain(&wanted.entries) {
        script.append(rule)?;
    }
    Ok(script)
}

/// The transaction that makes what stands into what is wanted.
pub(super) fn reconciliation(wanted: &Wanted, saved: &Saved) -> Result<Script> {
    let mut script = Script::new();
    make_shared(wanted, saved, &mut script)?;

    if saved.chains.contains(&wanted.chain) {
        let ours = |rule: &Rule| wanted.entries.iter().any(|entry| entry.says(rule));
        for entry in saved.entries(&wanted.chain) {
            if !wanted.has_room_for_others || ours(entry) {
                script.delete(entry)?;
            }
        }
        script.flush_chain(&wanted.chain)?;
        if wanted.has_room_for_others && saved.entries(&wanted.chain).any(|rule| !ours(rule)) {
            for kept in subnets_of_others(wanted, saved) {
                script.append(kept)?;
            }
        }
    } else {
        script.create_chain(&wanted.chain)?;
    }
    for rule in wanted.rules.iter().chain(&wanted.entries) {
        script.append(rule)?;
    }
    Ok(script)
}

fn make_shared(wanted: &Wanted, saved: &Saved, script: &mut Script) -> Result<()> {
    for chain in &wanted.shared_chains {
        if !saved.chains.contains(*chain) {
            script.create_chain(chain)?;
        }
    }
    for rule in &wanted.shared {
        match saved
            .rules
            .iter()
            .filter(|stands| stands.says(rule))
            .count()
        {
            0 if rule.chain == "POSTROUTING" => script.prepend(rule)?,
            0 => script.append(rule)?,
            // Reference plugins that ran side by side may each have made one.
            copies => (1..copies).try_for_each(|_| script.delete(rule))?,
        }
    }
    Ok(())
}

fn subnets_of_others<'a>(wanted: &'a Wanted, saved: &'a Saved) -> impl Iterator<Item = &'a Rule> {
    saved.rules.iter().filter(|rule| {
        rule.chain == wanted.chain
            && rule.target() == Some("ACCEPT")
            && !wanted.rules.iter().any(|ours| ours.says(rule))
    })
}

/// The transaction that fails unless everything stands.
pub(super) fn verification(wanted: &Wanted) -> Result<Script> {
    let mut script = Script::new();
    let all = [&wanted.shared, &wanted.rules, &wanted.entries];
    for rule in all.into_iter().flatten() {
        script.require(rule)?;
    }
    Ok(script)
}

/// The transaction that removes exactly what was wanted. It fails when anything else leads into
/// the chain, so its success says that nothing is left.
pub(super) fn exact_removal(wanted: &Wanted) -> Result<Script> {
    let mut script = Script::new();
    for entry in &wanted.entries {
        script.delete(entry)?;
    }
    script.flush_chain(&wanted.chain)?;
    script.delete_chain(&wanted.chain)?;
    Ok(script)
}

/// The transaction after which nothing leads into `chains` and none of them stands.
pub(super) fn removal<'a>(
    saved: &Saved,
    chains: impl IntoIterator<Item = &'a str>,
) -> Result<Script> {
    let chains: Vec<_> = chains.into_iter().collect();
    let mut script = Script::new();
    for chain in &chains {
        for entry in saved.entries(chain) {
            script.delete(entry)?;
        }
    }
    let standing = chains.iter().filter(|chain| saved.chains.contains(**chain));
    for chain in standing.clone() {
        script.flush_chain(chain)?;
    }
    for chain in standing {
        script.delete_chain(chain)?;
    }
    Ok(script)
}

/// The transaction after which `addresses` do not lead into `chain`; where no other address does
/// either, the chain goes too.
pub(super) fn removal_of_addresses(
    saved: &Saved,
    chain: &str,
    addresses: &[IpNetwork],
) -> Result<Script> {
    let (ours, others): (Vec<_>, Vec<_>) = saved
        .entries(chain)
        .partition(|entry| addresses.iter().any(|pod| is_from(entry, *pod)));
    if others.is_empty() {
        return removal(saved, [chain]);
    }
    let mut script = Script::new();
    for entry in ours {
        script.delete(entry)?;
    }
    Ok(script)
}

/// Old reference plugins let the whole subnet into the chain of one pod.
fn is_from(entry: &Rule, pod: IpNetwork) -> bool {
    let source = entry.source().and_then(|source| source.parse().ok());
    source.is_some_and(|source: IpNetwork| {
        source == IpNetwork::from(pod.ip())
            || (source.prefix() == pod.prefix() && source.network() == pod.network())
    })
}

/// The chains whose comments say that they are somebody's of a network, other than `living`.
pub(super) fn dead_chains(
    saved: &Saved,
    prefixes: &[&str],
    comments: &[String],
    living: &BTreeSet<String>,
) -> BTreeSet<String> {
    let is_of_network = |rule: &&Rule| {
        let comment = rule.comment().unwrap_or_default();
        comments.iter().any(|begin| comment.starts_with(begin))
    };
    saved
        .rules
        .iter()
        .filter(is_of_network)
        .flat_map(|rule| [Some(rule.chain.as_str()), rule.target()])
        .flatten()
        .filter(|chain| is_owned(chain, prefixes) && !living.contains(*chain))
        .map(str::to_owned)
        .collect()
}

/// Whether the name is one of `prefixes` and a hash, cut as they all are.
pub(super) fn is_owned(chain: &str, prefixes: &[&str]) -> bool {
    let is_hash = |rest: &str| rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    chain.len() == LENGTH_OF_OWNED
        && prefixes
            .iter()
            .any(|prefix| chain.strip_prefix(prefix).is_some_and(is_hash))
}

const LENGTH_OF_OWNED: usize = 28;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Family;
    use super::super::{Masquerade, masquerade, port_mappings};
    use super::*;
    use crate::owner::Owner;

    const TWO_ATTACHMENTS: &str = r#"# Generated by iptables-save v1.8.9 (nf_tables)
*nat
:PREROUTING ACCEPT [0:0]
:CNI-895718981c112e2ba32fa38f - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:DOCKER - [0:0]
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
-A POSTROUTING -s 10.99.0.5/32 -m comment --comment "name: \"n1\" id: \"cidA\"" -j CNI-895718981c112e2ba32fa38f
-A POSTROUTING -s 10.98.0.6/32 -m comment --comment "name: \"n1\" id: \"cidA\"" -j CNI-895718981c112e2ba32fa38f
-A CNI-895718981c112e2ba32fa38f -d 10.98.0.0/24 -m comment --comment "name: \"n1\" id: \"cidA\"" -j ACCEPT
-A CNI-895718981c112e2ba32fa38f -d 10.99.0.0/24 -m comment --comment "name: \"n1\" id: \"cidA\"" -j ACCEPT
-A CNI-895718981c112e2ba32fa38f ! -d 224.0.0.0/4 -m comment --comment "name: \"n1\" id: \"cidA\"" -j MASQUERADE
COMMIT
# Completed
"#;
    const CHAIN: &str = "CNI-895718981c112e2ba32fa38f";

    fn saved() -> Saved {
        Saved::parse(TWO_ATTACHMENTS).unwrap()
    }

    fn net(address: &str) -> IpNetwork {
        address.parse().unwrap()
    }

    fn lines(script: Script) -> Vec<String> {
        script.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn only_what_plugins_made_is_kept() {
        let saved = saved();
        assert_eq!(saved.chains.len(), 2);
        assert_eq!(saved.rules.len(), 5);
        assert_eq!(saved.rules[0].comment(), Some(r#"name: "n1" id: "cidA""#));
    }

    #[test]
    fn a_table_that_iptables_cannot_read_is_none() {
        assert_eq!(
            Saved::parse("# Table `nat' is incompatible, use 'nft' tool.\n"),
            None
        );
    }

    // The reference bridge plugin removes the chain under the other attachment.
    #[test]
    fn removing_one_attachment_leaves_the_other_masqueraded() {
        let script = removal_of_addresses(&saved(), CHAIN, &[net("10.99.0.5/24")]).unwrap();
        let comment = r#"-m comment --comment "name: \"n1\" id: \"cidA\"""#;
        assert_eq!(
            lines(script),
            [
                "*nat",
                &format!("-D POSTROUTING -s 10.99.0.5/32 {comment} -j {CHAIN}"),
                "COMMIT",
            ]
        );
        let both = [net("10.99.0.5/24"), net("10.98.0.6/24")];
        let script = removal_of_addresses(&saved(), CHAIN, &both).unwrap();
        assert_eq!(lines(script).len(), 6);
    }

    #[test]
    fn rules_of_old_plugins_for_the_whole_subnet_are_the_pods_too() {
        let old = TWO_ATTACHMENTS.replace("-s 10.99.0.5/32", "-s 10.99.0.0/24");
        let saved = Saved::parse(&old).unwrap();
        let script = removal_of_addresses(&saved, CHAIN, &[net("10.99.0.5/24")]).unwrap();
        assert_eq!(lines(script).len(), 3);
    }

    #[test]
    fn adding_one_attachment_again_keeps_the_subnet_of_the_other() {
        let owner = Owner {
            network: "n1".into(),
            container_id: "cidA".into(),
            ifname: "eth0".into(),
        };
        let addresses = [net("10.99.0.5/24")];
        let masquerade = Masquerade {
            owner: &owner,
            addresses: &addresses,
        };
        let wanted = masquerade.wanted(Family::V4).unwrap();
        let comment = r#"-m comment --comment "name: \"n1\" id: \"cidA\"""#;
        assert_eq!(
            lines(reconciliation(&wanted, &saved()).unwrap()),
            [
                "*nat",
                &format!("-D POSTROUTING -s 10.99.0.5/32 {comment} -j {CHAIN}"),
                &format!("-F {CHAIN}"),
                &format!("-A {CHAIN} -d 10.98.0.0/24 {comment} -j ACCEPT"),
                &format!("-A {CHAIN} -d 10.99.0.0/24 {comment} -j ACCEPT"),
                &format!("-A {CHAIN} ! -d 224.0.0.0/4 {comment} -j MASQUERADE"),
                &format!("-A POSTROUTING -s 10.99.0.5/32 {comment} -j {CHAIN}"),
                "COMMIT",
            ]
        );
    }

    #[test]
    fn the_dead_are_those_of_the_network_who_do_not_live() {
        let saved = saved();
        let dead = |network, living: &[&str]| {
            let living = living.iter().map(|&chain| chain.to_owned()).collect();
            let comments = masquerade::comments_of(network);
            dead_chains(&saved, &[masquerade::PREFIX], &comments, &living)
        };
        assert_eq!(dead("n1", &[]), BTreeSet::from([CHAIN.to_owned()]));
        assert!(dead("n1", &[CHAIN]).is_empty());
        assert!(dead("n", &[]).is_empty());
        assert!(
            dead_chains(
                &saved,
                &port_mappings::PREFIXES,
                &port_mappings::comments_of("n1"),
                &BTreeSet::new()
            )
            .is_empty()
        );
    }

    #[test]
    fn shared_chains_are_nobodys() {
        for shared in [
            "CNI-HOSTPORT-DNAT",
            "CNI-HOSTPORT-SETMARK",
            "CNI-HOSTPORT-MASQ",
        ] {
            assert!(!is_owned(shared, &[masquerade::PREFIX]));
            assert!(!is_owned(shared, &port_mappings::PREFIXES));
        }
        assert!(is_owned(CHAIN, &[masquerade::PREFIX]));
        assert!(is_owned(
            "CNI-DN-895718981c112e2ba32fa",
            &port_mappings::PREFIXES
        ));
        assert!(!is_owned(
            "CNI-DN-895718981c112e2ba32fa",
            &[masquerade::PREFIX]
        ));
    }

    proptest! {
        #[test]
        fn anything_can_be_parsed(text in "(\\*nat\n)?([-:A-Z\"\\\\ CNI-]{0,30}\n){0,20}") {
            let _ = Saved::parse(&text);
        }
    }
}
