//! Whose a thing in the kernel is: the names and marks that one attachment leaves, each derived
//! from (network, container, interface) alone, so that it is found again without any memory.

use sha2::{Digest, Sha512};
use weft_cni::{Attachments, Call};

/// One interface of one container on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub network: String,
    pub container_id: String,
    pub ifname: String,
}

impl Owner {
    pub fn of(call: &Call) -> Self {
        Self {
            network: call.network().to_owned(),
            container_id: call.container_id().to_owned(),
            ifname: call.ifname().to_owned(),
        }
    }

    /// `<network>-<attachment>`, both hashed: what the comment of every nft element of ours begins
    /// with. The reference plugins mark their masquerade rules alike.
    pub fn mark(&self) -> String {
        let attachment = format!("{}:{}", self.ifname, self.container_id);
        format!(
            "{}-{}",
            network_mark(&self.network),
            &hex(&[&attachment])[..MARK]
        )
    }

    /// The mark, and behind it the names for a person to read, as far as they fit.
    pub fn comment(&self) -> String {
        let Self {
            network,
            container_id,
            ifname,
        } = self;
        let mut comment = format!(
            "{}, net: {network}, if: {ifname}, id: {container_id}",
            self.mark()
        );
        comment.truncate(comment.floor_char_boundary(LONGEST_COMMENT));
        comment
    }

    /// Whom the part of a comment after the mark names. An id that did not fit is cut short.
    pub fn named_in(names: &str) -> Option<Self> {
        let (network, rest) = names.strip_prefix(", net: ")?.split_once(", if: ")?;
        let (ifname, container_id) = rest.split_once(", id: ")?;
        (!container_id.is_empty()).then(|| Self {
            network: network.to_owned(),
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// The name of the pod's link on the host: the network's own three characters, so that GC can
    /// tell networks on one bridge apart, then eight of the attachment's.
    pub fn host_veth(&self) -> String {
        let attachment = format!("{}:{}", self.ifname, self.container_id);
        let tail = base32(&digest(&[&self.network, "\n", &attachment]));
        format!("{}{}", host_veth_prefix(&self.network), &tail[..8])
    }

    /// A chain of the iptables back-ends: `prefix` and a hash of network and container, cut to the
    /// 28 characters that the reference plugins cut theirs to.
    pub fn chain(&self, prefix: &str) -> String {
        let mut chain = format!("{prefix}{}", hex(&[&self.network, &self.container_id]));
        chain.truncate(LONGEST_CHAIN);
        chain
    }

    /// A locally administered MAC address that this attachment always gets for `purpose`.
    pub fn mac(&self, purpose: &str) -> [u8; 6] {
        let Self {
            network,
            container_id,
            ifname,
        } = self;
        let digest = digest(&[purpose, "\n", network, "\n", ifname, "\n", container_id]);
        let mut mac: [u8; 6] = std::array::from_fn(|i| digest[i]);
        mac[0] = mac[0] & !MULTICAST | LOCALLY_ADMINISTERED;
        mac
    }
}

/// What the marks of all attachments of `network` begin with.
pub fn network_mark(network: &str) -> String {
    hex(&[network])[..MARK].to_owned()
}

/// What the host links of all attachments of `network` begin with.
pub fn host_veth_prefix(network: &str) -> String {
    format!("veth{}", &base32(&digest(&[network]))[..3])
}

/// The bridge's port behind the gateway of a VLAN, which all pods of that VLAN share. It begins like
/// no host link of a pod, so that no GC takes it for one.
pub fn gateway_port(gateway: &str, vlan: u16) -> String {
    let tail = base32(&digest(&["gateway\n", gateway]));
    format!("vlan{vlan}-{}", &tail[..6])
}

/// The owners that GC must leave alone.
pub fn owners_of<'a>(
    network: &'a str,
    living: &'a Attachments,
) -> impl Iterator<Item = Owner> + 'a {
    living.iter().map(|attachment| Owner {
        network: network.to_owned(),
        container_id: attachment.container_id.clone(),
        ifname: attachment.ifname.clone(),
    })
}

fn digest(parts: &[&str]) -> [u8; 64] {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

fn hex(parts: &[&str]) -> String {
    digest(parts)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Lower-case letters and digits, so that names of links that differ do so in any tool.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte & 31)]))
        .collect()
}

/// All of a link's name that the kernel takes.
pub const HOST_VETH_LENGTH: usize = 15;
const MARK: usize = 16;
/// What `nft` takes of a comment when it reads its own listing back.
const LONGEST_COMMENT: usize = 128;
const LONGEST_CHAIN: usize = 28;
const MULTICAST: u8 = 1;
const LOCALLY_ADMINISTERED: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(network: &str, container_id: &str, ifname: &str) -> Owner {
        Owner {
            network: network.into(),
            container_id: container_id.into(),
            ifname: ifname.into(),
        }
    }

    #[test]
    fn the_reference_plugins_hash_alike() {
        assert_eq!(
            owner("n1", "cid1.1.0", "eth0").chain("CNI-"),
            "CNI-42977637b9c8524712aa47f1"
        );
        assert_eq!(
            owner("n1", "cidA", "eth0").chain("CNI-DN-"),
            "CNI-DN-895718981c112e2ba32fa"
        );
        assert_eq!(
            owner("n1", "cidA", "eth0").chain("CNI-SN-"),
            "CNI-SN-895718981c112e2ba32fa"
        );
        assert_eq!(
            owner("n1", "c1", "eth0").mark(),
            "43d91f8451058a70-f4d01f2ef4b92245"
        );
    }

    #[test]
    fn names_fit_what_the_kernel_and_nft_take() {
        let owner = owner("n", &"c".repeat(200), "seven-\u{e4}\u{f6}\u{fc}");
        assert_eq!(owner.host_veth().len(), HOST_VETH_LENGTH);
        assert_eq!(owner.comment().len(), 128);
        assert!(owner.comment().starts_with(&owner.mark()));
    }

    #[test]
    fn two_interfaces_of_one_container_are_two_owners() {
        let (a, b) = (owner("n", "c", "eth0"), owner("n", "c", "eth1"));
        assert_ne!(a.host_veth(), b.host_veth());
        assert_ne!(a.mark(), b.mark());
        assert_ne!(a.mac("pod"), b.mac("pod"));
        assert_eq!(a.host_veth()[..7], b.host_veth()[..7]);
    }

    #[test]
    fn a_mac_is_local_and_no_group() {
        for i in 0..100 {
            assert_eq!(owner("n", &format!("c{i}"), "eth0").mac("pod")[0] & 3, 2);
        }
    }
}
