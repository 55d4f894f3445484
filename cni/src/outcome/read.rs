//! JSON of any version's shape → Outcome.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::{
    Address, Dns, Error, Interface, Object, Outcome, Result, Route, Version, version::Shape,
};

impl Outcome {
    /// Reads a result that belongs to a configuration of `version`: a result that does not name
    /// its own version has that one, and one of another shape is refused.
    pub fn from_json(value: &Value, version: Version) -> Result<Self> {
        let result = Object::of(value, "the result")?;
        let named = result.text("cniVersion")?.filter(|text| !text.is_empty());
        let found = named.map_or(Some(version), Version::parse);
        match found.filter(|found| found.shape() == version.shape()) {
            None => Err(other_shape(named.unwrap_or_default(), version)),
            Some(_) if version.shape() == Shape::OnePerFamily => read_families(&result),
            Some(_) => read_lists(&result),
        }
    }

    /// Reads a result in whatever version it names itself, as a delegate may answer.
    pub fn from_json_of_any_version(value: &Value, default: Version) -> Result<Self> {
        let named = Object::of(value, "the result")?
            .text("cniVersion")?
            .unwrap_or_default();
        let version = if named.is_empty() {
            Some(default)
        } else {
            Version::parse(named)
        };
        let version = version.ok_or_else(|| {
            Error::decode(format!(
                "the result has version {named:?}, which no specification has"
            ))
        })?;
        Self::from_json(value, version)
    }
}

fn other_shape(found: &str, wanted: Version) -> Error {
    let like: Vec<&str> = wanted.shape().versions().map(Version::text).collect();
    Error::decode(format!(
        "result type supports [{}] but unmarshalled CNIVersion is {found:?}",
        like.join(" ")
    ))
    .with_details("every plugin of a chain must answer in the version of the configuration")
}

fn read_families(result: &Object<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for key in ["ip4", "ip6"] {
        let Some(family) = result.object(key)? else {
            continue;
        };
        outcome.ips.push(Address {
            interface: None,
            address: required_network(&family, "ip")?,
            gateway: ip(&family, "gateway")?,
        });
        outcome.routes.extend(routes(&family)?);
    }
    outcome.dns = result
        .object("dns")?
        .map(|value| dns(&value))
        .transpose()?
        .unwrap_or_default();
    Ok(outcome)
}

fn read_lists(result: &Object<'_>) -> Result<Outcome> {
    let interfaces = result.objects("interfaces")?.unwrap_or_default();
    let ips = result.objects("ips")?.unwrap_or_default();
    Ok(Outcome {
        interfaces: interfaces.iter().map(interface).collect::<Result<_>>()?,
        ips: ips.iter().map(address).collect::<Result<_>>()?,
        routes: routes(result)?,
        dns: result
            .object("dns")?
            .map(|value| dns(&value))
            .transpose()?
            .unwrap_or_default(),
    })
}

fn interface(value: &Object<'_>) -> Result<Interface> {
    let text = |key| Ok(value.text(key)?.unwrap_or_default().to_owned());
    Ok(Interface {
        name: text("name")?,
        mac: text("mac")?,
        mtu: value.number("mtu")?,
        sandbox: text("sandbox")?,
        socket_path: text("socketPath")?,
        pci_id: text("pciID")?,
    })
}

fn address(value: &Object<'_>) -> Result<Address> {
    Ok(Address {
        interface: value.number("interface")?,
        address: required_network(value, "address")?,
        gateway: ip(value, "gateway")?,
    })
}

impl Route {
    /// A route as it stands in a result, and in an IPAM configuration too.
    pub fn from_json(value: &Object<'_>) -> Result<Self> {
        Ok(Self {
            dst: required_network(value, "dst")?,
            gw: ip(value, "gw")?,
            mtu: value.number("mtu")?,
            advmss: value.number("advmss")?,
            priority: value.number("priority")?,
            table: value.number("table")?,
            scope: value.number("scope")?,
        })
    }
}

impl Dns {
    pub fn from_json(value: &Object<'_>) -> Result<Self> {
        dns(value)
    }
}

fn routes(value: &Object<'_>) -> Result<Vec<Route>> {
    let routes = value.objects("routes")?.unwrap_or_default();
    routes.iter().map(Route::from_json).collect()
}

fn dns(value: &Object<'_>) -> Result<Dns> {
    Ok(Dns {
        nameservers: value.texts("nameservers")?.unwrap_or_default(),
        domain: value.text("domain")?.unwrap_or_default().to_owned(),
        search: value.texts("search")?.unwrap_or_default(),
        options: value.texts("options")?.unwrap_or_default(),
    })
}

fn ip(value: &Object<'_>, key: &str) -> Result<Option<IpAddr>> {
    value.parsed(key, "an IP address")
}

