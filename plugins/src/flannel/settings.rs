//! The flannel configuration → `Settings`, and with the node's lease → the delegate's configuration.

use std::{net::IpAddr, path::PathBuf};

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};
use weft_cni::{Conf, Error, Outcome, Result, Route, Version};

use super::subnet_env::{self, SubnetEnv};

/// What the operator wrote for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub subnet_file: PathBuf,
    /// Where what each delegate was given is kept for its DEL.
    pub data_dir: PathBuf,
    network: String,
    /// As it was written: what names no version must not name one to its delegate.
    cni_version: Option<String>,
    delegate: Map<String, Value>,
    /// Without its routes.
    ipam: Map<String, Value>,
    routes: Vec<Route>,
    runtime_config: Option<Map<String, Value>>,
}

impl Settings {
    /// Refuses what could not work, before anything is done.
    pub fn of(conf: &Conf) -> Result<Self> {
        let delegate = object(conf, "delegate")?.unwrap_or_default();
        refuse_what_flannel_sets(&delegate)?;
        let ipam = object(conf, "ipam")?.unwrap_or_default();
        let routes = routes(ipam.get("routes"))?;
        Self::new(conf, delegate, ipam, routes)
    }

    /// Leaves out what could not work: whatever there is of the network must go all the same.
    pub fn for_clean_up(conf: &Conf) -> Result<Self> {
        let mut delegate = object(conf, "delegate")?.unwrap_or_default();
        delegate.retain(|key, value| key != "type" || value.is_string());
        let ipam = object(conf, "ipam")?.unwrap_or_default();
        let routes = routes(ipam.get("routes")).unwrap_or_default();
        Self::new(conf, delegate, ipam, routes)
    }

    fn new(
        conf: &Conf,
        delegate: Map<String, Value>,
        mut ipam: Map<String, Value>,
        routes: Vec<Route>,
    ) -> Result<Self> {
        let fields = conf.object();
        let given =
            |key: &str| -> Result<_> { Ok(fields.text(key)?.filter(|text| !text.is_empty())) };
        ipam.remove("routes");
        Ok(Self {
            subnet_file: given("subnetFile")?.map_or_else(subnet_env::default_path, PathBuf::from),
            data_dir: given("dataDir")?.unwrap_or(DATA_DIR).into(),
            network: conf.name().to_owned(),
            cni_version: given("cniVersion")?.map(str::to_owned),
            delegate,
            ipam,
            routes,
            runtime_config: object(conf, "runtimeConfig")?,
        })
    }

    /// The delegate's configuration, its keys in the order in which the Go plugin saves them.
    pub fn delegate_conf(&self, lease: &SubnetEnv) -> Map<String, Value> {
        let mut conf = self.delegate.clone();
        if let Some(given) = &self.runtime_config {
            conf.insert("runtimeConfig".into(), given.clone().into());
        }
        conf.insert("name".into(), self.network.clone().into());
        default(&mut conf, "type", "bridge");
        default(&mut conf, "ipMasq", !lease.ip_masq);
        default(&mut conf, "mtu", lease.mtu);
        if conf["type"] == "bridge" {
            default(&mut conf, "isGateway", true);
        }
        if let Some(version) = &self.cni_version {
            conf.insert("cniVersion".into(), version.clone().into());
        }
        conf.values_mut().for_each(Value::sort_all_objects);
        conf.insert("ipam".into(), self.ipam(lease).into());
        conf.sort_keys();
        conf
    }

    fn ipam(&self, lease: &SubnetEnv) -> Map<String, Value> {
        let mut ipam = self.ipam.clone();
        default(&mut ipam, "type", "host-local");
        let range = |subnet: &IpNetwork| json!([{"subnet": subnet.to_string()}]);
        ipam.insert("ranges".into(), lease.subnets.iter().map(range).collect());
        ipam.values_mut().for_each(Value::sort_all_objects);
        // A route's own keys have another order, which is no alphabet's.
        let overlay = lease.networks.iter().map(|dst| Route::to(*dst, None));
        let routes = self.routes.iter().cloned().chain(overlay).collect();
        ipam.insert("routes".into(), routes_json(routes));
        ipam.sort_keys();
        ipam
    }
}

