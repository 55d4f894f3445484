//! The wire configuration → a plan with nothing optional left in it but what may be absent.

use std::ops::RangeInclusive;

use weft_cni::{Args, Call, Conf, Dns, Error, Object, Result, Version};
use weft_net::Mac;

/// What the configuration asks of ADD and CHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) bridge: String,
    pub(super) gateway: Gateway,
    /// An address of another subnet on the bridge is replaced instead of refused.
    pub(super) force_address: bool,
    pub(super) masquerade: Option<MasqueradeBackend>,
    pub(super) mtu: Option<u32>,
    pub(super) hairpin: bool,
    pub(super) promiscuous: bool,
    pub(super) vlans: Option<Vlans>,
    pub(super) check_source_mac: bool,
    pub(super) detect_duplicate_addresses: bool,
    pub(super) leave_pod_link_down: bool,
    pub(super) isolated: bool,
    pub(super) ipam: Option<String>,
    /// Replaces whatever the address management says.
    pub(super) dns: Option<Dns>,
    pub(super) mac: Option<Mac>,
}

/// Whether the bridge is the pods' way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gateway {
    No,
    /// The bridge has the subnet's gateway address.
    Address,
    /// And pods have a default route there.
    DefaultRoute,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MasqueradeBackend {
    Nftables,
    Iptables,
}

/// What a port of a filtering bridge lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vlans {
    /// The VLAN of untagged frames.
    pub(super) native: Option<u16>,
    pub(super) trunk: Vec<RangeInclusive<u16>>,
    /// The VLANs that the kernel gives every new port stay.
    pub(super) keep_default: bool,
    /// Only an access VLAN moves the gateway off the bridge itself.
    pub(super) access: Option<u16>,
}

impl Plan {
    pub(super) fn of(call: &Call) -> Result<Self> {
        let conf = call.conf.object();
        let plan = Self {
            bridge: bridge_name(&call.conf)?,
            gateway: gateway(&conf)?,
            force_address: truth(&conf, "forceAddress")?,
            masquerade: masquerade(&conf)?,
            mtu: mtu(&conf)?,
            hairpin: truth(&conf, "hairpinMode")?,
            promiscuous: truth(&conf, "promiscMode")?,
            vlans: vlans(&conf)?,
            check_source_mac: truth(&conf, "macspoofchk")?,
            detect_duplicate_addresses: truth(&conf, "enabledad")?,
            leave_pod_link_down: truth(&conf, "disableContainerInterface")?,
            isolated: truth(&conf, "portIsolation")?,
            ipam: call.conf.ipam_type()?.map(str::to_owned),
            dns: dns(&conf)?,
            mac: mac(call)?,
        };
        plan.refuse_contradictions(call.version())?;
        Ok(plan)
    }

    fn refuse_contradictions(&self, version: Version) -> Result<()> {
        if self.hairpin && self.promiscuous {
            return Err(Error::config(
                "cannot set hairpin mode and promiscuous mode at the same time",
            )
            .with_details("remove \"hairpinMode\" or \"promiscMode\""));
        }
        if self.leave_pod_link_down && self.ipam.is_some() {
            return Err(Error::config(
                "cannot use IPAM when \"disableContainerInterface\" is true: an address needs a link that is up",
            ));
        }
        let access = self.vlans.as_ref().and_then(|vlans| vlans.access);
        if let Some(vlan) = access.filter(|_| self.gateway > Gateway::No && self.ipam.is_some()) {
            let name = gateway_name(&self.bridge, vlan);
            if name.len() > LONGEST_LINK_NAME {
                return Err(Error::config(format!(
                    "the gateway of VLAN {vlan} would be called {name:?}, which is too long"
                ))
                .with_details("give \"bridge\" a shorter name"));
            }
        }
        if self.ipam.is_none() && version < Version::V0_3_0 {
            return Err(Error::config(format!(
                "a network without \"ipam\" has no address, which a result of version {version} cannot say"
            ))
            .with_details("set \"cniVersion\" to 0.3.0 or later"));
        }
        Ok(())
    }
}

