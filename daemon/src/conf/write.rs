//! A configuration as text again, with nothing left to a default: [`NetConf::parse`] reads the
//! same from it.

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use super::{Backend, NetConf};

impl NetConf {
    pub fn to_json(&self) -> Value {
        let mut conf = Map::new();
        conf.insert("EnableIPv4".into(), self.v4.is_some().into());
        conf.insert("EnableIPv6".into(), self.v6.is_some().into());
        if let Some(pool) = self.v4 {
            conf.insert("Network".into(), self.listed(IpNetwork::is_ipv4).into());
            conf.insert("SubnetLen".into(), pool.subnet_len.into());
            conf.insert("SubnetMin".into(), pool.min.to_string().into());
            conf.insert("SubnetMax".into(), pool.max.to_string().into());
        }
        if let Some(pool) = self.v6 {
            conf.insert("IPv6Network".into(), self.listed(IpNetwork::is_ipv6).into());
            conf.insert("IPv6SubnetLen".into(), pool.subnet_len.into());
            conf.insert("IPv6SubnetMin".into(), pool.min.to_string().into());
            conf.insert("IPv6SubnetMax".into(), pool.max.to_string().into());
        }
        conf.insert("Backend".into(), self.backend.to_json());
        conf.into()
    }

    fn listed(&self, family: impl Fn(&IpNetwork) -> bool) -> String {
        let networks = self.networks.iter().filter(|network| family(network));
        let networks: Vec<_> = networks.map(ToString::to_string).collect();
        networks.join(",")
    }
}

impl Backend {
    fn to_json(&self) -> Value {
        match self {
            Self::Vxlan(vxlan) => json!({
                "Type": "vxlan",
                "VNI": vxlan.vni,
                "Port": vxlan.port,
                "MTU": vxlan.mtu.unwrap_or(0),
                "GBP": vxlan.gbp,
                "Learning": vxlan.learning,
                "DirectRouting": vxlan.direct_routing,
            }),
            Self::HostGw => json!({"Type": "host-gw"}),
            Self::Udp(udp) => json!({"Type": "udp", "Port": udp.port}),
            Self::Alloc => json!({"Type": "alloc"}),
        }
    }
}
