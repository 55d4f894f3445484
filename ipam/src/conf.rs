//! The wire configuration → a plan in which nothing is optional.

use std::{
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use serde_json::Value;
use weft_cni::{Args, Call, Conf, Dns, Error, Object, Result, Route, Version};

use crate::range::{Draft, RangeSet};

/// Where a network's reservations are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// What all plugins share: one file an address.
    pub(crate) reservations: PathBuf,
    /// Ours alone. It lies outside, since the others read every file that lies within.
    pub(crate) index: PathBuf,
}

/// What an ADD is to reserve, and what it answers besides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) place: Place,
    /// Of each set one address.
    pub(crate) sets: Vec<RangeSet>,
    /// Addresses that the runtime wants to be among them.
    pub(crate) requested: Vec<IpAddr>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Dns,
}

impl Place {
    /// All that DEL and GC need: an attachment made under a better configuration must still go.
    pub(crate) fn of(conf: &Conf) -> Result<Self> {
        let ipam = conf.object().object("ipam")?;
        let data_dir = ipam.map(|ipam| ipam.text("dataDir")).transpose()?.flatten();
        let data_dir = data_dir.filter(|dir| !dir.is_empty()).unwrap_or(DATA_DIR);
        Ok(Self::under(Path::new(data_dir), conf.name()))
    }

    pub(crate) fn under(data_dir: &Path, network: &str) -> Self {
        Self {
            reservations: data_dir.join(network),
            // No network's name begins with a dot.
            index: data_dir.join(".weft").join(format!("{network}.index")),
        }
    }
}

impl Plan {
    pub(crate) fn of(call: &Call) -> Result<Self> {
        let conf = &call.conf;
        let sets = range_sets(conf)?;
        let ipam = ipam(conf)?;
        let routes = ipam.objects("routes")?.unwrap_or_default();
        Ok(Self {
            place: Place::of(conf)?,
            sets,
            requested: requested(call)?,
            routes: routes.iter().map(Route::from_json).collect::<Result<_>>()?,
            dns: dns(&ipam)?,
        })
    }
}

/// The range sets in the order in which their addresses appear in the result.
pub(crate) fn range_sets(conf: &Conf) -> Result<Vec<RangeSet>> {
    let ipam = ipam(conf)?;
    let mut drafts = Vec::new();
    if let Some(runtime) = conf.runtime_config()? {
        drafts.extend(draft_sets(&runtime, "ipRanges")?);
    }
    // The form of before there were several ranges, still the most written one.
    if let Some(only) = draft(&ipam)? {
        drafts.push(vec![only]);
    }
    drafts.extend(draft_sets(&ipam, "ranges")?);
    if drafts.is_empty() {
        return Err(Error::config("no IP ranges specified")
            .with_details("\"ipam\" needs \"ranges\": [[{\"subnet\": \"10.1.2.0/24\"}]]"));
    }
    let set = |(number, drafts): (usize, &Vec<Draft>)| {
        RangeSet::new(drafts)
            .map_err(|error| error.within(format_args!("invalid range set {number}")))
    };
    let sets: Vec<RangeSet> = drafts.iter().enumerate().map(set).collect::<Result<_>>()?;
    judge_sets(&sets, conf.version())?;
    Ok(sets)
}

/// Whether STATUS should fail when a set has no address left. A runtime that hears so marks the
/// node unready, and its pods are evicted: nothing to do unasked.
pub(crate) fn status_when_exhausted(conf: &Conf) -> Result<bool> {
    Ok(ipam(conf)?.truth("statusWhenExhausted")?.unwrap_or(false))
}

fn ipam(conf: &Conf) -> Result<Object<'_>> {
    conf.object()
        .object("ipam")?
        .ok_or_else(|| Error::config("IPAM config missing 'ipam' key"))
}

fn judge_sets(sets: &[RangeSet], version: Version) -> Result<()> {
    let v4 = sets.iter().filter(|set| set.is_v4()).count();
    if (v4 > 1 || sets.len() - v4 > 1) && version < Version::V0_3_0 {
        return Err(Error::config(format!(
            "CNI version {version} does not support more than 1 address per family"
        ))
        .with_details("set \"cniVersion\" to 0.3.0 or later, or join the ranges into one set"));
    }
    for (at, one) in sets.iter().enumerate() {
        if let Some(other) = sets[at + 1..].iter().position(|other| one.overlaps(other)) {
            let (other, two) = (at + 1 + other, &sets[at + 1 + other]);
            return Err(
                Error::config(format!("range set {at} overlaps with {other}"))
                    .with_details(format!("{one} and {two}")),
            );
        }
    }
    Ok(())
}

