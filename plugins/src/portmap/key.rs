//! What a host port is known by: to the kernel as bytes, to a person as a short text.

use std::{fmt, net::IpAddr, str::FromStr};

use weft_net::nft::{DataType, concat, octets};

/// A protocol whose ports stand where TCP's do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Dccp,
    Sctp,
    Tcp,
    Udp,
    UdpLite,
}

/// Which of the host's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    AnyV4,
    AnyV6,
    One(IpAddr),
}

/// A host port of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) protocol: Protocol,
    pub(super) host: Host,
    pub(super) port: u16,
}

/// The four kinds of keys, each with a map of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Any4,
    Any6,
    Ip4,
    Ip6,
}

impl Protocol {
    pub(super) const ALL: [Self; 5] = [Self::Dccp, Self::Sctp, Self::Tcp, Self::Udp, Self::UdpLite];

    /// In any case; TCP where nothing is said.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "" => Some(Self::Tcp),
            _ => Self::ALL
                .into_iter()
                .find(|protocol| protocol.name().eq_ignore_ascii_case(name)),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dccp => "dccp",
            Self::Sctp => "sctp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpLite => "udplite",
        }
    }

    /// `IPPROTO_*`.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Dccp => 33,
            Self::Sctp => 132,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::UdpLite => 136,
        }
    }
}

impl Key {
    pub(super) fn kind(&self) -> Kind {
        match self.host {
            Host::AnyV4 => Kind::Any4,
            Host::AnyV6 => Kind::Any6,
            Host::One(IpAddr::V4(_)) => Kind::Ip4,
            Host::One(IpAddr::V6(_)) => Kind::Ip6,
        }
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.kind().is_ipv6()
    }

    /// The one address it is bound to.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self.host {
            Host::One(address) => Some(address),
            Host::AnyV4 | Host::AnyV6 => None,
        }
    }

    /// As a packet's values stand in registers: protocol, address if it matters, port.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (protocol, port) = ([self.protocol.number()], self.port.to_be_bytes());
        match self.address() {
            Some(address) => concat(&[&protocol, &octets(address), &port]),
            None => concat(&[&protocol, &port]),
        }
    }
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Any4, Self::Any6, Self::Ip4, Self::Ip6];

    pub(super) fn is_ipv6(self) -> bool {
        matches!(self, Self::Any6 | Self::Ip6)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Any4 => "any4",
            Self::Any6 => "any6",
            Self::Ip4 => "ip4",
            Self::Ip6 => "ip6",
        }
    }

    pub(super) fn key_type(self) -> &'static [DataType] {
        match self {
            Self::Any4 | Self::Any6 => &[DataType::PROTO, DataType::SERVICE],
            Self::Ip4 => &[DataType::PROTO, DataType::IPV4, DataType::SERVICE],
            Self::Ip6 => &[DataType::PROTO, DataType::IPV6, DataType::SERVICE],
        }
    }
}

/// `tcp:80`, `tcp6:80`, `tcp:192.0.2.1:80`, `tcp6:[fd00::1]:80`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            host,
            port,
        } = self;
        let name = protocol.name();
        match host {
            Host::AnyV4 => write!(f, "{name}:{port}"),
            Host::AnyV6 => write!(f, "{name}6:{port}"),
            Host::One(IpAddr::V4(v4)) => write!(f, "{name}:{v4}:{port}"),
            Host::One(IpAddr::V6(v6)) => write!(f, "{name}6:[{v6}]:{port}"),
        }
    }
}

/// A text that is no key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoKey;

impl FromStr for Key {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let (protocol, place) = text.split_once(':').ok_or(NoKey)?;
        let (name, is_ipv6) = match protocol.strip_suffix('6') {
            Some(name) => (name, true),
            None => (protocol, false),
        };
        let protocol = Protocol::ALL
            .into_iter()
            .find(|p| p.name() == name)
            .ok_or(NoKey)?;
        let (host, port) = match (place.rsplit_once(':'), is_ipv6) {
            (None, false) => (Host::AnyV4, place),
            (None, true) => (Host::AnyV6, place),
            (Some((v4, port)), false) => {
                (Host::One(IpAddr::V4(v4.parse().map_err(|_| NoKey)?)), port)
            }
            (Some((v6, port)), true) => {
                let v6 = v6
                    .strip_prefix('[')
                    .and_then(|v6| v6.strip_suffix(']'))
                    .ok_or(NoKey)?;
                (Host::One(IpAddr::V6(v6.parse().map_err(|_| NoKey)?)), port)
            }
        };
        Ok(Self {
            protocol,
            host,
            port: port.parse().map_err(|_| NoKey)?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_key() -> impl Strategy<Value = Key> {
        let host = prop_oneof![
            Just(Host::AnyV4),
            Just(Host::AnyV6),
            any::<IpAddr>().prop_map(Host::One),
        ];
        let protocol = prop::sample::select(Protocol::ALL.to_vec());
        (protocol, host, 1u16..).prop_map(|(protocol, host, port)| Key {
            protocol,
            host,
            port,
        })
    }

    proptest! {
        #[test]
        fn a_key_survives_its_own_text(key in any_key()) {
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }

        #[test]
        fn different_keys_of_a_kind_have_different_bytes(a in any_key(), b in any_key()) {
            prop_assume!(a != b && a.kind() == b.kind());
            prop_assert_ne!(a.bytes(), b.bytes());
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,60}") {
            let _ = text.parse::<Key>();
        }
    }

    #[test]
    fn a_protocol_is_known_in_any_case_and_tcp_unless_said() {
        assert_eq!(Protocol::parse("SCTP"), Some(Protocol::Sctp));
        assert_eq!(Protocol::parse(""), Some(Protocol::Tcp));
        assert_eq!(Protocol::parse("icmp"), None);
    }
}