/// The link that pods of a VLAN have for a gateway, for DEL.
pub(super) fn vlan_gateway_name(conf: &Conf, bridge: &str) -> Option<String> {
    let vlan: i64 = conf.object().number("vlan").ok()??;
    let vlan = u16::try_from(vlan).ok().filter(|vlan| *vlan > 0)?;
    Some(gateway_name(bridge, vlan))
}

/// DEL needs this much and must not stumble over the rest.
pub(super) fn bridge_name(conf: &Conf) -> Result<String> {
    let name = conf
        .object()
        .text("bridge")?
        .filter(|name| !name.is_empty())
        .unwrap_or(DEFAULT_BRIDGE);
    let fits = name.len() <= LONGEST_LINK_NAME && !matches!(name, "." | "..");
    if !fits || name.contains(|c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace()) {
        return Err(Error::config(format!(
            "\"bridge\" is {name:?}, which no link can be called"
        ))
        .with_details("a link's name has 1 to 15 bytes without / : or white space"));
    }
    Ok(name.to_owned())
}

/// A VLAN's gateway is a link of its own.
pub(super) fn gateway_name(bridge: &str, vlan: u16) -> String {
    format!("{bridge}.{vlan}")
}

fn truth(conf: &Object<'_>, key: &str) -> Result<bool> {
    Ok(conf.truth(key)?.unwrap_or_default())
}

fn gateway(conf: &Object<'_>) -> Result<Gateway> {
    Ok(
        match (truth(conf, "isDefaultGateway")?, truth(conf, "isGateway")?) {
            (true, _) => Gateway::DefaultRoute,
            (false, true) => Gateway::Address,
            (false, false) => Gateway::No,
        },
    )
}

fn masquerade(conf: &Object<'_>) -> Result<Option<MasqueradeBackend>> {
    let backend = match conf.text("ipMasqBackend")?.unwrap_or_default() {
        "" | "nftables" => MasqueradeBackend::Nftables,
        "iptables" => MasqueradeBackend::Iptables,
        other => {
            return Err(Error::config(format!(
                "\"ipMasqBackend\" is {other:?}, not \"nftables\" or \"iptables\""
            )));
        }
    };
    Ok(truth(conf, "ipMasq")?.then_some(backend))
}

/// 0 leaves the kernel's own.
fn mtu(conf: &Object<'_>) -> Result<Option<u32>> {
    let mtu: i64 = conf.number("mtu")?.unwrap_or_default();
    match u32::try_from(mtu) {
        Ok(0) => Ok(None),
        Ok(mtu) if (SMALLEST_MTU..=LARGEST_MTU).contains(&mtu) => Ok(Some(mtu)),
        _ => Err(Error::config(format!(
            "\"mtu\" is {mtu}, and a veth takes {SMALLEST_MTU} to {LARGEST_MTU}"
        ))),
    }
}

fn vlans(conf: &Object<'_>) -> Result<Option<Vlans>> {
    let access: i64 = conf.number("vlan")?.unwrap_or_default();
    let access = match u16::try_from(access) {
        Ok(0) => None,
        Ok(id) if id <= LARGEST_VLAN => Some(id),
        _ => {
            return Err(Error::config(format!(
                "invalid VLAN ID {access} (must be between 0 and 4094)"
            )));
        }
    };
    let Some(trunk) = conf.objects("vlanTrunk")? else {
        let keep_default = truth(conf, "preserveDefaultVlan")?;
        return Ok(access.map(|_| Vlans {
            native: access,
            trunk: Vec::new(),
            keep_default,
            access,
        }));
    };
    Ok(Some(Vlans {
        native: access.or(Some(NATIVE_VLAN_OF_A_TRUNK)),
        trunk: trunk
            .iter()
            .map(trunk_entry)
            .collect::<Result<Vec<_>>>()?
            .concat(),
        keep_default: truth(conf, "preserveDefaultVlan")?,
        access,
    }))
}