/// The list of lists of ranges under `key`.
fn draft_sets(object: &Object<'_>, key: &str) -> Result<Vec<Vec<Draft>>> {
    let sets = object.list(key)?.unwrap_or_default();
    let set = |(at, value): (usize, &Value)| {
        let place = format!("{}[{at}]", object.place_of(key));
        let Some(ranges) = value.as_array() else {
            return Err(Error::decode(format!("{place} must be a list of ranges"))
                .with_details("\"ranges\" is a list of lists: [[{\"subnet\": \"10.1.2.0/24\"}]]"));
        };
        let range = |(at, value)| {
            let place = format!("{place}[{at}]");
            draft(&Object::of(value, place.as_str())?)?
                .ok_or_else(|| Error::config(format!("{place} has no \"subnet\"")))
        };
        ranges.iter().enumerate().map(range).collect()
    };
    sets.iter().enumerate().map(set).collect()
}

fn draft(range: &Object<'_>) -> Result<Option<Draft>> {
    let Some(subnet) = range.text("subnet")?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    Ok(Some(Draft {
        subnet: network(subnet).ok_or_else(|| {
            let place = range.place_of("subnet");
            Error::config(format!(
                "{place} is {subnet:?}, not a subnet such as 10.1.2.0/24"
            ))
        })?,
        start: ip(range, "rangeStart")?,
        end: ip(range, "rangeEnd")?,
        gateway: ip(range, "gateway")?,
    }))
}

/// A prefix length must be there, as a number: neither a bare address nor a netmask will do.
fn network(text: &str) -> Option<IpNetwork> {
    let (address, prefix) = text.split_once('/')?;
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    if !digits {
        return None;
    }
    IpNetwork::new(address.parse().ok()?, prefix.parse().ok()?).ok()
}

fn ip(range: &Object<'_>, key: &str) -> Result<Option<IpAddr>> {
    let ip: Option<IpAddr> = range.parsed(key, "an IP address")?;
    Ok(ip.map(|ip| ip.to_canonical()))
}

/// The three places where a runtime can ask for addresses are all heard.
fn requested(call: &Call) -> Result<Vec<IpAddr>> {
    let args = Args::parse(&call.env.args, &["IP"])?;
    let mut texts: Vec<String> = args.get("IP").map(str::to_owned).into_iter().collect();
    for object in [call.conf.cni_args()?, call.conf.runtime_config()?]
        .into_iter()
        .flatten()
    {
        texts.extend(object.texts("ips")?.unwrap_or_default());
    }
    let mut requested = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let address = text
            .split('/')
            .next()
            .and_then(|ip| ip.parse::<IpAddr>().ok());
        let well_formed = !text.contains('/') || network(text).is_some();
        let Some(address) = address.filter(|_| well_formed) else {
            return Err(
                Error::config(format!("cannot understand ip: {text:?} was requested"))
                    .with_details("an address is wanted, with or without a prefix length"),
            );
        };
        let address = address.to_canonical();
        if !requested.contains(&address) {
            requested.push(address);
        }
    }
    Ok(requested)
}

fn dns(ipam: &Object<'_>) -> Result<Dns> {
    let Some(path) = ipam.text("resolvConf")?.filter(|path| !path.is_empty()) else {
        return Ok(Dns::default());
    };
    let text = read_resolv_conf(Path::new(path)).map_err(|why| {
        Error::io(format!(
            "cannot read the \"resolvConf\" of \"ipam\", {path:?}: {why}"
        ))
    })?;
    Ok(parse_resolv_conf(&text))
}

fn read_resolv_conf(path: &Path) -> io::Result<String> {
    // What is no plain file must not keep us waiting.
    let waitless = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(waitless)
        .open(path)?;
    let mut text = Vec::new();
    file.take(LARGEST_RESOLV_CONF).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']))
    {
        let mut fields = line.split_whitespace().map(str::to_owned);
        let (Some(key), Some(first)) = (fields.next(), fields.next()) else {
            continue;
        };
        let all = std::iter::once(first.clone()).chain(fields);
        match key.as_str() {
            "nameserver" => dns.nameservers.push(first),
            "domain" => dns.domain = first,
            "search" => dns.search.extend(all),
            "options" => dns.options.extend(all),
            _ => {}
        }
    }
    dns
}

