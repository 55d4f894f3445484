//! `subnet.env`: what the node's daemon says of its lease. Text → `SubnetEnv`, and the file's way in.

use std::{
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use weft_cni::{Error, Result};

/// The node's share of the overlay network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The whole overlay, of either family, IPv4's first; no network twice within a family.
    pub networks: Vec<IpNetwork>,
    /// This node's part of it: one subnet a family, as network addresses, IPv4's first.
    pub subnets: Vec<IpNetwork>,
    pub mtu: u32,
    /// The daemon masquerades, so no plugin need do so.
    pub ip_masq: bool,
}

impl SubnetEnv {
    pub fn read(path: &Path) -> Result<Self> {
        let read = read_file(path).map_err(|why| unreadable(path, &why));
        // A byte that is no text spoils the value it stands in, whose error then shows it.
        let parsed = read.and_then(|text| {
            let named = |error: Error| error.within(path.display());
            Self::parse(&String::from_utf8_lossy(&text)).map_err(named)
        });
        parsed.map_err(|error| explained(error, path))
    }

    /// Reads `KEY=VALUE` lines. Other people's lines are left alone, whatever they are; of a key
    /// given twice the last counts.
    pub fn parse(text: &str) -> Result<Self> {
        let mut found = Found::default();
        for line in text.lines() {
            found.take(line.strip_suffix('\r').unwrap_or(line))?;
        }
        found.whole()
    }
}

#[derive(Default)]
struct Found {
    networks: Option<Vec<IpNetwork>>,
    ipv6_networks: Option<Vec<IpNetwork>>,
    subnet: Option<IpNetwork>,
    ipv6_subnet: Option<IpNetwork>,
    mtu: Option<u32>,
    ip_masq: Option<bool>,
}

impl Found {
    fn take(&mut self, line: &str) -> Result<()> {
        let Some((key, value)) = line.split_once('=') else {
            return match line.trim_start().starts_with(PREFIX) {
                true => Err(Error::decode(format!("the line {line:?} has no \"=\""))
                    .with_details("every line must be KEY=VALUE; was the file half written?")),
                false => Ok(()),
            };
        };
        match key {
            NETWORK => self.networks = Some(networks(key, value)?),
            IPV6_NETWORK => self.ipv6_networks = Some(networks(key, value)?),
            SUBNET => self.subnet = Some(network(key, value)?),
            IPV6_SUBNET => self.ipv6_subnet = Some(network(key, value)?),
            MTU => self.mtu = Some(mtu(key, value)?),
            IPMASQ => self.ip_masq = Some(value == "true"),
            _ => {}
        }
        Ok(())
    }

    fn whole(self) -> Result<SubnetEnv> {
        let mut missing: Vec<&str> = Vec::new();
        if self.networks.is_none() && self.ipv6_networks.is_none() {
            missing.extend([NETWORK, IPV6_NETWORK]);
        }
        if self.subnet.is_none() && self.ipv6_subnet.is_none() {
            missing.extend([SUBNET, IPV6_SUBNET]);
        }
        let both = self.mtu.zip(self.ip_masq);
        missing.extend(self.mtu.is_none().then_some(MTU));
        missing.extend(self.ip_masq.is_none().then_some(IPMASQ));
        match both.filter(|_| missing.is_empty()) {
            Some((mtu, ip_masq)) => Ok(SubnetEnv {
                networks: [self.networks, self.ipv6_networks]
                    .into_iter()
                    .flatten()
                    .flatten()
                    .collect(),
                subnets: [self.subnet, self.ipv6_subnet]
                    .into_iter()
                    .flatten()
                    .collect(),
                mtu,
                ip_masq,
            }),
            None => Err(Error::try_again(format!(
                "is missing {}",
                missing.join(", ")
            ))),
        }
    }
}

/// A comma list; what stands in it twice would become the same route twice.
fn networks(key: &str, list: &str) -> Result<Vec<IpNetwork>> {
    let mut networks = Vec::new();
    for text in list.split(',') {
        let network = network(key, text)?;
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    Ok(networks)
}

/// The network that `text` lies in: the daemon writes the address that the bridge is to have.
fn network(key: &str, text: &str) -> Result<IpNetwork> {
    let parse = || {
        let (address, prefix) = text.trim().split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let network = IpNetwork::new(address, prefix.parse().ok()?).ok()?;
        IpNetwork::new(network.network(), network.prefix()).ok()
    };
    parse().ok_or_else(|| wrong(key, text, "a network such as 10.244.1.0/24"))
}

fn mtu(key: &str, text: &str) -> Result<u32> {
    text.trim()
        .parse()
        .map_err(|_| wrong(key, text, "a number of bytes"))
}

fn wrong(key: &str, value: &str, wanted: &str) -> Error {
    Error::decode(format!("{key} is {value:?}, not {wanted}"))
}

/// What is no plain file must neither keep us waiting nor go on for ever.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let waitless = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(waitless)
        .open(path)?;
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    Ok(text)
}

