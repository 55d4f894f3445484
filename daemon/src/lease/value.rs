//! A lease's value: what flanneld's readers and writers call its attributes, in their order.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};
use weft_cni::Object;
use weft_net::Mac;

use super::{Attrs, Extra, Identity, Published, Vtep};

impl Attrs {
    /// Keys in any case, those that nobody knows passed over; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(text).map_err(|why| format!("its value is no JSON: {why}"))?;
        Self::read(&value)
    }

    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        let value =
            Object::of(value, "").map_err(|_| "its value is not a JSON object".to_owned())?;
        let public_ip = parsed(&value, "PublicIP", "an IPv4 address")?;
        Ok(Self {
            public_ip: public_ip.filter(|ip: &Ipv4Addr| !ip.is_unspecified()),
            public_ipv6: parsed(&value, "PublicIPv6", "an IPv6 address")?,
            backend: Published::read(&value)?,
            extra: Extra::read(&value)?,
        })
    }

    /// Byte for byte as flanneld writes it, with our own key last.
    pub fn to_json(&self) -> String {
        let mut map = Map::new();
        let public_ip = self.public_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        map.insert("PublicIP".into(), public_ip.to_string().into());
        let public_ipv6 = self.public_ipv6.map(|ip| ip.to_string());
        map.insert("PublicIPv6".into(), public_ipv6.into());
        self.backend.write(&mut map);
        if let Some(extra) = &self.extra {
            map.insert("Weft".into(), extra.to_json());
        }
        Value::from(map).to_string()
    }
}

impl Published {
    fn read(value: &Object<'_>) -> Result<Self, String> {
        let kind = value.text("BackendType").map_err(|why| why.msg)?;
        Ok(match kind.unwrap_or("") {
            "" => Self::Nothing,
            "host-gw" => Self::HostGw,
            "vxlan" => {
                let (v4, v6) = (vtep(value, "BackendData")?, vtep(value, "BackendV6Data")?);
                if v4.is_none() && v6.is_none() {
                    return Err("a vxlan lease without a \"VtepMAC\"".to_owned());
                }
                Self::Vxlan { v4, v6 }
            }
            other => Self::Other(other.to_owned()),
        })
    }

    fn write(&self, map: &mut Map<String, Value>) {
        let kind = match self {
            Self::Nothing => return,
            Self::HostGw => "host-gw",
            Self::Vxlan { .. } => "vxlan",
            Self::Other(kind) => kind,
        };
        map.insert("BackendType".into(), kind.into());
        let Self::Vxlan { v4, v6 } = self else { return };
        for (key, vtep) in [("BackendData", v4), ("BackendV6Data", v6)] {
            if let Some(vtep) = vtep {
                map.insert(key.into(), vtep.to_json());
            }
        }
    }
}

impl Vtep {
    pub(crate) fn to_json(self) -> Value {
        let mut map = Map::new();
        if let Some(vni) = self.vni {
            map.insert("VNI".into(), vni.into());
        }
        map.insert("VtepMAC".into(), self.mac.to_string().into());
        map.into()
    }
}

impl Extra {
    fn read(value: &Object<'_>) -> Result<Option<Self>, String> {
        let Some(extra) = value.object("Weft").map_err(|why| why.msg)? else {
            return Ok(None);
        };
        let node = extra.text("Node").map_err(|why| why.msg)?;
        let machine = extra.text("Machine").map_err(|why| why.msg)?;
        let sources = extra.texts("Sources").map_err(|why| why.msg)?;
        let sources = sources.unwrap_or_default().into_iter().map(|text| {
            let source: Result<IpAddr, _> = text.parse();
            source.map_err(|_| format!("\"Sources\" holds {text:?}, not an IP address"))
        });
        Ok(Some(Self {
            identity: (node.is_some() || machine.is_some()).then(|| Identity {
                machine: machine.unwrap_or("").to_owned(),
                node: node.unwrap_or("").to_owned(),
            }),
            sources: sources.collect::<Result<_, _>>()?,
            overwritten: extra
                .truth("Overwritten")
                .map_err(|why| why.msg)?
                .unwrap_or(false),
            udp_port: extra.number("UdpPort").map_err(|why| why.msg)?,
        }))
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if let Some(Identity { machine, node }) = &self.identity {
            map.insert("Node".into(), node.as_str().into());
            map.insert("Machine".into(), machine.as_str().into());
        }
        if !self.sources.is_empty() {
            let sources = self.sources.iter().map(|source| json!(source.to_string()));
            map.insert("Sources".into(), sources.collect());
        }
        if self.overwritten {
            map.insert("Overwritten".into(), true.into());
        }
        if let Some(port) = self.udp_port {
            map.insert("UdpPort".into(), port.into());
        }
        map.into()
    }
}

fn vtep(value: &Object<'_>, key: &str) -> Result<Option<Vtep>, String> {
    let Some(data) = value.object(key).map_err(|why| why.msg)? else {
        return Ok(None);
    };
    let place = data.place_of("VtepMAC");
    let Some(text) = data.text("VtepMAC").map_err(|why| why.msg)? else {
        return Err(format!("{place} is missing"));
    };
    let mac: Mac = text
        .parse()
        .map_err(|why| format!("{place} is {text:?}, {why}"))?;
    // All zeros would be the device's flood entry, and a group address no peer's at all.
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(format!(
            "{place} is {text:?}, which is no single device's address"
        ));
    }
    let vni = data.number("VNI").map_err(|why| why.msg)?;
    Ok(Some(Vtep { vni, mac }))
}

fn parsed<T: std::str::FromStr>(
    value: &Object<'_>,
    key: &str,
    wanted: &str,
) -> Result<Option<T>, String> {
    value.parsed(key, wanted).map_err(|why| why.msg)
}