const DATA_DIR: &str = "/var/lib/cni/networks";
const LARGEST_RESOLV_CONF: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use weft_cni::{Environment, Verb};

    use super::*;

    fn call(version: &str, conf: Value, args: &str) -> Call {
        let Value::Object(mut fields) = conf else {
            panic!("an object")
        };
        fields.insert("name".into(), "net".into());
        fields.insert("cniVersion".into(), version.into());
        Call {
            env: Environment {
                verb: Verb::Add,
                container_id: "c".into(),
                netns: "/run/netns/x".into(),
                ifname: "eth0".into(),
                args: args.into(),
                path: Vec::new(),
                netns_override: false,
            },
            conf: Conf::new(fields).unwrap(),
            suite: &[],
        }
    }

    fn plan(conf: Value) -> Result<Plan> {
        Plan::of(&call("1.0.0", conf, ""))
    }

    fn sets(plan: &Plan) -> Vec<String> {
        plan.sets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_oldest_form_is_one_range_before_the_others() {
        let plan = plan(json!({
            "ipam": {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "", "gateway": null,
                     "ranges": [[{"subnet": "fd99::/64"}]]},
            // As the Go structs of a runtime come out.
            "runtimeConfig": {"ipRanges": [[{"Subnet": "10.9.0.0/24", "RangeStart": "", "RangeEnd": "", "Gateway": ""}]]}
        }))
        .unwrap();
        assert_eq!(
            sets(&plan),
            [
                "10.9.0.1-10.9.0.254",
                "10.1.2.9-10.1.2.254",
                "fd99::1-fd99::ffff:ffff:ffff:ffff"
            ]
        );
        assert_eq!(
            plan.place.reservations,
            Path::new("/var/lib/cni/networks/net")
        );
    }

    #[test]
    fn what_makes_no_sense_is_code_7_in_the_words_that_people_search_for() {
        for (conf, why) in [
            (json!({}), "IPAM config missing 'ipam' key"),
            (json!({"ipam": {}}), "no IP ranges specified"),
            (json!({"ipam": {"ranges": []}}), "no IP ranges specified"),
            (
                json!({"ipam": {"ranges": [[]]}}),
                "invalid range set 0: empty range set",
            ),
            (
                json!({"ipam": {"ranges": [[{"gateway": "10.0.0.1"}]]}}),
                "\"ipam\" → \"ranges\"[0][0] has no \"subnet\"",
            ),
            (
                json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/31"}]]}}),
                "invalid range set 0: Network 10.0.0.0/31 too small to allocate from",
            ),
            (
                json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/25"}]]}}),
                "range set 0 overlaps with 1",
            ),
            (
                json!({"ipam": {"subnet": "10.0.0.0"}}),
                "\"ipam\" → \"subnet\" is \"10.0.0.0\", not a subnet such as 10.1.2.0/24",
            ),
            (
                json!({"ipam": {"subnet": "10.0.0.0/255.255.255.0"}}),
                "\"ipam\" → \"subnet\" is \"10.0.0.0/255.255.255.0\", not a subnet such as 10.1.2.0/24",
            ),
            (
                json!({"ipam": {"subnet": "10.0.0.0/24", "rangeStart": "x"}}),
                "\"ipam\" → \"rangeStart\" is \"x\", not an IP address",
            ),
            (
                json!({"ipam": {"subnet": "10.0.0.0/24"}, "runtimeConfig": {"ips": ["x"]}}),
                "cannot understand ip: \"x\" was requested",
            ),
        ] {
            let error = plan(conf.clone()).unwrap_err();
            assert_eq!(
                (error.code.number(), error.msg.as_str()),
                (7, why),
                "{conf}"
            );
        }
        for conf in [
            json!({"ipam": []}),
            json!({"ipam": {"ranges": [{}]}}),
            json!({"ipam": {"subnet": 5}}),
        ] {
            assert_eq!(plan(conf.clone()).unwrap_err().code.number(), 6, "{conf}");
        }
    }

    #[test]
    fn two_addresses_of_a_family_need_a_version_that_can_say_so() {
        let conf =
            json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}]]}});
        let error = Plan::of(&call("0.2.0", conf.clone(), "")).unwrap_err();
        assert_eq!(
            error.msg,
            "CNI version 0.2.0 does not support more than 1 address per family"
        );
        assert!(Plan::of(&call("0.3.0", conf, "")).is_ok());
        let both =
            json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd99::/64"}]]}});
        assert!(Plan::of(&call("0.1.0", both, "")).is_ok());
    }

    #[test]
    fn all_three_ways_to_ask_for_an_address_are_heard_once() {
        let conf = json!({
            "ipam": {"subnet": "10.0.0.0/24"},
            "args": {"cni": {"ips": ["10.0.0.6/24", "10.0.0.5"]}},
            "runtimeConfig": {"ips": ["fd99::1/64", "::ffff:10.0.0.7"]}
        });
        let plan = Plan::of(&call(
            "1.0.0",
            conf,
            "IgnoreUnknown=1;IP=10.0.0.5;K8S_POD_NAME=x",
        ))
        .unwrap();
        let texts: Vec<String> = plan.requested.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.5", "10.0.0.6", "fd99::1", "10.0.0.7"]);
    }

    #[test]
    fn name_servers_are_read_as_the_resolver_reads_them() {
        let text = "# a\n; b\nnameserver 10.0.0.1 x\n nameserver\tfd99::1\nnameserver\ndomain a.b\nsearch a b\nsearch c\noptions ndots:5 rotate\nsortlist x\n";
        let dns = parse_resolv_conf(text);
        assert_eq!(dns.nameservers, ["10.0.0.1", "fd99::1"]);
        assert_eq!(
            (dns.domain.as_str(), dns.search.join(" ")),
            ("a.b", "a b c".into())
        );
        assert_eq!(dns.options, ["ndots:5", "rotate"]);
    }

    #[test]
    fn a_missing_resolv_conf_is_an_input_error() {
        let error =
            plan(json!({"ipam": {"subnet": "10.0.0.0/24", "resolvConf": "/nowhere/resolv.conf"}}));
        assert_eq!(error.unwrap_err().code.number(), 5);
    }

    #[test]
    fn a_network_is_found_though_its_ranges_have_become_nonsense() {
        let call = call("1.0.0", json!({"ipam": {"dataDir": "/d", "ranges": 5}}), "");
        assert_eq!(
            Place::of(&call.conf).unwrap().reservations,
            Path::new("/d/net")
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let texts = [
            "",
            "10.0.0.0/29",
            "10.0.0.0/24",
            "10.0.0.5",
            "fd99::/64",
            "fd99::5",
            "::/0",
            "0.0.0.0/0",
            "10.0.0.3/24",
            "::ffff:10.0.0.0/104",
            "255.255.255.255/0",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "/",
            "1/2/3",
            "x",
        ];
        let leaf = prop_oneof![
            8 => proptest::sample::select(texts.to_vec()).prop_map(Value::from),
            1 => Just(Value::Null),
            1 => any::<i64>().prop_map(Value::from),
            1 => any::<bool>().prop_map(Value::from),
        ];
        let keys = [
            "ipam",
            "ranges",
            "subnet",
            "rangeStart",
            "RangeEnd",
            "gateway",
            "routes",
            "dst",
            "gw",
            "dataDir",
            "args",
            "cni",
            "ips",
            "runtimeConfig",
            "ipRanges",
            "statusWhenExhausted",
        ];
        leaf.prop_recursive(6, 40, 5, move |inner| {
            let fields = (proptest::sample::select(keys.to_vec()), inner.clone());
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(Value::from),
                proptest::collection::vec(fields, 0..5).prop_map(|fields| fields
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_configured_is_a_plan_or_an_error_with_a_code(
            ipam in value(), ranges in value(), runtime in value(), args in value(), ip in "[0-9a-f.:/]{0,12}"
        ) {
            let conf = json!({"ipam": ipam, "runtimeConfig": runtime, "args": {"cni": args}});
            let nested = json!({"ipam": {"ranges": [[ranges.clone()], [ranges]]}, "runtimeConfig": runtime});
            for conf in [conf, nested] {
                match Plan::of(&call("0.2.0", conf, &format!("IP={ip}"))) {
                    Ok(plan) => prop_assert!(!plan.sets.is_empty()),
                    Err(error) => prop_assert!([4, 6, 7].contains(&error.code.number()), "{}", error),
                }
            }
        }
    }
}
