//! Which networks a cluster's pods live in, where the configuration does not say so, or not so
//! that it is true.

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// What somebody else's configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) networks: Vec<IpNetwork>,
    /// "podSubnet of the ConfigMap kube-system/kubeadm-config".
    pub(super) at: String,
}

/// Where clusters say it: a ConfigMap of kube-system, its text, and the text's key.
pub(super) const PLACES: [(&str, &str, &str); 2] = [
    ("kubeadm-config", "ClusterConfiguration", "podSubnet"),
    ("kube-proxy", "config.conf", "clusterCIDR"),
];

impl Found {
    /// In a text that is YAML or JSON; None where it says nothing.
    pub(super) fn read(map: &str, key: &str, text: &str) -> Option<Self> {
        let networks: Vec<IpNetwork> = value_of(key, text)?
            .split(',')
            .filter_map(|network| network.trim().parse().ok())
            .filter_map(|network: IpNetwork| first(network))
            .collect();
        (!networks.is_empty()).then(|| Self {
            networks,
            at: format!("{key} of the ConfigMap kube-system/{map}"),
        })
    }
}

/// Of a key that occurs once, wherever it is: neither document has another of that name.
fn value_of<'a>(key: &str, text: &'a str) -> Option<&'a str> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find(key)?;
        let after = &text[at + key.len()..];
        from = at + key.len();
        let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..at];
        if line.ends_with(char::is_alphanumeric) || line.contains('#') {
            continue;
        }
        let Some(value) = after
            .trim_start_matches(['"', '\''])
            .trim_start()
            .strip_prefix(':')
        else {
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        return match quote {
            Some(quote) => value[1..].split(quote).next(),
            None => value.split(['\n', '\r', '#', '}']).next().map(str::trim),
        };
    }
}

/// The fewest networks that hold `subnets`, and no other address unless there would be more than
/// `most` of them; then those that lie closest are joined, but never around an address of
/// `without`.
pub(super) fn cover(subnets: &[IpNetwork], without: &[IpAddr], most: usize) -> Vec<IpNetwork> {
    let mut blocks: Vec<Block> = subnets.iter().map(Block::of).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let mut apart: Vec<Block> = Vec::with_capacity(blocks.len());
    for block in blocks {
        if apart.last().is_some_and(|last| last.holds(block)) {
            continue;
        }
        apart.push(block);
        while let [.., one, two] = apart[..]
            && let Some(both) = one.sibling(two)
        {
            apart.truncate(apart.len() - 2);
            apart.push(both);
        }
    }
    let without: Vec<Block> = without
        .iter()
        .map(|ip| Block::of(&IpNetwork::from(*ip)))
        .collect();
    while apart.len() > most {
        let joined = apart.windows(2).enumerate().filter_map(|(at, pair)| {
            let both = pair[0].around(pair[1])?;
            let free = !without.iter().any(|address| both.holds(*address));
            free.then_some((at, both))
        });
        let Some((at, both)) = joined.max_by_key(|(_, both)| both.len) else {
            break;
        };
        apart[at] = both;
        apart.remove(at + 1);
        apart.retain(|block| *block == both || !both.holds(*block));
    }
    apart.into_iter().filter_map(Block::network).collect()
}

/// A network as numbers: addresses of either family are 128 bits here, the shorter ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    v6: bool,
    first: u128,
    len: u8,
}

impl Block {
    fn of(network: &IpNetwork) -> Self {
        let (v6, bits, len) = match network {
            IpNetwork::V4(v4) => (false, u128::from(v4.network().to_bits()) << 96, v4.prefix()),
            IpNetwork::V6(v6) => (true, v6.network().to_bits(), v6.prefix()),
        };
        Self {
            v6,
            first: bits,
            len,
        }
    }

    fn holds(self, other: Self) -> bool {
        self.v6 == other.v6 && self.len <= other.len && self.first == masked(other.first, self.len)
    }

    /// The network that these two are the halves of.
    fn sibling(self, other: Self) -> Option<Self> {
        let both = self.around(other)?;
        (self.len == other.len && both.len + 1 == self.len).then_some(both)
    }

    /// The smallest network that holds both. Everything is none.
    fn around(self, other: Self) -> Option<Self> {
        let differ = (self.first ^ other.first).leading_zeros();
        let len = differ.min(self.len.into()).min(other.len.into());
        let len = u8::try_from(len).unwrap_or(0);
        (self.v6 == other.v6 && len > 0).then(|| Self {
            v6: self.v6,
            first: masked(self.first, len),
            len,
        })
    }

