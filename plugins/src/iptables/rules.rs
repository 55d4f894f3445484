//! The rules themselves, as values: the chains, comments and forms of the reference plugins, which
//! other tools read and which reference plugins on the same node delete.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;

use super::Family;
use super::script::Rule;
use crate::owner::Owner;

/// A pod's addresses, behind which nothing but its own subnet sees them.
#[derive(Clone, Copy, Debug)]
pub struct Masquerade<'a> {
    pub owner: &'a Owner,
    /// Each with the prefix of its subnet.
    pub addresses: &'a [IpNetwork],
}

/// A pod's ports, as the host's own.
#[derive(Clone, Copy, Debug)]
pub struct PortMappings<'a> {
    pub owner: &'a Owner,
    /// The pod's address with its subnet's prefix; the first one of each family is used.
    pub pod: &'a [IpNetwork],
    pub mappings: &'a [Mapping],
    /// Which mapped traffic is masqueraded; `None` without `snat`.
    pub masquerading: Option<&'a Masquerading>,
    /// Words of the iptables command line, that restrict every mapping.
    pub conditions_v4: &'a [String],
    pub conditions_v6: &'a [String],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub protocol: Protocol,
    /// An unspecified address restricts the mapping to its family.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// Those whose ports iptables can match several of at once. In the order of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Dccp,
    Sctp,
    Tcp,
    Udp,
}

/// How traffic that must be masqueraded is marked, and which it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerading {
    /// All that is mapped, and not only what comes from the pod's subnet or the host itself.
    pub all: bool,
    pub mark: Mark,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A bit, 0 to 31, that our own shared chains set and look for.
    Bit(u8),
    /// A chain that somebody else keeps, and that masquerades what passes it.
    Chain(String),
}

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