fn unreadable(path: &Path, why: &io::Error) -> Error {
    let path = path.display();
    match why.kind() {
        io::ErrorKind::NotFound => {
            Error::try_again(format!("open {path}: no such file or directory"))
        }
        _ => Error::io(format!("open {path}: {why}")),
    }
}

/// The operator's way from the error to its cause; the first words are the Go plugin's.
fn explained(error: Error, path: &Path) -> Error {
    let mut error = error.within("failed to load flannel 'subnet.env' file");
    error
        .msg
        .push_str(". Check the flannel pod log for this node.");
    let hint = format!(
        "flanneld or weftd writes {} once this node has its subnet: see its log, and \"subnetFile\" in the configuration",
        path.display()
    );
    error.details = match error.details.as_str() {
        "" => hint,
        details => format!("{details}; {hint}"),
    };
    error
}

/// Where the daemon writes it unless told otherwise.
pub fn default_path() -> PathBuf {
    PathBuf::from("/run/flannel/subnet.env")
}

const PREFIX: &str = "FLANNEL_";
const NETWORK: &str = "FLANNEL_NETWORK";
const IPV6_NETWORK: &str = "FLANNEL_IPV6_NETWORK";
const SUBNET: &str = "FLANNEL_SUBNET";
const IPV6_SUBNET: &str = "FLANNEL_IPV6_SUBNET";
const MTU: &str = "FLANNEL_MTU";
const IPMASQ: &str = "FLANNEL_IPMASQ";