/// A network must be written with its length: "10.1.2.3" alone is an address, not a network.
fn required_network(value: &Object<'_>, key: &str) -> Result<IpNetwork> {
    let wanted = "an address with its prefix length, such as 10.1.2.3/24";
    let text = value.text(key)?.unwrap_or_default();
    let network = text.contains('/').then(|| text.parse().ok()).flatten();
    network
        .ok_or_else(|| Error::decode(format!("{} is {text:?}, not {wanted}", value.place_of(key))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn network() -> impl Strategy<Value = IpNetwork> {
        let v4 = (any::<u32>(), 0..=32u8)
            .prop_map(|(a, p)| IpNetwork::new(IpAddr::V4(a.into()), p).unwrap());
        let v6 = (any::<u128>(), 0..=128u8)
            .prop_map(|(a, p)| IpNetwork::new(IpAddr::V6(a.into()), p).unwrap());
        prop_oneof![v4, v6]
    }

    fn a_route() -> impl Strategy<Value = Route> {
        (network(), any::<Option<(u32, u8)>>(), any::<Option<u32>>()).prop_map(|(dst, a, mtu)| {
            Route {
                mtu,
                table: a.map(|(table, _)| table),
                scope: a.map(|(_, scope)| scope),
                ..Route::to(dst, Some(dst.ip()))
            }
        })
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        let interface =
            ("[a-z]{1,8}", "[a-z/]{0,8}", any::<Option<u32>>()).prop_map(|(name, sandbox, mtu)| {
                Interface {
                    name,
                    sandbox,
                    mtu,
                    ..Interface::default()
                }
            });
        let ip =
            (network(), proptest::option::of(0..9usize)).prop_map(|(address, interface)| Address {
                interface,
                address,
                gateway: None,
            });
        let list = proptest::collection::vec("[a-z.]{1,8}", 0..3);
        (
            proptest::collection::vec(interface, 0..4),
            proptest::collection::vec(ip, 0..4),
            proptest::collection::vec(a_route(), 0..4),
            list,
        )
            .prop_map(|(interfaces, ips, routes, search)| Outcome {
                interfaces,
                ips,
                routes,
                dns: Dns {
                    search,
                    ..Dns::default()
                },
            })
    }

    proptest! {
        #[test]
        fn the_newest_version_says_everything(outcome in outcome()) {
            let json = outcome.to_json(Version::V1_1_0).unwrap();
            prop_assert_eq!(Outcome::from_json(&json, Version::V1_1_0).unwrap(), outcome);
        }

        #[test]
        fn what_any_version_says_it_says_again_when_read(outcome in outcome()) {
            for version in Version::ALL {
                let Ok(json) = outcome.to_json(version) else {
                    prop_assert!(outcome.ips.is_empty() && version < Version::V0_3_0);
                    continue;
                };
                let again = Outcome::from_json(&json, version).unwrap();
                prop_assert_eq!(again.to_json(version).unwrap(), json);
            }
        }
    }

    #[test]
    fn the_oldest_shape_keeps_one_address_a_family_and_its_routes() {
        let outcome = Outcome::from_json(
            &json!({
                "ips": [
                    {"interface": 2, "address": "10.99.0.2/24", "gateway": "10.99.0.1"},
                    {"address": "10.99.1.2/24"},
                    {"address": "fd99::2/64", "gateway": "fd99::1"}
                ],
                "routes": [
                    {"dst": "10.250.0.0/16", "gw": "10.99.0.9", "mtu": 1400},
                    {"dst": "0.0.0.0/0", "gw": "10.99.0.1"},
                    {"dst": "::/0", "gw": "fd99::1"}
                ]
            }),
            Version::V1_0_0,
        );
        assert_eq!(
            outcome.unwrap().to_json(Version::V0_2_0).unwrap(),
            json!({
                "cniVersion": "0.2.0",
                "ip4": {"ip": "10.99.0.2/24", "gateway": "10.99.0.1", "routes": [
                    {"dst": "10.250.0.0/16", "gw": "10.99.0.9"},
                    {"dst": "0.0.0.0/0", "gw": "10.99.0.1"}]},
                "ip6": {"ip": "fd99::2/64", "gateway": "fd99::1", "routes": [
                    {"dst": "::/0", "gw": "fd99::1"}]},
                "dns": {}
            })
        );
    }

    #[test]
    fn each_shape_has_its_own_fields() {
        let outcome = Outcome {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mtu: Some(1450),
                pci_id: "p".into(),
                ..Interface::default()
            }],
            ips: vec![Address {
                interface: Some(0),
                address: "10.1.2.5/24".parse().unwrap(),
                gateway: None,
            }],
            ..Outcome::default()
        };
        assert_eq!(
            outcome.to_json(Version::V0_4_0).unwrap(),
            json!({"cniVersion": "0.4.0", "interfaces": [{"name": "eth0"}],
                "ips": [{"version": "4", "interface": 0, "address": "10.1.2.5/24"}], "dns": {}})
        );
        assert_eq!(
            outcome.to_json(Version::V1_0_0).unwrap(),
            json!({"cniVersion": "1.0.0",
                "interfaces": [{"name": "eth0", "mtu": 1450, "pciID": "p"}],
                "ips": [{"interface": 0, "address": "10.1.2.5/24"}]})
        );
    }

    #[test]
    fn a_result_of_another_shape_is_refused_and_one_without_version_is_not() {
        let error = Outcome::from_json(&json!({"cniVersion": "0.2.0"}), Version::V1_0_0);
        assert_eq!(
            error.unwrap_err().msg,
            "result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is \"0.2.0\""
        );
        assert!(Outcome::from_json(&json!({"cniVersion": "1.1.0"}), Version::V1_0_0).is_ok());
        assert!(Outcome::from_json(&json!({}), Version::V0_4_0).is_ok());
    }

    #[test]
    fn host_bits_are_kept() {
        let json = json!({"cniVersion": "1.0.0", "routes": [{"dst": "10.5.5.5/16"}]});
        let outcome = Outcome::from_json(&json, Version::V1_0_0).unwrap();
        assert_eq!(outcome.to_json(Version::V1_0_0).unwrap(), json);
    }
}