impl Masquerade<'_> {
    pub(super) fn chain_of(owner: &Owner) -> String {
        owner.chain(MASQUERADE_PREFIX)
    }

    pub(super) fn wanted(&self, family: Family) -> Option<Wanted> {
        let addresses: Vec<_> = of_family(self.addresses, family).collect();
        if addresses.is_empty() {
            return None;
        }
        let chain = Self::chain_of(self.owner);
        let comment = trimmed(masquerade_comment(self.owner));
        let commented = |chain: &str, matches: &[&str], target: &str| {
            let comment = ["-m", "comment", "--comment", &comment, "-j", target];
            Rule::new(chain, &[matches, &comment].concat())
        };

        let mut subnets: Vec<_> = addresses.iter().map(|pod| subnet(**pod)).collect();
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

impl PortMappings<'_> {
    /// The owner's chain, and the one that old reference plugins made beside it.
    pub(super) fn chains_of(owner: &Owner) -> [String; 2] {
        DNAT_PREFIXES.map(|prefix| owner.chain(prefix))
    }

    pub(super) fn wanted(&self, family: Family) -> Option<Wanted> {
        let pod = *of_family(self.pod, family).next()?;
        let mappings: Vec<_> = self
            .mappings
            .iter()
            .filter(|mapping| mapping.concerns(family))
            .collect();
        if mappings.is_empty() {
            return None;
        }
        let [chain, _] = Self::chains_of(self.owner);
        let (shared_chains, shared) = self.shared_rules();
        Some(Wanted {
            shared_chains,
            shared,
            rules: mappings
                .iter()
                .flat_map(|mapping| self.rules_of(mapping, pod, &chain))
                .collect(),
            entries: self.entries(&mappings, family, &chain),
            chain,
            has_room_for_others: false,
        })
    }

    /// The same as a reference plugin makes it, which also lets ports into the owner's chain that
    /// no rule in there is for. `None` where there is no difference.
    pub(super) fn wanted_by_reference(&self, family: Family) -> Option<Wanted> {
        let wanted = self.wanted(family)?;
        let all: Vec<_> = self.mappings.iter().collect();
        let entries = self.entries(&all, family, &wanted.chain);
        (entries != wanted.entries).then_some(Wanted { entries, ..wanted })
    }

    fn shared_rules(&self) -> (Vec<&'static str>, Vec<Rule>) {
        let to_local = ["-m", "addrtype", "--dst-type", "LOCAL", "-j", HOSTPORT_DNAT];
        let mut chains = vec![HOSTPORT_DNAT];
        let mut rules = vec![
            Rule::new("PREROUTING", &to_local),
            Rule::new("OUTPUT", &to_local),
        ];
        if let Some(Mark::Bit(bit)) = self.masquerading.map(|how| &how.mark) {
            let mark = format!("{0:#x}/{0:#x}", 1_u32.wrapping_shl(u32::from(*bit)));
            let comment = |text| ["-m", "comment", "--comment", text, "-j"];
            chains.extend([SETMARK, MASQ]);
            rules.extend([
                Rule::new(
                    SETMARK,
                    &[
                        &comment("CNI portfwd masquerade mark")[..],
                        &["MARK", "--set-xmark", &mark],
                    ]
                    .concat(),
                ),
                Rule::new(MASQ, &["-m", "mark", "--mark", &mark, "-j", "MASQUERADE"]),
                Rule::new(
                    "POSTROUTING",
                    &[&comment("CNI portfwd requiring masquerade")[..], &[MASQ]].concat(),
                ),
            ]);
        }
        (chains, rules)
    }

    /// Marking comes first: what is translated does not come back to this chain.
    fn rules_of(&self, mapping: &Mapping, pod: IpNetwork, chain: &str) -> Vec<Rule> {
        let protocol = mapping.protocol.name();
        let port = mapping.host_port.to_string();
        let destination = mapping.destination();
        let rule = |source: Option<&str>, target: &[&str]| {
            let mut spec = Vec::new();
            spec.extend(source.map(|from| ["-s", from]).into_iter().flatten());
            spec.extend(destination.iter().flat_map(|to| ["-d", to]));
            spec.extend(["-p", protocol, "-m", protocol, "--dport", &port]);
            spec.extend(["-j"].iter().chain(target));
            Rule::new(chain, &spec)
        };

        let mut rules = Vec::new();
        if let Some(how) = self.masquerading {
            let mark = match &how.mark {
                Mark::Bit(_) => SETMARK,
                Mark::Chain(theirs) => theirs,
            };
            let hairpin = subnet(pod);
            rules.push(rule((!how.all).then_some(&*hairpin), &[mark]));
            if pod.is_ipv4() && !how.all {
                rules.push(rule(Some("127.0.0.1/32"), &[mark]));
            }
        }
        let to = std::net::SocketAddr::new(pod.ip(), mapping.container_port).to_string();
        rules.push(rule(None, &["DNAT", "--to-destination", &to]));
        rules
    }

    fn entries(&self, mappings: &[&Mapping], family: Family, chain: &str) -> Vec<Rule> {
        let conditions = match family {
            Family::V4 => self.conditions_v4,
            Family::V6 => self.conditions_v6,
        };
        let comment = trimmed(port_comment(self.owner));
        let mut ports: BTreeMap<Protocol, Vec<u16>> = BTreeMap::new();
        for mapping in mappings {
            let ports = ports.entry(mapping.protocol).or_default();
            ports.push(mapping.host_port);
        }
        let mut entries = Vec::new();
        for (protocol, ports) in ports {
            for some in ports.chunks(PORTS_IN_ONE_RULE) {
                let some: Vec<_> = some.iter().map(u16::to_string).collect();
                let mut rule = Rule::new(HOSTPORT_DNAT, &["-p", protocol.name()]);
                let mut add = |words: &[&str]| {
                    rule.spec.extend(words.iter().map(|&word| word.to_owned()));
                };
                add(&["-m", "comment", "--comment", &comment]);
                add(&["-m", "multiport", "--dports", &some.join(",")]);
                conditions.iter().for_each(|word| add(&[word]));
                add(&["-j", chain]);
                entries.push(rule);
            }
        }
        entries
    }
}

impl Mapping {
    fn concerns(&self, family: Family) -> bool {
        self.host_ip
            .is_none_or(|ip| Family::of(ip.to_canonical()) == family)
    }