/// `id`, or `minID` with `maxID`, or both forms in one entry.
fn trunk_entry(entry: &Object<'_>) -> Result<Vec<RangeInclusive<u16>>> {
    let id = |key| -> Result<Option<u16>> {
        let Some(id) = entry.number::<i64>(key)? else {
            return Ok(None);
        };
        let id = u16::try_from(id)
            .ok()
            .filter(|id| (1..=LARGEST_VLAN).contains(id));
        let place = entry.place_of(key);
        id.map(Some)
            .ok_or_else(|| Error::config(format!("{place} must be between 1 and 4094")))
    };
    let mut ranges: Vec<_> = id("id")?.into_iter().map(|id| id..=id).collect();
    match (id("minID")?, id("maxID")?) {
        (None, None) => {}
        (Some(min), Some(max)) if min <= max => ranges.push(min..=max),
        (Some(min), Some(max)) => {
            return Err(Error::config(format!(
                "\"vlanTrunk\": minID {min} is greater than maxID {max}"
            )));
        }
        _ => {
            return Err(Error::config(
                "\"vlanTrunk\": minID and maxID must be given together",
            ));
        }
    }
    Ok(ranges)
}

/// Any list given, even an empty one, replaces all that the address management says.
fn dns(conf: &Object<'_>) -> Result<Option<Dns>> {
    let Some(section) = conf.object("dns")? else {
        return Ok(None);
    };
    let dns = Dns::from_json(&section)?;
    let given = ["nameservers", "search", "options"]
        .iter()
        .any(|key| section.get(key).is_some());
    Ok((given || !dns.domain.is_empty()).then_some(dns))
}

/// The runtime's word counts most, then the configuration's `args`, then `CNI_ARGS`.
fn mac(call: &Call) -> Result<Option<Mac>> {
    let args = Args::parse(&call.env.args, &["MAC"])?;
    let from = |section: Option<Object<'_>>| -> Result<Option<String>> {
        match section {
            Some(section) => Ok(section
                .text("mac")?
                .filter(|mac| !mac.is_empty())
                .map(str::to_owned)),
            None => Ok(None),
        }
    };
    let wished = match from(call.conf.runtime_config()?)? {
        None => from(call.conf.cni_args()?)?.or_else(|| args.get("MAC").map(str::to_owned)),
        some => some,
    };
    wished.map(|text| parse_mac(&text)).transpose()
}

fn parse_mac(text: &str) -> Result<Mac> {
    let wrong = || Error::config(format!("the MAC address {text:?} is none a pod can have"));
    let mac: Mac = text
        .parse()
        .map_err(|why| wrong().with_details(format!("{why}")))?;
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(
            wrong().with_details("an interface has neither a group's address nor all zeroes")
        );
    }
    Ok(mac)
}