/// Many times what the longest list of networks takes.
const LARGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_cni::Code;

    use super::*;

    const DUAL: &str = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n\
        FLANNEL_IPV6_NETWORK=fd01::/48\nFLANNEL_IPV6_SUBNET=fd01:0:0:1::1/64\n\
        FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    fn nets(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_bridge_address_becomes_the_subnet_it_lies_in() {
        let env = SubnetEnv::parse(DUAL).unwrap();
        assert_eq!(env.subnets, nets(&["10.1.17.0/24", "fd01:0:0:1::/64"]));
        assert_eq!(env.networks, nets(&["10.1.0.0/16", "fd01::/48"]));
        assert_eq!((env.mtu, env.ip_masq), (1450, true));
    }

    #[test]
    fn a_comma_list_of_networks_keeps_its_order_and_drops_what_is_there_twice() {
        let text = DUAL.replace("10.1.0.0/16", "10.9.0.0/16,10.1.0.0/16,10.9.1.1/16");
        let env = SubnetEnv::parse(&text).unwrap();
        assert_eq!(
            env.networks,
            nets(&["10.9.0.0/16", "10.1.0.0/16", "fd01::/48"])
        );
    }

    #[test]
    fn masquerading_is_on_only_if_the_value_is_exactly_true() {
        for (value, on) in [
            ("true", true),
            ("false", false),
            ("True", false),
            ("1", false),
            ("", false),
            ("true ", false),
        ] {
            let text = DUAL.replace("IPMASQ=true", &format!("IPMASQ={value}"));
            assert_eq!(SubnetEnv::parse(&text).unwrap().ip_masq, on, "{value:?}");
        }
    }

    #[test]
    fn each_key_that_is_missing_is_named_and_the_runtime_may_try_again() {
        let error = SubnetEnv::parse("").unwrap_err();
        assert_eq!(error.code, Code::TryAgain);
        assert_eq!(
            error.msg,
            "is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, \
             FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
        );
        for key in ["FLANNEL_MTU", "FLANNEL_IPMASQ"] {
            let text: String = DUAL
                .lines()
                .filter(|line| !line.starts_with(key))
                .map(|l| format!("{l}\n"))
                .collect();
            assert_eq!(
                SubnetEnv::parse(&text).unwrap_err().msg,
                format!("is missing {key}")
            );
        }
    }

    #[test]
    fn one_family_is_enough() {
        for family in ["FLANNEL_IPV6", "FLANNEL_NETWORK FLANNEL_SUBNET"] {
            let text: String = DUAL
                .lines()
                .filter(|line| !family.split(' ').any(|key| line.starts_with(key)))
                .map(|line| format!("{line}\n"))
                .collect();
            assert_eq!(SubnetEnv::parse(&text).unwrap().subnets.len(), 1, "{text}");
        }
    }

    /// The Go plugin dies of an index out of range here.
    #[test]
    fn a_line_without_an_equals_sign_is_an_error_and_no_panic() {
        for line in ["FLANNEL_NETWORK", "FLANNEL_IPMASQ", "FLANNEL_"] {
            let error = SubnetEnv::parse(&format!("{DUAL}{line}")).unwrap_err();
            assert_eq!(error.code, Code::Decode);
            assert_eq!(error.msg, format!("the line {line:?} has no \"=\""));
        }
    }

    #[test]
    fn comments_blank_lines_other_keys_and_dos_line_ends_do_no_harm() {
        let text = format!("# made by hand\n\nFOO=bar\nfoo\n{DUAL}").replace('\n', "\r\n");
        assert_eq!(SubnetEnv::parse(&text), SubnetEnv::parse(DUAL));
        assert_eq!(
            SubnetEnv::parse(&format!("{}\r", DUAL.trim_end())),
            SubnetEnv::parse(DUAL)
        );
    }

    #[test]
    fn a_value_that_is_wrong_is_shown_with_its_key() {
        for (line, key) in [
            ("FLANNEL_NETWORK=10.1.0.0", NETWORK),
            ("FLANNEL_NETWORK=10.1.0.0/16,", NETWORK),
            ("FLANNEL_SUBNET=10.1.0.0/33", SUBNET),
            ("FLANNEL_SUBNET=10.1.0.0/255.255.0.0", SUBNET),
            ("FLANNEL_IPV6_SUBNET=fd01::%eth0/64", IPV6_SUBNET),
            ("FLANNEL_MTU=1450.0", MTU),
            ("FLANNEL_MTU=\"1450\"", MTU),
        ] {
            let error = SubnetEnv::parse(&format!("{DUAL}{line}\n")).unwrap_err();
            assert_eq!(error.code, Code::Decode, "{line}");
            assert!(error.msg.starts_with(key), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_a_passing_state_told_in_the_words_of_the_go_plugin() {
        let error = SubnetEnv::read(Path::new("/nowhere/subnet.env")).unwrap_err();
        assert_eq!(error.code, Code::TryAgain);
        assert_eq!(
            error.msg,
            "failed to load flannel 'subnet.env' file: open /nowhere/subnet.env: \
             no such file or directory. Check the flannel pod log for this node."
        );
        let error = SubnetEnv::read(Path::new("/")).unwrap_err();
        assert_eq!(error.code, Code::Io);
    }

    fn written(env: &SubnetEnv) -> String {
        let list = |of: &[IpNetwork], v4: bool| {
            let family = of.iter().filter(|n| n.is_ipv4() == v4);
            family
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        let lines = [
            (NETWORK, list(&env.networks, true)),
            (SUBNET, list(&env.subnets, true)),
            (IPV6_NETWORK, list(&env.networks, false)),
            (IPV6_SUBNET, list(&env.subnets, false)),
            (MTU, env.mtu.to_string()),
            (IPMASQ, env.ip_masq.to_string()),
        ];
        let given = lines.iter().filter(|(_, value)| !value.is_empty());
        given
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect()
    }

    fn network_of(v4: bool) -> impl Strategy<Value = IpNetwork> {
        (any::<u128>(), 0..=if v4 { 32u8 } else { 128 }).prop_map(move |(bits, prefix)| {
            let address: IpAddr = match v4 {
                true => IpAddr::V4(u32::try_from(bits >> 96).unwrap().into()),
                false => IpAddr::V6(bits.into()),
            };
            let network = IpNetwork::new(address, prefix).unwrap();
            IpNetwork::new(network.network(), prefix).unwrap()
        })
    }

    fn any_env() -> impl Strategy<Value = SubnetEnv> {
        let v4 = proptest::collection::btree_set(network_of(true), 1..4);
        let v6 = proptest::collection::btree_set(network_of(false), 0..4);
        (v4, v6, any::<u32>(), any::<bool>()).prop_map(|(v4, v6, mtu, ip_masq)| SubnetEnv {
            subnets: v4
                .iter()
                .take(1)
                .chain(v6.iter().take(1))
                .copied()
                .collect(),
            networks: v4.into_iter().chain(v6).collect(),
            mtu,
            ip_masq,
        })
    }

    proptest! {
        #[test]
        fn what_a_daemon_writes_is_what_is_read(env in any_env()) {
            prop_assert_eq!(SubnetEnv::parse(&written(&env)), Ok(env));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(FLANNEL_(NETWORK|SUBNET|IPV6_SUBNET|MTU|IPMASQ)?|[=,/\n\r .:0-9a-f]|\\PC){0,40}") {
            let _ = SubnetEnv::parse(&text);
        }

        #[test]
        fn a_file_cut_off_anywhere_is_never_read_as_another_lease_of_the_same_size(at in 0..DUAL.len() - 1) {
            // All but the last line are whole, so a cut is seen; the last line's value is `true`.
            if let Ok(env) = SubnetEnv::parse(&DUAL[..at]) {
                prop_assert!(DUAL[..at].contains("IPMASQ="));
                prop_assert_eq!(env.subnets, SubnetEnv::parse(DUAL).unwrap().subnets);
            }
        }
    }
}