    fn destination(&self) -> Option<String> {
        let ip = self.host_ip?.to_canonical();
        (!ip.is_unspecified()).then(|| host(ip))
    }
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Dccp, Self::Sctp, Self::Tcp, Self::Udp];

    pub fn name(self) -> &'static str {
        match self {
            Self::Dccp => "dccp",
            Self::Sctp => "sctp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl FromStr for Protocol {
    type Err = weft_cni::Error;

    fn from_str(name: &str) -> weft_cni::Result<Self> {
        let known = Self::ALL
            .into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(name));
        known.ok_or_else(|| {
            weft_cni::Error::config(format!(
                "{name:?} is no protocol whose ports can be mapped: use tcp, udp, sctp or dccp"
            ))
        })
    }
}

/// What the comments of all that belongs to `network` begin with: those of masquerading, and those
/// of mapped ports as new and old reference plugins write them.
pub(super) fn masquerade_comments(network: &str) -> [String; 1] {
    [format!("name: \"{network}\" id: \"")]
}

pub(super) fn port_comments(network: &str) -> [String; 2] {
    ["dnat", "snat"].map(|kind| format!("{kind} name: \"{network}\" id: \""))
}

fn masquerade_comment(owner: &Owner) -> String {
    let [begin] = masquerade_comments(&owner.network);
    format!("{begin}{}\"", owner.container_id)
}

fn port_comment(owner: &Owner) -> String {
    let [begin, _] = port_comments(&owner.network);
    format!("{begin}{}\"", owner.container_id)
}

fn trimmed(mut comment: String) -> String {
    comment.truncate(comment.floor_char_boundary(LONGEST_COMMENT));
    comment
}

fn of_family(addresses: &[IpNetwork], family: Family) -> impl Iterator<Item = &IpNetwork> {
    addresses
        .iter()
        .filter(move |address| Family::of(address.ip()) == family)
}

fn subnet(pod: IpNetwork) -> String {
    format!("{}/{}", pod.network(), pod.prefix())
}

fn host(ip: IpAddr) -> String {
    IpNetwork::from(ip).to_string()
}