const DEFAULT_BRIDGE: &str = "cni0";
const LONGEST_LINK_NAME: usize = 15;
const SMALLEST_MTU: u32 = 68;
const LARGEST_MTU: u32 = 65535;
const LARGEST_VLAN: u16 = 4094;
const NATIVE_VLAN_OF_A_TRUNK: u16 = 1;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_cni::{Environment, Verb};

    use super::*;

    fn plan_with(mut conf: Value, args: &str) -> Result<Plan> {
        conf["name"] = "n".into();
        let env = Environment::read(Verb::Add, |name| {
            Some(if name == "CNI_ARGS" {
                args.to_owned()
            } else {
                "x".to_owned()
            })
        })?;
        let Value::Object(fields) = conf else {
            unreachable!()
        };
        Plan::of(&Call {
            env,
            conf: Conf::new(fields)?,
            suite: &[],
        })
    }

    fn plan(mut conf: Value) -> Result<Plan> {
        conf["cniVersion"] = "1.0.0".into();
        plan_with(conf, "")
    }

    #[test]
    fn nothing_said_is_a_plain_bridge_called_cni0() {
        let plan = plan(json!({})).unwrap();
        assert_eq!((plan.bridge.as_str(), plan.gateway), ("cni0", Gateway::No));
        assert_eq!((plan.masquerade, plan.mtu, plan.vlans), (None, None, None));
    }

    #[test]
    fn what_flannel_generates_is_understood() {
        let plan = plan(
            json!({"hairpinMode": true, "ipMasq": false, "isDefaultGateway": true,
            "isGateway": true, "mtu": 1450, "ipam": {"type": "host-local"}}),
        )
        .unwrap();
        assert_eq!(
            (plan.gateway, plan.mtu),
            (Gateway::DefaultRoute, Some(1450))
        );
        assert!(plan.hairpin && plan.masquerade.is_none());
    }

    #[test]
    fn contradictions_are_refused() {
        for wrong in [
            json!({"hairpinMode": true, "promiscMode": true}),
            json!({"disableContainerInterface": true, "ipam": {"type": "host-local"}}),
            json!({"ipMasq": true, "ipMasqBackend": "ebtables"}),
            json!({"vlan": 4095}),
            json!({"vlan": -1}),
            json!({"vlanTrunk": [{"minID": 5}]}),
            json!({"vlanTrunk": [{"minID": 5, "maxID": 4}]}),
            json!({"vlanTrunk": [{"id": 0}]}),
            json!({"mtu": 20}),
            json!({"mtu": -1}),
            json!({"bridge": "a/b"}),
            json!({"bridge": "longer-than-a-link-name"}),
            json!({"bridge": "as-long-as-may", "vlan": 7, "isGateway": true, "ipam": {"type": "x"}}),
        ] {
            assert_eq!(
                plan(wrong.clone()).unwrap_err().code,
                weft_cni::Code::InvalidConfig,
                "{wrong}"
            );
        }
        assert!(
            plan_with(json!({"cniVersion": "0.2.0"}), "").is_err(),
            "an L2 network in 0.2.0"
        );
    }

    #[test]
    fn a_trunk_without_access_vlan_has_native_vlan_1() {
        let vlans = plan(json!({"vlanTrunk": [{"id": 7}, {"minID": 10, "maxID": 12}]}))
            .unwrap()
            .vlans;
        let vlans = vlans.unwrap();
        assert_eq!((vlans.native, vlans.access), (Some(1), None));
        assert_eq!(vlans.trunk, [7..=7, 10..=12]);
        assert!(plan(json!({"vlanTrunk": []})).unwrap().vlans.is_some());
    }

    #[test]
    fn the_runtimes_mac_counts_most_and_cni_args_least() {
        let all = json!({"cniVersion": "1.0.0", "runtimeConfig": {"Mac": "0a:00:00:00:00:01"},
            "args": {"cni": {"mac": "0a:00:00:00:00:02"}}});
        let mut some = all.clone();
        some["runtimeConfig"] = Value::Null;
        let args = "IgnoreUnknown=1;MAC=0a:00:00:00:00:03;K8S_POD_NAME=p";
        let mac = |conf| plan_with(conf, args).unwrap().mac.unwrap().to_string();
        assert_eq!(mac(all), "0a:00:00:00:00:01");
        assert_eq!(mac(some), "0a:00:00:00:00:02");
        assert_eq!(mac(json!({"cniVersion": "1.0.0"})), "0a:00:00:00:00:03");
        for wrong in [
            "0a:00",
            "01:00:00:00:00:01",
            "00:00:00:00:00:00",
            "zz:00:00:00:00:01",
        ] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_empty_dns_list_replaces_and_an_empty_section_does_not() {
        assert_eq!(
            plan(json!({"dns": {"nameservers": []}})).unwrap().dns,
            Some(Dns::default())
        );
        assert_eq!(plan(json!({"dns": {"domain": ""}})).unwrap().dns, None);
    }
}