    fn network(self) -> Option<IpNetwork> {
        match self.v6 {
            true => Ipv6Network::new_checked(self.first.into(), self.len).map(IpNetwork::V6),
            false => {
                let bits = u32::try_from(self.first >> 96).ok()?;
                Ipv4Network::new_checked(bits.into(), self.len).map(IpNetwork::V4)
            }
        }
    }
}

fn masked(bits: u128, len: u8) -> u128 {
    let host = u128::MAX.checked_shr(len.into()).unwrap_or(0);
    bits & !host
}

fn first(network: IpNetwork) -> Option<IpNetwork> {
    IpNetwork::new(network.network(), network.prefix()).ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn kubeadm_s_and_kube_proxy_s_words_are_found() {
        let kubeadm = "apiVersion: kubeadm.k8s.io/v1beta4\nnetworking:\n  dnsDomain: cluster.local\n  podSubnet: 10.244.0.0/16,fd00:10:244::/56\n  serviceSubnet: 10.96.0.0/12\n";
        let found = Found::read("kubeadm-config", "podSubnet", kubeadm).unwrap();
        assert_eq!(found.networks, nets(&["10.244.0.0/16", "fd00:10:244::/56"]));
        assert!(found.at.contains("kubeadm-config"));
        for text in [
            "bindAddress: 0.0.0.0\nclusterCIDR: \"10.42.0.0/16\" # pods\nmode: \"\"\n",
            "{\"clusterCIDR\": \"10.42.0.0/16\", \"mode\": \"\"}",
            "{clusterCIDR: 10.42.0.0/16}",
            "# clusterCIDR: 1.0.0.0/8\nnoclusterCIDR: 2.0.0.0/8\nclusterCIDR: 10.42.0.0/16",
        ] {
            let found = Found::read("kube-proxy", "clusterCIDR", text);
            assert_eq!(found.unwrap().networks, nets(&["10.42.0.0/16"]), "{text}");
        }
        for nothing in [
            "clusterCIDR: \"\"\n",
            "clusterCIDRs: []",
            "",
            "clusterCIDR: x",
        ] {
            assert_eq!(Found::read("kube-proxy", "clusterCIDR", nothing), None);
        }
    }

    #[test]
    fn neighbouring_subnets_are_one_network() {
        let joined = cover(
            &nets(&[
                "10.1.0.0/24",
                "10.1.1.0/24",
                "10.1.2.0/23",
                "10.1.8.0/24",
                "fd00::/65",
                "fd00:0:0:0:8000::/65",
            ]),
            &[],
            64,
        );
        assert_eq!(joined, nets(&["10.1.0.0/22", "10.1.8.0/24", "fd00::/64"]));
    }

    #[test]
    fn too_many_are_joined_but_not_around_a_node() {
        let subnets = nets(&["10.1.0.0/24", "10.1.2.0/24", "10.9.0.0/24"]);
        assert_eq!(
            cover(&subnets, &[], 2),
            nets(&["10.1.0.0/22", "10.9.0.0/24"])
        );
        let node = IpAddr::from(Ipv4Addr::new(10, 1, 1, 7));
        assert_eq!(cover(&subnets, &[node], 2).len(), 3);
    }

    proptest! {
        #[test]
        fn every_subnet_is_covered_and_no_address_that_is_spared(
            subnets in prop::collection::vec((any::<u16>(), 20u8..=28), 0..40),
            spared in prop::collection::vec(any::<u16>(), 0..4), most in 1usize..9,
        ) {
            let net = |low: u16, len| {
                IpNetwork::V4(Ipv4Network::new(Ipv4Addr::from(0x0a01_0000 | u32::from(low)), len).unwrap())
            };
            let subnets: Vec<_> = subnets.into_iter().map(|(low, len)| net(low, len)).collect();
            let spared: Vec<IpAddr> = spared.into_iter().map(|low| net(low, 32).ip()).collect();
            let covered = cover(&subnets, &spared, most);
            for subnet in &subnets {
                let within = covered.iter().filter(|known| known.contains(subnet.network()) && known.prefix() <= subnet.prefix());
                prop_assert_eq!(within.count(), 1, "{} in {:?}", subnet, covered);
            }
            for address in spared.iter().filter(|ip| !subnets.iter().any(|net| net.contains(**ip))) {
                prop_assert!(!covered.iter().any(|net| net.contains(*address)));
            }
        }
    }
}