impl SubnetEnv {
    /// A lease to clean up with where the real one is unknown. Address managers want some range to
    /// be named, and give up what they reserved for the attachment whatever that range is: the
    /// pod's own subnets where they are known, else one that no pod has.
    pub fn assumed(prev: Option<&Outcome>) -> Self {
        let masked = |ip: IpNetwork| IpNetwork::new(ip.network(), ip.prefix()).ok();
        let ips = prev.map(|prev| prev.ips.as_slice()).unwrap_or_default();
        let mut subnets: Vec<IpNetwork> = Vec::new();
        for subnet in ips.iter().filter_map(|ip| masked(ip.address)) {
            if !subnets.contains(&subnet) {
                subnets.push(subnet);
            }
        }
        if subnets.is_empty() {
            subnets.extend(IpNetwork::new(IpAddr::V4(DOCUMENTATION), 24));
        }
        Self {
            networks: Vec::new(),
            subnets,
            mtu: 0,
            // Then the delegate masquerades, and looks for what it may have to remove.
            ip_masq: false,
        }
    }
}

fn refuse_what_flannel_sets(delegate: &Map<String, Value>) -> Result<()> {
    if delegate.get("type").is_some_and(|kind| !kind.is_string()) {
        return Err(Error::config(
            "'delegate' dictionary, if present, must have (string) 'type' field",
        ));
    }
    for key in ["name", "ipam"] {
        if delegate.contains_key(key) {
            let cure =
                format!("move \"{key}\" out of \"delegate\", to where \"type\": \"flannel\" is");
            return Err(Error::config(format!(
                "'delegate' dictionary must not have '{key}' field, it'll be set by flannel"
            ))
            .with_details(cure));
        }
    }
    Ok(())
}

fn object(conf: &Conf, key: &str) -> Result<Option<Map<String, Value>>> {
    let fields = conf.object();
    fields.object(key)?;
    Ok(fields.get(key).and_then(Value::as_object).cloned())
}

fn default(conf: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    conf.entry(key).or_insert_with(|| value.into());
}

fn routes(given: Option<&Value>) -> Result<Vec<Route>> {
    let given = json!({"routes": given});
    let read = Outcome::from_json(&given, Version::NEWEST);
    let read = read.map_err(|error| error.within("failed to read IPAM routes"))?;
    Ok(read.routes)
}

fn routes_json(routes: Vec<Route>) -> Value {
    let outcome = Outcome {
        routes,
        ..Outcome::default()
    };
    let written = outcome.to_json(Version::NEWEST).ok();
    let routes = written.and_then(|mut written| written.get_mut("routes").map(Value::take));
    routes.unwrap_or_else(|| Value::Array(Vec::new()))
}

const DATA_DIR: &str = "/var/lib/cni/flannel";
/// 192.0.2.0/24, which RFC 5737 keeps out of every network.
const DOCUMENTATION: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 0);

#[cfg(test)]
mod tests {
    use weft_cni::Code;

    use super::*;

    fn conf(value: &Value) -> Conf {
        Conf::parse(value.to_string().as_bytes()).unwrap()
    }

    fn generated(given: &Value, lease: &str) -> String {
        let settings = Settings::of(&conf(given)).unwrap();
        Value::from(settings.delegate_conf(&SubnetEnv::parse(lease).unwrap())).to_string()
    }

    const V4: &str = "FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.1.1/24\n\
        FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    const DUAL: &str = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n\
        FLANNEL_IPV6_NETWORK=fd01::/48\nFLANNEL_IPV6_SUBNET=fd01:0:0:1::1/64\n\
        FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    #[test]
    fn the_go_plugin_generates_the_same_bytes_for_two_families() {
        let given = json!({"name": "n", "cniVersion": "1.0.0", "type": "flannel",
            "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 8080}]},
            "delegate": {"type": "macvlan", "isDefaultGateway": true, "hairpinMode": true}});
        assert_eq!(
            generated(&given, DUAL),
            r#"{"cniVersion":"1.0.0","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}],[{"subnet":"fd01:0:0:1::/64"}]],"routes":[{"dst":"10.1.0.0/16"},{"dst":"fd01::/48"}],"type":"host-local"},"isDefaultGateway":true,"mtu":1450,"name":"n","runtimeConfig":{"portMappings":[{"containerPort":8080,"hostPort":80}]},"type":"macvlan"}"#
        );
    }

