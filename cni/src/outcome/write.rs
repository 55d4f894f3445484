//! Outcome → JSON, in the shape of a version.

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use crate::{Address, Dns, Error, Interface, Outcome, Result, Route, Version, version::Shape};

impl Outcome {
    /// The result as `version` writes it. Versions before 0.3.0 can't say that there is no address.
    pub fn to_json(&self, version: Version) -> Result<Value> {
        match version.shape() {
            Shape::OnePerFamily => self.one_per_family(version),
            Shape::VersionedIps | Shape::Plain => Ok(self.with_lists(version)),
        }
    }

    fn one_per_family(&self, version: Version) -> Result<Value> {
        let mut result = Map::new();
        result.insert("cniVersion".into(), version.text().into());
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            if let Some(ip) = self.ips.iter().find(|ip| ip.address.is_ipv4() == v4) {
                result.insert(key.into(), self.family(ip));
            }
        }
        if result.len() == 1 {
            return Err(Error::config(format!(
                "cannot convert: no valid IP addresses: a result of version {version} must have one"
            ))
            .with_details("set \"cniVersion\" to 0.3.0 or later for a network without addresses"));
        }
        result.insert("dns".into(), dns(&self.dns));
        Ok(Value::Object(result))
    }

    /// The family's first address, and of the routes what this shape can say of them.
    fn family(&self, ip: &Address) -> Value {
        let mut family = Map::new();
        family.insert("ip".into(), cidr(&ip.address));
        insert_some(
            &mut family,
            "gateway",
            ip.gateway.map(|gateway| gateway.to_string()),
        );
        let same = self
            .routes
            .iter()
            .filter(|r| r.dst.is_ipv4() == ip.address.is_ipv4());
        let routes: Vec<Value> = same
            .map(|r| route(&Route::to(r.dst, r.gw), Shape::OnePerFamily))
            .collect();
        if !routes.is_empty() {
            family.insert("routes".into(), routes.into());
        }
        Value::Object(family)
    }

    fn with_lists(&self, version: Version) -> Value {
        let shape = version.shape();
        let mut result = Map::new();
        result.insert("cniVersion".into(), version.text().into());
        let interfaces = self.interfaces.iter().map(|i| interface(i, shape));
        insert_list(&mut result, "interfaces", interfaces.collect());
        insert_list(
            &mut result,
            "ips",
            self.ips.iter().map(|ip| address(ip, shape)).collect(),
        );
        insert_list(
            &mut result,
            "routes",
            self.routes.iter().map(|r| route(r, shape)).collect(),
        );
        if shape == Shape::VersionedIps || !self.dns.is_empty() {
            result.insert("dns".into(), dns(&self.dns));
        }
        Value::Object(result)
    }
}

fn interface(interface: &Interface, shape: Shape) -> Value {
    let mut value = Map::new();
    value.insert("name".into(), interface.name.clone().into());
    insert_text(&mut value, "mac", &interface.mac);
    if shape == Shape::Plain {
        insert_some(&mut value, "mtu", interface.mtu);
    }
    insert_text(&mut value, "sandbox", &interface.sandbox);
    if shape == Shape::Plain {
        insert_text(&mut value, "socketPath", &interface.socket_path);
        insert_text(&mut value, "pciID", &interface.pci_id);
    }
    Value::Object(value)
}

fn address(ip: &Address, shape: Shape) -> Value {
    let mut value = Map::new();
    if shape == Shape::VersionedIps {
        value.insert(
            "version".into(),
            if ip.address.is_ipv4() { "4" } else { "6" }.into(),
        );
    }
    insert_some(&mut value, "interface", ip.interface);
    value.insert("address".into(), cidr(&ip.address));
    insert_some(
        &mut value,
        "gateway",
        ip.gateway.map(|gateway| gateway.to_string()),
    );
    Value::Object(value)
}

/// The Go types of every version from 0.3.0 on carry all of a route's attributes.
fn route(route: &Route, shape: Shape) -> Value {
    let mut value = Map::new();
    value.insert("dst".into(), cidr(&route.dst));
    insert_some(&mut value, "gw", route.gw.map(|gw| gw.to_string()));
    if shape != Shape::OnePerFamily {
        insert_some(&mut value, "mtu", route.mtu);
        insert_some(&mut value, "advmss", route.advmss);
        insert_some(&mut value, "priority", route.priority);
        insert_some(&mut value, "table", route.table);
        insert_some(&mut value, "scope", route.scope);
    }
    Value::Object(value)
}

fn dns(dns: &Dns) -> Value {
    let mut value = Map::new();
    insert_list(
        &mut value,
        "nameservers",
        dns.nameservers.iter().map(|n| json!(n)).collect(),
    );
    insert_text(&mut value, "domain", &dns.domain);
    insert_list(
        &mut value,
        "search",
        dns.search.iter().map(|s| json!(s)).collect(),
    );
    insert_list(
        &mut value,
        "options",
        dns.options.iter().map(|o| json!(o)).collect(),
    );
    Value::Object(value)
}

fn cidr(network: &IpNetwork) -> Value {
    network.to_string().into()
}

fn insert_text(map: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        map.insert(key.into(), text.into());
    }
}

fn insert_some(map: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        map.insert(key.into(), value.into());
    }
}

fn insert_list(map: &mut Map<String, Value>, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        map.insert(key.into(), list.into());
    }
}
