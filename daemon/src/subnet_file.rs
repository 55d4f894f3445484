//! subnet.env: what the CNI plugin reads of this node's subnet, byte for byte as flanneld writes
//! it, and what an earlier run, ours or flanneld's, left there.

use std::fmt::{self, Display};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::lease::Subnets;
use crate::reconcile::Serving;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetFile {
    pub v4_networks: Vec<Ipv4Network>,
    pub v6_networks: Vec<Ipv6Network>,
    pub subnets: Subnets,
    pub mtu: u32,
    pub masquerade: bool,
}

/// What of a file could be made sense of; the rest was passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub v4_networks: Vec<Ipv4Network>,
    pub v6_networks: Vec<Ipv6Network>,
    /// By their first address, as leases are.
    pub subnets: Subnets,
    pub mtu: Option<u32>,
    pub masquerade: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Changed,
    /// It said the same already.
    Unchanged,
}

#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}: {why}; the CNI plugin learns there which subnet its pods are in")]
pub struct Error {
    doing: &'static str,
    path: PathBuf,
    why: io::Error,
}

impl SubnetFile {
    /// Where the directory does not exist, it is made. A reader sees the old file or this one.
    pub fn write(&self, path: &Path) -> Result<Written, Error> {
        let text = self.to_string();
        if fs::read(path).is_ok_and(|present| present == text.as_bytes()) {
            return Ok(Written::Unchanged);
        }
        let failed = |doing| {
            move |why| Error {
                doing,
                path: path.to_owned(),
                why,
            }
        };
        make_parent(path).map_err(failed("make the directory of"))?;
        replace(path, text.as_bytes()).map_err(failed("write"))?;
        Ok(Written::Changed)
    }
}

impl From<&Serving> for SubnetFile {
    /// Only of families that are on, as flanneld has it.
    fn from(serving: &Serving) -> Self {
        let conf = &serving.conf;
        let networks = || conf.networks.iter().copied();
        Self {
            v4_networks: networks().filter_map(only4).collect(),
            v6_networks: networks().filter_map(only6).collect(),
            subnets: Subnets {
                v4: serving.subnets.v4.filter(|_| conf.v4.is_some()),
                v6: serving.subnets.v6.filter(|_| conf.v6.is_some()),
            },
            mtu: serving.mtu,
            masquerade: serving.masquerade,
        }
    }
}

impl Display for SubnetFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(subnet) = self.subnets.v4 {
            writeln!(f, "{NETWORK}={}", list(&self.v4_networks))?;
            let bridge = u32::from(subnet.network()).saturating_add(1);
            writeln!(
                f,
                "{SUBNET}={}/{}",
                Ipv4Addr::from_bits(bridge),
                subnet.prefix()
            )?;
        }
        if let Some(subnet) = self.subnets.v6 {
            writeln!(f, "{IPV6_NETWORK}={}", list(&self.v6_networks))?;
            let bridge = u128::from(subnet.network()).saturating_add(1);
            writeln!(
                f,
                "{IPV6_SUBNET}={}/{}",
                Ipv6Addr::from_bits(bridge),
                subnet.prefix()
            )?;
        }
        writeln!(f, "{MTU}={}", self.mtu)?;
        writeln!(f, "{IPMASQ}={}", self.masquerade)
    }
}

impl Found {
    /// None if there is no file. The error is for telling: a start goes on without.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(Self::parse(&String::from_utf8_lossy(&bytes)))),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(Error {
                doing: "read",
                path: path.to_owned(),
                why,
            }),
        }
    }

    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let line = line.trim();
            let Some((key, value)) = line.strip_prefix("export ").unwrap_or(line).split_once('=')
            else {
                continue;
            };
            let value = value.trim().trim_matches(['"', '\'']);
            match key.trim() {
                NETWORK => found.v4_networks = networks(value).filter_map(first4).collect(),
                IPV6_NETWORK => found.v6_networks = networks(value).filter_map(first6).collect(),
                SUBNET => found.subnets.v4 = networks(value).find_map(first4),
                IPV6_SUBNET => found.subnets.v6 = networks(value).find_map(first6),
                MTU => found.mtu = value.parse().ok(),
                IPMASQ => found.masquerade = value.parse().ok(),
                _ => {}
            }
        }
        found
    }
}

