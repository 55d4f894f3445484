//! Which backend, and its options.

use weft_cni::Object;

use super::{Backend, Error, Udp, Vxlan, truth};

impl Backend {
    /// `with_v6` counts for the least MTU that will do.
    pub(super) fn parse(conf: &Object<'_>, with_v6: bool) -> Result<Self, Error> {
        let section = conf.object("Backend").map_err(|why| {
            Error::value(why.msg, "write it like \"Backend\": {\"Type\": \"vxlan\"}")
        })?;
        // flanneld's own default, whatever its documentation says.
        let Some(section) = section else {
            return Ok(Self::Udp(Udp { port: UDP_PORT }));
        };
        let kind = section.text("Type");
        let kind = kind
            .map_err(|why| Error::value(why.msg, known()))?
            .unwrap_or("");
        match kind.to_lowercase().as_str() {
            "vxlan" => Ok(Self::Vxlan(vxlan(&section, with_v6)?)),
            "host-gw" => Ok(Self::HostGw),
            "udp" => {
                let port = number(&section, "Port", 0, 65535)?;
                let port = port
                    .filter(|port| *port != 0)
                    .unwrap_or_else(|| UDP_PORT.into());
                Ok(Self::Udp(Udp { port: narrow(port) }))
            }
            "alloc" => Ok(Self::Alloc),
            "" => Err(Error::value("the backend has no \"Type\"", known())),
            other if UNSUPPORTED.contains(&other) => Err(Error::value(
                format!(
                    "\"Backend\" → \"Type\" is {kind:?}, a backend of flanneld that weft does not support"
                ),
                known(),
            )),
            _ => Err(Error::value(
                format!("\"Backend\" → \"Type\" is {kind:?}, which is no backend"),
                known(),
            )),
        }
    }
}

fn vxlan(section: &Object<'_>, with_v6: bool) -> Result<Vxlan, Error> {
    let least = if with_v6 { LEAST_MTU_V6 } else { LEAST_MTU_V4 };
    let mtu = number(section, "MTU", 0, 65535)?.filter(|mtu| *mtu != 0);
    if let Some(mtu) = mtu.filter(|mtu| *mtu < least) {
        return Err(Error::value(
            format!(
                "\"Backend\" → \"MTU\" is {mtu}, which leaves pods too little behind the tunnel's headers"
            ),
            format!(
                "it is the MTU of the nodes' network, at least {least}; leave it out to use the interface's"
            ),
        ));
    }
    let port = number(section, "Port", 0, 65535)?.filter(|port| *port != 0);
    Ok(Vxlan {
        vni: number(section, "VNI", 0, MAX_VNI)?.unwrap_or(1),
        port: port.map_or(VXLAN_PORT, narrow),
        mtu,
        gbp: truth(section, "GBP")?.unwrap_or(false),
        learning: truth(section, "Learning")?.unwrap_or(false),
        direct_routing: truth(section, "DirectRouting")?.unwrap_or(false),
    })
}

fn number(section: &Object<'_>, key: &str, least: u32, most: u32) -> Result<Option<u32>, Error> {
    let remedy = format!("write a whole number from {least} to {most}, without quotation marks");
    let number = section.number::<i64>(key);
    let Some(number) = number.map_err(|why| Error::value(why.msg, &remedy))? else {
        return Ok(None);
    };
    match u32::try_from(number) {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(Error::value(
            format!(
                "{} is {number}, which is out of range",
                section.place_of(key)
            ),
            remedy,
        )),
    }
}

fn narrow(port: u32) -> u16 {
    u16::try_from(port).unwrap_or(u16::MAX)
}

fn known() -> String {
    format!(
        "the types there are: vxlan, host-gw, udp, alloc (of flanneld's, weft does not support {})",
        UNSUPPORTED.join(", ")
    )
}

const UNSUPPORTED: [&str; 5] = ["wireguard", "ipip", "ipsec", "extension", "tencent-vpc"];
const UDP_PORT: u16 = 8285;
/// The kernel's own default, older than the port that IANA gave VXLAN.
const VXLAN_PORT: u16 = 8472;
const MAX_VNI: u32 = (1 << 24) - 1;
/// The least that IPv4 knows (68), and the tunnel's headers.
const LEAST_MTU_V4: u32 = 68 + 50;
/// The least on which the kernel speaks IPv6 (1280), and the tunnel's headers.
const LEAST_MTU_V6: u32 = 1280 + 70;
