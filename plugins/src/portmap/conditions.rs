//! Conditions in nft's own words, which only the nft program understands: the one case of this
//! back-end in which a program is started. It makes the owner's chain of conditions:
//!
//! ```text
//! chain cond_<mark> {
//!     meta nfproto ipv4 ip saddr 10.0.0.0/8 goto dnat_<mark> }
//! chain dnat_<mark> {                                               filled by us, over netlink
//!     meta l4proto tcp th dport 8080 dnat ip to 10.1.0.5:80 }
//! ```

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use weft_cni::{Error, Result};

use super::{conf::Conditions, entry::chains_of, skeleton::TABLE, words::Words};
use crate::owner::Owner;

/// Makes the owner's chain anew, whether or not it stands.
pub(super) fn lay(owner: &Owner, conditions: &Conditions) -> Result<()> {
    run(&script(owner, conditions)?).map_err(|error| {
        error.within("cannot make the rules of \"conditionsV4\" and \"conditionsV6\"")
    })
}

fn script(owner: &Owner, conditions: &Conditions) -> Result<String> {
    let (family, table) = (TABLE.family.name(), TABLE.name);
    let [conditional, targets] = chains_of(&owner.mark());
    // What container and network are called is proven harmless; of an interface, less is known.
    let comment = owner
        .comment()
        .replace(|c: char| c == '"' || c == '\\' || c.is_control(), "_");
    let mut script = format!("add table {family} {table}\n");
    for chain in [&targets, &conditional] {
        script += &format!("add chain {family} {table} {chain} {{ comment \"{comment}\"; }}\n");
    }
    script += &format!("flush chain {family} {table} {conditional}\n");
    for (key, tokens, version) in [
        ("conditionsV4", &conditions.v4, "ipv4"),
        ("conditionsV6", &conditions.v6, "ipv6"),
    ] {
        let words = Words::of(key, tokens)?.map(Words::text).unwrap_or_default();
        script += &format!(
            "add rule {family} {table} {conditional} meta nfproto {version} {words} goto {targets}\n"
        );
    }
    Ok(script)
}

fn run(script: &str) -> Result<()> {
    let nft = program().ok_or_else(|| {
        Error::internal("the nft program is not installed, and nobody else understands its words")
            .with_details("install nftables, or remove \"conditionsV4\" and \"conditionsV6\"")
    })?;
    let failed = |why: io::Error| Error::io(format!("cannot run {}: {why}", nft.display()));
    let mut child = Command::new(&nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that stops reading says why when it ends.
        let _ = stdin.write_all(script.as_bytes());
    }
    let done = child.wait_with_output().map_err(failed)?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(Error::config(format!("nft refused them: {}", said.trim())))
}

/// OCI hooks run with a PATH that lacks the directories in which nft lives.
fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let always = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(always)
        .map(|directory| directory.join("nft"))
        .find(|nft| nft.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(ifname: &str) -> Owner {
        Owner {
            network: "n".into(),
            container_id: "c".into(),
            ifname: ifname.into(),
        }
    }

    #[test]
    fn a_family_without_conditions_is_let_through() {
        let conditions = Conditions {
            v4: vec!["ip".into(), "saddr".into(), "10.0.0.0/8".into()],
            v6: vec![],
        };
        let script = script(&owner("eth0"), &conditions).unwrap();
        let [conditional, targets] = chains_of(&owner("eth0").mark());
        let rule = format!("add rule inet weft_hostports {conditional} meta nfproto");
        assert!(script.contains(&format!("{rule} ipv4 ip saddr 10.0.0.0/8 goto {targets}\n")));
        assert!(script.contains(&format!("{rule} ipv6  goto {targets}\n")));
    }

    #[test]
    fn the_name_of_an_interface_stays_inside_its_comment() {
        let conditions = Conditions {
            v4: vec!["ip".into()],
            v6: vec![],
        };
        let script = script(&owner("\"; } x {"), &conditions).unwrap();
        assert!(!script.contains("if: \""), "{script}");
    }
}