pub(super) const MASQUERADE_PREFIX: &str = "CNI-";
pub(super) const DNAT_PREFIXES: [&str; 2] = ["CNI-DN-", "CNI-SN-"];
const HOSTPORT_DNAT: &str = "CNI-HOSTPORT-DNAT";
const SETMARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQ: &str = "CNI-HOSTPORT-MASQ";
/// XT_MULTI_PORTS.
const PORTS_IN_ONE_RULE: usize = 15;
/// XT_MAX_COMMENT_LEN without its final NUL.
const LONGEST_COMMENT: usize = 255;

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

    fn mapping(protocol: Protocol, host: Option<&str>, from: u16, to: u16) -> Mapping {
        Mapping {
            protocol,
            host_ip: host.map(|ip| ip.parse().unwrap()),
            host_port: from,
            container_port: to,
        }
    }

    const HAIRPIN: Masquerading = Masquerading {
        all: false,
        mark: Mark::Bit(13),
    };

    fn ports<'a>(
        owner: &'a Owner,
        pod: &'a [IpNetwork],
        mappings: &'a [Mapping],
    ) -> PortMappings<'a> {
        PortMappings {
            owner,
            pod,
            mappings,
            masquerading: Some(&HAIRPIN),
            conditions_v4: &[],
            conditions_v6: &[],
        }
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
    fn mapped_ports_are_as_the_portmap_plugin_writes_them() {
        let (owner, pods) = (owner("n1", "cidA"), pods());
        let mappings = [mapping(Protocol::Tcp, None, 8080, 80)];
        let ports = ports(&owner, &pods, &mappings);
        let text = |family| {
            let wanted = ports.wanted(family).unwrap();
            addition(&wanted).unwrap().text()
        };
        assert_eq!(
            text(Family::V4),
            r#"*nat
-C PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-C OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-C CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
-C CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-C POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-N CNI-DN-895718981c112e2ba32fa
-A CNI-DN-895718981c112e2ba32fa -s 10.99.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-895718981c112e2ba32fa -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-895718981c112e2ba32fa -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.99.0.5:80
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"n1\" id: \"cidA\"" -m multiport --dports 8080 -j CNI-DN-895718981c112e2ba32fa
COMMIT
"#
        );
        let own = text(Family::V6);
        let own = &own[own.find("-N").unwrap()..];
        assert_eq!(
            own,
            r#"-N CNI-DN-895718981c112e2ba32fa
-A CNI-DN-895718981c112e2ba32fa -s fd99::/64 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-895718981c112e2ba32fa -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd99::5]:80
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"n1\" id: \"cidA\"" -m multiport --dports 8080 -j CNI-DN-895718981c112e2ba32fa
COMMIT
"#
        );
    }

    #[test]
    fn protocols_are_sorted_and_at_most_fifteen_ports_share_a_rule() {
        let (owner, pods) = (owner("n1", "cidA"), pods());
        let mut mappings: Vec<_> = (1..=16)
            .map(|p| mapping(Protocol::Tcp, None, p, p))
            .collect();
        mappings.push(mapping(Protocol::Sctp, None, 7, 7));
        mappings.push(mapping(Protocol::Tcp, Some("10.0.0.1"), 16, 17));
        let wanted = ports(&owner, &pods, &mappings).wanted(Family::V4).unwrap();
        let dports = wanted.entries.iter().map(|rule| {
            let at = rule
                .spec
                .iter()
                .position(|word| word == "--dports")
                .unwrap();
            format!("{} {}", rule.spec[1], rule.spec[at + 1])
        });
        assert_eq!(
            dports.collect::<Vec<_>>(),
            [
                "sctp 7",
                "tcp 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "tcp 16,16",
            ]
        );
    }

    #[test]
    fn a_host_address_of_the_other_family_maps_nothing_and_dispatches_nothing() {
        let (owner, pods) = (owner("n1", "cidA"), pods());
        let mappings = [
            mapping(Protocol::Tcp, Some("0.0.0.0"), 1, 1),
            mapping(Protocol::Tcp, Some("::ffff:192.0.2.1"), 2, 2),
            mapping(Protocol::Tcp, Some("::1"), 3, 3),
        ];
        let ports = ports(&owner, &pods, &mappings);
        let lines = |family| own_lines(ports.wanted(family)).join("\n");
        assert!(lines(Family::V4).contains("--dports 1,2 "));
        assert!(lines(Family::V4).contains("-d 192.0.2.1/32 -p tcp -m tcp --dport 2 -j DNAT"));
        assert!(!lines(Family::V4).contains("-d 0.0.0.0"));
        assert!(lines(Family::V6).contains("--dports 3 "));
        assert!(lines(Family::V6).contains("-s fd99::/64 -d ::1/128 -p tcp"));
        let only_v4 = PortMappings {
            mappings: &mappings[..2],
            ..ports
        };
        assert_eq!(only_v4.wanted(Family::V6), None);
    }

    #[test]
    fn masquerading_everything_needs_no_sources_and_none_needs_no_marks() {
        let (owner, pods) = (owner("n1", "cidA"), pods());
        let mappings = [mapping(Protocol::Udp, None, 53, 5353)];
        let all = Masquerading {
            all: true,
            mark: Mark::Chain("KUBE-MARK-MASQ".into()),
        };
        let ports = ports(&owner, &pods, &mappings);
        let wanted = PortMappings {
            masquerading: Some(&all),
            ..ports
        }
        .wanted(Family::V4)
        .unwrap();
        assert_eq!(wanted.rules.len(), 2);
        assert_eq!(
            wanted.rules[0].spec.join(" "),
            "-p udp -m udp --dport 53 -j KUBE-MARK-MASQ"
        );
        assert_eq!(wanted.shared_chains, [HOSTPORT_DNAT]);
        let wanted = PortMappings {
            masquerading: None,
            ..ports
        }
        .wanted(Family::V4)
        .unwrap();
        assert_eq!((wanted.rules.len(), wanted.shared.len()), (1, 2));
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

    #[test]
    fn protocols_are_known_in_any_case() {
        assert_eq!("SCTP".parse::<Protocol>().unwrap(), Protocol::Sctp);
        assert!("".parse::<Protocol>().is_err());
    }
}