fn list(networks: &[impl Display]) -> String {
    let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// The networks of a list; one address alone is none.
fn networks<T: FromStr>(value: &str) -> impl Iterator<Item = T> {
    let texts = value.split(',').map(str::trim);
    texts
        .filter(|text| text.contains('/'))
        .filter_map(|text| text.parse().ok())
}

fn only4(network: IpNetwork) -> Option<Ipv4Network> {
    match network {
        IpNetwork::V4(v4) => first4(v4),
        IpNetwork::V6(_) => None,
    }
}

fn only6(network: IpNetwork) -> Option<Ipv6Network> {
    match network {
        IpNetwork::V4(_) => None,
        IpNetwork::V6(v6) => first6(v6),
    }
}

fn first4(network: Ipv4Network) -> Option<Ipv4Network> {
    Ipv4Network::new_checked(network.network(), network.prefix())
}

fn first6(network: Ipv6Network) -> Option<Ipv6Network> {
    Ipv6Network::new_checked(network.network(), network.prefix())
}

fn make_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)
        }
        Some(_) | None => Ok(()),
    }
}

/// Beside, under one name always, so that what a killed run left is written over.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let beside = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&beside)?;
    file.write_all(bytes)?;
    // Whatever the umask: plugins may run as somebody else.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    fs::File::open(dir.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