    #[test]
    fn the_configuration_of_kube_flannel_becomes_a_bridge_that_is_the_gateway() {
        let given = json!({"name": "cbr0", "cniVersion": "0.3.1", "type": "flannel",
            "delegate": {"hairpinMode": true, "isDefaultGateway": true}});
        assert_eq!(
            generated(&given, V4),
            r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"172.20.1.0/24"}]],"routes":[{"dst":"172.20.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
        );
    }

    #[test]
    fn a_configuration_that_names_no_version_names_none_to_its_delegate() {
        let given = json!({"name": "cbr0", "type": "flannel",
            "delegate": {"hairpinMode": true, "isDefaultGateway": true}});
        assert!(generated(&given, V4).starts_with(r#"{"hairpinMode":true,"#));
    }

    #[test]
    fn what_the_operator_set_stays_and_only_the_ranges_are_overwritten() {
        let given = json!({"name": "n",
            "delegate": {"bridge": "mynet0", "mtu": 1400, "ipMasq": true, "isGateway": false},
            "ipam": {"type": "custom", "dataDir": "/d", "ranges": [[{"subnet": "1.2.3.0/24"}]],
                "routes": [{"priority": 5, "gw": "172.20.1.9", "dst": "10.5.5.5/16", "x": 1}]}});
        assert_eq!(
            generated(&given, V4),
            r#"{"bridge":"mynet0","ipMasq":true,"ipam":{"dataDir":"/d","ranges":[[{"subnet":"172.20.1.0/24"}]],"routes":[{"dst":"10.5.5.5/16","gw":"172.20.1.9","priority":5},{"dst":"172.20.0.0/16"}],"type":"custom"},"isGateway":false,"mtu":1400,"name":"n","type":"bridge"}"#
        );
    }

    #[test]
    fn the_delegate_masquerades_where_the_daemon_does_not() {
        let given = json!({"name": "n"});
        let lease = V4.replace("true", "false");
        assert!(generated(&given, &lease).contains(r#""ipMasq":true"#));
    }

    #[test]
    fn keys_of_any_case_are_read() {
        let given = json!({"name": "n", "SubnetFile": "/s", "datadir": "/d",
            "Delegate": {"type": "ptp"}, "IPAM": {"type": "x"}});
        let settings = Settings::of(&conf(&given)).unwrap();
        assert_eq!(settings.subnet_file, PathBuf::from("/s"));
        assert_eq!(settings.data_dir, PathBuf::from("/d"));
        let text = generated(&given, V4);
        assert!(text.contains(r#""type":"ptp""#) && text.contains(r#""type":"x""#));
    }

    #[test]
    fn a_delegate_that_holds_what_flannel_sets_is_refused_but_cleaned_up() {
        for (delegate, why) in [
            (json!({"name": "x"}), "'name'"),
            (json!({"ipam": {}}), "'ipam'"),
            (json!({"type": 5}), "'type'"),
            (json!({"type": null}), "'type'"),
        ] {
            let conf = conf(&json!({"name": "n", "delegate": delegate}));
            let error = Settings::of(&conf).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig);
            assert!(error.msg.contains(why), "{error}");
            let settings = Settings::for_clean_up(&conf).unwrap();
            let made = settings.delegate_conf(&SubnetEnv::assumed(None));
            assert_eq!(
                (&made["name"], &made["type"]),
                (&json!("n"), &json!("bridge"))
            );
        }
    }

    #[test]
    fn routes_that_are_none_are_refused_and_null_is_no_route() {
        let of =
            |routes: Value| Settings::of(&conf(&json!({"name": "n", "ipam": {"routes": routes}})));
        for routes in [json!(5), json!([5]), json!([{"dst": "x"}]), json!([{}])] {
            assert!(
                of(routes.clone())
                    .unwrap_err()
                    .msg
                    .starts_with("failed to read IPAM routes"),
                "{routes}"
            );
        }
        assert!(of(json!(null)).is_ok());
    }

    #[test]
    fn a_lease_that_is_unknown_is_taken_from_the_addresses_the_pod_was_given() {
        let prev = Outcome::from_json(
            &json!({"ips": [{"address": "10.1.17.5/24"}, {"address": "fd01::5/64"}, {"address": "10.1.17.6/24"}]}),
            Version::NEWEST,
        );
        let lease = SubnetEnv::assumed(prev.ok().as_ref());
        let texts: Vec<String> = lease.subnets.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.1.17.0/24", "fd01::/64"]);
        assert_eq!(
            SubnetEnv::assumed(None).subnets[0].to_string(),
            "192.0.2.0/24"
        );
    }
}
