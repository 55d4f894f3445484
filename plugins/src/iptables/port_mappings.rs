//! The rules that make a pod's ports the host's own.
//!
//! ```text
//! PREROUTING, OUTPUT ── to this host ── CNI-HOSTPORT-DNAT ── ports of the pod ── CNI-DN-<hash>
//!    CNI-DN-<hash> ── from the pod's subnet, or this host ── CNI-HOSTPORT-SETMARK
//!                 └─ DNAT to the pod
//! POSTROUTING ── CNI-HOSTPORT-MASQ ── marked ── MASQUERADE
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use weft_cni::{Error, Result};

use super::Family;
use super::rules::{Wanted, host, of_family, subnet, trimmed};
use super::script::Rule;
use crate::owner::Owner;

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

impl PortMappings<'_> {
    /// The owner's chain, and the one that old reference plugins made beside it.
    pub(super) fn chains_of(owner: &Owner) -> [String; 2] {
        PREFIXES.map(|prefix| owner.chain(prefix))
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
        let to = SocketAddr::new(pod.ip(), mapping.container_port).to_string();
        rules.push(rule(None, &["DNAT", "--to-destination", &to]));
        rules
    }

    fn entries(&self, mappings: &[&Mapping], family: Family, chain: &str) -> Vec<Rule> {
        let conditions = match family {
            Family::V4 => self.conditions_v4,
            Family::V6 => self.conditions_v6,
        };
        let comment = trimmed(comment_of(self.owner));
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
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL
            .into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(name));
        known.ok_or_else(|| {
            Error::config(format!(
                "{name:?} is no protocol whose ports can be mapped: use tcp, udp, sctp or dccp"
            ))
        })
    }
}

/// What the comments of all that belongs to `network` begin with: those of today's reference
/// plugins, and those of old ones.
pub(super) fn comments_of(network: &str) -> [String; 2] {
    ["dnat", "snat"].map(|kind| format!("{kind} name: \"{network}\" id: \""))
}

fn comment_of(owner: &Owner) -> String {
    let [begin, _] = comments_of(&owner.network);
    format!("{begin}{}\"", owner.container_id)
}

pub(super) const PREFIXES: [&str; 2] = ["CNI-DN-", "CNI-SN-"];
const HOSTPORT_DNAT: &str = "CNI-HOSTPORT-DNAT";
const SETMARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQ: &str = "CNI-HOSTPORT-MASQ";
/// XT_MULTI_PORTS.
const PORTS_IN_ONE_RULE: usize = 15;

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
    fn protocols_are_known_in_any_case() {
        assert_eq!("SCTP".parse::<Protocol>().unwrap(), Protocol::Sctp);
        assert!("".parse::<Protocol>().is_err());
    }
}