const NETWORK: &str = "FLANNEL_NETWORK";
const SUBNET: &str = "FLANNEL_SUBNET";
const IPV6_NETWORK: &str = "FLANNEL_IPV6_NETWORK";
const IPV6_SUBNET: &str = "FLANNEL_IPV6_SUBNET";
const MTU: &str = "FLANNEL_MTU";
const IPMASQ: &str = "FLANNEL_IPMASQ";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    fn file(network: &str, subnet: &str) -> SubnetFile {
        SubnetFile {
            v4_networks: vec![network.parse().unwrap()],
            v6_networks: vec![],
            subnets: Subnets {
                v4: Some(subnet.parse().unwrap()),
                v6: None,
            },
            mtu: 1450,
            masquerade: true,
        }
    }

    fn dual() -> SubnetFile {
        SubnetFile {
            v6_networks: vec!["fd05::/48".parse().unwrap()],
            subnets: Subnets {
                v4: Some("10.5.63.0/24".parse().unwrap()),
                v6: Some("fd05:0:0:2::/64".parse().unwrap()),
            },
            ..file("10.5.0.0/16", "10.5.63.0/24")
        }
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("weft-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn a_flannel_nodes_file_comes_out_byte_for_byte() {
        const FIELD: &str = "FLANNEL_NETWORK=172.20.0.0/16\n\
            FLANNEL_SUBNET=172.20.1.1/24\n\
            FLANNEL_MTU=1450\n\
            FLANNEL_IPMASQ=true\n";
        assert_eq!(file("172.20.0.0/16", "172.20.1.0/24").to_string(), FIELD);
        let found = Found::parse(FIELD);
        assert_eq!(found.subnets.v4, Some("172.20.1.0/24".parse().unwrap()));
        assert_eq!(found.v4_networks, ["172.20.0.0/16".parse().unwrap()]);
        assert_eq!((found.mtu, found.masquerade), (Some(1450), Some(true)));
    }

    #[test]
    fn both_families_stand_in_flannels_order() {
        assert_eq!(
            dual().to_string(),
            "FLANNEL_NETWORK=10.5.0.0/16\n\
             FLANNEL_SUBNET=10.5.63.1/24\n\
             FLANNEL_IPV6_NETWORK=fd05::/48\n\
             FLANNEL_IPV6_SUBNET=fd05:0:0:2::1/64\n\
             FLANNEL_MTU=1450\n\
             FLANNEL_IPMASQ=true\n"
        );
    }

    #[test]
    fn without_ipv4_there_are_no_lines_of_it() {
        let only_v6 = SubnetFile {
            subnets: Subnets {
                v4: None,
                ..dual().subnets
            },
            masquerade: false,
            ..dual()
        };
        assert_eq!(
            only_v6.to_string(),
            "FLANNEL_IPV6_NETWORK=fd05::/48\n\
             FLANNEL_IPV6_SUBNET=fd05:0:0:2::1/64\n\
             FLANNEL_MTU=1450\n\
             FLANNEL_IPMASQ=false\n"
        );
    }

    #[test]
    fn what_people_make_of_the_file_is_read() {
        let found = Found::parse(
            "# by hand\r\nexport FLANNEL_NETWORK=\"10.5.0.0/16, 10.6.0.0/16\"\r\n\
             FLANNEL_SUBNET = '10.5.63.1/24'\nFLANNEL_IPV6_SUBNET=nonsense\nFLANNEL_MTU=\n\
             FLANNEL_IPMASQ=yes\nOTHER=1\nno equals sign",
        );
        assert_eq!(
            found,
            Found {
                v4_networks: vec![
                    "10.5.0.0/16".parse().unwrap(),
                    "10.6.0.0/16".parse().unwrap()
                ],
                subnets: Subnets {
                    v4: Some("10.5.63.0/24".parse().unwrap()),
                    v6: None
                },
                ..Found::default()
            }
        );
        assert_eq!(Found::parse("FLANNEL_SUBNET=10.5.63.1"), Found::default());
    }

    #[test]
    fn it_is_written_for_all_to_read_and_only_when_it_differs() {
        let dir = scratch("subnet-file");
        let path = dir.join("flannel/subnet.env");
        assert_eq!(Found::read(&path).unwrap(), None);
        assert_eq!(dual().write(&path).unwrap(), Written::Changed);
        assert_eq!(fs::read_to_string(&path).unwrap(), dual().to_string());
        let made = fs::metadata(&path).unwrap();
        assert_eq!(made.mode() & 0o7777, 0o644);
        let parent = fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(parent.mode() & 0o7777, 0o755);
        assert_eq!(dual().write(&path).unwrap(), Written::Unchanged);
        assert_eq!(fs::metadata(&path).unwrap().ino(), made.ino());
        let other = SubnetFile {
            mtu: 1430,
            ..dual()
        };
        assert_eq!(other.write(&path).unwrap(), Written::Changed);
        assert_eq!(Found::read(&path).unwrap().unwrap().mtu, Some(1430));
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing is left beside it: {left:?}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = scratch("subnet-file-blocked");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("flannel"), "a file").unwrap();
        let path = dir.join("flannel/subnet.env");
        let why = dual().write(&path).unwrap_err().to_string();
        assert!(why.contains("flannel/subnet.env"), "{why}");
        fs::remove_dir_all(dir).unwrap();
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            v4 in proptest::option::of((any::<u32>(), 1u8..31)),
            v6 in proptest::option::of((any::<u128>(), 1u8..127)),
            mtu: u32,
            masquerade: bool,
        ) {
            let subnets = Subnets {
                v4: v4.and_then(|(bits, len)| first4(Ipv4Network::new_checked(bits.into(), len)?)),
                v6: v6.and_then(|(bits, len)| first6(Ipv6Network::new_checked(bits.into(), len)?)),
            };
            let written = SubnetFile {
                v4_networks: subnets.v4.into_iter().collect(),
                v6_networks: subnets.v6.into_iter().collect(),
                subnets,
                mtu,
                masquerade,
            };
            prop_assert_eq!(Found::parse(&written.to_string()), Found {
                v4_networks: written.v4_networks,
                v6_networks: written.v6_networks,
                subnets,
                mtu: Some(mtu),
                masquerade: Some(masquerade),
            });
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = Found::parse(&text);
        }
    }
}
