//! The wire configuration → a plan of which host ports lead where, and by which back-end.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_cni::{Call, Conf, Error, Object, Outcome, Result};

use super::{
    key::{Host, Key, Protocol},
    words::{Syntax, Words},
};

/// What ADD and CHECK are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) backend: Backend,
    pub(super) mappings: Vec<Mapping>,
    pub(super) pod: PodAddresses,
    /// Whose connections through a host port get the host's source address.
    pub(super) masquerade: Masquerade,
    pub(super) conditions: Conditions,
}

/// Who does it, and how connections to be masqueraded are marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    Iptables(Mark),
    Nftables { mark_bit: u8 },
}

/// One wish of the runtime's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) protocol: Protocol,
    pub(super) host: HostAddress,
    pub(super) host_port: u16,
    pub(super) pod_port: u16,
}

/// Of which addresses of the host the port is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostAddress {
    All,
    AllV4,
    AllV6,
    One(IpAddr),
}

/// The address of each family that host ports lead to, with its subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PodAddresses {
    pub(super) v4: Option<IpNetwork>,
    pub(super) v6: Option<IpNetwork>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Masquerade {
    Nobody,
    /// Those who could be answered past the host: the pod's own subnet, and the host's loopback.
    Neighbours,
    Everybody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Bit(u8),
    /// An iptables chain of somebody else's sets it.
    Chain(String),
}

/// What a packet must fulfil besides, in the words of the back-end's program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    pub(super) v4: Vec<String>,
    pub(super) v6: Vec<String>,
}

/// A host port of one family, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) key: Key,
    pub(super) pod: IpAddr,
    pub(super) pod_port: u16,
}

impl Plan {
    pub(super) fn of(call: &Call, prev: &Outcome) -> Result<Self> {
        let conf = call.conf.object();
        Ok(Self {
            backend: configured_backend(&call.conf)?,
            mappings: mappings(call)?,
            pod: PodAddresses::of(prev, call.ifname()),
            masquerade: masquerade(&conf)?,
            conditions: Conditions::of(&conf)?,
        })
    }

    /// Every key once; of two mappings for one key the first counts.
    pub(super) fn published(&self) -> Vec<Published> {
        let mut all: Vec<Published> = Vec::new();
        for mapping in &self.mappings {
            for pod in [self.pod.v4, self.pod.v6].into_iter().flatten() {
                let Some(key) = mapping.key(pod.is_ipv6()) else {
                    continue;
                };
                if all.iter().all(|earlier| earlier.key != key) {
                    let (pod, pod_port) = (pod.ip(), mapping.pod_port);
                    all.push(Published { key, pod, pod_port });
                }
            }
        }
        all
    }
}

pub(super) fn configured_backend(conf: &Conf) -> Result<Backend> {
    backend(&conf.object(), &Conditions::of(&conf.object())?)
}

/// What the runtime asked for.
pub(super) fn mappings(call: &Call) -> Result<Vec<Mapping>> {
    let Some(runtime) = call.conf.runtime_config()? else {
        return Ok(Vec::new());
    };
    let wishes = runtime.objects("portMappings")?.unwrap_or_default();
    let mut mappings: Vec<Mapping> = Vec::new();
    for wish in &wishes {
        let mapping = Mapping::of(wish)?;
        if mappings
            .iter()
            .all(|earlier| !earlier.takes_the_place_of(&mapping))
        {
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

impl Mapping {
    fn of(wish: &Object<'_>) -> Result<Self> {
        let protocol = wish.text("protocol")?.unwrap_or_default();
        let protocol = Protocol::parse(protocol).ok_or_else(|| {
            let place = wish.place_of("protocol");
            Error::config(format!(
                "{place} is {protocol:?}, which has no ports that can be mapped"
            ))
            .with_details("tcp, udp, sctp, dccp and udplite have")
        })?;
        Ok(Self {
            protocol,
            host: HostAddress::of(wish)?,
            host_port: port(wish, "hostPort")?,
            pod_port: port(wish, "containerPort")?,
        })
    }

    fn takes_the_place_of(&self, other: &Self) -> bool {
        (self.protocol, self.host, self.host_port) == (other.protocol, other.host, other.host_port)
    }

    /// The key for pods of a family; none where the host's address is of the other one.
    pub(super) fn key(&self, is_ipv6: bool) -> Option<Key> {
        let host = match self.host {
            HostAddress::One(address) => Host::One(address),
            HostAddress::All | HostAddress::AllV4 if !is_ipv6 => Host::AnyV4,
            HostAddress::All | HostAddress::AllV6 if is_ipv6 => Host::AnyV6,
            _ => return None,
        };
        let key = Key {
            protocol: self.protocol,
            host,
            port: self.host_port,
        };
        (key.is_ipv6() == is_ipv6).then_some(key)
    }
}

impl HostAddress {
    fn of(wish: &Object<'_>) -> Result<Self> {
        let address: Option<IpAddr> = wish.parsed("hostIP", "an IP address")?;
        Ok(match address.map(|address| address.to_canonical()) {
            None => Self::All,
            Some(IpAddr::V4(v4)) if v4.is_unspecified() => Self::AllV4,
            Some(IpAddr::V6(v6)) if v6.is_unspecified() => Self::AllV6,
            Some(address) => Self::One(address),
        })
    }
}

impl PodAddresses {
    fn of(prev: &Outcome, ifname: &str) -> Self {
        let first = |is_ipv6| {
            prev.addresses_in_pod(ifname)
                .map(|ip| ip.address)
                .find(|address| address.is_ipv6() == is_ipv6)
        };
        Self {
            v4: first(false),
            v6: first(true),
        }
    }
}

impl Conditions {
    fn of(conf: &Object<'_>) -> Result<Self> {
        Ok(Self {
            v4: conf.texts("conditionsV4")?.unwrap_or_default(),
            v6: conf.texts("conditionsV6")?.unwrap_or_default(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

fn port(wish: &Object<'_>, key: &str) -> Result<u16> {
    let port: i64 = wish.number(key)?.unwrap_or_default();
    u16::try_from(port)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| {
            let place = wish.place_of(key);
            Error::config(format!(
                "{place} is {port}, and a port is a number from 1 to 65535"
            ))
        })
}

fn masquerade(conf: &Object<'_>) -> Result<Masquerade> {
    let all = conf.truth("masqAll")?.unwrap_or_default();
    Ok(match conf.truth("snat")?.unwrap_or(true) {
        false => Masquerade::Nobody,
        true if all => Masquerade::Everybody,
        true => Masquerade::Neighbours,
    })
}

fn mark(conf: &Object<'_>) -> Result<Mark> {
    let bit: Option<i64> = conf.number("markMasqBit")?;
    match (
        bit,
        conf.text("externalSetMarkChain")?
            .filter(|chain| !chain.is_empty()),
    ) {
        (Some(_), Some(_)) => Err(Error::config(
            "Cannot specify externalSetMarkChain and markMasqBit: either we set the mark or another's chain does",
        )),
        (None, Some(chain)) => Ok(Mark::Chain(chain.to_owned())),
        (None, None) => Ok(Mark::Bit(DEFAULT_MARK_BIT)),
        (Some(bit), None) => match u8::try_from(bit) {
            Ok(bit) if bit <= 31 => Ok(Mark::Bit(bit)),
            _ => Err(Error::config(format!(
                "\"markMasqBit\" is {bit}, and a mark has bits 0 to 31"
            ))),
        },
    }
}

/// What is named wins; then what only one of them understands decides.
fn backend(conf: &Object<'_>, conditions: &Conditions) -> Result<Backend> {
    let named = match conf.text("backend")?.unwrap_or_default() {
        "" => None,
        "iptables" => Some(Syntax::Iptables),
        "nftables" => Some(Syntax::Nft),
        other => {
            return Err(Error::config(format!(
                "\"backend\" is {other:?}, not \"iptables\" or \"nftables\""
            )));
        }
    };
    let mark = mark(conf)?;
    let mut demands = Vec::new();
    if matches!(mark, Mark::Chain(_)) {
        demands.push(("externalSetMarkChain", Syntax::Iptables));
    }
    for (key, tokens) in [
        ("conditionsV4", &conditions.v4),
        ("conditionsV6", &conditions.v6),
    ] {
        demands.extend(Words::of(key, tokens)?.map(|words| (key, words.syntax())));
    }
    let first = demands.first().map(|(_, demanded)| *demanded);
    let chosen = named.or(first).unwrap_or(Syntax::Nft);
    if let Some((key, demanded)) = demands.iter().find(|(_, demanded)| *demanded != chosen) {
        return Err(mismatch(key, *demanded, chosen));
    }
    Ok(match (chosen, mark) {
        (Syntax::Nft, Mark::Bit(mark_bit)) => Backend::Nftables { mark_bit },
        (_, mark) => Backend::Iptables(mark),
    })
}

fn mismatch(key: &str, demanded: Syntax, chosen: Syntax) -> Error {
    let (demanded, chosen) = (demanded.backend(), chosen.backend());
    Error::config(format!(
        "{key:?} is for {demanded}, and the back-end is {chosen}"
    ))
    .with_details(format!(
        "set \"backend\" to {demanded:?}, or write {key:?} for {chosen}"
    ))
}

impl Syntax {
    fn backend(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nft => "nftables",
        }
    }
}

const DEFAULT_MARK_BIT: u8 = 13;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_cni::{Address, Environment, Interface, Verb};

    use super::*;

    fn call(mut conf: Value) -> Call {
        conf["name"] = "n".into();
        conf["cniVersion"] = "1.0.0".into();
        let env = Environment::read(Verb::Add, |_| Some("eth0".to_owned())).unwrap();
        let Value::Object(fields) = conf else {
            unreachable!()
        };
        Call {
            env,
            conf: Conf::new(fields).unwrap(),
            suite: &[],
        }
    }

    fn prev() -> Outcome {
        let address = |text: &str, interface| Address {
            interface,
            address: text.parse().unwrap(),
            gateway: None,
        };
        let interface = |name: &str, sandbox: &str| Interface {
            name: name.into(),
            sandbox: sandbox.into(),
            ..Interface::default()
        };
        Outcome {
            interfaces: vec![interface("cni0", ""), interface("eth0", "/ns")],
            ips: vec![
                address("192.0.2.1/24", Some(0)),
                address("10.99.0.5/24", Some(1)),
                address("10.99.0.6/24", Some(1)),
                address("fd99::5/64", None),
            ],
            ..Outcome::default()
        }
    }

    fn plan(conf: Value) -> Result<Plan> {
        Plan::of(&call(conf), &prev())
    }

    fn keys(mappings: Value) -> Vec<String> {
        let plan = plan(json!({"runtimeConfig": {"portMappings": mappings}})).unwrap();
        plan.published()
            .iter()
            .map(|p| format!("{} {}:{}", p.key, p.pod, p.pod_port))
            .collect()
    }

    #[test]
    fn what_containerd_sends_is_understood() {
        let wish =
            json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]);
        assert_eq!(
            keys(wish),
            ["tcp:8080 10.99.0.5:80", "tcp6:8080 fd99::5:80"]
        );
    }

    #[test]
    fn the_hosts_address_decides_the_family() {
        let wish = |ip: &str| json!([{"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": ip}]);
        assert_eq!(keys(wish("0.0.0.0")), ["udp:53 10.99.0.5:5353"]);
        assert_eq!(keys(wish("::")), ["udp6:53 fd99::5:5353"]);
        assert_eq!(keys(wish("192.0.2.7")), ["udp:192.0.2.7:53 10.99.0.5:5353"]);
        assert_eq!(
            keys(wish("::ffff:192.0.2.7")),
            ["udp:192.0.2.7:53 10.99.0.5:5353"]
        );
        assert_eq!(keys(wish("fd00::7")), ["udp6:[fd00::7]:53 fd99::5:5353"]);
    }

    #[test]
    fn an_empty_protocol_is_tcp() {
        let wish =
            json!([{"hostPort": 1, "containerPort": 2, "protocol": "", "hostIP": "0.0.0.0"}]);
        assert_eq!(keys(wish), ["tcp:1 10.99.0.5:2"]);
    }

    #[test]
    fn of_two_wishes_for_one_port_the_first_counts() {
        let wish =
            |port: u16, ip: &str| json!({"hostPort": 80, "containerPort": port, "hostIP": ip});
        let kept = keys(json!([
            wish(1, "0.0.0.0"),
            wish(2, "0.0.0.0"),
            wish(3, ""),
            wish(4, "192.0.2.7")
        ]));
        assert_eq!(
            kept,
            [
                "tcp:80 10.99.0.5:1",
                "tcp6:80 fd99::5:3",
                "tcp:192.0.2.7:80 10.99.0.5:4"
            ]
        );
    }

    #[test]
    fn wishes_that_make_no_sense_are_refused_by_name() {
        let wish = |key: &str, value: Value| {
            let mut wish = json!({"hostPort": 80, "containerPort": 80, "protocol": "tcp"});
            wish[key] = value;
            plan(json!({"runtimeConfig": {"portMappings": [wish]}}))
                .unwrap_err()
                .msg
        };
        for (key, value) in [
            ("hostPort", json!(0)),
            ("hostPort", json!(65536)),
            ("containerPort", json!(-1)),
            ("protocol", json!("icmp")),
            ("hostIP", json!("localhost")),
            ("hostIP", json!("fe80::1%eth0")),
        ] {
            let msg = wish(key, value.clone());
            assert!(
                msg.contains(&format!("\"portMappings\"[0] → {key:?}")),
                "{value}: {msg}"
            );
        }
    }

    #[test]
    fn defaults_are_those_of_the_reference_plugin_but_for_the_back_end() {
        let plan = plan(json!({})).unwrap();
        assert_eq!(plan.backend, Backend::Nftables { mark_bit: 13 });
        assert_eq!(plan.masquerade, Masquerade::Neighbours);
        assert!(plan.mappings.is_empty() && plan.conditions.is_empty());
    }

    #[test]
    fn masquerading_is_for_neighbours_everybody_or_nobody() {
        let masquerade = |conf| plan(conf).unwrap().masquerade;
        assert_eq!(masquerade(json!({"masqAll": true})), Masquerade::Everybody);
        assert_eq!(
            masquerade(json!({"snat": false, "masqAll": true})),
            Masquerade::Nobody
        );
    }

    #[test]
    fn the_words_of_the_conditions_decide_an_unnamed_back_end() {
        let backend = |conf| {
            let is_iptables = |plan: Plan| matches!(plan.backend, Backend::Iptables(_));
            plan(conf).map(is_iptables).map_err(|error| error.code)
        };
        let wrong = Err(weft_cni::Code::InvalidConfig);
        let (iptables, nft) = (
            json!(["!", "-s", "10.0.0.0/8"]),
            json!(["ip", "saddr", "!=", "10.0.0.0/8"]),
        );
        assert_eq!(backend(json!({"conditionsV4": iptables})), Ok(true));
        assert_eq!(backend(json!({"conditionsV6": nft})), Ok(false));
        assert_eq!(
            backend(json!({"conditionsV4": iptables, "conditionsV6": nft})),
            wrong
        );
        assert_eq!(
            backend(json!({"backend": "nftables", "conditionsV4": iptables})),
            wrong
        );
        assert_eq!(
            backend(json!({"backend": "iptables", "conditionsV4": nft})),
            wrong
        );
        assert_eq!(
            backend(json!({"externalSetMarkChain": "KUBE-MARK-MASQ"})),
            Ok(true)
        );
        assert_eq!(
            backend(json!({"backend": "nftables", "externalSetMarkChain": "X"})),
            wrong
        );
        assert_eq!(backend(json!({"backend": "ebtables"})), wrong);
    }

    #[test]
    fn a_mark_is_a_bit_or_anothers_chain() {
        let backend = |conf| {
            plan(conf)
                .map(|plan| plan.backend)
                .map_err(|error| error.code)
        };
        let wrong = Err(weft_cni::Code::InvalidConfig);
        assert_eq!(
            backend(json!({"markMasqBit": 0})),
            Ok(Backend::Nftables { mark_bit: 0 })
        );
        let chain = json!({"externalSetMarkChain": "KUBE-MARK-MASQ"});
        assert_eq!(
            backend(chain),
            Ok(Backend::Iptables(Mark::Chain("KUBE-MARK-MASQ".into())))
        );
        assert_eq!(backend(json!({"markMasqBit": 32})), wrong);
        assert_eq!(backend(json!({"markMasqBit": -1})), wrong);
        assert_eq!(
            backend(json!({"markMasqBit": 1, "externalSetMarkChain": "X"})),
            wrong
        );
    }
}
